"""How metrics.json of older versions is read: it held sentences, of which the report now words the numbers."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator

from cxr_core.settings import Settings


class Measured(Settings):
    """A part of metrics.json of which older files have sentences too."""

    sentences: ClassVar[frozenset[str]] = frozenset()
    """Keys of these; they are not read."""

    @model_validator(mode="before")
    @classmethod
    def _without_sentences(cls, given: Any) -> Any:
        return (
            {key: one for key, one in given.items() if key not in cls.sentences} if isinstance(given, dict) else given
        )


def named(said: Any, begins: Mapping[str, str]) -> Any:
    """The name of a verdict: as it is, or of a sentence of older files by how it begins; "refused" for any other."""
    if not isinstance(said, str) or said in begins.values():
        return said
    return next((name for start, name in begins.items() if said.startswith(start)), "refused")
