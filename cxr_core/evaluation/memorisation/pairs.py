"""The pairs that are most alike as a picture: each synthetic image beside its training image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxr_core.data.dataset import Dataset
from cxr_core.data.png import encode_grey
from cxr_core.data.sheet import contact_sheet
from cxr_core.evaluation.memorisation.results import CopyPair
from cxr_core.evaluation.pictures import fit
from cxr_core.runs.files import write_atomic

FILE = "memorisation-pairs.png"
NUM_DRAWN = 12
"""Pairs of the picture."""
_COLUMNS = 6
_SIDE = 160


def draw_pairs(pairs: Sequence[CopyPair], real: Dataset, synthetic: Dataset, folder: Path) -> str | None:
    """Write the first pairs side by side and return the file's name; None where there is no pair.

    The synthetic image is shown as it is, though its alignment may be that of its mirror image.
    """
    if not pairs:
        return None
    drawn, shown = (dataset.rows.set_index("image_id", drop=False) for dataset in (synthetic, real))
    images, texts = [], []
    for pair in pairs[:NUM_DRAWN]:
        mirrored = ", mirrored" if pair.mirrored else ""
        images += [synthetic.image(drawn.loc[pair.synthetic]), real.image(shown.loc[pair.training])]
        texts += [f"{'copy?' if pair.flagged else 'nearest'} {pair.score:.2f}{mirrored}", f"training {pair.training}"]
    sheet = contact_sheet(np.stack([fit(image, _SIDE) for image in images]), texts, _COLUMNS)
    write_atomic(folder / FILE, encode_grey(sheet))
    return FILE
