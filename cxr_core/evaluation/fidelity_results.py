"""Fidelity's part of metrics.json: what saw the images, and the distances between sets of them."""

from typing import Literal

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.older import Measured
from cxr_core.settings import Settings


class Resize(Settings):
    """How stored images became what the extractor saw."""

    real: int
    """Pixels a side of the stored real images."""
    synthetic: int
    """Pixels a side of the stored synthetic images."""
    to: int
    """Pixels a side that the extractor saw."""
    method: str
    """In words, e.g. "bicubic"."""


class Extractor(Settings):
    """What turns an image into features."""

    kind: Literal["judge", "model"]
    """`judge`: a classifier of ours; `model`: a folder that transformers' AutoModel opens."""
    name: str
    """Name of the folder or stage, and the architecture."""
    digest: str
    """sha256 over weights and configs."""
    width: int
    """Features an image."""
    size: int
    """Pixels a side that it sees."""
    method: str
    """How images are resized to it."""
    output: str
    """Which features, e.g. "pooler output"."""
    findings: tuple[str, ...] = ()
    """Of a judge: the columns of its scores."""


class Missing(Settings):
    """Images asked for that a comparison leaves out, since a real side has none like them."""

    cell: str
    """Labels and view, e.g. "Edema PA"."""
    share: float
    """Part of the synthetic images, 0..1."""


class Coverage(Measured):
    """Which part of the synthetic Dataset's label x view mix a comparison is about."""

    sentences = frozenset({"words"})

    share: float
    """Part of the synthetic images whose labels and view every side has, 0..1."""
    num_cells: int
    """Combinations of labels and view compared."""
    num_missing: int
    """Combinations left out of both sides."""
    missing: tuple[Missing, ...] = ()
    """The largest of them."""


class Side(Settings):
    """One of the two sets of images compared."""

    what: str
    """In words, e.g. "synthetic images"."""
    num_images: int
    """Images in the cells compared."""
    num_patients: int | None
    """Their patients; null for synthetic images."""
    effective: float
    """Effective number of images, 1 / sum of squared weights: unequal weights make n images tell less."""


class SubsetKid(Settings):
    """KID of subsets drawn by chance, each brought to the mix: their deviation says little of the whole."""

    mean: float
    """Mean over the subsets."""
    deviation: float
    """Standard deviation over them."""
    num: int
    """Subsets."""
    size: int
    """Images of each side in one."""


class Distance(Settings):
    """FID and KID between two sets of images that are weighted to one mix."""

    a: Side
    """The images measured."""
    b: Side
    """What they are measured against."""
    coverage: Coverage
    """The mix of both."""
    fid: Interval | None = None
    """Frechet distance of features (arXiv 1706.08500). Biased upwards in small sets: compare at equal effective n."""
    kid: Interval | None = None
    """Unbiased kernel distance of features (arXiv 1801.01401); about 0 for sets of one distribution."""
    subsets: SubsetKid | None = None
    """KID as other papers report it; of the headline alone."""
    not_computed: str | None = None
    """Why there are no numbers, e.g. "n = 97 effective held-out images, 128 are needed (2 x 64 features)"."""


class FindingDistance(Settings):
    """Synthetic images asked for with a finding against held-out images with it."""

    finding: str
    """Alone or among others; `No Finding` alone."""
    distance: Distance
    """In the mix of the synthetic images with it."""


class FidelityResult(Measured):
    """How near the synthetic images are to held-out real patients, and how near these are to each other."""

    sentences = frozenset({"comparability", "alarm_words"})

    extractor: Extractor
    """What saw the images."""
    resize: Resize
    """What it saw of them."""
    comparable: bool
    """Whether the numbers may be read beside other papers': not with features of our own judge."""
    resamples: int
    """Bootstrap resamples behind each interval."""
    headline: Distance
    """All synthetic images against all held-out real ones."""
    beside_floor: Distance
    """Synthetic images against half of the held-out patients, at the floor's effective n."""
    floor: Distance
    """The other half of the held-out patients against that half: what images without a fault would have."""
    to_held_out: Distance
    """Synthetic images against held-out patients, at the effective n of `to_train`."""
    to_train: Distance
    """Synthetic images against training patients. It serves the copying alarm alone and is no measure of quality."""
    by_finding: tuple[FindingDistance, ...] = ()
    """The headline finding by finding, in the order of the vocabulary."""
    alarm: bool | None
    """Synthetic images are nearer to training patients than chance explains; null where it cannot be told."""
