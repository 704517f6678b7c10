"""Why attempts were killed, who could not say it themselves: by the record of their batch shell and by the accounts.

The shell leaves `submits/<number>/<job>-<restart>.end` with one word where it saw more than a good end (see
slurm/script.py). An attempt that is gone, whose task came back and whose shell left nothing, was lost with its node.
"""

from pathlib import Path

OUT_OF_MEMORY = "out of memory"
TIME_LIMIT = "time limit"
NODE_FAILURE = "node failure"
HUNG = "hung"

_WORDS = {
    "oom": OUT_OF_MEMORY,
    "timeout": TIME_LIMIT,
    "silent": HUNG,
    "TERM": "ended by the scheduler",
}

_OF_THE_SCHEDULER = ("", TIME_LIMIT, _WORDS["TERM"])
"""What the shell knows less well than the accounts: it sees only that it was told to end."""


def shell_ends(stage_folder: Path) -> dict[tuple[str, int], str]:
    """(Job, restart) -> why its payload was killed, of all tasks of a stage whose shell left a record."""
    found = {}
    for path in (stage_folder / "submits").glob("*/*.end"):
        job, _, restart = path.stem.rpartition("-")
        word = path.read_text().partition(" ")[0]
        if restart.isdigit():
            found[job, int(restart)] = _WORDS.get(word) or _of_status(word)
    return found


def _of_status(word: str) -> str:
    """By the exit status that a shell gives a process which a signal ended."""
    return f"signal {int(word) - 128}" if word.isdigit() and int(word) > 128 else ""


def why_killed(by_shell: str | None, by_accounts: str, *, came_back: bool) -> str:
    """The one cause, in words; empty where nobody knows it. `came_back`: its task was started again."""
    if by_accounts and (by_accounts == OUT_OF_MEMORY or (by_shell or "") in _OF_THE_SCHEDULER):
        return by_accounts
    if by_shell is None:
        return NODE_FAILURE if came_back else ""
    return by_shell
