"""`cxr model`: give trained models away, and take those that others trained."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Trained models.")


@app.command("export")
def export(
    source: Annotated[
        Path, typer.Argument(help="A finished train stage, e.g. runs/demo/diffusion, or a model folder.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    float32: Annotated[bool, typer.Option("--float32", help="Keep all digits; half precision otherwise.")] = False,
) -> None:
    """Write a trained model as one folder, with a record of what made it; Stable Diffusion as diffusers opens it.

    Example: cxr model export runs/demo/diffusion my-model
    """
    from cxr_core.models.export import export_model

    record = export_model(source, out, "float32" if float32 else "float16")
    typer.echo(f"{out}: {record['dtype']}, sha256 {record['weights_sha256']}")


@app.command("adopt")
def adopt(
    weights: Annotated[Path, typer.Argument(help="A safetensors file.")],
    out: Annotated[Path, typer.Argument(help="The folder to write: it can stand as `judge` or `gate` in a config.")],
    findings: Annotated[str, typer.Option(help="What its outputs tell, in their order: Atelectasis,Cardiomegaly,...")],
    preset: Annotated[str, typer.Option(help="small, resnet18 or densenet121.")] = "densenet121",
    image_size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels a side that it sees.")] = 224,
) -> None:
    """Take a classifier that was trained elsewhere as a judge. Every tensor must fit; what does not is listed.

    It sees grey images of one channel in -1..1.

    Example: cxr model adopt mine.safetensors my-judge --findings Edema,Mass
    """
    from cxr_core.errors import UserError
    from cxr_core.models.classifier import adopt as write
    from cxr_core.models.presets import CLASSIFIERS

    if preset not in CLASSIFIERS:
        raise UserError(f"no classifier {preset!r}", where="--preset", mend=f"take one of {', '.join(CLASSIFIERS)}")
    _refuse_existing(out)
    write(weights, out, preset, tuple(name.strip() for name in findings.split(",")), image_size)
    typer.echo(out)


@app.command("adopt-pggan")
def adopt_pggan(
    checkpoint: Annotated[Path, typer.Argument(help="A .pth file with state_dict and settings.")],
    out: Annotated[Path, typer.Argument(help="The folder to write: it can stand as `model` of a generate stage.")],
) -> None:
    """Take a PG-GAN checkpoint of the layout of Segal et al. 2021. Every tensor must fit; what does not is listed.

    Example: cxr model adopt-pggan progan.pth their-pggan
    """
    from cxr_core.models.pggan_published import adopt as write

    _refuse_existing(out)
    info = write(checkpoint, out)
    typer.echo(f"{out}: draws {info.size} pixels a side, {info.channels} channels")


def _refuse_existing(out: Path) -> None:
    from cxr_core.errors import UserError

    if out.exists():
        raise UserError("is already there", where=str(out), mend="remove it, or name another folder")
