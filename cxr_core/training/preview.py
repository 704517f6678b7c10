"""Previews: small pictures of what a checkpoint makes, the same ones at every checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_core.data.png import encode_grey
from cxr_core.runs.files import write_json

FORMAT = 1


@dataclass(frozen=True)
class PreviewImages:
    """Grey images uint8 (rows, columns, height, width); `titles` has the prompt, or the image id, of each column."""

    titles: Sequence[str]
    images: np.ndarray

    def write(self, folder: Path, about: dict[str, Any]) -> None:
        """Write `preview.png`, the images without gaps, and `preview.json`: `about` and the titles as "prompts"."""
        rows, columns, height, width = self.images.shape
        sheet = self.images.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
        folder.mkdir()
        (folder / "preview.png").write_bytes(encode_grey(np.ascontiguousarray(sheet)))
        write_json(folder / "preview.json", {"format": FORMAT, **about, "prompts": list(self.titles)})
