"""From a request to the exact list of images: allocated without chance, shuffled once, seeded each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_core.boundary import FEWEST_PATIENTS
from cxr_core.data.captions import CAPTION, matched
from cxr_core.data.findings import JOIN, NO_FINDING, Findings
from cxr_core.data.positions.phrases import PlacedFinding, asked, phrase
from cxr_core.data.positions.regions import GRID, ZONES
from cxr_core.data.settings import PromptSettings
from cxr_core.errors import UserError
from cxr_core.generation.settings import RareCaptions, Request
from cxr_core.runs.plan import Shard
from cxr_core.runs.tables import read_group
from cxr_core.seeds import derive_seed, derive_seeds

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("labels", pa.int64()),  # bits, see Findings
        ("view", pa.string()),  # PA, AP or "" when unknown
        ("prompt", pa.dictionary(pa.int32(), pa.string())),
        ("seed", pa.int64()),  # of the image's noise
        ("request", pa.dictionary(pa.int32(), pa.string())),  # name of its series, "" where there is one only
    ]
)


def largest_remainder(weights: Sequence[int], total: int) -> np.ndarray:
    """Share `total` in proportion to `weights`: int64 of the same length that sums to `total`.

    Every share is its exact quota rounded down or up; the largest remainders go up, the earlier one where two are
    equal (Hamilton's method). Computed in integers, so nothing depends on rounding. At least one weight is positive.
    """
    whole = sum(map(int, weights))
    quotas = [divmod(total * int(weight), whole) for weight in weights]
    shares = np.array([floor for floor, _ in quotas], np.int64)
    left = total - int(shares.sum())
    shares[sorted(range(len(quotas)), key=lambda i: -quotas[i][1])[:left]] += 1
    return shares


def allocate(request: Request, real: pd.DataFrame, findings: Findings, *, where: str = "request") -> pd.DataFrame:
    """How many images of which labels, view and places: a row (labels, view, num_images, placed) each, num_images > 0.

    `real` is a Dataset's rows; only its training images are looked at. Raises UserError naming `where` for an unknown
    finding, a combination asked for twice, or one that no real training image has where the view is to be like theirs.
    """
    if request.rare_captions is not None:
        return _rare(request.rare_captions, real[real["split"] == "train"], where)
    train = real[real["split"] == "train"]
    cells: list[tuple[int, str, int, tuple[PlacedFinding, ...]]]
    if request.like is not None:
        assert request.num_images is not None
        cells = [(*cell, ()) for cell in _like_train(train, request, where)]
    else:
        wanted = _wanted(request, train, findings, where)
        cells = [
            (*cell, combination(name, findings, where=where).placed)
            for name, num in wanted
            for cell in _by_view(train, findings, name, num, request.view, where)
        ]
    table = pd.DataFrame(cells, columns=["labels", "view", "num_images", "placed"])
    return table[table["num_images"] > 0].reset_index(drop=True)


def _wanted(request: Request, train: pd.DataFrame, findings: Findings, where: str) -> list[tuple[str, int]]:
    """(combination, images) of `counts`, `balanced` or `fill`."""
    if request.fill is not None:
        return _lacking(request.fill, train, findings, where)
    if request.counts is not None:
        names, numbers = list(request.counts), list(request.counts.values())
    else:
        names = list(request.balanced or ())
        numbers = largest_remainder([1] * len(names), request.num_images or 0).tolist()
    seen: dict[Combination, str] = {}
    for name in names:
        asked_for = combination(name, findings, where=where)
        if asked_for in seen:
            raise UserError(f"{seen[asked_for]!r} and {name!r} are the same images", where=where, hint="name them once")
        seen[asked_for] = name
    return list(zip(names, numbers, strict=True))


def _lacking(fill: int, train: pd.DataFrame, findings: Findings, where: str) -> list[tuple[str, int]]:
    """What each finding that a real training image has lacks to `fill`. Raises UserError where none lacks any."""
    having = {name: train[train["labels"] & findings.bit(name) != 0] for name in findings.names}
    real = {name: len(rows) for name, rows in having.items()}
    # What is drawn may be published, and with `fill` would tell how few patients there are.
    few = {name for name, rows in having.items() if rows["patient_id"].nunique() < FEWEST_PATIENTS}
    lacking = [(name, fill - num * (name not in few)) for name, num in real.items() if 0 < num < fill]
    if not lacking:
        raise _nothing_to_fill(fill, {name: num for name, num in real.items() if num}, where)
    return lacking


def _nothing_to_fill(fill: int, real: Mapping[str, int], where: str) -> UserError:
    """`real` has the findings that some real training image has, with their number."""
    if not real:
        what = "nothing to fill: no real training image has any finding"
        return UserError(what, where=where, hint="ask with counts, and set request.view to PA or AP")
    rarest = min(real, key=real.__getitem__)
    return UserError(
        f"nothing to fill up to {fill}: the rarest finding, {rarest}, has {real[rarest]} real training images",
        where=where,
        hint=f"set fill above {real[rarest]}, or use counts",
    )


def _rare(wanted: RareCaptions, train: pd.DataFrame, where: str) -> pd.DataFrame:
    """Rare captions and the common ones they are matched with, `per_caption` images each."""
    pairs = matched(train, wanted.max_images).sort_values("num_images", kind="stable")[: wanted.num_captions]
    if pairs.empty:
        raise UserError(
            f"nothing is rare: no caption is held by at most {wanted.max_images} training images, with a common one "
            "of its view beside it",
            where=where,
            hint="raise rare_captions.max_images, or ask for something else",
        )
    common = pairs.assign(labels=pairs["common"])
    both = pd.concat([pairs, common])[CAPTION].drop_duplicates().sort_values(CAPTION, ignore_index=True)
    return both.assign(num_images=wanted.per_caption, placed=pd.Series([()] * len(both), dtype=object))


class Combination(NamedTuple):
    """Findings as bits, and those of them that are to be somewhere, or of some size."""

    labels: int
    placed: tuple[PlacedFinding, ...] = ()


def combination(name: str, findings: Findings, *, where: str) -> Combination:
    """ "Effusion|Cardiomegaly", or "Mass in the upper left". Raises UserError for an unknown finding or place, or No
    Finding beside another.
    """
    parts = [part.strip() for part in name.split(JOIN)]
    if NO_FINDING in parts and len(parts) > 1:
        raise UserError(f"{name!r} contradicts itself", where=where, hint=f"ask for {NO_FINDING!r} by itself")
    found = [asked(part, findings.names) or PlacedFinding(part) for part in parts]
    try:
        labels = findings.encode(one.finding for one in found)
    except UserError as error:
        raise UserError(error.what, where=where, hint=error.hint) from None
    return Combination(labels, tuple(one for one in found if one.region or one.size))


def check_places(cells: pd.DataFrame, prompts: PromptSettings, *, where: str) -> None:
    """Raise UserError where places or sizes are asked for in words that prompts never had in training."""
    words = prompts.positions
    known = () if words is None else GRID if words.regions == "grid" else ZONES
    for one in (one for placed in cells["placed"] for one in placed):
        strange = one.region is not None and one.region not in known
        if strange or (one.size and not (words and words.sizes)):
            said = "say no places" if words is None else f"say places by {words.regions}, sizes {words.sizes}"
            raise UserError(
                f"{phrase(one, 'patient')!r} is asked for, but the prompts of inputs.like {said}",
                where=where,
                hint="ask in the words of training, or set prompts.positions in the preprocess stage and train again",
            )


def _like_train(train: pd.DataFrame, request: Request, where: str) -> list[tuple[int, str, int]]:
    if train.empty:
        raise UserError("nothing to be like: the real Dataset has no training images", where=where, hint="use counts")
    if request.view != "real":
        train = train.assign(view=request.view)
    real = train[["labels", "view"]].value_counts(sort=False).sort_index()
    shares = largest_remainder(real.tolist(), request.num_images or 0)
    return [(labels, view, num) for (labels, view), num in zip(real.index, shares.tolist(), strict=True)]


def _by_view(
    train: pd.DataFrame, findings: Findings, name: str, num_images: int, view: str, where: str
) -> Iterable[tuple[int, str, int]]:
    """Images of one combination over the views of the real training images that have all of its findings."""
    bits = combination(name, findings, where=where).labels
    if view != "real":
        return [(bits, view, num_images)]
    has = train["labels"] & bits == bits if bits else train["labels"] == 0
    views = train.loc[has, "view"].value_counts().sort_index()
    if views.empty:
        raise UserError(
            f"nothing to be like: no real training image has {name!r}, so its views are unknown",
            where=where,
            hint="set request.view to PA or AP, or ask for something else",
        )
    shares = largest_remainder(views.tolist(), num_images).tolist()
    return [(bits, view, num) for view, num in zip(views.index, shares, strict=True)]


def exact_list(
    cells: pd.DataFrame, prompt: Callable[..., str], seed: int, *, first: int = 0, series: str = ""
) -> pa.Table:
    """The images of an allocation, one row each (`SCHEMA`), by image id; `first` is the number of the first one.

    Their order is shuffled once by `seed`, so that batches mix prompts and any first part is like the whole.
    `prompt` makes the text of (labels, view), with `placed` where there are places. An image's seed is a function of
    `seed` and its id alone.
    """
    which = np.repeat(np.arange(len(cells), dtype=np.int32), cells["num_images"])
    np.random.default_rng(derive_seed(seed, "order")).shuffle(which)
    prompts = [
        prompt(int(labels), view, placed=placed) if placed else prompt(int(labels), view)
        for labels, view, placed in zip(cells["labels"], cells["view"], cells["placed"], strict=True)
    ]
    ids, seeds = _ids_and_seeds(seed, first, len(which))
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(which), np.int32)), pa.array([series], pa.string()))
    columns = {
        "image_id": ids,
        "labels": cells["labels"].to_numpy(np.int64)[which],
        "view": pa.array(cells["view"].tolist(), pa.string()).take(pa.array(which)),
        "prompt": pa.DictionaryArray.from_arrays(pa.array(which, pa.int32()), pa.array(prompts, pa.string())),
        "seed": seeds,
        "request": names,
    }
    return pa.table(columns, schema=SCHEMA)


_AT_ONCE = 1 << 16
"""Ids that are Python objects at one time: those of ten million images would fill a gigabyte."""


def _ids_and_seeds(seed: int, first: int, num: int) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Ids of `num` images in their order from number `first` on, and the seeds int64 of their first draws."""
    ids, seeds = [], np.empty(num, np.int64)
    for start in range(0, num, _AT_ONCE):
        names = [f"syn-{first + i:08d}" for i in range(start, min(start + _AT_ONCE, num))]
        seeds[start : start + len(names)] = derive_seeds((seed,), names, (0,))
        ids.append(pa.array(names, pa.string()))
    return pa.chunked_array(ids, pa.string()), seeds


def image_seed(seed: int, image_id: str, draw: int = 0) -> int:
    """Seed of the noise of one image's draw; a re-draw is draw 1, 2 ..."""
    return derive_seed(seed, image_id, draw)


def shards_of(sizes: Iterable[int], shard_size: int) -> list[Shard]:
    """Shards of the images of all series, of `sizes`, in their order: none holds images of two."""
    bounds, first = [], 0
    for size in sizes:
        bounds += [(first + a, first + min(a + shard_size, size)) for a in range(0, size, shard_size)]
        first += size
    return [Shard(f"{i:05d}", start, stop, {"row_group": i}) for i, (start, stop) in enumerate(bounds)]


def write_list(path: Path, lists: Iterable[pa.Table], shard_size: int) -> None:
    """Parquet of the lists of all series with one row group per shard, so that a shard reads its own rows only."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for images in lists:
            writer.write_table(images, row_group_size=shard_size)


def read_list(path: Path, shard: Shard) -> pa.Table:
    """The rows of a shard. Plans of before tell by its id alone which they are."""
    group = shard.extra.get("row_group")
    return read_group(path, int(shard.id) if group is None else group)


def left_out(request: Request, real: pd.DataFrame, findings: Findings) -> list[str]:
    """Findings that `fill` passes over, since no real training image has them."""
    train = real.loc[real["split"] == "train", "labels"]
    return [name for name in findings.names if request.fill and not (train & findings.bit(name) != 0).any()]


def describe(cells: pd.DataFrame, findings: Findings, *, most: int = 12) -> list[str]:
    """The exact distribution in lines for people, the largest first: `100 Edema (AP 85, PA 15)`."""
    views: dict[str, dict[str, int]] = {}
    for labels, view, num, placed in cells.itertuples(index=False):
        somewhere = {one.finding: phrase(one, "patient", findings.names) for one in placed}
        named = JOIN.join(somewhere.get(name, name) for name in findings.decode(labels))
        views.setdefault(named, {})[view or "unknown view"] = num
    ranked = sorted(views.items(), key=lambda item: -sum(item[1].values()))
    lines = [
        f"{sum(nums.values())} {named} ({', '.join(f'{v} {n}' for v, n in nums.items())})"
        for named, nums in ranked[:most]
    ]
    rest = ranked[most:]
    if rest:
        lines.append(f"{sum(sum(nums.values()) for _, nums in rest)} of {len(rest)} rarer combinations")
    return lines
