"""Problems: what was odd with an image or a row, and what was done about it. All of them end in problems.csv."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from cxr_core.data.settings import Policies
from cxr_core.errors import UserError
from cxr_core.runs.files import atomic_path

COLUMNS = ("kind", "image_id", "file", "detail", "action")

ACTIONS = {"exclude": "left out", "convert": "converted", "keep": "kept"}


def problem(kind: str, image_id: str, file: str, detail: str, action: str) -> dict[str, str]:
    """One row of problems.csv."""
    return dict(zip(COLUMNS, (kind, image_id, file, detail, action), strict=True))


def decide(policies: Policies, kind: str, *, file: str, detail: str) -> str:
    """The policy for `kind`: "exclude", "convert" or "keep". Raises UserError where it is "fail"."""
    policy: str = getattr(policies, kind)
    if policy == "fail":
        raise UserError(
            f"{kind.replace('_', ' ')}: {detail}",
            where=file,
            mend=f"mend or remove it, or choose what happens with `policies: {{{kind}: ...}}`",
        )
    return policy


def problem_frame(
    kind: str, image_ids: Iterable[str], files: Iterable[str] | str, details: Iterable[str] | str, action: str
) -> pd.DataFrame:
    """Many problems of one kind."""
    values = {"kind": kind, "image_id": list(image_ids), "file": files, "detail": details, "action": action}
    return pd.DataFrame(values, columns=list(COLUMNS))


def decide_all(policies: Policies, found: pd.DataFrame) -> pd.DataFrame:
    """Put the policy's action into a frame of one kind. Raises UserError for its first row where the policy is fail."""
    if found.empty:
        return found
    kind, _, file, detail, _ = found.iloc[0]
    return found.assign(action=ACTIONS[decide(policies, kind, file=file, detail=detail)])


def write_problems(path: Path, *parts: pd.DataFrame | Iterable[Mapping[str, str]]) -> dict[str, int]:
    """Write problems.csv, sorted by kind and image. Returns how many there are of each kind."""
    frames = [part if isinstance(part, pd.DataFrame) else pd.DataFrame(list(part)) for part in parts]
    found = pd.concat([pd.DataFrame(columns=list(COLUMNS), dtype=str), *frames])[list(COLUMNS)]
    found = found.sort_values(list(COLUMNS), ignore_index=True, kind="stable")
    with atomic_path(path) as temporary:
        found.to_csv(temporary, index=False)
    return {str(kind): int(num) for kind, num in found["kind"].value_counts(sort=False).sort_index().items()}


def read_problems(path: Path) -> pd.DataFrame:
    """problems.csv with all its columns as text."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)
