"""Identical pixels under several names: found by the hash of the source's grey pixels, over the whole dataset."""

from collections.abc import Mapping

import pandas as pd

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
