"""Training of the text encoder on words alone: what CLIP's brings along, and random weights lack.

Every output of a trained text encoder tells what the prompt says. With random weights the words of a finding hardly
show in the outputs behind them, and a denoiser needs far longer to learn what they stand for. No image is seen here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cxr_core.data.words import CLINICAL_PREFIX, VIEW_WORDS, prompt_words
from cxr_core.models import stable_diffusion
from cxr_core.models.initial import seeded
from cxr_core.seeds import derive_seed
from cxr_core.training.data_order import stream
from cxr_core.training.settings import TextEncoderTrain

_MOST_WORDS = 16
"""Random words of a text at most."""
_NUM_PLACES = 16
"""Places of a text at which its outputs are questioned, half of them in the text and half anywhere."""
_NUM_BEFORE = 3
"""Tokens just before a place whose order its output has to tell."""
_WEIGHT_OF_ORDER = 0.1
"""Of the loss of order beside that of the words: enough for "left" to know what it is said of."""


class ProbedTextEncoder(torch.nn.Module):
    """A text encoder, and linear questions to its outputs: which tokens came so far, and which ones just before.

    The questions are not exported.
    """

    def __init__(self, text_encoder: Any, num_tokens: int) -> None:
        super().__init__()
        width = text_encoder.config.hidden_size
        self.text_encoder = text_encoder.requires_grad_(True)
        self.so_far = torch.nn.Linear(width, num_tokens)
        self.before = torch.nn.ModuleList(torch.nn.Linear(width, num_tokens) for _ in range(_NUM_BEFORE))

    def forward(self, token_ids: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits at `places` (n, k) of `token_ids` (n, tokens): of tokens so far, and of the last, the one before ...

        Each (n, k, num_tokens).
        """
        outputs = self.text_encoder(token_ids)[0]
        asked = outputs.gather(1, places[..., None].expand(-1, -1, outputs.shape[-1]))
        return self.so_far(asked), [question(asked) for question in self.before]


class TextEncoderTask:
    """See `engine.Task`. Trains `pipeline.text_encoder` on random texts of the words of our prompts."""

    training_mode = False
    num_parts = 1

    def __init__(self, pipeline: Any, settings: TextEncoderTrain, seed: int) -> None:
        self.pipeline, self.settings, self.seed = pipeline, settings, seed
        self.words = prompt_words()
        with seeded(derive_seed(seed, "questions")):
            self.module = ProbedTextEncoder(pipeline.text_encoder, len(pipeline.tokenizer)).to(
                pipeline.text_encoder.device
            )
        self.marks = torch.tensor(pipeline.tokenizer.all_special_ids, device=pipeline.text_encoder.device)

    def loss(self, module: torch.nn.Module, step: int, part: int = 0) -> torch.Tensor:
        """Cross-entropies of all tokens so far, summed, + 0.1 * those of the last three; mean over the batch."""
        token_ids, places = self._batch(derive_seed(self.seed, "texts"), step, self.settings.batch_size)
        so_far, before = module(token_ids, places)
        order = [
            F.cross_entropy(logits.flatten(0, 1), token_ids.gather(1, places - back).flatten())
            for back, logits in enumerate(before, 1)
        ]
        told = F.binary_cross_entropy_with_logits(so_far, self._so_far(token_ids, places), reduction="none")
        return told.sum(-1).mean() + _WEIGHT_OF_ORDER * torch.stack(order).sum()

    def examples(self, step: int) -> Sequence[str]:
        return self._texts(derive_seed(self.seed, "texts"), step, self.settings.batch_size)

    @torch.no_grad()
    def validation(self) -> dict[str, Any]:
        """The loss of words on other texts, always the same ones, and of how many all words are told at the last place.

        None where there are to be none.
        """
        num = self.settings.validation_images
        if not num:
            return {"validation_loss": None}
        token_ids, places = self._batch(derive_seed(self.seed, "validation"), 0, num)
        places[:, -1] = token_ids.shape[1] - 1
        logits, wanted = self.module(token_ids, places)[0], self._so_far(token_ids, places)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1).mean()
        whole = ((logits[:, -1] > 0) == (wanted[:, -1] > 0)).all(-1)
        return {"validation_loss": float(loss), "texts_told": float(whole.float().mean())}

    def preview(self, step: int) -> None:
        """Words make no pictures."""

    def before_export(self) -> None:
        """Nothing is measured for the export."""

    def export(self, folder: Path, step: int) -> None:
        """Write the whole pipeline as a diffusers folder."""
        stable_diffusion.save(self.pipeline, folder)

    def _batch(self, seed: int, step: int, num: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (num, tokens) and places (num, `_NUM_PLACES`), each at least `_NUM_BEFORE`."""
        token_ids = stable_diffusion.tokenize(self.pipeline.tokenizer, self._texts(seed, step, num))
        ends = (token_ids == self.pipeline.tokenizer.eos_token_id).int().argmax(1).tolist()
        length, seed = token_ids.shape[1], derive_seed(seed, "places")
        places = np.stack([_places(stream(seed, step, i), end, length) for i, end in enumerate(ends)])
        device = self.pipeline.text_encoder.device
        return token_ids.to(device), torch.from_numpy(places).to(device)

    def _texts(self, seed: int, step: int, num: int) -> list[str]:
        return [_text(stream(seed, step, i), self.words) for i in range(num)]

    def _so_far(self, token_ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """1 for each token that stands at a place or before it, marks of begin and end apart: (n, k, num_tokens)."""
        num_tokens = len(self.pipeline.tokenizer)
        came = F.one_hot(token_ids, num_tokens).cumsum(1).clamp(max=1).float()
        came[..., self.marks] = 0
        return came.gather(1, places[..., None].expand(-1, -1, num_tokens))


def _text(rng: np.random.Generator, words: Sequence[str]) -> str:
    """Random words with commas here and there, half of the time after the start of a prompt of ours."""
    starts = [f"{CLINICAL_PREFIX},", *(f"{CLINICAL_PREFIX}, {view}," for view in VIEW_WORDS.values())]
    start = [starts[rng.integers(len(starts))]] if rng.random() < 0.5 else []
    chosen = rng.choice(words, rng.integers(_MOST_WORDS + 1)).tolist()
    return " ".join([*start, *(f"{word}," if rng.random() < 0.3 else word for word in chosen)])


def _places(rng: np.random.Generator, end: int, length: int) -> np.ndarray:
    """Half of them up to the text's end mark at `end`, half anywhere: int64 (`_NUM_PLACES`,)."""
    half = _NUM_PLACES // 2
    inside = rng.integers(_NUM_BEFORE, max(end, _NUM_BEFORE) + 1, half)
    return np.concatenate([inside, rng.integers(_NUM_BEFORE, length, _NUM_PLACES - half)])
