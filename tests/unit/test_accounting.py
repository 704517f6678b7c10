"""The scheduler's accounts: what sacct prints, what of it is kept, and how it compares with the attempts."""

from pathlib import Path

from cxr_core.runs.accounting import Account, Accounting, compare
from cxr_core.runs.files import read_json, write_json
from cxr_core.runs.ledger import AttemptRecord
from slurm.accounting import parse


def test_what_sacct_prints_is_read_line_by_line_and_the_rest_is_left_out() -> None:
    text = (
        "7_0|CANCELLED by 0|1700000000|1700000060|n1\n7_[1-3]|PENDING|Unknown|Unknown|None assigned\n"
        "7_1|RUNNING|1700000000|Unknown|n2\n99|FAILED|1700000000|1700000001|n1\n12345|FAILED|NODE_FAIL|||||\n\0garbage"
    )
    first, second = parse(text, {"7"})
    assert (first.job, first.state, first.seconds, first.cause) == ("7_0", "CANCELLED", 60, "cancelled")
    assert (second.job, second.end, second.cause) == ("7_1", None, "")


def test_both_ledgers_are_compared_and_starts_without_an_attempt_are_named() -> None:
    starts = (
        Account("7_0", "COMPLETED", 1000, 1060, "n1"),
        Account("7_0", "COMPLETED", 2000, 2030, "n1"),
        Account("7_1", "FAILED", 1000, 1004, "n2"),
        Account("7_2", "RUNNING", 1000, None),
        Account("7_3", "CANCELLED", 1000, 1000),
    )
    attempts = [AttemptRecord("real", "a", Path("a"), "done", start, start + 20, job="7_0") for start in (1005, 2005)]
    found = compare(Accounting(1.0, "", starts), attempts)
    assert (found.num_starts, round(3600 * found.hours_by_scheduler), round(3600 * found.hours_by_attempts)) == (
        2,
        90,
        40,
    )
    assert [each.job for each in found.without_attempt] == ["7_1"]


def test_given_the_accounts_of_an_older_version_then_they_are_read(tmp_path: Path) -> None:
    account = Account("7_0", "TIMEOUT", 1000.0, 1060.0, "n1")
    old = {"asked": 5.0, "refusal": "", "lives": [vars(account)], "format": 1}
    write_json(tmp_path / "accounting.json", old)
    found = Accounting.read(tmp_path)
    assert found == Accounting(5.0, "", (account,))
    assert (account.cause, found.of("7_0", 1030.0), found.of("7_0", 2000.0)) == ("time limit", account, None)
    found.write(tmp_path)
    assert [each["job"] for each in read_json(tmp_path / "accounting.json")["starts"]] == ["7_0"]
    assert Accounting.read(tmp_path) == found
