"""The tiny text encoder's tokenizer: byte-level BPE in CLIP's form, made from the words of our prompts.

Byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909; Radford et al. 2021, arXiv 2103.00020) never fails: a word that
it does not know falls apart into pieces and bytes. Needs neither torch nor transformers.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Regex, pre_tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"

_WORD_END = "</w>"
_PIECES = r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP splits a text into before it looks for pairs: words, single digits, runs of signs."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Bpe:
    """A BPE model as CLIPTokenizer takes it: token -> id, and the merges in the order in which they apply."""

    vocab: dict[str, int]
    merges: list[Pair]


def train_bpe(words: Iterable[str]) -> Bpe:
    """Merge until every word of `words` is one token (its signs and digits apart).

    A function of the set of words alone: the trainer of `tokenizers` breaks ties by hashes that differ from one process
    to the next, hence this one.
    """
    pieces = [[*word[:-1], word[-1] + _WORD_END] for word in sorted(_split(words))]
    merges: list[Pair] = []
    while counts := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        pieces = [_merge(word, best) for word in pieces]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + _WORD_END for byte in alphabet), *("".join(pair) for pair in merges), START, END]
    return Bpe({token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges)


def _split(words: Iterable[str]) -> set[str]:
    """Lower-case pieces of words, spelled in the alphabet that stands for bytes."""
    pieces = pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True)
    splitter = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return {piece for word in words for piece, _ in splitter.pre_tokenize_str(word.lower())}


def _merge(word: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
