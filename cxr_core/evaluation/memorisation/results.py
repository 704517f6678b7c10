"""What metrics.json says of memorisation and privacy."""

from cxr_core.evaluation.interval import Interval
from cxr_core.evaluation.older import Measured
from cxr_core.settings import Settings

MIN_RECALL = 0.95
"""Of planted copies of a kind: a check that finds fewer is weak."""


class Nearest(Settings):
    """How alike each image of a set is to the training image nearest to it."""

    what: str
    """The set in words, e.g. "held-out images"."""
    num_images: int
    """Its images."""
    num_patients: int | None
    """Their patients; null for synthetic images."""
    median: float
    """Of the similarities, -1..1; 1 is a copy."""
    high: float
    """Their 99th percentile."""
    most: float
    """The largest."""
    histogram: tuple[int, ...]
    """Images in each of the equal bins between `Nearness.lowest` and 1."""


class Nearness(Settings):
    """Similarities to the nearest training image, by one way of looking."""

    name: str
    """What looked, e.g. "our judge (small)", "spectra" or "pixels, aligned"."""
    synthetic: Nearest
    """Synthetic images."""
    held_out: Nearest
    """Held-out real images: what patients have who were never trained on."""
    train: Nearest
    """Training images, each to the nearest of another patient."""
    lowest: float
    """Where the histograms begin."""
    threshold: Interval | None = None
    """The percentile of the held-out images; over patients."""
    num_above: int | None = None
    """Synthetic images above it."""
    share_above: Interval | None = None
    """Their share; the interval is that of a share of so many images, over thresholds of resampled patients."""
    alarm: bool | None = None
    """The share is above that of real patients, beyond its interval."""
    not_computed: str | None = None
    """Why there is no threshold: "n = 300 held-out images, 1,000 are needed"."""


class Planted(Settings):
    """Copies of training images that were planted to try the search."""

    kind: str
    """What was done to them, e.g. "mirrored"."""
    num_images: int
    """Copies."""
    recall: float
    """Share found: their training image is among those compared, and above the threshold."""


class CopyPair(Settings):
    """A synthetic image and the training image that it aligns to best."""

    synthetic: str
    """Id of the synthetic image."""
    training: str
    """Id of the training image."""
    patient: str
    """Of the training image."""
    score: float
    """Correlation of the aligned pixels, -1..1."""
    mirrored: bool
    """The synthetic image was mirrored for it, left for right."""
    right: int
    """Pixels of a 64 px thumbnail by which it was shifted to the right."""
    down: int
    """And down."""
    flagged: bool
    """The score is above the threshold."""


class TargetedResult(Settings):
    """Synthetic images of captions that few training images have, against the very images that have them."""

    max_images: int
    """A caption is rare where at most this many training images have it."""
    num_rare: int
    """Rare captions among the training images."""
    num_asked: int
    """Of these, captions that synthetic images have."""
    num_images: int
    """Synthetic images of rare captions."""
    num_matched: int
    """Common captions compared: for each rare one the next of its view with as many findings."""
    rare: float | None = None
    """Mean over rare captions of the best aligned correlation of any of its synthetic images with any of its own."""
    common: float | None = None
    """The same of the matched common captions: with as many seeds, and as many of its training images by hash."""
    difference: Interval | None = None
    """Rare minus common, paired; over captions. Above 0, rare captions give their images away."""
    extracted: int | None = None
    """Rare captions of which a synthetic image is called a copy of one of its own training images."""
    not_computed: str | None = None
    """Why there are no numbers."""


class ReidentificationResult(Settings):
    """A siamese network that tells whether two images are of one patient, and what it says of synthetic images."""

    num_patients: int
    """Training patients with several images, on whose pairs it was trained."""
    num_same: int
    """Pairs of one held-out patient on which it was tried, one a patient."""
    num_other: int
    """Pairs of two held-out patients, of one view."""
    auroc: Interval | None = None
    """On these pairs; over patients."""
    min_auroc: float
    """What its lower bound had to reach."""
    refused: str | None = None
    """Why it says nothing of synthetic images."""
    false_matches: float
    """Share of held-out images that match a training patient at the threshold, as it was set."""
    true_matches: float | None = None
    """Share of held-out images that match another image of their own patient at the same threshold; of patients with
    several. What it does not find of these it does not find of copies of patients either."""
    matches: Nearness | None = None
    """Similarity to the nearest training image, threshold, and the share of synthetic images that match."""


class MemorisationResult(Measured):
    """Are synthetic images copies of training images?"""

    sentences = frozenset({"verdict"})

    num_train: int
    """Training images that were looked at: all."""
    num_train_patients: int
    """Their patients."""
    percentile: float
    """Of held-out images, beyond which an image is called a copy."""
    near_identical: float
    """Real pairs of different patients that align better than this are one image filed twice, and were left out."""
    num_left_out: int
    """Such pairs, among the candidates of held-out and of training images."""
    embeddings: tuple[Nearness, ...]
    """In the features of each extractor, and in spectra."""
    pixels: Nearness
    """By the best aligned correlation of pixels with any of the nearest in these: the copy check."""
    planted: tuple[Planted, ...]
    """The trial of the copy check."""
    pairs: tuple[CopyPair, ...]
    """The synthetic images that align best, best first."""
    num_flagged: int | None
    """All synthetic images above the threshold of the copy check; null where there is none."""
    picture: str | None
    """PNG of the first pairs side by side, relative to the stage's folder."""
    targeted: TargetedResult | None = None
    """Null where it was not asked for."""
    reidentification: ReidentificationResult | None = None
    """Null where it was not asked for."""

    @property
    def recall(self) -> float:
        """The worst recall of all kinds of planted copies."""
        return min((each.recall for each in self.planted), default=0.0)
