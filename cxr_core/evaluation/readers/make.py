"""A blinded reading test: one page with all images in it, and the key that tells which are synthetic, kept apart."""

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from cxr_core.data.dataset import Dataset
from cxr_core.data.png import encode_grey
from cxr_core.errors import UserError
from cxr_core.evaluation.pools import in_hash_order, like
from cxr_core.evaluation.readers.taxonomy import ERRORS, FORMAT
from cxr_core.models.classifier import resized
from cxr_core.runs.files import canonical_json, write_atomic, write_json
from cxr_core.seeds import derive_seed


def make_test(real: Dataset, synthetic: Dataset, out: Path, num: int, seed: int) -> tuple[Path, Path]:
    """Write the page `out` and, beside it, the key: `num` synthetic images, as many real ones, in an order by `seed`.

    Real images are of test patients and have the findings and views of the synthetic ones, as far as there are such;
    all are shown in the smaller of the two sizes, and encoded anew so that no file tells. Returns page and key.
    Raises UserError where there are too few images, or files that would be overwritten.
    """
    key_path = out.with_name(f"{out.stem}.key.json")
    for path in (out, key_path):
        if path.exists():
            raise UserError("is there already", where=str(path), hint="name a new file: a test that was begun stays")
    rows = _chosen(real, synthetic, num, seed)
    items = [{"item": i, **row} for i, row in enumerate(rows[["source", "image_id"]].to_dict("records"), 1)]
    key = {"format": FORMAT, "seed": seed, "real": real.info.digest, "synthetic": synthetic.info.digest, "items": items}
    test = hashlib.sha256(canonical_json(key).encode()).hexdigest()[:12]
    size = min(real.info.size, synthetic.info.size)
    datasets = {"real": real, "synthetic": synthetic}
    images = [_png(datasets[row["source"]], row["image_id"], size) for row in items]
    page = (files("cxr_core.evaluation.readers") / "test.html").read_text(encoding="utf-8")
    told = json.dumps({"test": test, "errors": ERRORS, "images": images})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(key_path, {**key, "test": test})
    write_atomic(out, page.replace("/*DATA*/null", told))
    return out, key_path


def _chosen(real: Dataset, synthetic: Dataset, num: int, seed: int) -> pd.DataFrame:
    """The images in their order: image_id and source."""
    made = in_hash_order(synthetic.rows, seed, "readers").head(num)
    pool = in_hash_order(real.of_split("test"), seed, "readers")
    for what, rows in (("synthetic images", made), ("real images of test patients", pool)):
        if len(rows) < num:
            raise UserError(f"{what}: {len(rows)} of {num}", where="-n", hint="ask for fewer, or make more")
    lived, _ = like(made, pool, real.info.findings, real.findings)
    both = pd.concat([made.assign(source="synthetic"), lived.assign(source="real")])
    order = np.random.default_rng(derive_seed(seed, "reading order")).permutation(len(both))
    return both.iloc[order]


def _png(dataset: Dataset, image_id: str, size: int) -> str:
    """One image as base64 of a PNG that says nothing of where it is from."""
    row = dataset.rows[dataset.rows["image_id"] == image_id]
    return base64.b64encode(encode_grey(resized(dataset.images(row), size)[0])).decode()
