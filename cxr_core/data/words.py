"""Every word that a prompt of ours can hold: the vocabulary on which the tiny text encoder's tokenizer is trained."""

from collections.abc import Mapping, Sequence

from cxr_core.data.findings import NIH_FINDINGS, NO_FINDING

STUDY_PREFIX = "ChestXRay"
"""First word of every caption of the 2023 study (Malik and Humair, arXiv 2305.18927)."""

CLINICAL_PREFIX = "frontal chest x-ray"

VIEW_WORDS = {"PA": "PA view", "AP": "AP view"}
"""Posteroanterior and anteroposterior projection; an unknown view is left out of a prompt."""

SEX_WORDS = {"M": "male", "F": "female"}

AGE_WORDS = ("year", "old")
"""Of "57 year old"; the numbers themselves are left to a tokenizer's bytes."""

PLAIN_WORDS = {
    "Effusion": "pleural effusion",
    "Edema": "pulmonary edema",
    "Fibrosis": "pulmonary fibrosis",
}
"""Findings whose name alone is no clear word; any other name is written small and with spaces."""

GRID_WORDS = ("upper", "middle", "lower", "left", "center", "right")
"""Rows and columns of a 3 x 3 grid over the image."""

ZONE_WORDS = ("upper", "mid", "lower", "lung", "zone", "perihilar", "costophrenic", "angle", "retrocardiac", "apical")
"""Where a radiologist says that something is, with a side from `SIDE_WORDS`."""

SIDE_WORDS = ("left", "right", "both", "bilateral", "side", "lungs", "midline")
"""Sides of the patient, not of the picture."""

SIZE_WORDS = ("tiny", "small", "medium", "large", "size")

SEVERITY_WORDS = ("mild", "moderate", "severe", "slight", "marked")

UNKNOWN = "unknown"
"""What a template says of a view, an age or a sex that is not known."""

JOINING_WORDS = ("with", "in", "the", "of", "and", "at", "on", "a", "no")

CLIP_TOKENS = {
    "apical": 2,
    "atelectasis": 4,
    "cardiomegaly": 4,
    "chestxray": 3,
    "costophrenic": 5,
    "edema": 2,
    "effusion": 2,
    "emphysema": 3,
    "hernia": 2,
    "infiltration": 2,
    "midline": 2,
    "nodule": 3,
    "perihilar": 3,
    "pleural": 2,
    "pneumothorax": 4,
    "retrocardiac": 2,
    "thickening": 2,
}
"""Tokens of those words that CLIP's vocabulary does not hold whole."""


def study_words(finding: str) -> str:
    """A finding as the study's trainer read it from file names: `Pleural_Thickening` is "Pleural Thickening"."""
    return finding.replace("_", " ")


def plain_words(finding: str, findings: Sequence[str] = ()) -> str:
    """A finding in plain words: `Effusion` is "pleural effusion", `Pleural_Thickening` is "pleural thickening".

    Where another of `findings`, the vocabulary, is called so already, it keeps its own name: `Effusion` beside
    `Pleural Effusion` is "effusion".
    """
    own, longer = _small(finding), PLAIN_WORDS.get(finding)
    return own if longer is None or any(_small(other) == longer for other in findings) else longer


def read_as_several(findings: Sequence[str]) -> tuple[str, list[str]] | None:
    """A finding whose words, in the study's captions, are those of others in a row: "Mass lesion" beside "Mass" and
    "lesion"; None: there is none."""
    words = {study_words(name).casefold(): name for name in findings}
    for name in findings:
        others = _split(
            study_words(name).casefold().split(), {text: words[text] for text in words if words[text] != name}
        )
        if others:
            return name, others
    return None


def _split(parts: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """The findings of which `parts` are the words, one after another; none: they are no such row."""
    for end in range(1, len(parts) + 1):
        first = words.get(" ".join(parts[:end]))
        if first and (end == len(parts) or (rest := _split(parts[end:], words))):
            return [first] if end == len(parts) else [first, *rest]
    return []


def _small(finding: str) -> str:
    return finding.replace("_", " ").lower()


def prompt_words() -> tuple[str, ...]:
    """All words, sorted, each once, as prompts spell them: NIH's findings in both styles, views, places, sizes."""
    findings = (*NIH_FINDINGS, NO_FINDING)
    phrases = [STUDY_PREFIX, CLINICAL_PREFIX, *VIEW_WORDS.values(), *SEX_WORDS.values()]
    phrases += [*map(study_words, findings), *map(plain_words, findings), *findings]
    phrases += [
        *AGE_WORDS,
        *GRID_WORDS,
        *ZONE_WORDS,
        *SIDE_WORDS,
        *SIZE_WORDS,
        *SEVERITY_WORDS,
        *JOINING_WORDS,
        UNKNOWN,
    ]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))
