"""The command `cxr`. It only reads arguments: heavy modules are imported by the command that needs them."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="cxr",
    # Plain help: rich's costs a tenth of a second at each start, and completion runs this at every tab.
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Synthetic chest X-rays: preprocess, fine-tune, generate, evaluate, on a laptop or a cluster.\n\n"
    "Example: cxr demo",
)
data = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Look into datasets.")
config_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The config file.")
model_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Trained models.")
app.add_typer(data, name="data")
app.add_typer(model_app, name="model")
app.add_typer(config_app, name="config")

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the run folders.")]
Config = Annotated[str, typer.Argument(help="Path of a YAML config, or the name of a ready one: demo, nih14_small ...")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/demo.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the config.")]

RUNS = Path("runs")

_ENVIRONMENT = {
    # No hub at run time: models are local folders, and a cluster's nodes have no network.
    "HF_HUB_OFFLINE": "1",
    # Their warnings (a missing torchvision, say) are not for the user of this command.
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}
"""Defaults for libraries that read the environment when they are imported."""


@app.command()
def demo(
    overrides: Overrides = None,
    runs: Runs = RUNS,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Pre-train the base too, as run tiny_base: about half an hour more.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
) -> None:
    """Draw phantoms, fine-tune the tiny base on them, generate, evaluate, write a report: minutes on a CPU.

    Example: cxr demo --runs /tmp/runs
    """
    do = plan if dry_run else partial(run, runs=runs)
    changes = list(overrides or ())
    if from_scratch:
        do("tiny_base", None)
        changes = [
            "name=demo_from_scratch",
            *_based_on((runs / "tiny_base" / "diffusion").absolute(), dry_run),
            *changes,
        ]
    do("demo", changes)


def _based_on(base: Path, dry_run: bool) -> list[str]:
    """The changes that let the demo start from `base`, which a dry run does not have yet."""
    return [] if dry_run else [f"stages.{name}.inputs.base={base}" for name in ("latents", "diffusion")]


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    stage: Annotated[
        str | None, typer.Option(help="Only this stage, by its name (or kind, if it is the only one).")
    ] = None,
    runs: Runs = RUNS,
) -> None:
    """Do a run in this process, stage after stage. Run it again to go on where it was stopped.

    Example: cxr run demo --stage real stages.real.size=128
    """
    from jobs.config import load_config
    from jobs.launch import run_stages
    from jobs.show import show_results

    loaded = load_config(config, overrides or ())
    results = run_stages(loaded, runs, stage)
    show_results(results)
    if stage is None:
        report(runs / loaded.name)


@app.command()
def plan(config: Config, overrides: Overrides = None) -> None:
    """Show what a run will do: shards, files, bytes per stage. Starts nothing.

    Example: cxr plan nih14_sd21
    """
    from jobs.config import load_config
    from jobs.launch import estimates
    from jobs.show import show_estimates

    loaded = load_config(config, overrides or ())
    show_estimates(loaded, estimates(loaded))


@app.command()
def status(run: RunFolder) -> None:
    """Show how far each stage of a run is.

    Example: cxr status runs/demo
    """
    from cxr_core.runs.run import Run
    from jobs.show import show_status

    show_status(Run.open(run))


@app.command()
def report(run: RunFolder) -> None:
    """Write the run's report.html from what is finished and print its path.

    Example: cxr report runs/demo
    """
    from cxr_core.report.write import write_report
    from cxr_core.runs.run import Run

    typer.echo(write_report(Run.open(run).root))


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    images: Annotated[int, typer.Option("--images", min=1, help="How many radiographs.")] = 1000,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Height and width in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pixels.")] = 0,
) -> None:
    """Draw procedural chest radiographs in the exact layout of ChestX-ray14.

    Example: cxr phantom /tmp/phantoms --images 1000
    """
    from cxr_core.data.phantom import write_layout
    from cxr_core.runs.progress import bar

    with bar("phantoms", images) as progress:
        write_layout(out, images, seed=seed, size=size, progress=lambda done, total: progress.advance())
    typer.echo(out)


@app.command()
def doctor(
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Name or path of a profile; Slurm's own defaults if left out.")
    ] = None,
    runs: Runs = RUNS,
    wait: Annotated[float, typer.Option(min=1, help="Seconds that a small job may wait for a node.")] = 120,
) -> None:
    """Examine this machine and the cluster: ok, warn or fail, each with the fact and the fix. Exit status 1 on fail.

    Example: cxr doctor --cluster generic
    """
    from jobs.show import show_findings
    from slurm.checks.site import Site
    from slurm.doctor import examine
    from slurm.profile import ClusterProfile, load_profile

    profile = load_profile(cluster) if cluster else ClusterProfile(name="default")
    if not show_findings(examine(Site(profile, runs, os.environ, wait))):
        raise typer.Exit(1)


@data.command()
def summary(path: Annotated[Path, typer.Argument(help="A Dataset folder, e.g. runs/demo/real.")]) -> None:
    """Count images, patients, views and findings of a dataset.

    Example: cxr data summary runs/demo/real
    """
    from cxr_core.data.dataset import Dataset
    from jobs.show import show_summary

    show_summary(Dataset.open(path))


@data.command()
def verify(path: Annotated[Path, typer.Argument(help="A Dataset folder, e.g. runs/demo/real.")]) -> None:
    """Read every shard and every image of a dataset and compare them with what was recorded.

    Example: cxr data verify runs/demo/real
    """
    from cxr_core.data.dataset import Dataset
    from cxr_core.errors import UserError

    dataset = Dataset.open(path)
    wrong = 0
    for line in dataset.verify():
        wrong += 1
        typer.echo(line)
    if wrong:
        raise UserError(
            f"{wrong} things are not as recorded (listed above)",
            where=str(path),
            mend="remove the receipts of the shards named and run again",
        )
    info = dataset.info
    typer.echo(f"{path}: {info.num_images} images in {len(info.shards)} shards are as recorded, digest {info.digest}")


@model_app.command("export")
def export(
    source: Annotated[
        Path, typer.Argument(help="A finished train stage, e.g. runs/demo/diffusion, or a model folder.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    float32: Annotated[bool, typer.Option("--float32", help="Keep all digits; half precision otherwise.")] = False,
) -> None:
    """Write a trained model as one folder that diffusers opens, with a record of what made it.

    Example: cxr model export runs/demo/diffusion my-model
    """
    from cxr_core.models.export import export_model

    record = export_model(source, out, "float32" if float32 else "float16")
    typer.echo(f"{out}: {record['dtype']}, sha256 {record['weights_sha256']}")


@config_app.command()
def schema() -> None:
    """Print the JSON schema of the config, for editors and for reading.

    Example: cxr config schema > cxr.schema.json
    """
    import json

    from jobs.config import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


@config_app.command("show")
def show_config(config: Config, overrides: Overrides = None) -> None:
    """Print a config with every default written out.

    Example: cxr config show demo stages.diffusion.steps=100
    """
    from cxr_core.runs.run import dump_config
    from jobs.config import load_config, resolved

    typer.echo(dump_config(resolved(load_config(config, overrides or ()))), nl=False)


def main() -> None:
    """Run the command; a user's mistake and a full disk end with a plain message and exit status 2."""
    from cxr_core.errors import UserError, explain_os_error

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        app()
    except UserError as error:
        typer.echo(f"cxr: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        text = explain_os_error(error)
        if text is None:
            raise
        typer.echo(f"cxr: {text}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
