"""`cxr model`: give trained models away, and take those that others trained."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cxr_core.shown import say
from jobs.former import former

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Export trained models, import those of others.")


@app.command("export")
def export(
    source: Annotated[
        Path, typer.Argument(help="A finished train stage, e.g. runs/demo/diffusion, or a model folder.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    float32: Annotated[bool, typer.Option("--float32", help="Write float32; float16 otherwise.")] = False,
) -> None:
    """Write a trained model as one folder that others open, with a card and a record of what made it.

    Example: cxr model export runs/demo/diffusion my-model
    """
    from cxr_core.export.model import export_model

    record = export_model(source, out, "float32" if float32 else "float16")
    say(f"{out}: {record['dtype']}, sha256 {record['weights_sha256']}")


Kind = Literal["base", "judge", "pggan", "lora"]


@app.command("import")
def import_model(
    source: Annotated[Path, typer.Argument(help="A file of weights (.safetensors, .ckpt, .bin, .pth) or a folder.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    kind: Annotated[Kind, typer.Option("--as", help="What a config will use it as: base, lora, judge or pggan.")],
    like: Annotated[
        Path | None, typer.Option(help="base: a diffusers folder to take configs, tokenizer and scheduler from.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="lora: the base that the adapter is added to.")] = None,
    scale: Annotated[float, typer.Option(help="lora: strength of the adapter.")] = 1.0,
    findings: Annotated[
        str, typer.Option(help="judge: the finding of each output, in order: Atelectasis,Cardiomegaly,...")
    ] = "",
    preset: Annotated[str, typer.Option(help="judge: small, resnet18 or densenet121.")] = "densenet121",
    image_size: Annotated[
        int | None,
        typer.Option(
            min=16, max=2048, help="Pixels a side; by default 224 of a judge, of a base what its config says."
        ),
    ] = None,
) -> None:
    """Bring weights that others trained into a folder that a config can name. Every tensor must fit.

    base: a Stable Diffusion of any layout, to train on or draw from. lora: the same with an adapter added. judge: a
    classifier, as `judge` or `gate`. pggan: a checkpoint of the layout of Segal et al. 2021, as `model`.

    Example: cxr model import sd21.safetensors my-base --as base --like sd21-configs
    """
    _refuse_existing(out)
    _insist_there(source)
    if kind == "base":
        _import_base(source, out, like, image_size)
    elif kind == "lora":
        _import_lora(source, out, base, scale)
    elif kind == "judge":
        _import_judge(source, out, findings, preset, image_size or 224)
    else:
        from cxr_core.models.pggan_published import import_checkpoint

        info = import_checkpoint(source, out)
        say(f"{out}: draws {info.size} pixels a side, {info.channels} channels")


def _import_base(source: Path, out: Path, like: Path | None, image_size: int | None) -> None:
    from cxr_core.models.importing.base import import_base
    from cxr_core.runs.files import read_json

    found, record = import_base(source, out, like, image_size), read_json(out / "model.json")
    say(f"{out}: predicts {found.prediction}, {found.image_size} px, sha256 {record['weights_sha256']}")


def _import_lora(source: Path, out: Path, base: Path | None, scale: float) -> None:
    from cxr_core.errors import UserError
    from cxr_core.models.checkpoints import final_checkpoint
    from cxr_core.models.importing.lora import import_lora

    if base is None:
        raise UserError("an adapter is added to a base", where="--base", hint="name the base's folder")
    num = import_lora(source, out, final_checkpoint(base), scale)
    say(f"{out}: {base} with {num} layer{'s' * (num != 1)} changed")


def _import_judge(source: Path, out: Path, findings: str, preset: str, image_size: int) -> None:
    from cxr_core.errors import UserError
    from cxr_core.models.importing.judge import import_judge
    from cxr_core.models.presets import CLASSIFIERS

    if preset not in CLASSIFIERS:
        raise UserError(f"no classifier {preset!r}", where="--preset", hint=f"take one of {', '.join(CLASSIFIERS)}")
    import_judge(source, out, preset, [name.strip() for name in findings.split(",")], image_size)
    say(out)


former(app, "model adopt", "model import --as judge")
former(app, "model adopt-pggan", "model import --as pggan")


def _insist_there(source: Path) -> None:
    from cxr_core.errors import UserError

    if not source.exists():
        raise UserError("no such file or folder", where=str(source), hint="correct the path")


def _refuse_existing(out: Path) -> None:
    from cxr_core.errors import UserError

    if out.exists():
        raise UserError("is already there", where=str(out), hint="remove it, or name another folder")
