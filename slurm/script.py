"""The text of one batch script: directives by submitit, and what the batch shell does around the payload.

The shell, not the payload, gets the scheduler's warning: a signal to the whole step would also kill what mounts a
container's image. It tells the payload by a byte in a file that the payload looks at between shards, and it alone calls
`scontrol`, which need not be there in a container.

The shell also outlives a payload that the kernel kills, and watches one that hangs. What it saw goes to
`<task>-<restart>.end` beside the log, as `WHAT SECONDS ...`: `TERM` (the scheduler ended the job) or `timeout` (at its
limit), `silent` (nothing was heard of the payload), `oom`, the exit status of a payload that did not end well, or
`start SECONDS STATUS STEP` where the task ended before Python began (see `cxr_core.runs.evidence`).

Where the profile has `setup`, the shell first reads what a login shell reads: sites define `module` there. These files
are strangers' and may hold anything; so they are read at the top level, as bash does, and afterwards what the rest of
the script cannot live with is set right.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_core.runs.submits import Submit
from slurm.options import further_gres
from slurm.profile import ClusterProfile, Resources

REQUEUE = 75
"""Exit status by which the payload asks to be requeued (EX_TEMPFAIL of sysexits.h)."""

_LAST_MOMENT = 30
"""Seconds before the time limit at which a shard that is still not done is given up. Slurm's clock is coarse."""


_LATE_START = 15
"""Seconds by which the shell may have begun later than its job."""


@dataclass(frozen=True)
class Payload:
    """What a script is written for: where the run and the submit lie, and the words that start Python.

    `code` is the folder that holds the packages where they are not installed; `cwd` is where the user called; `prelude`
    are lines before the work. `has_heart`: it makes shards, so it has an attempt with a heartbeat. `in_step`: it is
    started by srun; not so what calls Slurm's commands itself. It is `ranks_per_node` processes on each of `nodes`.
    """

    words: Sequence[str]
    submit: Path
    cwd: Path
    code: Path | None = None
    prelude: Sequence[str] = ()
    has_heart: bool = True
    in_step: bool = True
    nodes: int = 1
    ranks_per_node: int = 1

    @property
    def has_ranks(self) -> bool:
        return self.nodes * self.ranks_per_node > 1

    @property
    def attempts(self) -> Path:
        """Where its attempts have their folders."""
        return self.submit.parents[1] / "attempts"


def directives(
    profile: ClusterProfile,
    resources: Resources,
    *,
    name: str,
    submit: Submit,
    cpus: int,
    folder: Path,
    nodes: int = 1,
    ranks_per_node: int = 1,
) -> dict[str, Any]:
    """The parameters of submitit's SlurmExecutor for an array of the tasks of `submit`, whose folder is `folder`.

    It starts once all that it waits for has ended.
    """
    # Ranks find their GPUs by node and see all of it; a gres without more would do as well, but says less.
    gpus = {"gpus_per_node": resources.gpus} if nodes * ranks_per_node > 1 else {}
    options = (option[2:].partition("=") for option in profile.sbatch if not option.startswith("--gres="))
    gres = ",".join(filter(None, (None if gpus else resources.gres, further_gres(profile.sbatch))))
    named = ("partition", "account", "qos", "constraint", "exclude", "mem", "time")
    found = {key: getattr(resources, key) for key in named} | {
        "mail_user": profile.mail_user,
        "mail_type": profile.mail_type,
        "dependency": "afterany:" + ":".join(submit.waits_for) if submit.waits_for else None,
        "gres": gres or None,
        **gpus,
    }
    return {key: value for key, value in found.items() if value is not None} | {
        "job_name": name,
        "comment": f"cxr:{submit.id}",
        "nodes": nodes,
        "ntasks_per_node": ranks_per_node,
        "cpus_per_task": cpus,
        "wckey": None,
        "stderr_to_stdout": True,
        "use_srun": False,
        "additional_parameters": {
            "array": f"0-{submit.num_tasks - 1}%{min(submit.num_tasks, profile.array_parallelism)}",
            # Relative to the folder where sbatch is called: a directive could not hold each name a folder can have.
            "output": "/dev/null" if _is_rewritten(folder) else "%A_%a.out",
            "signal": f"B:USR2@{profile.grace_seconds}",
            "requeue": True,
            "kill-on-invalid-dep": "yes",
            **({"clusters": profile.clusters} if profile.clusters else {}),
            **{key: value if equals else True for key, equals, value in options},
        },
    }


def script(parameters: dict[str, Any], body: str) -> str:
    """The whole script; what `cxr plan` prints and sbatch gets."""
    from submitit.slurm.slurm import _make_sbatch_string

    return _make_sbatch_string(command=body, folder=".", **parameters)


def _is_rewritten(folder: Path) -> bool:
    """Whether Slurm would read the name of a log in this folder otherwise than it is: % starts a pattern, and a
    backslash anywhere takes all patterns their meaning."""
    return any(letter in str(folder) for letter in "%\\")


def shell_body(profile: ClusterProfile, payload: Payload, *, cpus: int, hours: float) -> str:
    """What the batch shell does, below the directives, in a job of `hours` at most."""
    limit = max(3600 * hours - _LATE_START, 1)
    names = _names(payload)
    traps = [
        # Slurm ends a job at its time limit some seconds late, never early.
        f"trap '[ $SECONDS -lt {limit:.0f} ] && cxr_ended TERM || cxr_ended timeout; exit 143' TERM",
        "trap on_warning USR2",
    ]
    lines = [
        *names,
        *(['exec >> "$submit/$task.out" 2>&1 || exit 1'] if _is_rewritten(payload.submit) else []),
        'export CXR_FLAG="$submit/$task-$restart.flag" CXR_START="$submit/$task-$restart.start"',
        # Python removes the second: that it can do on a full disk too.
        ': > "$CXR_FLAG"; : > "$CXR_START"',
        *(['export CXR_RANKS="$submit/$task-$restart.ranks"', 'mkdir -p -- "$CXR_RANKS"'] if payload.has_ranks else []),
        "",
        # Before all that may take long: a warning for which there is no trap ends the shell.
        *_ends(names),
        *_on_warning(profile),
        *traps,
        *_before(profile, payload, [*names, *traps], cpus),
        *([f"{_step(profile, payload, cpus)} \\"] if payload.in_step else []),
        f"    {shlex.join(payload.words)} < /dev/null &",
        "payload=$!",
        *(_watch(profile, payload) if profile.silent_minutes and payload.has_heart else []),
        *_WAIT,
    ]
    return "\n".join(lines)


def local_body(profile: ClusterProfile, payload: Payload, *, cpus: int) -> str:
    """The same around the payload of a task that is a process of this machine: what comes before it, and no more."""
    names = ['task="local_$SLURM_ARRAY_TASK_ID" restart=0', f"submit={shlex.quote(str(payload.submit))}"]
    lines = [
        *names,
        *_ends(names),
        *_before(profile, payload, names, cpus),
        f"exec {shlex.join(payload.words)} < /dev/null",
    ]
    return "\n".join(lines)


def _before(profile: ClusterProfile, payload: Payload, ours: Sequence[str], cpus: int) -> list[str]:
    """What comes before the payload; if it fails, the task ends with words. `ours` are names and traps, which are set
    again where strangers' lines may have used them for themselves."""
    return [
        "at='its first lines'",
        _ON_EXIT,
        "",
        *(_login(ours) if profile.setup and profile.login_shell else []),
        *_environment(profile, payload, cpus),
        *([*_setup(profile.setup), *ours, _to(payload.cwd)] if profile.setup else []),
        "",
        *(["at='bringing caches and image to the node'", *payload.prelude] if payload.prelude else []),
        "trap - EXIT",
    ]


def _names(payload: Payload) -> list[str]:
    """What the rest of the script calls task, restart and submit."""
    return [
        'task="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" restart="${SLURM_RESTART_COUNT:-0}"',
        f"submit={shlex.quote(str(payload.submit))}",
    ]


def _step(profile: ClusterProfile, payload: Payload, cpus: int) -> str:
    """How the payload is started. Ranks see all GPUs of their node: to talk, each must reach those of the others."""
    num = payload.nodes * payload.ranks_per_node
    spread = f"--nodes={payload.nodes} --ntasks-per-node={payload.ranks_per_node} --gpu-bind=none "
    return (
        f"srun --ntasks={num} {spread if payload.has_ranks else ''}--cpus-per-task={cpus} "
        # Of a job that was sent with --export=NONE, a step would not see what is exported here.
        f"--cpu-bind={shlex.quote(profile.cpu_bind)} --kill-on-bad-exit=1 --unbuffered --export=ALL"
    )


_ON_EXIT = "trap 'cxr_died $?' EXIT"


def _ends(names: Sequence[str]) -> list[str]:
    return [
        # The number of the array alone would requeue all of its tasks, and SLURM_JOB_ID is that number in the last one.
        "cxr_requeue() {",
        '    echo "requeue $task: $1"',
        '    scontrol requeue "$task"',
        "}",
        # The first cause is the true one: what follows is its consequence.
        "reading=",
        "cxr_ended() {",
        '    [ -z "$reading" ] && [ -e "$submit/$task-$restart.end" ] && return',
        '    echo "$1 $SECONDS ${*:2}" >| "$submit/$task-$restart.end"',
        "}",
        # A cluster may requeue whatever fails (RequeueExit): not one that died so before.
        "cxr_died() {",
        "    set +eu",
        *(f"    {line}" for line in names),
        '    [ -n "$reading" ] || [ ! -e "$submit/$task-$restart.end" ] || return 0',
        '    echo "cxr: the task ends before its work, in $at: exit status $1" >&2',
        "    local again=",
        f'    ! grep -s "^start" "$submit/$task"-*.end | grep -qv "{_AWAY}" || again=yes',
        '    cxr_ended start "$1" "$at"',
        '    rm -f "$CXR_FLAG" "$CXR_START"',
        '    [ -z "$again" ] || { echo "it died so before, and is cancelled"; scancel "$task"; }',
        # A task that ended before its work has not done it, though a file of the site said `exit 0`.
        '    [ "$1" != 0 ] || exit 1',
        # What fails here must not be taken for a line of setup.
        "    return 0",
        "}",
    ]


_AWAY = "did not come back"
"""Of files of the site that put another program in the place of the shell."""

_SANE = "trap - ERR DEBUG RETURN; set +efu +o pipefail; shopt -u failglob nullglob; unset IFS"
"""Undoes what strangers' lines may have set and the rest of the script cannot live with."""

_LOGIN_FILES = "the login files (/etc/profile, ~/.bash_profile or ~/.profile)"


def _login(ours: Sequence[str]) -> list[str]:
    """What `bash -l` does before a script."""
    return [
        f'at="{_LOGIN_FILES}"',
        # Some start another shell by `exec`: what comes after is lost, and nobody else would tell.
        f'reading=yes; echo "start 0 0 $at, which {_AWAY}" > "$submit/$task-$restart.end"',
        "path_before=$PATH umask_before=$(umask)",
        "[ ! -r /etc/profile ] || . /etc/profile",
        "for login_file in ~/.bash_profile ~/.bash_login ~/.profile; do",
        '    if [ -r "$login_file" ]; then . "$login_file"; break; fi',
        "done",
        # On some sites `module` comes from there alone.
        '[ ! -r "${BASH_ENV:-}" ] || . "$BASH_ENV"',
        # /etc/profile may begin PATH anew, without Slurm's commands.
        'case ":$PATH:" in *":$path_before:"*) ;; *) PATH=$path_before:$PATH ;; esac',
        'umask "$umask_before"',
        f'{_SANE}; unset "${{!PYTHON@}}"',
        *ours,
        _ON_EXIT,
        'reading=; command rm -f -- "$submit/$task-$restart.end"',
        "",
    ]


def _setup(lines: Sequence[str]) -> list[str]:
    """The lines of the profile, each by itself: the first that fails ends the task.

    A line fails where its exit status is not 0, or that of a command within it that stands alone, as under `set -e`;
    but functions and files of the site that it calls may do as they like within.
    """
    found = [
        # 141: the next program in a pipe had read enough.
        'cxr_failed() { [ "$1" = 0 ] || [ "$2" != 0 ] || [ "$1" = 141 ] || { cxr_died "$1"; exit "$1"; }; }',
        "set -o pipefail",
    ]
    # The second word counts how many files of the site we are in.
    on_error = r'trap "cxr_failed \$? \$((\${#BASH_SOURCE[@]} - ${#BASH_SOURCE[@]}))" ERR'
    for number, line in enumerate(lines, 1):
        first, *more = line.strip().splitlines() or [""]
        step = f"line {number} of `setup` ({first[:80]}{' ...' if more or len(first) > 80 else ''})"
        # What the line before trapped for itself must not take our place.
        found += [f"at={shlex.quote(step)}; {_ON_EXIT}; {on_error}", f"eval {shlex.quote(line)}", "cxr_failed $? 0"]
    # An alias of the site may stand for any word that follows.
    return [*found, f"{_SANE}; shopt -u expand_aliases; {_ON_EXIT}"]


def _to(folder: Path) -> str:
    return f"at='going to the working directory'; cd -- {shlex.quote(str(folder))} || exit 1"


_WAIT = (
    "status=0",
    # A warning ends `wait` before the payload has ended.
    'while kill -0 "$payload" 2> /dev/null; do wait "$payload"; status=$?; done',
    'wait "$payload" 2> /dev/null; last=$?; [ "$last" = 127 ] || status=$last',
    'for helper in $last_moment $watch; do kill "$helper" 2> /dev/null; done',
    f'if [ "$status" = {REQUEUE} ]; then cxr_requeue "the payload stopped at a safe point"',
    # That the kernel killed for memory, only slurmstepd and srun say, in the log.
    'elif [ "$status" -gt 128 ]; then',
    '    tail -n 20 "$submit/$task.out" | grep -qiE "oom.kill|out of memory|exceeded .*memory limit" && status=oom',
    '    cxr_ended "$status"',
    'elif [ "$status" != 0 ] && [ -e "$CXR_START" ]; then at="starting Python"; cxr_died "$status"',
    'elif [ "$status" != 0 ]; then cxr_ended "$status"',
    "fi",
    'rm -f "$CXR_FLAG" "$CXR_FLAG.more" "$CXR_START"',
    '[ "$status" = oom ] && exit 137',
    'exit "$status"',
)


def _on_warning(profile: ClusterProfile) -> list[str]:
    """Tell the payload. If it is still in the middle of a shard at the last moment, requeue it, provided that it made
    one since it was started: a shard that is longer than the time limit must not come back for ever."""
    seconds = max(1, profile.grace_seconds - _LAST_MOMENT)
    return [
        "last_moment=",
        "on_warning() {",
        '    printf x >> "$CXR_FLAG"',
        '    [ -z "$last_moment" ] || return',
        f'    {{ sleep {seconds}; [ ! -e "$CXR_FLAG.more" ] || cxr_requeue "a shard was not done in time"; }} &',
        "    last_moment=$!",
        "}",
    ]


def _watch(profile: ClusterProfile, payload: Payload) -> list[str]:
    """End a payload whose heart is not heard for too long: the first time its task is requeued, then no more.

    Its heartbeat is read by another process: on a dead file system that one hangs, and its silence counts.
    """
    seconds = 60 * profile.silent_minutes
    return [
        f'attempt={shlex.quote(str(payload.attempts))}/"$task-$restart"',
        "beats() {",
        "    local now before=",
        f'    while kill -0 "$$" && sleep {max(1, min(30, seconds / 10)):g}; do',
        # What an attempt is followed by, finalizing, has no heartbeat.
        '        now=$(cat "$attempt"-*/heartbeat.json; cat "$attempt"-*/ended.json && date)',
        '        [ "$now" = "$before" ] || echo; before=$now',
        "    done 2> /dev/null",
        "}",
        "watch() {",
        "    local heard first=1",
        '    grep -qs "^silent" "$submit/$task"-*.end && first=',
        f"    while read -r -t {seconds:g}; heard=$?; [ $heard = 0 ]; do :; done",
        "    [ $heard -gt 128 ] || return",
        '    echo "$task: nothing was heard of the payload for too long"',
        "    cxr_ended silent &",
        "    sleep 1",
        '    { [ -n "$first" ] && cxr_requeue "it is tried once more"; } || scancel --signal=KILL "$SLURM_JOB_ID.0"',
        "}",
        "watch < <(beats) &",
        "watch=$!",
    ]


def _environment(profile: ClusterProfile, payload: Payload, cpus: int) -> list[str]:
    lines = [
        _to(payload.cwd),
        # Unbuffered, what Python says stands in the log in its order, and all of it when it is killed.
        f"export PYTHONSAFEPATH=1 PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS={cpus}",
    ]
    if payload.code is not None:
        lines.append(f"export PYTHONPATH={shlex.quote(str(payload.code))}")
    if profile.caches:
        lines += ["at='naming the caches'"]
        lines += [f"export {name}={expanding(folder)}" for name, folder in profile.caches.items()]
    if profile.scratch is not None:
        lines += ["at='making the scratch folder'", f"export TMPDIR={expanding(profile.scratch)}"]
        lines += ['mkdir -p -- "$TMPDIR" || exit 1']
    return lines


def expanding(text: str) -> str:
    """Quoted for the shell, but for a `~` at the beginning and for `$NAME`, which stands for another thing on each
    node; where it stands for nothing, the shell ends with words."""
    whole = re.sub(r"^~(?=/|$)", "$HOME", text)
    quoted = re.sub(r'(["\\`]|\$(?!\{?[A-Za-z_]))', r"\\\1", whole)
    return '"' + re.sub(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", r"${\1\2:?is not set}", quoted) + '"'
