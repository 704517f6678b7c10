"""The text of one batch script: directives by submitit, and what the batch shell does around the payload.

The shell, not the payload, gets the scheduler's warning: a signal to the whole step would also kill what mounts a
container's image. It tells the payload by a byte in a file that the payload looks at between shards, and it alone calls
`scontrol`, which need not be there in a container.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.profile import ClusterProfile

REQUEUE = 75
"""Exit status by which the payload asks to be requeued (EX_TEMPFAIL of sysexits.h)."""

_LAST_MOMENT = 30
"""Seconds before the time limit at which a shard that is still not done is given up. Slurm's clock is coarse."""


@dataclass(frozen=True)
class Payload:
    """What a script is written for: where the run and the submit lie, and the words that start Python.

    `code` is the folder that holds the packages where they are not installed; `cwd` is where the user called; `prelude`
    are lines before the work.
    """

    run: Path
    stage: str
    submit: Path
    cwd: Path
    python: Sequence[str]
    code: Path | None = None
    prelude: Sequence[str] = ()

    @property
    def words(self) -> list[str]:
        return [*self.python, "-m", "jobs.task", str(self.run), self.stage, self.submit.name]


def directives(
    profile: ClusterProfile, kind: str, *, name: str, submit_id: str, cpus: int, num_tasks: int, after: Sequence[str]
) -> dict[str, Any]:
    """The parameters of submitit's SlurmExecutor for an array of `num_tasks` tasks that starts once `after` ended."""
    resources = profile.resources(kind)
    options = (option[2:].partition("=") for option in profile.sbatch)
    named = ("partition", "account", "qos", "constraint", "exclude", "mem", "gres", "time")
    found = {key: getattr(resources, key) for key in named} | {
        "mail_user": profile.mail_user,
        "mail_type": profile.mail_type,
        "dependency": "afterany:" + ":".join(after) if after else None,
    }
    return {key: value for key, value in found.items() if value is not None} | {
        "job_name": name,
        "comment": f"cxr:{submit_id}",
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": cpus,
        "wckey": None,
        "stderr_to_stdout": True,
        "use_srun": False,
        "additional_parameters": {
            "array": f"0-{num_tasks - 1}%{min(num_tasks, profile.array_parallelism)}",
            # Relative to the folder where sbatch is called: a directive could not hold each name a folder can have.
            "output": "%A_%a.out",
            "signal": f"B:USR2@{profile.grace_seconds}",
            "requeue": True,
            "kill-on-invalid-dep": "yes",
            **{key: value if equals else True for key, equals, value in options},
        },
    }


def script(parameters: dict[str, Any], body: str) -> str:
    """The whole script; what `cxr plan` prints and sbatch gets."""
    from submitit.slurm.slurm import _make_sbatch_string

    return _make_sbatch_string(command=body, folder=".", **parameters)


def shell_body(profile: ClusterProfile, payload: Payload, *, cpus: int) -> str:
    """What the batch shell does, below the directives."""
    lines = [
        *_environment(profile, payload, cpus),
        *profile.setup,
        "",
        'task="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
        f'export CXR_FLAG={shlex.quote(str(payload.submit))}/"$task-${{SLURM_RESTART_COUNT:-0}}.flag"',
        ': > "$CXR_FLAG"',
        "",
        *_REQUEUE,
        *_on_warning(profile),
        *payload.prelude,
        "",
        f"srun --ntasks=1 --cpus-per-task={cpus} --cpu-bind={profile.cpu_bind} --kill-on-bad-exit=1 --unbuffered \\",
        f"    {shlex.join(payload.words)} < /dev/null &",
        "payload=$!",
        *_WAIT,
    ]
    return "\n".join(lines)


_REQUEUE = (
    # The number of the array alone would requeue all of its tasks, and SLURM_JOB_ID is that number in the last one.
    "requeue() {",
    '    echo "requeue $task: $1"',
    '    scontrol requeue "$task"',
    "}",
)

_WAIT = (
    "status=0",
    # A warning ends `wait` before the payload has ended.
    'while kill -0 "$payload" 2> /dev/null; do wait "$payload"; status=$?; done',
    'wait "$payload" 2> /dev/null; ended=$?; [ "$ended" = 127 ] || status=$ended',
    'if [ -n "$last_moment" ]; then kill "$last_moment" 2> /dev/null; fi',
    'rm -f "$CXR_FLAG" "$CXR_FLAG.more"',
    f'if [ "$status" = {REQUEUE} ]; then requeue "the payload stopped at a safe point"; fi',
    'exit "$status"',
)


def _on_warning(profile: ClusterProfile) -> list[str]:
    """Tell the payload. If it is still in the middle of a shard at the last moment, requeue it, provided that it made
    one in this life: a shard that is longer than the time limit must not come back for ever."""
    seconds = max(1, profile.grace_seconds - _LAST_MOMENT)
    return [
        "last_moment=",
        "on_warning() {",
        '    printf x >> "$CXR_FLAG"',
        '    [ -z "$last_moment" ] || return',
        f'    {{ sleep {seconds}; [ ! -e "$CXR_FLAG.more" ] || requeue "a shard was not done in time"; }} &',
        "    last_moment=$!",
        "}",
        "trap on_warning USR2",
    ]


def _environment(profile: ClusterProfile, payload: Payload, cpus: int) -> list[str]:
    lines = [
        f"cd -- {shlex.quote(str(payload.cwd))} || exit 1",
        f"export PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1 OMP_NUM_THREADS={cpus}",
    ]
    if payload.code is not None:
        lines.append(f"export PYTHONPATH={shlex.quote(str(payload.code))}")
    lines += [f"export {name}={expanding(folder)}" for name, folder in profile.caches.items()]
    if profile.scratch is not None:
        lines += [f"export TMPDIR={expanding(profile.scratch)}", 'mkdir -p -- "$TMPDIR"']
    return lines


def expanding(text: str) -> str:
    """Quoted for the shell, but for `$NAME`, which stands for another thing on each node."""
    return '"' + re.sub(r'(["\\`]|\$(?!\{?[A-Za-z_]))', r"\\\1", text) + '"'
