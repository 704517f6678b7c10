"""The folder of a trained classifier, as far as it can be read without torch: what it knows, and its digest."""

from dataclasses import dataclass

from cxr_core.models.folder import ModelFolder


@dataclass(frozen=True)
class ClassifierInfo:
    """A classifier's size and what it tells: logit i is of `findings[i]`; images have `image_size` pixels a side."""

    preset: str
    image_size: int
    findings: tuple[str, ...]
    feature_width: int


FOLDER = ModelFolder("classifier", ClassifierInfo)
"""`about` says what it was trained on: the Dataset's digest, steps, images and patients per finding."""

read_info, read_about, classifier_sha256 = FOLDER.read_info, FOLDER.read_about, FOLDER.sha256
