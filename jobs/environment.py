"""What every process of ours begins with: the environment of the libraries, and the word to its batch shell."""

import os
from pathlib import Path

from cxr_core.home import keep_caches_private, substitute_home

_ENVIRONMENT = {
    # No hub at run time: models are local folders, and a cluster's nodes have no network.
    "HF_HUB_OFFLINE": "1",
    # Their warnings (a missing torchvision, say) are not for the user of this command.
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    # Threads that wait for one another sleep: spinning beside other work, they are several times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
}
"""Defaults for libraries that read the environment when they are imported."""


def prepare_environment() -> None:
    """Set what libraries read when they are imported, where the user has not."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    substitute_home()
    keep_caches_private()


def tell_the_shell() -> None:
    """Let the batch shell know that Python began (see `slurm.script`)."""
    if start := os.environ.get("CXR_START"):
        Path(start).unlink(missing_ok=True)
