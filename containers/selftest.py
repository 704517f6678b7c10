"""Whether an image holds what it must: `python -m containers.selftest cpu|cuda`, run by the image's own test."""

import subprocess
import sys
from importlib import import_module

from cxr_core.shown import say

_STACK = ("torch", "diffusers", "transformers", "accelerate", "monai", "submitit", "pandas", "pyarrow", "cv2", "isal")


def main(target: str) -> None:
    """Import the stack, and make one image on the CPU with the base that comes with the package."""
    for name in _STACK:
        import_module(name)
    if target == "cuda":
        import_module("xformers")
        subprocess.run(["ds_report"], check=True)
    from cxr_core.models.checkpoints import BUILT_IN
    from cxr_core.models.stable_diffusion import load

    pipeline = load(BUILT_IN["tiny_base"])
    made = pipeline("frontal chest radiograph", num_inference_steps=1, output_type="np").images
    assert made.shape[0] == 1
    assert ((made >= 0) & (made <= 1)).all()
    say(f"{target}: the stack is there, and one image of {made.shape[1]} x {made.shape[2]} pixels was made")


if __name__ == "__main__":
    main(*sys.argv[1:])
