"""What the submit path needs of containers: the image of a profile, the words that enter it, the lines before them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from containers.binds import bind_of
from containers.engine import enter
from containers.stage import prelude as stage_once
from containers.store import Image, find_image
from cxr_core.home import CODE_CACHES
from cxr_core.runs.image import working_in
from slurm.packs import Job
from slurm.profile import ClusterProfile
from slurm.script import expanding


def image_of(profile: ClusterProfile) -> Image | None:
    """The image of a profile: a path, or what the store of images has under that name. None if tasks run in none."""
    return find_image(profile.container) if profile.container else None


def prefix(image: Image, profile: ClusterProfile, run: Path, cwd: Path) -> list[str]:
    """The words before a task's command: one container a task, with its run folder and the profile's binds."""
    gpus = any(profile.resources(kind).gpus_per_node for kind in (None, *profile.stages))
    names = [*profile.caches, *profile.env]
    return enter(image.path, image.sha256, [*map(bind_of, profile.binds), run], cwd=cwd, gpus=gpus, names=names)


def prelude(image: Image, profile: ClusterProfile) -> list[str]:
    """Lines of the batch script: make the caches, so that they can be bound, and copy the image to the node."""
    private = dict.fromkeys(CODE_CACHES, "-m 700 ")
    caches = [f'mkdir -p {private.get(name, "")}-- "${name}" || exit 1' for name in profile.caches]
    if not image.path.is_file():
        return caches
    return [*caches, *stage_once(image, expanding(profile.image_scratch) if profile.image_scratch else None)]


def working_in_image_of(profile: ClusterProfile) -> AbstractContextManager[None]:
    """Let what the launcher records name the image in which its tasks will run."""
    image = image_of(profile)
    return working_in(image.sha256) if image else nullcontext()


def copies(image: Image, profile: ClusterProfile, jobs: Sequence[Job]) -> str:
    """What bringing the image to the nodes costs, in words."""
    size = f"image {image.sha256[:12]}: {image.bytes / 1e9:.2f} GB"
    if profile.image_scratch is None:
        return f"{size}, read where it lies ({image.path})"
    most = max((min(job.num_tasks, profile.array_parallelism) for job in jobs), default=0)
    copied = f"at most {most} nodes at once, {most * image.bytes / 1e9:.1f} GB"
    return f"{size}, copied once to each node that a task comes to: {copied}"
