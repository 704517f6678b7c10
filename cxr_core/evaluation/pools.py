"""Pools: the images of one source that an experiment may take, in the order in which they are taken."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from cxr_core.data.findings import NO_FINDING, Findings
from cxr_core.evaluation.settings import Utility
from cxr_core.seeds import unit_hash


@dataclass(frozen=True)
class Pool:
    """Candidates with the finding (`positives`) and without it (`negatives`), each in the order of taking.

    With `match_views`, every positive is taken with the next negative of its own view.
    """

    positives: pd.DataFrame
    negatives: pd.DataFrame
    names: tuple[str, str]
    match_views: bool

    @property
    def sizes(self) -> Mapping[str, int]:
        """Candidates of each class."""
        return {"with": len(self.positives), "without": len(self.negatives)}

    @property
    def num_pairs(self) -> int:
        """How many of each class can be taken."""
        return min(len(self.positives), len(self._partners))

    def take(self, stop: int, *, start: int = 0) -> pd.DataFrame:
        """The pairs `start` to `stop`: all positives, then all negatives, with their `label`."""
        classes = (self.positives.assign(label=1), self._partners.assign(label=0))
        return pd.concat([images.iloc[start:stop] for images in classes])

    def short(self, num_each: int, what: str) -> list[str]:
        """What there is too little of: "real test images with Edema: 9 of 20", or a view with too few negatives."""
        if self.num_pairs >= num_each:
            return []
        lacking = [
            f"{what} with {name}: {num} of {num_each}"
            for name, num in zip(self.names, self.sizes.values(), strict=True)
            if num < num_each
        ]
        return lacking or list(self._views_short(num_each, what))

    @cached_property
    def _partners(self) -> pd.DataFrame:
        """Row i goes with positive i; where a view has run out of negatives, there it ends."""
        if not self.match_views:
            return self.negatives
        turns = [rows.assign(_turn=rows.groupby("view").cumcount()) for rows in (self.positives, self.negatives)]
        found = turns[0][["view", "_turn"]].merge(turns[1], on=["view", "_turn"], how="left")
        num_first = int(found["image_id"].notna().cummin().sum())
        return found.head(num_first)[list(self.negatives.columns)]

    def _views_short(self, num_each: int, what: str) -> Iterable[str]:
        there = self.negatives["view"].value_counts()
        for view, num in self.positives["view"].head(num_each).value_counts().sort_index().items():
            if there.get(view, 0) < num:
                yield (
                    f"{what} with {self.names[1]} of view {view or 'unknown'}: {there.get(view, 0)} of {num}, "
                    f"one for each with {self.names[0]}"
                )


def hashed_pool(rows: pd.DataFrame, entry: Utility, findings: Findings, seed: int) -> Pool:
    """Candidates among `rows` in an order that is a hash of `seed` and the image: a first part is like the whole."""
    positives, negatives = (in_hash_order(images, seed, entry.finding) for images in _classes(rows, entry, findings))
    return Pool(positives, negatives, _names(entry), entry.matches_views)


def listed_pool(rows: pd.DataFrame, entry: Utility, findings: Findings) -> Pool:
    """Candidates among `rows` in the order of image ids, which is that of NIH's lists; views are never matched."""
    positives, negatives = (images.sort_values("image_id") for images in _classes(rows, entry, findings))
    return Pool(positives, negatives, _names(entry), match_views=False)


def has_finding(labels: pd.Series, finding: str, rule: str, findings: Findings) -> pd.Series:
    """Which images have the finding, by the rule: `any` with it among others, `only` alone. No Finding is alone."""
    bit = findings.bit(finding)
    return labels == bit if rule == "only" or finding == NO_FINDING else labels & bit != 0


def in_hash_order(rows: pd.DataFrame, seed: int, purpose: str) -> pd.DataFrame:
    """`rows` in an order that is a function of `seed`, `purpose` and each image's id alone."""
    key = [unit_hash(seed, purpose, image_id) for image_id in rows["image_id"]]
    return rows.assign(_key=key).sort_values(["_key", "image_id"]).drop(columns="_key")


def like(
    wanted: pd.DataFrame, drawn: pd.DataFrame, names: Iterable[str], findings: Findings
) -> tuple[pd.DataFrame, int]:
    """As many of `drawn` as there are rows `wanted`, with the findings `names` and view of these as far as it goes.

    What a combination lacks, the next images of any other stand in for. Returns the images and how many of these.
    """
    bits = sum(findings.bit(name) for name in names)
    of_wanted, of_drawn = (rows["view"] + "|" + (rows["labels"] & bits).astype(str) for rows in (wanted, drawn))
    place = of_drawn.groupby(of_drawn).cumcount()
    num_of = of_wanted.value_counts()
    is_like = (place < of_drawn.map(num_of).fillna(0)).to_numpy()
    num_unlike = len(wanted) - int(is_like.sum())
    return pd.concat([drawn[is_like], drawn[~is_like].head(num_unlike)]), num_unlike


def _classes(rows: pd.DataFrame, entry: Utility, findings: Findings) -> tuple[pd.DataFrame, pd.DataFrame]:
    positive = has_finding(rows["labels"], entry.finding, entry.rule, findings)
    negative = has_finding(rows["labels"], entry.negatives, entry.rule, findings)
    negative &= ~has_finding(rows["labels"], entry.finding, "any", findings)
    images = rows[["image_id", "patient_id", "view"]]
    return images[positive], images[negative]


def _names(entry: Utility) -> tuple[str, str]:
    return (entry.finding if entry.rule == "any" else f"{entry.finding} only", entry.negatives)
