"""The command `cxr`. It only reads arguments: heavy modules are imported by the command that needs them."""

import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cxr_core.log import fail, room_log, show_log
from cxr_core.shown import emit, say
from jobs.data import app as data_app
from jobs.former import former
from jobs.image import app as image_app
from jobs.model import app as model_app
from jobs.readers import app as readers_app

app = typer.Typer(
    name="cxr",
    # Plain help: rich's costs a tenth of a second at each start, and completion runs this at every tab.
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Synthetic chest X-rays: preprocess, fine-tune, generate, evaluate, on a laptop or a cluster.\n\n"
    "Example: cxr demo",
)
config_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Show a config, or the schema of all keys.")
app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")
app.add_typer(config_app, name="config")
app.add_typer(image_app, name="image")
app.add_typer(readers_app, name="readers")
former(app, "phantom", "data phantom")

log = room_log("jobs.cli")  # whose name as a program is another

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the run folders.")]
Config = Annotated[str, typer.Argument(help="Path of a YAML config, or the name of a ready one: demo, nih14_small ...")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/demo.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the config.")]
Price = Annotated[float | None, typer.Option(min=0, help="Price of a GPU-hour; by default the config's.")]
AutoResume = Annotated[
    int | None, typer.Option("--auto-resume", min=1, metavar="N", help="Let the run resume itself, at most N times.")
]
AcceptImage = Annotated[bool, typer.Option("--accept-image", help="Go on in another container image than before.")]
AcceptCode = Annotated[bool, typer.Option("--accept-code", help="Go on with other code or libraries than before.")]
TakeInputs = Annotated[bool, typer.Option("--take-inputs", help="Inputs have changed: make again what came from them.")]

RUNS = Path("runs")

_CLUSTER = "Profile of a cluster: a name (local, generic, yours) or a path."


def _show_version(wanted: bool) -> None:
    """Say which release and commit this is, and end."""
    if wanted:
        import cxr_core
        from cxr_core.runs.code import Code

        say(f"cxr {cxr_core.__version__}, commit {Code.here().commit or 'unknown'}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show each step too, and what schedulers answer, with times.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show results, warnings and errors alone: no progress, no notes.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show version and commit ('+': with changes), and end.",
        ),
    ] = False,
) -> None:
    """Options of every command, before its name."""
    if verbose and quiet:
        raise typer.BadParameter("--verbose and --quiet exclude each other")
    show_log(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


@app.command()
def demo(
    overrides: Overrides = None,
    runs: Runs = RUNS,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train the tiny base first: about half an hour more.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
) -> None:
    """Draw phantoms, fine-tune the tiny base on them, generate, evaluate, write a report: minutes on a CPU.

    Example: cxr demo --runs /tmp/runs
    """
    do = partial(plan if dry_run else run, runs=runs)
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
        str | None, typer.Option(help="Only this stage: its name, or its kind if one stage has it.")
    ] = None,
    runs: Runs = RUNS,
    retry_parked: Annotated[
        bool, typer.Option("--retry-parked", help="Try parked shards again (three failures for one cause).")
    ] = False,
    accept_image: AcceptImage = False,
    accept_code: AcceptCode = False,
    take_inputs: TakeInputs = False,
) -> None:
    """Do a run in this process, stage after stage, and write its report. Run it again to go on where it stopped.

    Example: cxr run demo --stage real stages.real.size=128
    """
    from jobs.config import load_config
    from jobs.launch import run_stages
    from jobs.origin import Consent
    from jobs.show import show_results

    loaded = load_config(config, overrides or ())
    consent = Consent(accept_image, accept_code, take_inputs)
    results = run_stages(loaded, runs, stage, retry_parked=retry_parked, consent=consent)
    show_results(results)
    if stage is None:
        report(runs / loaded.name)


@app.command()
def plan(
    config: Config,
    overrides: Overrides = None,
    cluster: Annotated[str | None, typer.Option(help=_CLUSTER + " Shows jobs, cost and the exact scripts.")] = None,
    stage: Annotated[str | None, typer.Option(help="With --cluster: only this stage.")] = None,
    runs: Runs = RUNS,
) -> None:
    """Show what a run will do: shards, files, bytes per stage. Starts nothing.

    Example: cxr plan nih14_sd21 --cluster generic
    """
    from jobs.config import load_config
    from jobs.launch import estimates
    from jobs.show import show_estimates, show_jobs

    loaded = load_config(config, overrides or ())
    if cluster is None:
        show_estimates(loaded, estimates(loaded))
        return
    from jobs.cluster_commands import preview

    show_jobs(preview(loaded, runs, cluster, stage))


@app.command()
def submit(
    config: Config,
    cluster: Annotated[str, typer.Option(help=_CLUSTER)],
    overrides: Overrides = None,
    stage: Annotated[
        str | None, typer.Option(help="Only this stage; the stages it needs must be done or queued.")
    ] = None,
    runs: Runs = RUNS,
    auto_resume: AutoResume = None,
    canary: Annotated[
        bool, typer.Option("--canary", help="First try one shard on a node; its time prices the rest.")
    ] = False,
    accept_image: AcceptImage = False,
    accept_code: AcceptCode = False,
    take_inputs: TakeInputs = False,
) -> None:
    """Send a run to a cluster, all stages at once. Safe to type again: what is done or queued is not sent again.

    Example: cxr submit nih14_sd21 --cluster generic --runs /scratch/me/runs --auto-resume 5
    """
    from jobs.cluster_commands import submit as send
    from jobs.config import load_config
    from jobs.origin import Consent
    from jobs.show import show_sent

    loaded, consent = load_config(config, overrides or ()), Consent(accept_image, accept_code, take_inputs)
    if canary:
        from jobs.canary import run_canaries
        from jobs.show import show_canaries

        show_canaries(run_canaries(loaded, runs, cluster, stage, consent=consent))
    show_sent(send(loaded, runs, cluster, stage, auto_resume=auto_resume, consent=consent))


@app.command()
def resume(
    run: RunFolder,
    cluster: Annotated[
        str | None, typer.Option(help="Profile to send with; by default that of the last submit.")
    ] = None,
    if_needed: Annotated[bool, typer.Option("--if-needed", help="No error where jobs are still queued.")] = False,
    retry_parked: Annotated[
        bool, typer.Option("--retry-parked", help="Also send parked shards, and tasks that died before they began.")
    ] = False,
    auto_resume: AutoResume = None,
    accept_image: AcceptImage = False,
    accept_code: AcceptCode = False,
    take_inputs: TakeInputs = False,
) -> None:
    """Send new jobs for exactly what is missing.

    Where memory or time ran out, they ask for twice as much, once, up to max_mem and max_time of the profile.

    Example: cxr resume runs/nih14_sd21 --if-needed
    """
    from jobs.cluster_commands import resume as send
    from jobs.origin import Consent
    from jobs.show import show_sent

    sent = send(
        run,
        cluster,
        if_needed=if_needed,
        retry_parked=retry_parked,
        auto_resume=auto_resume,
        consent=Consent(accept_image, accept_code, take_inputs),
    )
    show_sent(sent)


@app.command()
def cancel(
    run: RunFolder,
    cluster: Annotated[str | None, typer.Option(help="Profile; only for jobs that an older version sent.")] = None,
) -> None:
    """Cancel the jobs of a run that are in the queue. What is committed stays; `cxr resume` goes on.

    Example: cxr cancel runs/nih14_sd21
    """
    from jobs.cluster_commands import cancel_run

    jobs = cancel_run(run, cluster)
    say(f"cancelled: {', '.join(jobs)}" if jobs else "no job of this run is in the queue")


@app.command()
def status(
    run: RunFolder,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until every stage is done.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="With --watch: seconds between two tables.")] = 5.0,
    price: Price = None,
) -> None:
    """Show how far each stage of a run is, what wants attention, and what it has cost.

    Example: cxr status runs/demo
    """
    import time

    from cxr_core.runs.accounting import compare
    from cxr_core.runs.run import Run
    from cxr_core.runs.status import run_status
    from jobs.show import show_accounts, show_overfit, show_resumes, show_status
    from slurm.accounting import refresh

    opened = Run.open(run)
    price = opened.config.get("price_per_gpu_hour") if price is None else price
    while True:
        accounting = refresh(opened)
        stages = run_status(opened)
        show_status(stages, price, clear=watch)
        show_overfit(opened)
        show_resumes(opened)
        show_accounts(compare(accounting, [attempt for stage in stages for attempt in stage.attempts]))
        if not watch or all(stage.is_finished for stage in stages):
            return
        time.sleep(every)


@app.command("verify")
def verify_run(
    run: RunFolder,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set aside what is damaged, so that it is made again.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Compare sizes only; a flipped byte stays unseen.")] = False,
) -> None:
    """Compare every receipt, data file and plan of a run with what was recorded.

    Example: cxr verify runs/demo --repair
    """
    from contextlib import nullcontext

    from cxr_core.runs.run import Run
    from jobs.maintenance import verify

    with Run.held(run) if repair else nullcontext(Run.open(run)) as opened:
        verify(opened, repair=repair, quick=quick)


@app.command()
def logs(
    run: RunFolder,
    stage: Annotated[str | None, typer.Argument(help="Only this stage.")] = None,
    shard: Annotated[str | None, typer.Argument(help="Only attempts that worked on this shard.")] = None,
) -> None:
    """Show what each attempt did: its events, log records and tracebacks, and the scheduler's logs.

    Example: cxr logs runs/demo real 00003
    """
    from cxr_core.runs.run import Run
    from jobs.maintenance import show_logs

    show_logs(Run.open(run), stage, shard)


@app.command()
def gc(
    run: RunFolder,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this it is only listed.")] = False,
) -> None:
    """List what a run no longer needs: half-made work of dead attempts, old training states, quarantine.

    Example: cxr gc runs/demo --yes
    """
    from contextlib import nullcontext

    from cxr_core.runs.run import Run
    from jobs.maintenance import clear_up

    with Run.held(run) if yes else nullcontext(Run.open(run)) as opened:
        clear_up(opened, yes=yes)


@app.command()
def report(
    run: RunFolder,
    price: Price = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; by default report.html in the run folder.")
    ] = None,
    public: Annotated[
        bool,
        typer.Option("--public", help="The page that may be shared: no real image, no id, no small counts."),
    ] = False,
) -> None:
    """Write report.html of what is finished and print its path. It is internal; the page of --public may be shared.

    Example: cxr report runs/demo --public
    """
    from cxr_core.report.write import write_report
    from cxr_core.runs.run import Run
    from slurm.accounting import refresh

    opened = Run.open(run)
    refresh(opened)
    say(write_report(opened.root, price, out, public=public))


@app.command()
def doctor(
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", help="Profile of a cluster: a name or a path. Without it, Slurm's own defaults."),
    ] = None,
    runs: Runs = RUNS,
    wait: Annotated[float, typer.Option(min=1, help="Seconds that a small job may wait for a node.")] = 120,
    base: Annotated[list[Path] | None, typer.Option(help="Also check this Stable Diffusion folder; repeat it.")] = None,
) -> None:
    """Check this machine and the cluster. Each line says ok, warn or fail, what was found and the fix.

    The exit status is 1 if anything fails.

    Example: cxr doctor --cluster generic
    """
    from jobs.doctor import checks_of
    from jobs.show import show_findings
    from slurm.checks.site import Site
    from slurm.doctor import examine
    from slurm.profile import ClusterProfile, load_profile

    profile = load_profile(cluster) if cluster else ClusterProfile(name="default")
    site = Site(profile, runs, os.environ, wait)
    if not show_findings(examine(site, checks_of(site, base or ()))):
        raise typer.Exit(1)


@config_app.command()
def schema(
    metrics: Annotated[bool, typer.Option("--metrics", help="The schema of an evaluate stage's metrics.json.")] = False,
) -> None:
    """Print the JSON schema of the config, or of metrics.json, for editors and for reading.

    Example: cxr config schema > cxr.schema.json
    """
    import json

    from cxr_core.evaluation.metrics import Metrics
    from jobs.config import RunConfig

    emit(json.dumps((Metrics if metrics else RunConfig).model_json_schema(), indent=2) + "\n")


@config_app.command("show")
def show_config(config: Config, overrides: Overrides = None) -> None:
    """Print a config with every default written out.

    Example: cxr config show demo stages.diffusion.steps=100
    """
    from cxr_core.runs.run import dump_config
    from jobs.config import load_config, resolved

    emit(dump_config(resolved(load_config(config, overrides or ()))))


def main() -> None:
    """Run the command; a user's mistake and a full disk end with a plain message and exit status 2."""
    from cxr_core.errors import UserError, explain_os_error
    from jobs.environment import prepare_environment

    try:
        prepare_environment()
        app()
    except UserError as error:
        fail(log, str(error))
        sys.exit(2)
    except OSError as error:
        text = explain_os_error(error)
        if text is None:
            raise
        fail(log, text)
        sys.exit(2)


if __name__ == "__main__":
    main()
