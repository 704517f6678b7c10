"""The words before a command that is to run in a container."""

from collections.abc import Sequence
from pathlib import Path


def exec_prefix(image: str, binds: Sequence[str | Path], *, gpus: bool) -> list[str]:
    """`apptainer exec` of an image; `binds` lie at the same place inside; `gpus` brings the driver's libraries in."""
    # A bind is source:target:options; colons and commas of a path cannot be told from these.
    bound = [word for folder in binds for word in ("--bind", str(folder))]
    return ["apptainer", "exec", *(["--nv"] if gpus else []), *bound, image]
