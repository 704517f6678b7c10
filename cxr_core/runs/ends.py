"""Why attempts were killed, who could not say it themselves: by their batch shell, their log and the accounts.

The shell leaves `submits/<number>/<job>-<restart>.end` with one word where it saw more than a good end (see
slurm/script.py); who cancels a task that could not be launched leaves it in the shell's place.
"""

from pathlib import Path

OUT_OF_MEMORY = "out of memory"
TIME_LIMIT = "time limit"
NODE_FAILURE = "node failure"
HUNG = "hung"
TOLD_TO_END = "told to end"
LAUNCH_FAILED = "its launch failed on a node"

_WORDS = {
    "oom": OUT_OF_MEMORY,
    "timeout": TIME_LIMIT,
    "silent": HUNG,
    "TERM": TOLD_TO_END,
    "launch": LAUNCH_FAILED,
}


def shell_ends(stage_folder: Path) -> dict[tuple[str, int], tuple[str, float]]:
    """(Job, restart) -> why its payload was killed, and when (seconds since 1970), of all tasks of a stage whose shell
    left a record."""
    found = {}
    for path in (stage_folder / "submits").glob("*/*.end"):
        job, _, restart = path.stem.rpartition("-")
        word = path.read_text().partition(" ")[0]
        if restart.isdigit():
            found[job, int(restart)] = _WORDS.get(word) or _of_status(word), path.stat().st_mtime
    return found


def _of_status(word: str) -> str:
    """By the exit status that a shell gives a process which a signal ended."""
    return f"signal {int(word) - 128}" if word.isdigit() and int(word) > 128 else ""


def why_killed(*, by_shell: str, by_log: str, by_accounts: str, came_back: bool) -> str:
    """The one cause by three witnesses, in words; empty where none knows it. `came_back`: its task began again."""
    if OUT_OF_MEMORY in (by_shell, by_accounts):
        return OUT_OF_MEMORY
    if by_shell and by_shell not in (TIME_LIMIT, TOLD_TO_END):
        return by_shell
    # A shell that was told to end knows no more. One that was not, and left nothing, died with its node.
    return by_log or by_accounts or by_shell or (NODE_FAILURE if came_back else "")


def note_failed_launch(submit_folder: Path, task: str, restart: int) -> None:
    """Leave the record of a task whose launch failed and which will not be tried again: no shell of it ever ran."""
    (submit_folder / f"{task}-{restart}.end").write_text("launch")


def is_own_doing(why: str) -> bool:
    """Whether what ran may be why it was killed: a scheduler, a person and a node that dies kill whatever runs."""
    return why in (OUT_OF_MEMORY, HUNG) or why.startswith("signal ")
