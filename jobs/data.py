"""`cxr data`: look into datasets, export them, make single images again, draw phantoms."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_core.shown import say, say_line
from jobs.former import former

if TYPE_CHECKING:
    from cxr_core.data.dataset import Dataset

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Look into Datasets, export them, draw an image again."
)

Folder = Annotated[Path, typer.Argument(metavar="DATASET", help="A Dataset folder, e.g. runs/demo/real.")]


class Form(StrEnum):
    imagefolder = "imagefolder"
    webdataset = "webdataset"
    nih = "nih"
    dicom = "dicom"


@app.command()
def summary(path: Folder) -> None:
    """Count images, patients, views and findings of a dataset.

    Example: cxr data summary runs/demo/real
    """
    from cxr_core.data.dataset import Dataset
    from jobs.show import show_summary

    show_summary(Dataset.open(path))


@app.command()
def verify(path: Folder) -> None:
    """Read every shard and every image of a dataset and compare them with what was recorded.

    Example: cxr data verify runs/demo/real
    """
    from cxr_core.data.dataset import Dataset
    from cxr_core.errors import UserError

    dataset = Dataset.open(path)
    wrong = 0
    for line in dataset.verify():
        wrong += 1
        say_line(line)
    if wrong:
        raise UserError(
            f"{wrong} things are not as recorded (listed above)",
            where=str(path),
            hint=_hint_of_damage(path),
        )
    info = dataset.info
    say(f"{path}: {info.num_images} images in {len(info.shards)} shards are as recorded, digest {info.digest}")


@app.command()
def export(
    path: Folder,
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    form: Annotated[
        Form,
        typer.Option(
            "--as",
            help="imagefolder, webdataset: Hugging Face's; nih: ChestX-ray14's; dicom: Secondary Capture objects.",
        ),
    ] = Form.imagefolder,
    internal: Annotated[
        bool, typer.Option("--internal", help="Also export real images, with ids; each file is marked as internal.")
    ] = False,
) -> None:
    """Write a dataset in a form that others read, with a card that says what it is. Run again, it goes on.

    A synthetic dataset leaves with its public fields alone (docs/what-may-leave.md); a real one only with --internal.

    Example: cxr data export runs/demo/synthetic /data/synthetic --as nih
    """
    from cxr_core.data.dataset import Dataset
    from cxr_core.export.write import export as write

    dataset = Dataset.open(path)
    write(dataset, out, form.value, internal=internal)
    say(f"{out}: {dataset.info.num_images:,} images")


@app.command()
def browse(
    path: Folder,
    out: Annotated[Path | None, typer.Option(help="A new folder; by default `browse` in the Dataset's.")] = None,
) -> None:
    """Write a page to look through all images by finding, view, prompt and gate score. Run again, it goes on.

    Example: cxr data browse runs/demo/synthetic
    """
    from cxr_core.data.dataset import Dataset
    from cxr_core.export.browse import write_page

    page = write_page(Dataset.open(path), out or path / "browse")
    say(f"{page}: open it in a browser, from this folder or from a copy of it")


@app.command()
def reproduce(
    path: Folder,
    image_id: Annotated[
        str, typer.Argument(metavar="IMAGE_ID", help="Its id, e.g. syn-00000000, or a file of an export.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write the image as PNG to this file.")] = None,
    model: Annotated[Path | None, typer.Option(help="The model that drew it; by default that of its run.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Draw its whole batch: slower, but equal bit for bit.")
    ] = False,
) -> None:
    """Draw one synthetic image again and say by how much it differs from the stored one.

    Example: cxr data reproduce runs/demo/synthetic syn-00000042 --strict
    """
    from cxr_core.data.dataset import Dataset
    from cxr_core.data.png import encode_grey
    from cxr_core.generation.reproduce import reproduce as make_again
    from cxr_core.models.checkpoints import final_generator
    from cxr_core.runs.files import write_atomic
    from jobs.environment import prepare_environment
    from jobs.inputs import input_of

    prepare_environment()
    dataset = Dataset.open(path)
    folder = final_generator(model) if model else _model_of(dataset, image_id)
    again = make_again(dataset, image_id, folder, strict=strict, bank=input_of(dataset.folder, "bank"))
    if out:
        write_atomic(out, encode_grey(again.made))
    values = again.difference
    changed = int((values > 0).sum())
    if changed:
        say(
            f"{image_id}: {changed:,} of {values.size:,} pixels differ, by at most {values.max()} of 255, "
            f"on average {values.mean():.4f}"
        )
    else:
        say(f"{image_id}: the same, bit for bit")


former(app, "data regenerate", "data reproduce")


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    images: Annotated[int, typer.Option("--images", min=1, help="How many radiographs.")] = 1000,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Height and width in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pixels.")] = 0,
) -> None:
    """Draw procedural chest radiographs in the exact layout of ChestX-ray14.

    Example: cxr data phantom /tmp/phantoms --images 1000
    """
    from cxr_core.data.phantom import write_layout
    from cxr_core.runs.progress import bar

    with bar("phantoms", images) as progress:
        write_layout(out, images, seed=seed, size=size, progress=lambda done, total: progress.advance())
    say(out)


def _hint_of_damage(path: Path) -> str:
    run = path.absolute().parent
    if (run / "config.yaml").is_file():
        return f"`cxr verify {run} --repair` sets the damage aside; then run again"
    return "it lies in no run that could make it again: copy it anew from where it was made"


def _model_of(dataset: "Dataset", image_id: str) -> Path:
    """The checkpoint that the run of a dataset names for the series of an image."""
    from cxr_core.errors import UserError
    from cxr_core.generation.series import series_of
    from cxr_core.models.checkpoints import checkpoint_at
    from jobs.inputs import input_of

    series = series_of(dataset, image_id)
    found = input_of(dataset.folder, series.role)
    if found is None:
        raise UserError(
            "the Dataset lies in no run that names its model", where=str(dataset.folder), hint="give --model"
        )
    return checkpoint_at(found, series.checkpoint)
