"""Images in words, and the count of a text's tokens."""

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from cxr_core.data.findings import Findings
from cxr_core.data.positions.phrases import PlacedFinding, phrases, shorter
from cxr_core.data.settings import PromptSettings
from cxr_core.data.words import (
    CLINICAL_PREFIX,
    CLIP_TOKENS,
    SEX_WORDS,
    STUDY_PREFIX,
    UNKNOWN,
    VIEW_WORDS,
    plain_words,
    prompt_words,
    study_words,
)
from cxr_core.errors import UserError

MAX_TOKENS = 77
"""Of CLIP's text encoder, the begin and the end mark included."""

_PIECE = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)
"""What CLIP's tokenizer splits a text into before it looks for pairs: words, single digits, runs of signs."""


class PromptWriter:
    """Writes the prompt of an image from its labels; training and sampling use the same one."""

    def __init__(self, settings: PromptSettings, findings: Findings) -> None:
        self.settings, self.findings = settings, findings
        self._write = {"study": self._study, "clinical": self._clinical, "template": self._template}[settings.style]

    def __call__(
        self, labels: int, view: str = "", age: float | None = None, sex: str = "", placed: Sequence[PlacedFinding] = ()
    ) -> str:
        """`labels` as bits, `view` PA, AP or "", `age` in years or None (NaN), `sex` M, F or "".

        `placed` says where some of the findings are; the prompt then has at most `MAX_TOKENS`, see `shorter`.
        """
        known = None if age is None or math.isnan(age) else int(age)
        names = self.findings.decode(labels)
        if not (placed and self.settings.positions):
            return self._write(names, view, known, sex)
        count = token_counter(self.settings.tokenizer)
        texts = (self._clinical(names, view, known, sex, fewer) for fewer in shorter(placed))
        fitting = (text for text in texts if count(text) <= MAX_TOKENS)
        return next(fitting, self._clinical(names, view, known, sex))

    def _study(self, names: tuple[str, ...], view: str, age: int | None, sex: str) -> str:
        return " ".join((STUDY_PREFIX, *map(study_words, names)))

    def _clinical(
        self, names: tuple[str, ...], view: str, age: int | None, sex: str, placed: Sequence[PlacedFinding] = ()
    ) -> str:
        who = [f"{age} year old"] if self.settings.age and age is not None else []
        who += [SEX_WORDS[sex]] if self.settings.sex and sex else []
        seen = [VIEW_WORDS[view]] if self.settings.view and view else []
        return ", ".join((CLINICAL_PREFIX, *seen, *filter(None, [" ".join(who)]), *self._found(names, placed)))

    def _found(self, names: tuple[str, ...], placed: Sequence[PlacedFinding]) -> list[str]:
        if not self.settings.findings:
            return []
        sides = self.settings.positions.sides if self.settings.positions else "patient"
        return [text for name in names for text in phrases(name, placed, sides, self.findings.names)]

    def _template(self, names: tuple[str, ...], view: str, age: int | None, sex: str) -> str:
        return str(self.settings.template).format(
            findings=", ".join(plain_words(name, self.findings.names) for name in names),
            names=", ".join(names),
            view=view or UNKNOWN,
            age=UNKNOWN if age is None else age,
            sex=SEX_WORDS.get(sex, UNKNOWN),
        )


@cache
def token_counter(tokenizer: Path | None) -> Callable[[str], int]:
    """A function that counts a prompt's tokens with begin and end mark, by the tokenizer in a folder or by `estimate`.

    Raises UserError where the folder holds no tokenizer.
    """
    if tokenizer is None:
        return estimate_tokens
    encoder = _load(tokenizer)
    # A saved tokenizer.json pads and cuts every text to CLIP's length.
    encoder.no_padding()
    encoder.no_truncation()
    return lambda text: len(encoder.encode(text, add_special_tokens=False).ids) + 2


def estimate_tokens(text: str) -> int:
    """Tokens of CLIP: exact for the words of `prompt_words`, one for every two letters of any other word."""
    return 2 + sum(_tokens_of(piece.lower()) for piece in _PIECE.findall(text))


def _tokens_of(piece: str) -> int:
    if piece in CLIP_TOKENS:
        return CLIP_TOKENS[piece]
    if piece in _KNOWN:
        return 1
    return -(-len(piece) // 2) if piece.isascii() and piece.isalpha() else len(piece.encode())


_KNOWN = frozenset(piece.lower() for word in prompt_words() for piece in _PIECE.findall(word)) | {",", ".", "image"}


def check_lengths(prompts: dict[str, str], tokenizer: Path | None) -> None:
    """Raise UserError for the longest prompt over `MAX_TOKENS`. `prompts` maps each distinct prompt to an image."""
    count = token_counter(tokenizer)
    num, text = max(((count(text), text) for text in prompts), default=(0, ""))
    if num > MAX_TOKENS:
        raise UserError(
            f"a prompt has {num} tokens, CLIP reads {MAX_TOKENS}: {text!r}",
            where=f"image {prompts[text]}",
            hint="let `prompts` say less: a shorter template, no age, sex or view, or fewer findings of shorter names",
        )


def _load(folder: Path):  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    folder = folder if not (folder / "tokenizer").is_dir() else folder / "tokenizer"
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocabulary.is_file() and merges.is_file()):
        raise UserError(
            "no tokenizer: it has neither tokenizer.json nor vocab.json and merges.txt",
            where=str(folder),
            hint="name the `tokenizer` folder of a Stable Diffusion model, or leave prompts.tokenizer out",
        )
    model = BPE.from_file(str(vocabulary), str(merges), end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    return _as_clip(Tokenizer(model))


def _as_clip(tokenizer):  # type: ignore[no-untyped-def]
    """CLIP's way to cut a text, which vocab.json does not tell."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer
