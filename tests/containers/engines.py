"""Real engines for the tests: a Debian base, an image of the project for real runs, a registry on loopback."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from containers.base import SBIN, make_base, recipe_sha256
from tests.conftest import REPOSITORY

CACHE = Path(os.environ.get("CXR_TEST_CACHE", "/var/cache/cxr-tests"))
"""Keeps the Debian base between two runs of the tests, by the digest of what makes it."""

APPTAINER = ("apptainer", "mksquashfs", "squashfuse", "debootstrap")
OCI = ("apptainer", "buildah", "skopeo", "docker-registry")

SITE_PACKAGES = Path(sys.prefix) / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
"""What the thin image expects to be bound at the same place."""

_THIN = """\
Bootstrap: localimage
From: {base}
%files
{files}
%post
  python3 -m venv --without-pip /opt/venv
  printf '/opt/cxr\\n{stack}\\n' > $(echo /opt/venv/lib/python3.*/site-packages)/cxr.pth
%environment
  export PATH=/opt/venv/bin:$PATH
%labels
  org.opencontainers.image.title cxr-thin
"""
"""The project on a bare Debian; its packages are bound in, so that it is built in seconds."""


def lacking(programs: tuple[str, ...]) -> str:
    """Why the tests cannot run here; empty if they can."""
    path = f"{os.environ.get('PATH', os.defpath)}:{SBIN}"
    missing = [program for program in programs if not shutil.which(program, path=path)]
    if missing:
        return f"there is no {', '.join(missing)} on this machine (see .ci/run)"
    return "" if os.geteuid() == 0 else "only root may make a Debian base"


def base() -> Path:
    """A Debian of the release of this machine with Python, made once by debootstrap, as `cxr image base` makes it."""
    folder = CACHE / f"base-{recipe_sha256()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers of the tests may want it at once
        if not folder.is_dir():
            make_base(folder)
    return folder


def base_image() -> Path:
    """A SIF of that Debian alone, made once."""
    folder, sif = base(), CACHE / f"base-{recipe_sha256()[:12]}.sif"
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not sif.is_file():
            allow_subordinate_ids()
            made = sif.with_suffix(".tmp")
            squash = ("--mksquashfs-args", "-comp zstd -Xcompression-level 1")
            command = ["apptainer", "build", "--force", "--fakeroot", *squash, str(made), str(folder)]
            done = subprocess.run(command, env=environ(), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            made.rename(sif)
    return sif


def environ(**changes: str) -> dict[str, str]:
    """Ours, with a user namespace where we are root: plain root lacks capabilities inside containers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "APPTAINER"))}
    return kept | {"APPTAINER_USERNS": "1"} | changes


def build_thin(folder: Path) -> Path:
    """A SIF of the project without its packages."""
    allow_subordinate_ids()
    names = ("cxr_core", "jobs", "slurm", "containers")
    files = "\n".join(f"  {REPOSITORY / name} /opt/cxr/{name}" for name in names)
    recipe = folder / "thin.def"
    recipe.write_text(_THIN.format(base=base(), files=files, stack=SITE_PACKAGES))
    sif = folder / "thin.sif"
    squash = ("--mksquashfs-args", "-comp zstd -Xcompression-level 1")
    command = ["apptainer", "build", "--fakeroot", *squash, str(sif), str(recipe)]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sif


def allow_subordinate_ids() -> None:
    """Building as root needs ids below root's own, as each user of a cluster has them."""
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        text = path.read_text() if path.exists() else ""
        if not text.startswith("root:") and "\nroot:" not in text:
            path.write_text(f"{text}root:100000:65536\n")


@dataclass(frozen=True)
class Registry:
    """A registry on loopback, and the image in it."""

    address: str
    digest: str
    log: Path
    folder: Path

    def reference(self, address: str = "") -> str:
        return f"{address or self.address}/cxr/tiny@{self.digest}"

    def downloads(self) -> dict[str, int]:
        """Path of a blob -> how many times it was fetched."""
        found: dict[str, int] = {}
        for line in self.log.read_text().splitlines():
            if '"GET /v2/' in line and "/blobs/" in line:
                path = line.split('"GET ')[1].split()[0]
                found[path] = found.get(path, 0) + 1
        return found


@contextmanager
def registry(folder: Path) -> Iterator[Registry]:
    """Start a registry, put an image of two layers in it, stop it at the end."""
    address = f"127.0.0.1:{_free_port()}"
    config = folder / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {accesslog: {disabled: false}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    log = folder / "registry.log"
    with log.open("w") as file:
        server = subprocess.Popen(["docker-registry", "serve", config], stdout=file, stderr=file)
    try:
        _until_open(address)
        yield Registry(address, _push(folder, address), log, folder)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)


def _push(folder: Path, address: str) -> str:
    """Two layers: one that does not compress, so that it can be cut in the middle, and a small one."""
    (folder / "large").write_bytes(os.urandom(6_000_000))
    (folder / "small").write_text("an image for tests\n")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY large /large\nCOPY small /small\n")
    storage = ["--root", f"{folder}/storage", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]
    name = f"{address}/cxr/tiny:dev"
    for words in (
        ["bud", "--isolation", "chroot", "--layers", "--quiet", "-t", name, str(folder)],
        ["push", "--quiet", "--tls-verify=false", "--digestfile", f"{folder}/digest", name],
    ):
        done = subprocess.run(["buildah", *storage, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return (folder / "digest").read_text().strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_open(address: str) -> None:
    host, port = address.split(":")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"no registry at {address} within 20 s")


@contextmanager
def unreliable(registry: Registry, *, cut: int = 0, busy: int = 0) -> Iterator[str]:
    """The address of a proxy that stands before the registry and breaks the connection in the middle of the first
    `cut` blobs of more than 100 kB, and answers the first `busy` requests for manifests with 429."""
    left = {"cut": cut, "busy": busy}
    host, port = registry.address.split(":")

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if "/manifests/" in self.path and left["busy"]:
                left["busy"] -= 1
                self._answer(429, {"Retry-After": "0"}, b'{"errors": [{"code": "TOOMANYREQUESTS"}]}')
                return
            upstream = HTTPConnection(host, int(port))
            upstream.request(self.command, self.path, headers=dict(self.headers.items()))
            answer = upstream.getresponse()
            self._answer(answer.status, dict(answer.getheaders()), answer.read())

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if left["cut"] and len(body) > 100_000:
                left["cut"] -= 1
                body = body[: len(body) // 2]
                self.close_connection = True
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
