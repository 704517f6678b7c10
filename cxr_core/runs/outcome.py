"""The outcome of one attempt, from all that is recorded of its end: a function of these values alone."""

from dataclasses import dataclass
from typing import Literal

from cxr_core.runs.causes import (
    NODE_FAILURE,
    OUT_OF_MEMORY,
    OWN_WORDS,
    TERMINATED,
    TIME_LIMIT,
    Outcome,
    cause_named,
)

Liveness = Literal["ended", "running", "gone", "silent"]
"""Of an attempt: it said how it ended; its heart is heard; its process is gone; nothing is heard of it."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one attempt. Causes are named as in the table; empty where nobody tells.

    `said` is the cause in its own record. The others are told by its batch shell, its log and the accounts; they count
    only where it said nothing and is not heard. `came_back`: its task was started again later.
    """

    liveness: Liveness
    said: str = ""
    by_shell: str = ""
    by_log: str = ""
    by_accounts: str = ""
    came_back: bool = False


def outcome_of(evidence: Evidence) -> tuple[Outcome | Literal["running"], str]:
    """The outcome of an attempt ("running" while it has none) and its cause; "" where nobody knows that."""
    if evidence.liveness == "ended":
        row = cause_named(evidence.said, OWN_WORDS)
        # Whoever can say so was not killed.
        return row.outcome if row.outcome in ("done", "stopped") else "failed", evidence.said
    if evidence.liveness == "running":
        return "running", ""
    if cause := _believed(evidence):
        return cause_named(cause).outcome, cause
    return "killed" if evidence.liveness == "gone" else "silent", ""


def _believed(evidence: Evidence) -> str:
    """The one cause by three witnesses; empty where none knows it. A silent attempt of which one tells the end, or
    whose task was started again, is dead: a scheduler restarts a task when it has ended it."""
    shell = evidence.by_shell
    if OUT_OF_MEMORY in (shell, evidence.by_accounts):
        return OUT_OF_MEMORY
    if shell and shell not in (TIME_LIMIT, TERMINATED):
        return shell
    # A shell that was told to end knows no more. One that was not, and left nothing, died with its node.
    return evidence.by_log or evidence.by_accounts or shell or (NODE_FAILURE if evidence.came_back else "")
