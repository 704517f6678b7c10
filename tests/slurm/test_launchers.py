"""One config in this process, as processes of this machine, and on a cluster: the same digests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cxr_core.runs.run import Run
from tests.pipeline import cxr
from tests.slurm.cluster import Cluster

PROFILE = """\
inherits: {parent}
{more}array_parallelism: 4
task_minutes: 0.1
visible_seconds: 3
"""
"""Small packs, so that there are several tasks a stage."""

NIH = """\
name: nih
seed: 5
stages:
  - name: real
    kind: preprocess
    threads: 1
    data: {{kind: chestxray14, metadata: "{data}/metadata", images: ["{data}/images_1024"], missing: subset}}
    size: 512
    shard_size: 12
"""


def digests_by_launcher(
    config: str | Path, cluster: Cluster, folder: Path, changes: Sequence[str] = (), *, seconds: float = 300
) -> dict[str, dict[str, str]]:
    """Launcher -> stage -> digest, of three runs of one config in folders of their own."""
    words = (config, *changes, "--runs")
    launched = {
        "in process": ("run", *words, folder / "in process"),
        "processes": ("submit", *words, folder / "processes", "--cluster", _profile(folder, "local")),
        "cluster": ("submit", *words, folder / "cluster", "--cluster", _profile(folder, "base", "mem: 1900M\n")),
    }
    for command in launched.values():
        done = cxr(*command, env=cluster.env, timeout=seconds)
        assert done.returncode == 0, done.stderr
    cluster.until("the queue is empty", lambda: not cluster.run("squeue", "--noheader").stdout, seconds)
    return {launcher: _digests(folder / launcher) for launcher in launched}


def _profile(folder: Path, parent: str, more: str = "") -> Path:
    path = folder / f"{parent}-small.yaml"
    path.write_text(PROFILE.format(parent=parent, more=more))
    return path


def _digests(runs: Path) -> dict[str, str]:
    (root,) = (path.parent for path in runs.glob("*/run.json"))
    run = Run.open(root)
    found = {stage["name"]: run.stage(stage["name"]).facts() for stage in run.config["stages"]}
    logs = "\n".join(path.read_text() for path in root.glob("*/submits/*/*.out"))
    assert all(facts is not None for facts in found.values()), logs
    return {name: str(facts["digest"]) for name, facts in found.items() if facts is not None}


def test_real_radiographs_have_the_same_digest_whatever_launches_their_preprocessing(
    nih_data: Path, cluster: Cluster, tmp_path: Path
) -> None:
    config = tmp_path / "nih.yaml"
    config.write_text(NIH.format(data=nih_data))
    found: Mapping[str, Mapping[str, str]] = digests_by_launcher(config, cluster, tmp_path)
    assert found["cluster"] == found["processes"] == found["in process"]
    assert len(list((tmp_path / "cluster" / "nih" / "real" / "receipts").glob("*.json"))) == 13
