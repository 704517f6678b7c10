"""`python -m tests.gpu.needs [PACKAGE-THAT-IS-THERE ...]`: what tests/gpu import, a package and its version a line.

Found by running their rows of nano size on the CPU. Left out are torch with what only it needs, and what is named.
"""

import sys
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

from cxr_core.models.presets import NANO

BROUGHT = {"torch", "triton", "deepspeed", "cxr-suite"}
"""What a GPU machine has, what is not wanted there, and what is the checkout itself."""
BESIDE = {"pytest", "pytest-timeout", "rich"}
"""What is not imported without a terminal or a test."""


def main(there: list[str]) -> int:
    """Print the list; returns the exit status."""
    with redirect_stdout(sys.stderr):
        _rehearse()
    owners = metadata.packages_distributions()
    imported = {owner for module in list(sys.modules) for owner in owners.get(module.partition(".")[0], ())}
    left_out = {_plain(name) for name in BROUGHT | set(there)}
    for name in sorted({_plain(name) for name in imported | _with_needs(BESIDE)} - left_out):
        if not name.startswith("nvidia-"):
            print(f"{name}=={metadata.version(name)}")
    return 0


def _rehearse() -> None:
    from cxr_core.models import lora
    from tests.gpu import test_training  # noqa: F401
    from tests.gpu.evaluation import Sizes, g4, g5
    from tests.gpu.rows import Bench, g1, g3

    assert lora
    with TemporaryDirectory() as name:
        bench = Bench(Path(name), NANO, "cpu", batch=2, num_images=4, warm=0, seconds=0)
        sizes = Sizes(width=8, layers=1, heads=2, side=28, num_features=60, subset=20, num_subsets=1)
        for _ in (*g1(bench, ways=[False]), *g3(bench), *g5(bench, sizes)):
            pass
        bench = Bench(Path(name, "other"), device="cpu", batch=2, num_images=4, warm=0, seconds=0)
        bench.folder.mkdir()
        for _ in g4(bench, sizes):
            pass


def _with_needs(names: set[str]) -> set[str]:
    """With what they need in turn."""
    asked = (Requirement(line) for name in names for line in metadata.requires(name) or [])
    more = {each.name for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})} - names
    return _with_needs(names | more) if more else names


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
