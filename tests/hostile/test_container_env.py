"""What reaches a command in a real container of what surrounds it: nothing that was not named."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from containers.binds import Bind, bind_of
from containers.checks import site_binds
from containers.engine import enter
from containers.store import Image
from cxr_core.errors import UserError
from tests.conftest import require
from tests.containers.engines import APPTAINER, base_image, lacking
from tests.pipeline import cxr

TELL = """
import json, os
print(json.dumps({"environ": dict(os.environ), "tmp": os.listdir("/tmp"), "home": os.listdir(os.path.expanduser("~")),
                  "processes": sum(name.isdigit() for name in os.listdir("/proc")), "path": __import__("sys").path,
                  "srv": os.listdir("/srv"), "shm": os.listdir("/dev/shm")}))
"""

WISHES = {
    "APPTAINERENV_LD_PRELOAD": "/tmp/evil.so",
    "APPTAINERENV_PYTHONPATH": "/tmp/evil",
    "APPTAINERENV_CXR_FLAG": "of the host",
    "APPTAINERENV_PYTHONSAFEPATH": "",
    "SINGULARITYENV_EVIL": "1",
    "SINGULARITYENV_PREPEND_PATH": "/tmp/evil",
    "APPTAINERENV_PREPEND_PATH": "/tmp/evil",
    "APPTAINER_BIND": "/etc:/srv",
    "APPTAINER_BINDPATH": "/etc:/srv",
    "SINGULARITY_BIND": "/etc:/srv",
    "APPTAINER_MOUNT": "type=bind,source=/etc,destination=/srv",
    "APPTAINER_OVERLAY": "/nowhere",
    "APPTAINER_ENV_FILE": "/nowhere",
    "APPTAINER_HOME": "/etc:/srv",
    "APPTAINER_WORKDIR": "/nowhere",
    "APPTAINER_SHELL": "/tmp/evil",
    "APPTAINER_CONFIGDIR": "/nowhere/at/all",
    "APPTAINER_WRITABLE": "1",
}
SECRETS = {
    "SLURM_JWT": "s",
    "SLURM_CONF": "/x",
    "SLURM_JOB_ACCOUNT_SECRET": "s",
    "CXR_EXPORT_KEY": "s",
    "CXR_TOKEN": "s",
    "AWS_SECRET_ACCESS_KEY": "s",
    "LD_PRELOAD": "",
    "PYTHONPATH": "/tmp/evil",
    "PYTHONSTARTUP": "/tmp/evil.py",
    "PYTHONHOME": "",
    "BASH_FUNC_python3%%": "() { echo evil; }",
}
NEEDED = {
    "SLURM_JOB_ID": "17",
    "SLURM_ARRAY_JOB_ID": "17",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_RESTART_COUNT": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NNODES": "1",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_GPUS_ON_NODE": "1",
    "SLURM_JOB_NODELIST": "n[0,2]",
    "SLURM_CLUSTER_NAME": "west",
    "SLURMD_NODENAME": "n0",
    "CXR_FLAG": "$(touch /tmp/evil) `touch /tmp/evil`",
}


@pytest.fixture(scope="module")
def image() -> Image:
    require("apptainer", not lacking(APPTAINER), lacking(APPTAINER))
    sif = base_image()
    return Image.at(sif)


def told(image: Image, cwd: Path, **environ: str) -> dict[str, object]:
    words = enter(image.path, image.sha256, (), cwd=cwd, gpus=False)
    here = os.environ | {"APPTAINER_USERNS": "1"} | environ
    done = subprocess.run([*words, "python3", "-c", TELL], env=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_wishes_and_secrets_of_the_host_stay_outside_and_what_a_task_needs_comes_in(
    image: Image, tmp_path: Path
) -> None:
    seen = told(image, tmp_path, **WISHES, **SECRETS, **NEEDED)
    environ = seen["environ"]
    assert isinstance(environ, dict)
    assert NEEDED.items() <= environ.items()
    assert environ["PYTHONSAFEPATH"] == "1"
    assert not {"EVIL", *SECRETS} & set(environ)
    assert "evil" not in environ["PATH"]
    assert seen["srv"] == []
    assert str(tmp_path) not in seen["path"]  # type: ignore[operator]


@pytest.mark.parametrize("ranks", [False, True])
def test_it_has_a_tmp_a_home_and_processes_of_its_own(image: Image, tmp_path: Path, ranks: bool) -> None:
    """Ranks of a node are containers that talk by shared memory: these alone share it, and process numbers."""
    seen = told(image, tmp_path, **({"CXR_RANKS": str(tmp_path)} if ranks else {}))
    tmp = seen["tmp"]
    assert isinstance(tmp, list)
    # Its own home and the way to its working directory.
    assert [name for name in tmp if not name.startswith("cxr-box-")] == [tmp_path.relative_to("/tmp").parts[0]]
    assert seen["home"] == []
    environ = seen["environ"]
    assert isinstance(environ, dict)
    assert ("CXR_HOST_PID" in environ) is not ranks
    if not ranks:
        assert int(str(seen["processes"])) < 10
        assert seen["shm"] == []


def test_two_containers_of_one_user_have_no_file_in_common(image: Image, tmp_path: Path) -> None:
    words = enter(image.path, image.sha256, (), cwd=tmp_path, gpus=False)
    here = os.environ | {"APPTAINER_USERNS": "1"}
    script = "ls -A ~ /tmp /var/tmp /dev/shm; touch ~/a /tmp/a /var/tmp/a /dev/shm/a"
    both = [subprocess.run([*words, "sh", "-c", script], env=here, capture_output=True, text=True) for _ in range(2)]
    assert [done.returncode for done in both] == [0, 0], both[0].stderr
    assert not [line for done in both for line in done.stdout.splitlines() if line == "a"]


def test_a_folder_that_others_can_change_is_no_image(image: Image, tmp_path: Path) -> None:
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox").chmod(0o777)
    words = enter(tmp_path / "sandbox", 64 * "0", (), cwd=tmp_path, gpus=False)
    done = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{tmp_path / 'sandbox'}: others can change this folder" in done.stderr


@pytest.mark.parametrize("engine", ["apptainer", "buildah"])
@pytest.mark.parametrize("which", ["--base", "--build-base"])
def test_a_base_by_tag_is_refused_by_every_engine(engine: str, which: str, tmp_path: Path) -> None:
    digest = "registry.example.org/debian@sha256:" + 64 * "0"
    bases = {"--base": digest, "--build-base": digest} | {which: "registry.example.org/debian:12"}
    words = [word for pair in bases.items() for word in pair]
    done = cxr("image", "build", "--engine", engine, *words, "--images", tmp_path)
    assert done.returncode == 2
    assert "registry.example.org/debian:12: a tag may name another image tomorrow" in done.stderr


def test_a_bind_is_never_an_option_of_the_engine() -> None:
    for text in ("--security=x", "/a:/b:suid", "/a,/b:/c", "-B"):
        try:
            bind = bind_of(text)
        except UserError:
            continue
        assert bind.mount.startswith("type=bind,"), text
        assert bind.mount.count('"') == 4, text


def test_the_doctor_names_what_the_site_binds_and_tasks_would_miss(tmp_path: Path) -> None:
    config = tmp_path / "apptainer.conf"
    config.write_text("#bind path = /no\nbind path = /etc/hosts\nbind path = /scratch\nbind path = /opt/a:/opt/b\n")
    answer = site_binds([Bind("/x", "/scratch")], config)
    assert (answer.level, answer.fix.endswith("`binds: [/opt/a:/opt/b]`")) == ("warn", True)
    assert site_binds([bind_of("/scratch"), bind_of("/opt")], config).level == "ok"
