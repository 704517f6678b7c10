"""What `cxr doctor` says about containers: on a cluster that is well, and where something is not as it should be."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from containers.checks import CHECKS, ImageCheckResult, judge_driver
from containers.store import Image, Store
from tests.pipeline import cxr
from tests.slurm.cluster import Cluster


def told(folder: Path, profile: str, *, status: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Name of a check -> its line, with the mend below appended."""
    path = folder / "site.yaml"
    path.write_text(profile)
    done = cxr("doctor", "--cluster", path, "--runs", folder, env=dict(environ), timeout=180)
    assert done.returncode == status, done.stdout + done.stderr
    lines = re.sub(r"\n {19} -> ", " -> ", done.stdout).splitlines()[:-1]
    return {line[6:20].strip(): f"{line[:5].strip()} {line[20:]}" for line in lines}


def test_given_a_cluster_and_an_image_that_are_well_then_each_question_has_its_answer(
    cluster: Cluster, thin_image: Path, tmp_path: Path
) -> None:
    environ = cluster.env | {"APPTAINER_USERNS": "1"}
    found = told(tmp_path, f"inherits: base\ncontainer: {thin_image}\n", status=0, environ=environ)
    assert found["engine"].startswith("ok apptainer 1.")
    assert found["namespaces"].startswith("ok ")
    assert re.match(r"ok squashfuse\w* mounts images", found["mount"])
    assert found["image"].startswith(f"ok sha256 {Image.at(thin_image).sha256[:12]}, 0.")
    assert found["image owner"] == "ok nobody else can change it"
    assert found["site binds"].startswith("ok ")
    assert found["machine"].startswith("ok the image is for ")
    assert re.match(r"ok `true` takes \d+\.\d\d s in it", found["start"])
    assert re.match(r"ok `true` takes \d+\.\d+ s in the image on a node", found["node image"])


def test_given_an_image_that_is_not_there_then_doctor_says_so(tmp_path: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CXR_IMAGES": str(tmp_path)}
    found = told(tmp_path, "inherits: local\ncontainer: '12345678'\n", status=1, environ=environ)
    assert (
        found["image"]
        == f"fail 12345678 in {tmp_path}: no such image, or several -> `cxr image list` shows what there is"
    )


def test_given_no_engine_then_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = CHECKS["engine"](Image(tmp_path, "", 0))
    assert answer.level == "fail"
    assert "load its module" in answer.fix


def test_given_a_damaged_image_or_one_for_another_machine_then_doctor_fails(
    thin_image: Path, store: Store, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.sif"
    copy.write_bytes(thin_image.read_bytes())
    image = store.add(copy)
    image.path.chmod(0o644)
    with image.path.open("r+b") as file:
        file.seek(45)
        file.write(b"04")
    assert CHECKS["machine"](image).level == "fail"
    assert "is for aarch64, this machine is " in CHECKS["machine"](image).fact
    assert CHECKS["image"](image) == ImageCheckResult(
        "fail", f"{image.path} is not what its name says", "`cxr image pull` replaces it"
    )
    image.path.write_bytes(b"no image")
    assert CHECKS["start"](image).fact.startswith("`true` does not run in it: ")


@pytest.mark.parametrize(
    ("driver", "image", "level"), [((12, 8), (12, 4), "ok"), ((13, 0), (12, 8), "ok"), ((12, 8), (13, 0), "fail")]
)
def test_a_driver_is_compared_with_the_image_by_major_version(
    driver: tuple[int, int], image: tuple[int, int], level: str
) -> None:
    assert judge_driver(driver, image).level == level
