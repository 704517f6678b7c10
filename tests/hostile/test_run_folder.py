"""A run folder that somebody else wrote: nothing outside of it is touched, and one bad file ends no command."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cxr_core.errors import UserError
from cxr_core.report.read import StageView, read_lines, read_object
from cxr_core.report.training import _Step
from cxr_core.runs.attempt import Attempt
from cxr_core.runs.commit import place
from cxr_core.runs.failures import Failure
from cxr_core.runs.files import write_json
from cxr_core.runs.pack import finalize, freeze, run_pack
from cxr_core.runs.run import Run, dump_config
from cxr_core.runs.submits import Submit, new_folder, submits_of_run
from jobs.cli import app
from tests.stages import tiny_work

pytestmark = pytest.mark.usefixtures("bounded")

STAGES = [{"name": name, "kind": "preprocess", "inputs": {}} for name in ("tiny", "next")]
CONFIG = {"name": "run", "stages": STAGES, "seed": 7}


@dataclass(frozen=True)
class Said:
    """What a command wrote, how it ended, and the one error that is a user's to mend."""

    text: str
    status: int


def cxr(*words: object) -> Said:
    """A command in this process. Whatever it raises but a UserError is a traceback to the user."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, UserError):
        return Said(f"{result.output}{result.exception}", 2)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{words}: {result.exception!r}") from result.exception
    return Said(result.output, result.exit_code)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two stages, the first a chain, with a failure, a submit, and all other records."""
    root = tmp_path_factory.mktemp("made") / "run"
    with Run.locked(root, CONFIG) as run:
        for name in ("tiny", "next"):
            work, _ = tiny_work(root / name, chain=name == "tiny")
            plan = freeze(work)
            run_pack(work, plan, [shard.id for shard in plan.shards])
            finalize(work, plan)
    stage = run.stage("tiny").path
    submit = new_folder(stage)
    Submit("x", "tiny", ("shards",), 1, "local", "/", job_id="7").write(submit)
    (submit / "7_0-0.end").write_text("137 5")
    for name in ("beat", "events"):
        with Attempt(stage, f"9-0-{name}") as attempt:
            attempt.enter_shard("00001")
        (attempt.folder / "ended.json").unlink()
        for path in (attempt.folder / "heartbeat.json", attempt.folder / "events.jsonl"):
            path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 99999999'))
    (stage / "attempts" / "9-0-events" / "heartbeat.json").unlink()
    (attempt.folder / "failed").mkdir()
    failure = Failure("00001", attempt.id, "refused", "no", 1.0, "2026-01-01")
    write_json(attempt.folder / "failed" / "00001.json", vars(failure))
    parked = {"format": 1, "shard": "00001", "cause": "refused", "attempts": [attempt.id], "time": "", "text": "no"}
    for folder, record in (("parked", parked), ("pruned", {"shard": "00000", "why": "x", "data": []})):
        (stage / folder).mkdir()
        write_json(stage / folder / f"{record['shard']}.json", record)
    write_json(root / "accounting.json", {"asked": 1.0, "refusal": "", "starts": [], "format": 1})
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "runs" / "run", symlinks=True)
    (tmp_path / "victim" / "work").mkdir(parents=True)
    (tmp_path / "victim" / "kept.json").write_text('{"of": "somebody else"}')
    (tmp_path / "victim" / "work" / "kept").write_text("x")
    return tmp_path / "runs" / "run"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def end_again(root: Path) -> None:
    """What `cxr run` does at the end of a stage: keep rules, what no receipt names, what dead attempts left."""
    work, job = tiny_work(root / "tiny", chain=True)
    vars(job)["obsolete"] = lambda context, done: [(shard, "text") for shard in done[:-1]]
    try:
        plan = freeze(work)
        run_pack(work, plan, [shard.id for shard in plan.shards])
        finalize(work, plan)
    except UserError:
        return


COMMANDS: dict[str, Callable[[Path], object]] = {
    "run": end_again,
    "status": lambda root: cxr("status", root),
    "logs": lambda root: cxr("logs", root),
    "gc": lambda root: cxr("gc", root, "--yes"),
    "report": lambda root: cxr("report", root),
    "verify": lambda root: cxr("verify", root),
    "repair": lambda root: cxr("verify", root, "--repair"),
}


@pytest.mark.parametrize("name", ["../../../../victim", "{victim}", "..", ".", "../../../../victim/kept.json"])
@pytest.mark.parametrize("act", ["gc", "run", "repair"])
def test_a_receipt_that_names_data_elsewhere_takes_nothing_there(root: Path, act: str, name: str) -> None:
    victim = root.parents[1] / "victim"
    before, path = tree(victim), root / "tiny" / "receipts" / "00001.json"
    value = json.loads(path.read_text())
    value["data"][0] |= {"name": name.format(victim=victim), "role": "state" if act == "gc" else "text"}
    path.write_text(json.dumps(value))
    COMMANDS[act](root)
    assert tree(victim) == before
    assert (root / "tiny" / "shards").is_dir()


def test_a_plan_whose_shard_is_called_a_path_moves_nothing_from_there(root: Path) -> None:
    before, path = tree(root.parents[1] / "victim"), root / "tiny" / "plan.jsonl"
    path.write_text(path.read_text().replace('"id":"00004"', '"id":"../../../../victim/kept"'))
    said = cxr("verify", root, "--repair")
    assert "damaged plan" in said.text
    assert "id: " in said.text
    assert tree(root.parents[1] / "victim") == before


LINKS = {
    ".lock": "kept.json",
    "report.html": "kept.json",
    "config.yaml": "kept.json",
    "run.json": "kept.json",
    "tiny": "",
    "tiny/stage.json": "kept.json",
    "tiny/plan.jsonl": "kept.json",
    "tiny/quarantine": "",
    "tiny/attempts": "",
    "tiny/attempts/x": "",
    "tiny/shards": "",
    "tiny/receipts": "",
    "tiny/pruned": "",
    "tiny/parked": "",
    "tiny/submits": "",
    "tiny/plan": "",
    "tiny/.plan.tmp": "",
}


@pytest.mark.parametrize("name", LINKS)
def test_a_link_in_a_run_leads_nobody_to_what_lies_elsewhere(root: Path, name: str) -> None:
    victim, path = root.parents[1] / "victim", root / name
    before = tree(victim)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(victim / LINKS[name] if LINKS[name] else victim)
    for act, command in COMMANDS.items():
        command(root)
        assert tree(victim) == before, act


def test_a_lock_that_is_another_name_of_a_file_is_not_written_to(root: Path) -> None:
    (root / ".lock").unlink()
    os.link(root.parents[1] / "victim" / "kept.json", root / ".lock")
    assert f"{root / '.lock'}: another thing" in cxr("gc", root, "--yes").text
    assert "somebody else" in (root.parents[1] / "victim" / "kept.json").read_text()


@pytest.mark.parametrize("name", ["../victim", "/etc", "..", "a/b", ".hidden", "", "x" * 300, 5, None])
def test_a_stage_that_is_called_a_path_is_refused(root: Path, name: object) -> None:
    config = {**CONFIG, "stages": [*STAGES, {"name": name, "kind": "preprocess", "inputs": {}}]}
    (root / "config.yaml").write_text(dump_config(config))
    for act, command in COMMANDS.items():
        said = command(root)
        assert not isinstance(said, Said) or (said.status == 2 and "config.yaml" in said.text), act


@pytest.mark.parametrize(
    "text",
    ["[" * 200, "stages: 5", "stages: [5]", "stages: [{}]", "a: &a [x]\nstages: *a", "\0", "price_per_gpu_hour: x"],
)
def test_a_config_that_is_none_is_named(root: Path, text: str) -> None:
    (root / "config.yaml").write_text(text)
    for act, command in COMMANDS.items():
        said = command(root)
        assert not isinstance(said, Said) or (said.status == 2 and "config.yaml" in said.text), act


# Files that are none


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "x").write_text("x")


def text(content: bytes | str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


WRONG = {"time": "now", "cause": 5, "data": {}, "shard": ["x"], "asked": "x", "digest": [1], "does": "x", "versions": 1}

BAD: dict[str, Callable[[Path], object]] = {
    "pipe": pipe,
    "endless": endless,
    "sparse": sparse,
    "folder": folder,
    "deep": text("[" * 100_000 + "\n"),
    "null": text("null\n"),
    "nan": text('{"digest": NaN, "time": NaN, "cause": "x", "started": NaN}\n'),
    "infinite": text('{"time": 1e999, "host": "h", "pid": 1, "digest": "d", "cause": "x", "seconds": 1e999}\n'),
    "no text": text(b"\xff\xfe{}\n"),
    "wrong types": text(json.dumps(WRONG) + "\n"),
    "cut": text('{"shard": "00001", "ti\n'),
}

RECORDS = [
    "tiny/receipts/00001.json",
    "tiny/stage.json",
    "tiny/attempts/9-0-beat/heartbeat.json",
    "tiny/attempts/9-0-events/events.jsonl",
    "tiny/attempts/9-0-events/failed/00001.json",
    "tiny/submits/0001/submit.json",
    "tiny/parked/00001.json",
    "tiny/pruned/00000.json",
    "run.json",
    "accounting.json",
    "accepted_code.json",
    "_auto_resume/lives.json",
    "_auto_resume/resumes.json",
]


def spoil(root: Path, names: Iterable[str], bad: str) -> None:
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).unlink(missing_ok=True)
        BAD[bad](root / name)


@pytest.mark.parametrize("bad", BAD)
def test_bad_files_are_named_and_set_aside_and_the_rest_is_shown(root: Path, bad: str) -> None:
    spoil(root, RECORDS, bad)
    shown = cxr("status", root)
    assert "next" in shown.text
    assert shown.text.count("5/5") == 2
    for name in ("heartbeat.json", "_auto_resume/resumes.json"):
        assert name in shown.text
    assert "attempt 9-0-beat" in cxr("logs", root).text
    assert "next: attempt" in cxr("logs", root).text
    assert cxr("gc", root).status == 0
    page = Path(cxr("report", root).text.strip().splitlines()[-1]).read_text()
    assert 'id="cost"' in page
    assert "Files that could not be read" in page
    assert "tiny/receipts/00001.json" in page

    found = cxr("verify", root)
    assert found.status == 2
    # An object whose keys are of other kinds says nothing wrong where any keys may stand.
    told = [name for name in RECORDS if str(root / name) in found.text]
    free = {"nan": [], "infinite": [], "wrong types": ["tiny/attempts/9-0-events/events.jsonl"]}.get(bad, [])
    assert [name for name in RECORDS if name not in told] == free
    repaired = cxr("verify", root, "--repair")
    assert repaired.status == 0, repaired.text
    again = cxr("verify", root)
    assert not [name for name in told if str(root / name) in again.text]
    assert all(not os.path.lexists(root / name) for name in told)
    assert sorted(path.name for path in root.glob("*/*/*/receipts/*")) == ["00001.json"]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_plan_is_named_and_set_aside_and_the_rest_is_shown(root: Path, bad: str) -> None:
    spoil(root, ["tiny/plan.jsonl"], bad)
    shown = cxr("status", root).text
    assert "tiny/plan.jsonl" in shown
    assert "5/5" in shown
    assert "next: attempt" in cxr("logs", root).text
    assert cxr("gc", root, "--yes").status == 0
    page = Path(cxr("report", root).text.strip().splitlines()[-1]).read_text()
    assert "tiny/plan.jsonl" in page
    assert "tiny: damaged plan" in cxr("verify", root).text
    assert cxr("verify", root, "--repair").status == 0
    work, _ = tiny_work(root / "tiny", chain=True)
    assert len(freeze(work).shards) == 5


@pytest.mark.parametrize("bad", ["pipe", "endless", "folder", "sparse"])
def test_data_that_is_no_file_is_damage(root: Path, bad: str) -> None:
    data = next((root / "next" / "shards").iterdir())
    spoil(root, [f"next/shards/{data.name}"], bad)
    assert f"next: damaged data: {data}" in cxr("verify", root, "--quick").text
    assert cxr("verify", root, "--repair", "--quick").status == 0
    assert not os.path.lexists(data)


TWICE = {
    "twice": lambda line: f"{line}\n{line}",
    "before its start": lambda line: line.replace('"start":4', '"start":9'),
    "after nothing": lambda line: line.replace('"after":"00003"', '"after":"../x"'),
    "after a list": lambda line: line.replace('"after":"00003"', '"after":[]'),
}


@pytest.mark.parametrize("change", TWICE)
def test_a_plan_whose_shards_cannot_be_told_apart_is_refused(root: Path, change: str) -> None:
    path = root / "tiny" / "plan.jsonl"
    *lines, last = path.read_text().splitlines()
    num = "6" if change == "twice" else "5"
    text = "\n".join([*lines, TWICE[change](last)]).replace('"num_shards":5', f'"num_shards":{num}')
    path.write_text(text + "\n")
    said = cxr("verify", root).text
    assert "tiny: damaged plan" in said
    assert "'00004'" in said


def test_a_number_that_is_none_is_written_so_that_it_can_be_read(root: Path) -> None:
    with Attempt(root / "tiny", "5-0-nan") as attempt:
        attempt.beat({"loss": float("nan"), "step": 3}, force=True)
        attempt.event("loss", value=float("inf"))
        assert json.loads((attempt.folder / "heartbeat.json").read_text())["loss"] is None
        shown = cxr("status", root).text
        assert "step 3" in shown
        assert "heartbeat" not in shown.replace("9-0-beat", "")
    assert "attempt 5-0-nan" in cxr("logs", root).text


def test_a_run_whose_own_folder_is_a_link_works(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    for command in COMMANDS.values():
        command(link)
    assert "5/5" in cxr("status", link).text


def test_a_folder_in_a_folder_a_thousand_times_ends_no_command(root: Path) -> None:
    deep = root / "tiny" / "quarantine"
    deep.mkdir()
    here = os.open(deep, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        assert cxr("gc", root).status == 0
        assert cxr("gc", root, "--yes").status == 0
        assert cxr("status", root).status == 0
    finally:  # pytest's own sweep ends with a RecursionError
        subprocess.run(["rm", "-rf", deep], check=True)


def test_receipts_of_other_shards_count_for_nothing(root: Path) -> None:
    receipts = root / "next" / "receipts"
    shutil.copy(receipts / "00000.json", receipts / "00001.json")
    assert "next: damaged receipt" in cxr("verify", root).text
    with pytest.raises(UserError, match="the receipt of shard '00000'"):
        Run.open(root).stage("next").receipt("00001")


FORGED = "x\nnext: attempt 1-0-a on h, started 2026-01-01 00:00:00 UTC: finished\nfaked"


def test_what_a_record_says_begins_no_line_of_its_own(root: Path) -> None:
    attempt = root / "tiny" / "attempts" / "9-0-beat"
    for name in ("events.jsonl", "heartbeat.json"):
        lines = (json.loads(line) for line in (attempt / name).read_text().splitlines()[:1])
        forged = (json.dumps({**line, "host": FORGED, "node": FORGED, "doing": FORGED}) for line in lines)
        (attempt / name).write_text("\n".join(forged) + "\n")
    (root / "tiny" / "quarantine" / FORGED).mkdir(parents=True)
    for command in ("status", "logs", "gc", "verify"):
        said = cxr(command, root).text
        assert "\nfaked" not in said, command
        assert "\nnext: attempt 1-0-a" not in said, command


@pytest.mark.parametrize("is_near", [True, False])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_only_files_are_committed(root: Path, kind: str, is_near: bool) -> None:
    work = (root if is_near else Path("/dev/shm")) / f"work-{os.getpid()}"
    work.mkdir()
    try:
        if kind == "link":
            (work / "part").symlink_to(root.parents[1] / "victim" / "kept.json")
        else:
            os.mkfifo(work / "part")
        with pytest.raises((UserError, shutil.Error)):
            place(root / "tiny", "00000", "5-0-a", {"state": work})
        assert not list((root / "tiny" / "shards").glob("00000-*.state"))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def test_logs_of_a_shard_of_a_plan_without_shards_are_told_of(root: Path) -> None:
    first = (root / "next" / "plan.jsonl").read_text().splitlines()[0]
    (root / "next" / "plan.jsonl").write_text(first.replace('"num_shards":5', '"num_shards":0') + "\n")
    assert "no shard" in cxr("logs", root, "next", "00001").text
    (root / "next" / "plan.jsonl").write_text("no plan")
    assert "next/plan.jsonl: damaged" in cxr("logs", root, "next", "00001").text


@pytest.mark.parametrize("bad", ["pipe", "endless", "link", "folder", "wrong", "infinite"])
def test_metrics_that_are_none_are_not_read_into_the_report(root: Path, bad: str) -> None:
    stage = StageView({"name": "next", "kind": "train"}, Run.open(root).stage("next"))
    path = next(stage.data("text"))
    path.unlink()
    kinds = {
        "wrong": text('{"step": "x", "loss": {}}\n'),
        "link": lambda path: path.symlink_to(root.parents[1] / "victim" / "kept.json"),
    }
    (BAD | kinds)[bad](path)
    assert path in stage.data("text")
    with pytest.raises(UserError, match=path.name):
        read_lines(path, _Step)
    if bad not in ("wrong", "infinite"):
        with pytest.raises(UserError, match=path.name):
            read_object(path)


def test_what_is_no_stage_in_a_run_has_no_submits(root: Path, tmp_path: Path) -> None:
    (root / ".lock").touch()
    submit = Submit("ab", "real", ("shards",), 1, "site", "/", slurm_cluster="other")
    elsewhere = tmp_path / "elsewhere"
    for stage in (root / "real", elsewhere):
        submit.write(new_folder(stage))
    (root / "linked").symlink_to(elsewhere)
    assert {folder.parts[-3] for folder in submits_of_run(root)} == {"real", "tiny"}
