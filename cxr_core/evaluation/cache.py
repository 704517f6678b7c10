"""What an extractor gave for some images, kept by content in a folder that the stages of a run share.

It is only a saving: what was extracted is committed by each shard that needs it, and the folder may be removed.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np

from cxr_core.runs.door import Place
from cxr_core.runs.files import atomic_path


@dataclass(frozen=True)
class FeatureCache:
    """A folder of one file for each (extractor, images in their order and batches, device).

    Its name is the `fingerprint` of everything that its arrays are a function of.
    """

    folder: Path

    def read(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays by role; None where there are none, or what lies there is damaged."""
        try:
            with Place(self.folder).open(f"{key}.npz") as file, zipfile.ZipFile(file) as packed:
                if any(info.compress_type != zipfile.ZIP_STORED for info in packed.infolist()):
                    return None  # ours are not compressed, and what is may be of any size
                with np.load(file, allow_pickle=False) as found:
                    return {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, RuntimeError, MemoryError, SyntaxError, TokenError, zipfile.BadZipFile):
            return None

    def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays by role."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.folder / f"{key}.npz") as temporary, temporary.open("wb") as file:
            # numpy's types allow no names that are not known before.
            np.savez(file, **arrays)  # type: ignore[arg-type]
