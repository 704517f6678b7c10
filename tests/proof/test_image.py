"""The whole image, built for real from a bare Debian; `make proof TARGET=image`, a quarter of an hour.

Packages come from where pip is set up to find them (PIP_INDEX_URL, PIP_FIND_LINKS). CXR_PROOF_IMAGES names a folder
that keeps the images; a SIF that is there is not built again.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.store import Image, Store
from cxr_core.runs.run import Run
from tests.containers import engines
from tests.containers.engines import APPTAINER, OCI, Registry, lacking
from tests.pipeline import cxr, stage_folder
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import cluster
from tests.slurm.test_submit import PROFILE, Site

__all__ = ["cluster"]

pytestmark = pytest.mark.proof

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

SHORT = (
    "stages.real.data.num_images=400",
    "stages.diffusion.steps=30",
    "stages.diffusion.warmup_steps=5",
    "stages.diffusion.checkpoint_every=15",
    "stages.synthetic.denoising_steps=3",
    "stages.judge.steps=40",
    "stages.judge.warmup_steps=5",
    "stages.judge.checkpoint_every=20",
    "stages.study.utility=[]",
)
"""The demo, all stages, in a minute or two."""


@pytest.fixture(scope="module", autouse=True)
def user_namespace() -> Iterator[None]:
    """Root works in a user namespace: see tests/containers."""
    assert not lacking((*APPTAINER, *OCI)), lacking((*APPTAINER, *OCI))
    engines.allow_subordinate_ids()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APPTAINER_USERNS", "1")
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(Path(os.environ.get("CXR_PROOF_IMAGES", tmp_path_factory.mktemp("images"))))


@pytest.fixture(scope="module")
def sif(store: Store) -> Image:
    """The image for the CPU, built by apptainer from cxr.def; its own test passed, or there would be none."""
    if not store.images():
        words = ("--base", engines.base(), *build_options(), "--images", store.root)
        done = cxr("image", "build", *words, timeout=3600)
        assert done.returncode == 0, done.stderr
        print(done.stderr[-300:])
    return store.images()[0]


def build_options() -> list[str]:
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    return [*(["--find-links", wheels] if wheels else []), "--bind", CERTIFICATES]


def test_the_image_for_the_cpu_is_small_and_passes_its_own_test(sif: Image) -> None:
    print(f"\nSIF: {sif.bytes / 1e6:.0f} MB")
    assert sif.bytes <= 700e6
    done = subprocess.run(["apptainer", "test", sif.path], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    labels = json.loads(subprocess.run(["apptainer", "inspect", "--json", sif.path], capture_output=True).stdout)
    found = labels["data"]["attributes"]["labels"]
    assert found["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert len(found["org.opencontainers.image.revision"]) == 40


def test_a_short_demo_in_the_image_has_the_digests_of_one_outside(sif: Image, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    command = ["cxr", "demo", *SHORT, "--runs"]
    done = cxr("image", "exec", sif.path, "--", *command, inside, cwd=tmp_path, timeout=3600)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    done = cxr(*command[1:], outside, timeout=3600)
    assert done.returncode == 0, done.stderr
    for stage in ("real", "latents", "diffusion", "synthetic", "judge", "study"):
        a, b = (Run.open(runs / "demo").stage(stage).facts() for runs in (inside, outside))
        assert a is not None
        assert b is not None
        print(f"{stage}: {a['digest'][:16]} inside, {b['digest'][:16]} outside")
        assert a["digest"] == b["digest"], stage
    receipts = Run.open(inside / "demo").stage("synthetic").receipts()
    assert {receipt.image for receipt in receipts} == {sif.sha256}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with engines.registry(tmp_path_factory.mktemp("registry")) as it:
        yield it


def test_the_dockerfile_makes_the_same_and_it_comes_back_by_digest(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    tar = subprocess.Popen(["tar", "-C", engines.base(), "-c", "."], stdout=subprocess.PIPE)
    subprocess.run(["podman", "import", "-", "localhost/cxr-base:proof"], stdin=tar.stdout, check=True)
    tell = ["podman", "image", "inspect", "--format", "{{.Digest}}", "localhost/cxr-base:proof"]
    base = subprocess.run(tell, check=True, capture_output=True, text=True).stdout.strip()
    words = ("--engine", "buildah", "--base", f"localhost/cxr-base@{base}", *build_options())
    done = cxr("image", "build", *words, timeout=3600)
    assert done.returncode == 0, done.stderr
    name = done.stdout.splitlines()[0]
    run = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", "--rm", "--network", "host"]
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
    said = subprocess.run([*run, *limits, "--entrypoint", "sh", name, "-c", "id -u; cxr --help"], capture_output=True)
    print(said.stdout.decode()[:200])
    assert said.stdout.startswith(b"10001\n"), said.stderr
    digest = tmp_path / "digest"
    target = f"{registry.address}/cxr/suite"
    push = ["buildah", "push", "--tls-verify=false", "--quiet", "--digestfile", digest, name, f"docker://{target}:dev"]
    subprocess.run(push, check=True)
    done = cxr("image", "pull", f"{target}@{digest.read_text().strip()}", "--images", store.root, timeout=3600)
    assert done.returncode == 0, done.stderr
    pulled = Path(done.stdout.splitlines()[0])
    print(f"pulled: {pulled.stat().st_size / 1e6:.0f} MB")
    test = cxr("image", "exec", pulled, "--", "python", "-m", "containers.selftest", "cpu", cwd=tmp_path)
    assert test.returncode == 0, test.stderr
    print(test.stdout)


@pytest.mark.parametrize("mounted_by", ["squashfuse", "kernel"])
def test_given_a_time_limit_in_the_middle_then_the_task_is_requeued_and_the_digest_is_as_outside(
    mounted_by: str, sif: Image, cluster: Cluster, nano_config: Path, tmp_path: Path
) -> None:
    """All of the first stage in one task of a minute, warned so early that it is started several times."""
    site = Site(cluster, tmp_path)
    how = {"squashfuse": "APPTAINER_USERNS", "kernel": "APPTAINER_NO_PRIVS"}[mounted_by]
    site.env.pop("APPTAINER_USERNS", None)
    site.env[how] = "1"
    text = PROFILE.replace("task_minutes: 0.05", "task_minutes: 60").replace("grace_seconds: 40", "grace_seconds: 50")
    lines = f"container: {sif.path}\nimage_scratch: {tmp_path}/$SLURMD_NODENAME\nenv: [{how}]\ntime: '00:01:00'\n"
    site.profile.write_text(text + lines)
    config = tmp_path / "slow.yaml"
    config.write_text(nano_config.read_text().replace("images: 240", "images: 960"))
    site.submit(config, "--stage", "real")
    site.wait(600)
    reference = tmp_path / "reference"
    assert cxr("run", config, "--runs", reference, "--stage", "real").returncode == 0
    there = stage_folder(reference, "real").facts()
    assert there is not None
    assert site.facts("real")["digest"] == there["digest"]
    attempts = stage_folder(site.runs, "real").path / "attempts"
    causes = sorted(json.loads((path / "ended.json").read_text())["cause"] for path in attempts.iterdir())
    print(f"\n{mounted_by}: attempts ended {causes}")
    assert causes.count("stopped") >= 1
