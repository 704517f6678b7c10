"""`cxr image`: build, pull, verify, stage and run container images. It only reads arguments."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cxr_core.log import room_log
from cxr_core.shown import say

log = room_log(__name__)

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Build, pull, check and run container images.")

Images = Annotated[
    Path | None, typer.Option("--images", help="Folder of images that all nodes see; by default $CXR_IMAGES.")
]
Name = Annotated[str, typer.Argument(metavar="IMAGE", help="A path, REGISTRY/NAME@sha256:DIGEST, or a sha256.")]
Target = Annotated[Literal["cpu", "cuda"], typer.Option(help="With or without the libraries for NVIDIA GPUs.")]


@app.command()
def build(
    base: Annotated[str, typer.Option(help="A folder with a Linux system and Python, or an image by digest.")],
    target: Target = "cpu",
    engine: Annotated[Literal["apptainer", "buildah"], typer.Option(help="Program that builds it.")] = "apptainer",
    build_base: Annotated[str, typer.Option(help="For --target cuda: the base with a compiler (nvcc).")] = "",
    index: Annotated[str, typer.Option(help="URL of a package index; pip's own by default.")] = "",
    find_links: Annotated[str, typer.Option(help="Folder or page of wheels, e.g. of torch for the CPU.")] = "",
    bind: Annotated[
        list[Path] | None, typer.Option(help="File or folder that the build sees, e.g. certificates; repeat it.")
    ] = None,
    images: Images = None,
) -> None:
    """Build the image of this checkout: a SIF in the folder of images, or an OCI image to push to a registry.

    Example: cxr image build --base /images/bookworm --find-links /wheels
    """
    from containers.build import Recipe, build_oci, build_sif
    from containers.store import Store

    recipe = Recipe(target, base, build_base, index, find_links, bind or ())
    if engine == "buildah":
        name = build_oci(recipe)
        say(f"{name}\nbuildah push --digestfile digest {name} docker://REGISTRY/NAME:TAG   then: cxr image pull")
        return
    image = build_sif(recipe, Store.of_environment(images))
    say(f"{image.path}\n{image.bytes:,} bytes; in the profile of a cluster: `container: {image.path}`")


@app.command("base")
def make_debian(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    release: Annotated[str, typer.Option(help="Release of Debian; this machine's by default.")] = "",
    mirror: Annotated[str, typer.Option(help="URL of a mirror; what this machine is set up for by default.")] = "",
) -> None:
    """Make a Debian with Python in a folder, as a base for `cxr image build`. Needs debootstrap and root.

    Example: cxr image base /images/bookworm --release bookworm
    """
    from containers.base import make_base

    made = make_base(folder, release, mirror)
    say(f"{made}\nnext: cxr image build --base {made}")


@app.command("lock")
def write_lock(target: Target = "cpu") -> None:
    """Resolve the packages of an image with uv and write containers/TARGET.lock. uv heeds its own and pip's variables.

    Example: cxr image lock --target cuda
    """
    from containers.build import source
    from containers.lock import make_lock, packages

    path = make_lock(source(), target)
    say(f"{path}: {len(packages(path))} packages")


@app.command()
def pull(reference: Annotated[str, typer.Argument(help="REGISTRY/NAME@sha256:DIGEST.")], images: Images = None) -> None:
    """Bring an image from a registry and convert it to a SIF, once, however many ask at the same time.

    Example: cxr image pull registry.example.org/cxr/suite@sha256:DIGEST
    """
    from containers.pull import pull as bring
    from containers.reference import Reference
    from containers.store import Store

    store = Store.of_environment(images)
    image = bring(Reference.parse(reference), store, tell=_tell)
    say(f"{image.path}\n{image.bytes:,} bytes; in the profile of a cluster: `container: {image.path}`")


@app.command()
def verify(
    image: Annotated[str | None, typer.Argument(metavar="[IMAGE]", help="Only this image.")] = None,
    images: Images = None,
) -> None:
    """Read images and compare them with their sha256. Exit status 2 if one is damaged.

    Example: cxr image verify
    """
    from containers.store import Store, find_image
    from cxr_core.errors import UserError

    chosen = [find_image(image, images)] if image else Store.of_environment(images).images()
    damaged = [each for each in chosen if not each.is_sound()]
    if damaged:
        raise UserError(
            f"{len(damaged)} of {len(chosen)} images are damaged: {', '.join(str(each.path) for each in damaged)}",
            hint="`cxr image pull` with the reference (see `cxr image list`) replaces it",
        )
    say(f"{len(chosen)} images are what their names say")


@app.command()
def stage(
    image: Name,
    folder: Annotated[Path, typer.Argument(help="A folder on this machine's own disk.")],
    images: Images = None,
) -> None:
    """Copy an image to this machine, once, however many ask at the same time; print where it is to be read.

    Example: cxr image stage 4be1c0de /scratch/$USER/images
    """
    from containers.stage import stage as copy
    from containers.store import find_image

    say(copy(find_image(image, images), folder))


@app.command("exec")
def execute(
    image: Name,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="After `--`: what to run.")],
    images: Images = None,
    bind: Annotated[
        list[str] | None, typer.Option(help="FOLDER[:PLACE[:ro]] to bring in besides this one; repeat it.")
    ] = None,
    gpus: Annotated[bool, typer.Option("--gpus", help="Bring in the libraries of the NVIDIA driver.")] = False,
) -> None:
    """Run a command in an image as tasks do: this folder bound, home a scratch folder, few variables.

    Example: cxr image exec 4be1c0de -- cxr --help
    """
    import os

    from containers.binds import bind_of
    from containers.engine import engine, enter
    from containers.store import find_image

    engine()
    found = find_image(image, images)
    folders = [bind_of(text if ":" in text else str(Path(text).absolute())) for text in bind or ()]
    words = enter(found.path, found.sha256, folders, cwd=Path.cwd(), gpus=gpus)
    os.execvp(words[0], [*words, *command])


@app.command("list")
def show(images: Images = None) -> None:
    """List the images, the last used first, and where each came from.

    Example: cxr image list
    """
    from containers.store import Store
    from jobs.show import show_images

    store = Store.of_environment(images)
    show_images(store.images(), {lock.sif_sha256: lock for lock in store.locks()})


@app.command()
def gc(
    days: Annotated[float, typer.Option(min=0, help="List images that were not used for so many days.")] = 30,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without this they are only listed.")] = False,
    images: Images = None,
) -> None:
    """List images that were not used for a while; never one that is in use.

    Example: cxr image gc --days 60 --yes
    """
    from containers.store import Store

    store = Store.of_environment(images)
    for image in store.unused(days=days):
        removed = store.remove(image) if yes else False
        say(f"{'removed' if removed else 'unused'}: {image.path} ({image.bytes:,} bytes)")


def _tell(text: str) -> None:
    log.info("%s", text)
