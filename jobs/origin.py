"""Whether the stages of a run would be made now as they were: in the same image, by the same code, of equal inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxr_core.errors import UserError
from cxr_core.runs import code, image
from cxr_core.runs.pack import is_finished
from cxr_core.runs.repair import set_aside
from cxr_core.runs.run import Run
from cxr_core.runs.sources import NO_PLAN, KnownFiles, changed_files, freeze_files, frozen_files
from jobs.config import RunConfig
from jobs.inputs import inputs_of
from jobs.outside import context_of, job_of, outside


@dataclass(frozen=True)
class Consent:
    """What the user says is fine where it is not as before: the image, the code and libraries, or the inputs, of which
    everything is made again."""

    image: bool = False
    code: bool = False
    inputs: bool = False


NOTHING_ELSE = Consent()
"""Everything has to be as it was."""


def check_origin(
    run: Run, config: RunConfig, consent: Consent = NOTHING_ELSE, only: Sequence[str] | None = None
) -> list[str]:
    """Raise UserError if a planned stage (of `only`) was made otherwise than it would be now: in another image, by
    other code or libraries, of other inputs; unless `consent` says that this is fine. Returns what is worth saying."""
    if consent.image:
        image.accept(run.root)
    if consent.code:
        code.accept(run.root)
    stages = [stage for stage in config.stages if only is None or stage.name in only]
    changed = {stage.name: _source_changes(run, config, stage) for stage in stages}
    notes = _make_again(run, config, changed) if consent.inputs else []
    for stage in stages:
        plan = run.stage(stage.name).plan()
        if plan is not None:
            image.check(run.root, stage.name, plan.image)
            if changed[stage.name]:
                raise _other_inputs(run, stage.name, changed[stage.name])
    if not all(_is_done(run, stage.name) for stage in stages):
        code.check(run.root)
    return notes


def _is_done(run: Run, name: str) -> bool:
    plan = run.stage(name).plan()
    return plan is not None and is_finished(run.stage(name), plan)


def _source_changes(run: Run, config: RunConfig, stage: Any) -> list[str]:
    """What a planned stage was made of and is otherwise now, a line each."""
    folder, names = run.stage(stage.name), {other.name for other in config.stages}
    plan = folder.plan()
    if plan is None:
        return []
    # Where tasks run in a container, its binds may name folders that are not seen here.
    known, done = KnownFiles.of(folder.path), is_finished(folder, plan) or image.is_seen_from_outside()
    digests, now = outside(stage, names, known, is_old=plan.is_old)
    frozen = frozen_files(folder.path, plan)
    if frozen is None:
        freeze_files(folder.path, now)
        frozen = now
    lines = changed_files(frozen, now, is_finished=done)
    closer = getattr(job_of(stage), "source_changes", None)
    if closer is not None:
        lines = closer(context_of(run, config, stage, names), plan, lines, is_finished=done)
        if not lines:
            known.accept_as_equal(frozen)
    known.write()
    digests |= {role: str(facts["digest"]) for role, facts in _facts(run, stage, names).items()}
    others = [role for role, digest in digests.items() if plan.upstream.get(role, digest) != digest]
    given = inputs_of(stage)
    return lines or [f"input {role} ({given[role]}) has another digest" for role in others if digests[role]]


def _facts(run: Run, stage: Any, names: set[str]) -> dict[str, Any]:
    """Role -> facts of the finished stage of the run that stands in it."""
    found = {role: run.stage(value).facts() for role, value in inputs_of(stage).items() if value in names}
    return {role: facts for role, facts in found.items() if facts}


def _other_inputs(run: Run, name: str, lines: Sequence[str]) -> UserError:
    return UserError(
        f"stage {name!r} was made of other inputs than there are now:\n" + "\n".join(f"    {line}" for line in lines),
        where=str(run.root),
        hint="put them back, start a run under another name, or make this stage and what follows from it again: "
        "--take-inputs (what was made before goes to quarantine/)",
    )


def _make_again(run: Run, config: RunConfig, changed: Mapping[str, Sequence[str]]) -> list[str]:
    """Set aside the stages whose inputs changed, and all that follow from them. Returns a line for each.

    Raises UserError, before anything is moved, if nothing can be made of the inputs of now.
    """
    again = [name for name, lines in changed.items() if lines]
    for name in again:
        if vain := [line for line in changed[name] if line.startswith(NO_PLAN)]:
            hint = "correct them, then --take-inputs; what was made before stands"
            raise UserError(
                f"stage {name!r} cannot take its inputs as they are: {vain[0]}", where=str(run.root), hint=hint
            )
    for stage in config.stages:
        if stage.name not in again and set(inputs_of(stage).values()) & set(again):
            again.append(stage.name)
    planned = [name for name in again if run.stage(name).plan_path.exists()]
    moved = set_aside([run.stage(name) for name in planned], "its inputs were changed and are taken as they are now")
    return [f"{name}: is made again; what was made before lies in {target}" for name, target in moved.items()]
