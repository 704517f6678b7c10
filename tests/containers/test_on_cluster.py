"""Slurm and Apptainer together: stages in a SIF on four nodes, with and without disturbance.

Tasks of root work in a user namespace, where the SIF is mounted by squashfuse: a process that a signal to the whole
step would end.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.store import Image
from tests.containers.engines import SITE_PACKAGES
from tests.pipeline import copy_until, cxr, stage_folder
from tests.slurm.cluster import Cluster
from tests.slurm.test_submit import PROFILE, Site

IN_IMAGE = """\
container: {image}
image_scratch: {nodes}/$SLURMD_NODENAME/images
binds: [{packages}]
env: [APPTAINER_USERNS]
caches: {{HF_HOME: "{nodes}/$SLURMD_NODENAME/hf"}}
sbatch: [--exclusive]
"""


@pytest.fixture
def site(cluster: Cluster, thin_image: Path, tmp_path: Path) -> Iterator[Site]:
    """A user whose tasks run in the image, one a node."""
    it = Site(cluster, tmp_path)
    it.env["APPTAINER_USERNS"] = "1"
    text = IN_IMAGE.format(image=thin_image, nodes=tmp_path / "nodes", packages=SITE_PACKAGES)
    it.profile.write_text(PROFILE + text)
    yield it
    cluster.run("scancel", "--user=root", check=False)
    cluster.until("the queue is empty", lambda: not cluster.run("squeue", "--noheader").stdout)


def images_of(site: Site, stage: str) -> set[str]:
    return {receipt.image for receipt in stage_folder(site.runs, stage).receipts()}


def assert_as_outside(site: Site, undisturbed: Path, stage: str) -> None:
    there = stage_folder(undisturbed, stage).facts()
    assert there is not None
    assert site.facts(stage)["digest"] == there["digest"]


def causes(site: Site, stage: str) -> dict[str, str]:
    """Task and restart -> how it ended."""
    attempts = stage_folder(site.runs, stage).path / "attempts"
    ends = {path.name.rsplit("-", 1)[0]: path / "ended.json" for path in attempts.iterdir()}
    return {name: json.loads(path.read_text())["cause"] if path.exists() else "gone" for name, path in ends.items()}


def test_given_preprocess_in_an_image_and_a_preemption_then_each_node_has_one_copy_and_the_digest_is_as_outside(
    site: Site, nano_config: Path, undisturbed: Path, thin_image: Path, tmp_path: Path
) -> None:
    planned = site.cxr("plan", nano_config, "--cluster", site.profile, "--runs", site.runs, "--stage", "real")
    assert re.search(r"image \w{12}: 0\.09 GB, copied once to each node .* at most \d nodes at once", planned.stdout)
    site.submit(nano_config, "--stage", "real")
    (job,) = [submit.job_id for submit in site.submits("real") if "shards" in submit.does]
    attempts = stage_folder(site.runs, "real").path / "attempts"
    site.cluster.until("all four have begun", lambda: attempts.is_dir() and len(list(attempts.iterdir())) == 4, 90)
    high = site.cluster.sbatch("sleep 1", "--partition=high", "--nodes=4", "--exclusive")
    site.cluster.wait(high, seconds=120)
    site.wait()
    assert_as_outside(site, undisturbed, "real")
    sha256 = Image.at(thin_image).sha256
    assert images_of(site, "real") == {sha256}
    staged = sorted(path.relative_to(tmp_path / "nodes") for path in (tmp_path / "nodes").glob("*/images/*.sif"))
    assert staged == [Path(node, "images", f"{sha256}.sif") for node in site.cluster.nodes]
    assert site.logs().count("image: copied to") == 4
    ends = causes(site, "real")
    stopped = [name for name, end in ends.items() if end == "stopped"]
    assert stopped, ends
    assert all(ends[f"{name.removesuffix('-0')}-1"] == "finished" for name in stopped)
    assert all(name.startswith(f"{job}_") for name in stopped)


def test_given_stages_planned_outside_then_generate_in_an_image_needs_a_word_and_makes_the_same(
    site: Site, nano_config: Path, undisturbed: Path, thin_image: Path
) -> None:
    """Here the image is read where it lies."""
    lines = site.profile.read_text().splitlines(keepends=True)
    site.profile.write_text("".join(line for line in lines if not line.startswith("image_scratch")))
    copy_until(undisturbed, site.runs, "synthetic")
    words = ("--cluster", site.profile, "--runs", site.runs, "--stage", "synthetic")
    refused = site.cxr("submit", nano_config, *words)
    assert refused.returncode == 2
    sha256 = Image.at(thin_image).sha256
    assert f"stage 'real' was planned in no image, and this is image {sha256[:12]}" in refused.stderr
    assert "--accept-image" in refused.stderr
    assert not site.queue()
    done = site.cxr("submit", nano_config, *words, "--accept-image")
    assert done.returncode == 0, done.stderr
    site.wait()
    assert_as_outside(site, undisturbed, "synthetic")
    assert images_of(site, "synthetic") == {sha256}
    assert images_of(site, "real") == {""}
    plan = stage_folder(site.runs, "synthetic").plan()
    assert plan is not None
    assert plan.image == sha256


def test_given_no_scheduler_then_tasks_of_this_machine_work_in_the_image_too(
    nano_config: Path, undisturbed: Path, thin_image: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "here.yaml"
    profile.write_text(f"inherits: local\ncontainer: {thin_image}\nbinds: [{SITE_PACKAGES}]\nenv: [APPTAINER_USERNS]\n")
    done = cxr("submit", nano_config, "--cluster", profile, "--runs", tmp_path, "--stage", "real")
    assert done.returncode == 0, done.stderr
    facts, there = (stage_folder(runs, "real").facts() for runs in (tmp_path, undisturbed))
    assert facts is not None
    assert there is not None
    assert facts["digest"] == there["digest"]
    assert {receipt.image for receipt in stage_folder(tmp_path, "real").receipts()} == {Image.at(thin_image).sha256}
