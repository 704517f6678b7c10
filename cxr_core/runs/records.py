"""The values that records of a run may hold: numbers within bounds, and names of one component or none."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from cxr_core.runs.door import checked_name

_LONGEST = 1e11
"""Seconds: 3,000 years, which a date can still tell."""

Moment = Annotated[float, Field(ge=0, le=_LONGEST)]
"""Seconds since 1970."""

Seconds = Annotated[float, Field(ge=0, le=_LONGEST)]

Count = Annotated[int, Field(ge=0, le=1 << 53)]

OptionalName = Annotated[str, AfterValidator(lambda text: text and checked_name(text))]
"""One component of a path, or empty."""


def _checked_path(text: str) -> str:
    return "/".join(map(checked_name, text.split("/")))


RelativePath = Annotated[str, AfterValidator(_checked_path)]
"""Names with slashes between them."""


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with null for what JSON has no number for: a loss that is NaN is told, and its record can be read."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
