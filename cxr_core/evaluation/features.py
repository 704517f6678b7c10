"""Feature extractors: our own judge, any vision model that transformers opens from a local folder, or Inception."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from transformers import AutoImageProcessor, AutoModel

from cxr_core.data.dataset import Dataset
from cxr_core.data.threads import in_order
from cxr_core.errors import UserError
from cxr_core.evaluation.inception import InceptionFeatures
from cxr_core.evaluation.metrics import Extractor
from cxr_core.models.classifier import as_input, load, resized
from cxr_core.models.classifier_folder import classifier_sha256
from cxr_core.models.strict import insist_finite
from cxr_core.runs.files import sha256_file, sha256_text
from cxr_core.runs.progress import bar

_RESAMPLE = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}
"""Pillow's numbers, as preprocessor_config.json has them."""


_PROBE = np.arange(64 * 64, dtype=np.uint32).astype(np.uint8).reshape(64, 64)
"""An image to try an extractor on."""


class FeatureModel(Protocol):
    """An extractor that is loaded."""

    @property
    def about(self) -> Extractor:
        """What it is."""

    @property
    def device(self) -> str:
        """Where it computes, e.g. "cpu"."""

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """Of one image uint8 (height, width) what it computes with; several threads may ask at once."""

    def encode(self, ready: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Features float32 (n, width) of n images that are ready; of a judge also probabilities (n, findings)."""


class JudgeFeatures:
    """A classifier of ours, which besides says how probable it holds each finding."""

    def __init__(self, folder: Path) -> None:
        self._judge = load(folder)
        info, self.device = self._judge.info, str(self._judge.device)
        self.about = Extractor(
            kind="judge",
            name=f"our judge ({info.preset})",
            digest=classifier_sha256(folder),
            width=info.feature_width,
            size=info.image_size,
            method="area averaging, bilinear to enlarge",
            output="pooled features",
            findings=info.findings,
        )

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        return resized(image[None], self.about.size)[0]

    @torch.inference_mode()
    def encode(self, ready: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = self._judge.features(as_input(ready, self.about.size).to(self._judge.device))
        return features.cpu().numpy(), self._judge.head(features).float().sigmoid().cpu().numpy()


class VisionFeatures:
    """A transformers model. Grey images are given as three equal uint8 channels to the folder's own image processor.

    Features are the pooler's output, or the CLS token's last state where the model has no pooler. A GPU multiplies in
    float16, whose numbers are as fine as its TF32 and several times as fast, and in float32 what is too large for that.
    """

    def __init__(self, folder: Path) -> None:
        self._processor, self._model, self._has_pooler = _open(folder)
        self.device = str(self._model.device)
        self._affine = _affine(self._processor)
        pixels = self.preprocess(_PROBE)[None]
        if pixels.shape[1:] != self.preprocess(_PROBE[::2, ::2]).shape:
            raise UserError(
                "its image processor does not bring all images to one size",
                where=str(folder / "preprocessor_config.json"),
                hint="set do_resize and size there: images of two sizes cannot be compared",
            )
        try:
            first, again = (self._features(pixels) for _ in range(2))
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise _no_extractor(folder, error) from error
        if not torch.allclose(first, again, rtol=1e-3, atol=1e-4):
            raise UserError(
                "gives other features for the same image each time",
                where=str(folder),
                hint="take a model that draws nothing at random; a masked autoencoder does",
            )
        self.about = Extractor(
            kind="model",
            name=f"{folder.name} ({self._model.config.model_type})",
            digest=_digest(folder),
            width=first.shape[1],
            size=pixels.shape[-1],
            method=_method(self._processor),
            output="pooler output" if self._has_pooler else "CLS token",
        )

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        return _bytes(self._processor, image) if self._affine else _pixels(self._processor, image)

    def encode(self, ready: np.ndarray) -> tuple[np.ndarray, None]:
        return self._features(ready).cpu().numpy(), None

    @torch.inference_mode()
    def _features(self, ready: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(ready).to(self._model.device)
        if self._affine is not None:
            factor, offset = (torch.from_numpy(part).to(pixels.device) for part in self._affine)
            pixels = torch.addcmul(offset, pixels.float(), factor)
        features = self._output(pixels, half=pixels.is_cuda)
        return features if features.isfinite().all() else self._output(pixels, half=False)

    def _output(self, pixels: torch.Tensor, *, half: bool) -> torch.Tensor:
        with torch.autocast(pixels.device.type, torch.float16, enabled=half):
            found = self._model(pixels)
        self._has_pooler = self._has_pooler and getattr(found, "pooler_output", None) is not None
        features = found.pooler_output.flatten(1) if self._has_pooler else found.last_hidden_state[:, 0]
        return features.float()


@lru_cache(maxsize=1)
def open_feature_model(kind: str, folder: Path) -> FeatureModel:
    """Load an extractor of a kind ("judge" or "model") for the CPU or the GPU; a model that is one file is Inception.

    Raises UserError if it is none.
    """
    if kind == "judge":
        return JudgeFeatures(folder)
    return InceptionFeatures(folder) if folder.is_file() else VisionFeatures(folder)


def extract(
    feature_model: FeatureModel, dataset: Dataset, rows: pd.DataFrame, batch_size: int, threads: int
) -> dict[str, np.ndarray]:
    """Role -> array of the Dataset's `rows` in their order: `features` and, of a judge, `scores`.

    float32 (n, width) and (n, findings). Images are read and resized by `threads` threads while the model computes.
    Raises UserError naming an image whose features are not finite.
    """
    ready = in_order(lambda row: feature_model.preprocess(dataset.image(row)), rows.itertuples(), threads)
    parts = []
    with bar("features", len(rows)) as progress:
        for start in range(0, len(rows), batch_size):
            batch = rows.iloc[start : start + batch_size]
            parts.append(feature_model.encode(np.stack(list(islice(ready, len(batch))))))
            _insist_finite(parts[-1][0], batch, feature_model.about)
            progress.advance(len(batch))
    arrays = {"features": [features for features, _ in parts]}
    if parts[0][1] is not None:
        arrays["scores"] = [scores for _, scores in parts if scores is not None]
    return {role: np.concatenate(found).astype(np.float32) for role, found in arrays.items()}


def _pixels(processor: Any, image: np.ndarray, **changed: bool) -> np.ndarray:
    """An image uint8 (height, width) as the processor gives three equal channels of it: (3, size, size)."""
    pixels = processor(images=[np.repeat(image[..., None], 3, axis=2)], return_tensors="np", **changed)["pixel_values"]
    return np.asarray(pixels[0])


def _bytes(processor: Any, image: np.ndarray) -> np.ndarray:
    """The same before its grey values are brought to another scale, one channel: (1, size, size)."""
    return _pixels(processor, image, do_rescale=False, do_normalize=False)[:1]


def _affine(processor: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Factors and offsets (1, 3, 1, 1) that make the processor's pixels of its bytes; None if it does something else.

    The device that computes can then do what is most of the processor's work, of a twelfth of the bytes.
    """
    plain, whole = _bytes(processor, _PROBE), _pixels(processor, _PROBE)
    if plain.dtype != np.uint8 or plain.max() == plain.min():
        return None
    grey, channels = plain.ravel().astype(np.float64), whole.reshape(len(whole), -1).astype(np.float64)
    factor, offset = np.polyfit(grey, channels.T, 1)
    if not np.allclose(np.outer(factor, grey) + offset[:, None], channels, rtol=0, atol=1e-5):
        return None
    return factor.astype(np.float32)[None, :, None, None], offset.astype(np.float32)[None, :, None, None]


def _open(folder: Path) -> tuple[Any, Any, bool]:
    """Processor, model and whether it has a trained pooler: from this folder alone, without running code of its own."""
    here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        # Pillow's backend, whatever else is installed: its pixels differ a little from torchvision's.
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **here)
        model, found = AutoModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **here)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise _no_extractor(folder, error) from error
    # What a file lacks, transformers fills at random: a pooler can be done without, nothing else.
    lacking = sorted(found["missing_keys"])
    _insist_filled([name for name in lacking if "pooler" not in name], found["unexpected_keys"], folder)
    insist_finite(dict(model.state_dict()), folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return processor, model.to(device).eval().requires_grad_(False), not lacking


_HEADS = re.compile(r"(classifier|head|lm_head|cls|decoder|(visual_)?projection)\b.*|logit_(scale|bias)|.*position_ids")
"""Names that the files of whole models have and that a feature extractor of them does without."""


def _insist_filled(missing: Sequence[str], unexpected: Iterable[str], folder: Path) -> None:
    """Raise UserError naming weights that are not there, and those that the model of the config has no place for."""
    hint = "get the model's files again: features of random weights tell nothing"
    if missing:
        what = f"the weights lack {len(missing)} of the model's parameters: {', '.join(missing[:20])}"
        raise UserError(what, where=str(folder), hint=hint)
    if others := sorted(name for name in unexpected if not _HEADS.fullmatch(name)):
        what = f"{len(others)} of the weights are of something else than config.json says: {', '.join(others[:20])}"
        raise UserError(what, where=str(folder), hint=hint)


def _no_extractor(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"not a vision model that AutoModel and AutoImageProcessor open ({str(error).splitlines()[0]})",
        where=str(folder),
        hint="give a folder with config.json, preprocessor_config.json and model.safetensors",
    )


def _digest(folder: Path) -> str:
    """sha256 over the configs and weights that are read; a README or a cache beside them does not count."""
    files = [folder / "config.json", folder / "preprocessor_config.json", *sorted(folder.glob("*.safetensors"))]
    return sha256_text("".join(f"{file.name}\0{sha256_file(file)}\n" for file in files))


def _method(processor: Any) -> str:
    settings = processor.to_dict()
    words = [_RESAMPLE.get(settings.get("resample"), "unknown")] if settings.get("do_resize") else ["not resized"]
    if settings.get("do_center_crop"):
        words.append("centre crop")
    return ", ".join(words)


def _insist_finite(features: np.ndarray, rows: pd.DataFrame, about: Extractor) -> None:
    bad = rows["image_id"][~np.isfinite(features).all(axis=1)].tolist()
    if bad:
        raise UserError(
            f"features of {len(bad)} images are not finite: {', '.join(bad[:10])}",
            where=about.name,
            hint="look at these images, or take another extractor",
        )
