"""Identical pixels under several names: found by the hash of the source's grey pixels, over the whole dataset."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from cxr_core.data.problems import ACTIONS, decide, problem
from cxr_core.data.settings import Policies

_RANK = {"test": 0, "val": 1, "train": 2}
"""Of two equal images the one kept is that which training must not see."""


def drop_duplicates(
    rows: pd.DataFrame, policies: Policies, files: Mapping[str, str]
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Rows without those that the policies leave out, and the problems. `files` maps image ids to their files.

    Where labels agree the first of test, val, train (and of the image ids) is kept; where they contradict, none is,
    since nobody knows which is right. Raises UserError where a policy is "fail".
    """
    same = rows[rows["source_sha256"].duplicated(keep=False)]
    same = same.assign(rank=same["split"].map(_RANK)).sort_values(["source_sha256", "rank", "image_id"])
    left_out: list[str] = []
    problems: list[dict[str, str]] = []
    for _, group in same.groupby("source_sha256", sort=True):
        found, out = _judge(group, policies, files)
        problems += found
        left_out += out
    return rows[~rows["image_id"].isin(left_out)], problems


def _judge(group: pd.DataFrame, policies: Policies, files: Mapping[str, str]) -> tuple[list[dict[str, str]], list[str]]:
    contradict = group["labels"].nunique() > 1
    kind = "contradicting_duplicates" if contradict else "duplicate_pixels"
    ids = list(group["image_id"])
    odd = ids if contradict else ids[1:]
    problems = []
    for image_id in odd:
        others = ", ".join(files[other] for other in ids if other != image_id)
        detail = f"the same pixels as {others}" + (", other labels" if contradict else "")
        policy = decide(policies, kind, file=files[image_id], detail=detail)
        problems.append(problem(kind, image_id, files[image_id], detail, ACTIONS[policy]))
    return problems, odd if policy == "exclude" else []


class EqualPixels:
    """Finds stored images with the same pixels among millions, in 8 bytes an image."""

    def __init__(self) -> None:
        self._seen: list[np.ndarray] = []

    def watch(self, parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Pass tables of `dataset.SCHEMA` on, and remember what they hold."""
        for table in parts:
            heads = bytes.fromhex("".join(text[:16] for text in table["pixel_sha256"].to_pylist()))
            self._seen.append(np.frombuffer(heads, ">u8").astype(np.uint64))
            yield table

    def again(self) -> np.ndarray:
        """Places, in the order of all rows, of images whose pixels are those of an earlier one: int64, ascending."""
        seen = np.concatenate(self._seen) if self._seen else np.empty(0, np.uint64)
        first = np.unique(seen, return_index=True)[1]
        return np.setdiff1d(np.arange(len(seen)), first)
