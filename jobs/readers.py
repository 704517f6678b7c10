"""`cxr readers`: a blinded reading test for people, and what their answers say."""

from pathlib import Path
from typing import Annotated

import typer

from cxr_core.shown import emit, say

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Can people tell synthetic images from real ones?")


@app.command()
def make(
    source: Annotated[Path, typer.Argument(metavar="RUN|DATASET", help="A run folder, or a synthetic Dataset.")],
    out: Annotated[Path, typer.Option(help="The page to write; the key goes beside it.")] = Path("reading-test.html"),
    real: Annotated[
        Path | None, typer.Option(help="The real Dataset; by default the one that the synthetic one imitates.")
    ] = None,
    synthetic: Annotated[str | None, typer.Option(help="The generate stage to take, if the run has several.")] = None,
    num: Annotated[int, typer.Option("-n", min=1, help="Images of each kind.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the images and their order.")] = 0,
) -> None:
    """Write a reading test: one page of real and synthetic images in a blind order, and its key in another file.

    Example: cxr readers make runs/demo -n 50 --seed 7 --out reading-test.html
    """
    from cxr_core.data.dataset import Dataset
    from cxr_core.evaluation.readers.make import make_test

    made = _synthetic(source, synthetic)
    drawn = Dataset.open(made).given_as("synthetic")
    page, key = make_test(Dataset.open(real or _real(made)).given_as("real"), drawn, out, num, seed)
    say(f"{page}: {2 * num} images; it needs no server and no network. Send this file to the readers")
    say(f"{key}: the key. Keep it from the readers")


@app.command()
def score(
    key: Annotated[Path, typer.Argument(help="The .key.json of the test.")],
    answers: Annotated[list[Path], typer.Argument(help="CSV files that readers sent back.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Show how often readers were right, which errors they named, and how far they agree.

    Example: cxr readers score reading-test.key.json answers-*.csv
    """
    from cxr_core.evaluation.readers.score import score_answers
    from jobs.show import show_readers

    found = score_answers(key, answers)
    if as_json:
        emit(found.model_dump_json(indent=2) + "\n")
    else:
        show_readers(found)


def _synthetic(source: Path, stage: str | None) -> Path:
    from cxr_core.errors import UserError
    from cxr_core.runs.run import Run

    if not (source / "config.yaml").is_file():
        return source
    run = Run.open(source)
    names = [entry["name"] for entry in run.config["stages"] if entry["kind"] == "generate"]
    if not names:
        raise UserError("it has no generate stage", where=str(source), hint="give a run that has one, or a Dataset")
    if stage not in names and (stage or len(names) > 1):
        what = f"no generate stage {stage!r}" if stage else f"{len(names)} generate stages"
        raise UserError(what, where=str(source), hint=f"--synthetic {'|'.join(names)}")
    return run.root / (stage or names[0])


def _real(made: Path) -> Path:
    from cxr_core.errors import UserError
    from jobs.inputs import input_of

    found = input_of(made, "like")
    if found is None:
        raise UserError("the Dataset lies in no run that names a real one", where=str(made), hint="give --real")
    return found
