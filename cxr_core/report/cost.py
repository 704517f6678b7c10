"""What the run cost: every attempt, how it ended, and what its hours were good for."""

from collections import Counter

from cxr_core.report.blocks import Block, Column, Details, Section, Table, Text
from cxr_core.report.read import RunView
from cxr_core.report.spell import count, duration, listed, percent
from cxr_core.runs.accounting import Accounting, AccountsComparison, compare
from cxr_core.runs.ledger import AttemptRecord, Ledger, Spent, read_ledger, when

_MOST_ROWS = 200
_MOST_NAMED = 10

_NOTE = (
    "Useful is time on shards that were committed; duplicated, on shards that another attempt had committed first; "
    "failed, on shards that failed or were lost with their process; idle, all other time of the processes, mostly "
    "starting. A killed attempt is counted up to when it was killed or, where nobody knows, to its last sign of life."
)


def cost_section(run: RunView, price: float | None = None) -> Section:
    """Hours of processes and GPUs of each stage, their cost where a GPU-hour has a price, and every attempt.

    `price` of a GPU-hour takes the place of the config's `price_per_gpu_hour`.
    """
    ledger = read_ledger(run.as_run, run.bad_files)
    if not ledger.attempts:
        return Section("cost", "What it cost", [Text("Nothing was run yet.", "absent")])
    price = run.config.get("price_per_gpu_hour") if price is None else price
    blocks: list[Block] = [_hours_table(run, ledger, price)]
    if not ledger.gpu_hours.total:
        blocks.append(Text("No GPU was held, so the hours are those of processes.", "note"))
    elif price is None:
        blocks.append(Text("No price: a GPU-hour has none in the config (`price_per_gpu_hour`).", "note"))
    blocks += _accounts(compare(Accounting.read(run.root), ledger.attempts))
    blocks.append(Details("Every attempt", [_attempts_table(ledger)]))
    return Section("cost", "What it cost", blocks)


def _accounts(found: AccountsComparison) -> list[Block]:
    """What the scheduler's accounts say, where it has some."""
    texts = []
    if found.num_starts:
        hours = f"{found.hours_by_scheduler:,.3f} hours by the scheduler and {found.hours_by_attempts:,.3f} by attempts"
        texts.append(f"Accounts: {count(found.num_starts)} starts of tasks took {hours}; the difference is starting.")
    if found.without_attempt:
        names = listed([f"{each.job} ({each.state}, {each.node})" for each in found.without_attempt[:_MOST_NAMED]])
        texts.append(f"Accounts: {count(len(found.without_attempt))} starts of tasks left no attempt: {names}.")
    return [Text(text, "note") for text in texts]


def _hours_table(run: RunView, ledger: Ledger, price: float | None) -> Table:
    names = ["attempts", "hours" if not ledger.gpu_hours.total else "GPU-hours", *_shares(Spent()), "cost"]
    columns = [Column("stage"), *(Column(name, numeric=True) for name in names), Column("ends")]
    parts = [(stage.name, ledger.of(stage.name)) for stage in run.stages] + [("all", ledger)]
    rows = [_hours_row(name, part, bool(ledger.gpu_hours.total), price) for name, part in parts if part.attempts]
    return Table("Attempts of each stage and what their time was good for.", columns, rows, notes=(_NOTE,))


def _hours_row(name: str, part: Ledger, on_gpus: bool, price: float | None) -> list[str]:
    spent = part.gpu_hours if on_gpus else part.hours
    cost = f"{price * part.gpu_hours.total:,.2f}" if price is not None and on_gpus else "–"
    ends = Counter(attempt.outcome for attempt in part.attempts)
    shares = [percent(value, spent.total) for value in _shares(spent).values()]
    words = listed([f"{num} {outcome}" for outcome, num in sorted(ends.items())])
    return [name, count(len(part.attempts)), f"{spent.total:,.3f}", *shares, cost, words]


def _shares(spent: Spent) -> dict[str, float]:
    return {
        "useful": spent.useful + spent.under_way,
        "duplicated": spent.duplicated,
        "failed": spent.failed,
        "idle": spent.idle,
    }


def _attempts_table(ledger: Ledger) -> Table:
    heads = ("attempt", "stage", "where", "started (UTC)", "ended (UTC)")
    numeric = ("time", "GPUs", "shards")
    columns = [*map(Column, heads), *(Column(name, numeric=True) for name in numeric), Column("outcome")]
    rows = [_attempt_row(attempt) for attempt in ledger.attempts[:_MOST_ROWS]]
    rest = len(ledger.attempts) - len(rows)
    notes = (f"{rest:,} more are in the folders `attempts/` of the stages.",) if rest else ()
    return Table("In the order in which they started.", columns, rows, notes=notes)


def _attempt_row(attempt: AttemptRecord) -> list[str]:
    said = attempt.detail.splitlines()[0] if attempt.detail else ""
    return [
        attempt.id,
        attempt.stage,
        attempt.place,
        when(attempt.started),
        when(attempt.ended) if attempt.is_over else "",
        duration(attempt.seconds),
        str(attempt.gpus),
        count(attempt.num_shards),
        attempt.in_words + (f": {said}" if said else ""),
    ]
