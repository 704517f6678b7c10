"""Captions: what an image is asked for by, its labels and view; and which of them few training images or patients have.

A model that has seen a caption with one image may have learnt that image by heart, and draw it whenever it is asked so.
"""

from collections import Counter

import pandas as pd

from cxr_core.data.findings import Findings

CAPTION = ["labels", "view"]
FEW = 5
"""Patients, or images, of which a caption that no more have is called rare."""
_COMMON = 4
"""A caption that so many times more images have than a rare one may have is common."""


def captions(train: pd.DataFrame) -> pd.DataFrame:
    """One row a caption of training images, by caption: `CAPTION`, `num_images`, `num_patients`."""
    grouped = train.groupby(CAPTION, as_index=False)
    return grouped.agg(num_images=("image_id", "size"), num_patients=("patient_id", "nunique"))


def matched(train: pd.DataFrame, max_images: int) -> pd.DataFrame:
    """Each caption that at most `max_images` training images have, with a common one of its view to compare it with.

    A row has `CAPTION`, `num_images` and `common`, the labels of the match: of as many findings, or of the number
    nearest to it. Where several fit they take turns, those with the most images first. A rare caption in whose view
    nothing is common is left out.
    """
    table = captions(train)
    rare = table[table["num_images"] <= max_images]
    common = table[table["num_images"] >= _COMMON * max_images].sort_values("num_images", ascending=False)
    in_view = {view: [int(labels) for labels in rows["labels"]] for view, rows in common.groupby("view")}
    found, turns = [], Counter[tuple[int, str]]()
    for labels, view, num in rare[[*CAPTION, "num_images"]].itertuples(index=False):
        if fitting := in_view.get(view):
            apart = [abs(other.bit_count() - labels.bit_count()) for other in fitting]
            nearest = [other for other, distance in zip(fitting, apart, strict=True) if distance == min(apart)]
            chosen = min(nearest, key=lambda other: turns[other, view])
            turns[chosen, view] += 1
            found.append((labels, view, num, chosen))
    return pd.DataFrame(found, columns=[*CAPTION, "num_images", "common"])


def warning(train: pd.DataFrame, findings: Findings, asked: pd.DataFrame | None = None) -> list[str]:
    """A line for people where captions, or of these only those `asked` for (`CAPTION`), are held by few patients."""
    table = captions(train)
    if asked is not None:
        table = table.merge(asked[CAPTION].drop_duplicates(), on=CAPTION)
    few = table[table["num_patients"] <= FEW].sort_values(["num_patients", "num_images"], kind="stable")
    if few.empty:
        return []
    first, what = few.iloc[0], "captions asked for" if asked is not None else "captions"
    patients = f"{first['num_patients']} patient{'s' if first['num_patients'] > 1 else ''}"
    example = " ".join(filter(None, (findings.text(int(first["labels"])), first["view"])))
    return [
        f"{len(few)} of {len(table)} {what} are held by at most {FEW} training patients, e.g. {example} by {patients}: "
        "a model may learn these patients' images by heart, and `memorisation` of an evaluation tells whether it did"
    ]
