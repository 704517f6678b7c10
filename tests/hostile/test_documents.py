"""YAML, npy, Parquet, lists and models' files that somebody else wrote: a clear error, at once, whatever is in them."""

import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxr_core.data.csvfile import Csv
from cxr_core.data.latents import LatentCache
from cxr_core.data.lists import read_list
from cxr_core.errors import UserError
from cxr_core.evaluation.cache import FeatureCache
from cxr_core.models.checkpoints import read_checkpoints
from cxr_core.models.lora_files import read_diffusers
from cxr_core.models.tensors import read_header
from cxr_core.runs.files import read_json, sha256_file
from cxr_core.runs.tables import read_group, read_npy, read_table
from cxr_core.yamlfile import MOST_BYTES, parse_mapping, read_text
from jobs.config import load_config
from tests.hostile.fuzz import READERS, room


def bomb(first: str, each: Callable[[int], str]) -> str:
    """A few lines, each of which stands for ten times as much as the one before."""
    return "\n".join((first, *(each(i) for i in range(1, 12))))


LISTS = bomb("a0: &a0 [x]", lambda i: f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
MERGES = bomb("a0: &a0 {k: 1}", lambda i: f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LISTS, "more than 100,000 values"),
        (MERGES, "more than 100,000 values"),
        ("a: &a [*a]", "an alias of what it stands in"),
        ("a: &a {b: {c: *a}}", "an alias of what it stands in"),
        ("a: " + "[" * 100_000, "more than 60 values within one another"),
        ("a: " + "{a: " * 100, "more than 60 values within one another"),
        ("- " * 5000, "more than 60 values within one another"),
        ("a: " + "9" * 5000, "not YAML"),
        ("a: 2024-99-99", "not YAML"),
        ("a: !!int ''", "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("a: !!python/object/apply:os.system [id]", "not YAML"),
        ("? [1]\n: 2", "not YAML"),
        ("a: 1\na: 2", "stands twice"),
        ("a: \x1b[2J", "not YAML"),
    ],
)
def test_yaml_that_stands_for_more_than_it_should_is_refused_at_once(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    start = time.process_time()
    for read in (lambda: parse_mapping(read_text(path), path, hint=""), lambda: load_config(str(path))):
        with pytest.raises(UserError, match=words) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "\x1b" not in str(caught.value)
    assert time.process_time() - start < 10


def test_plain_aliases_are_yaml_still() -> None:
    assert parse_mapping("a: &a {b: [1, 2]}\nc: *a\nd:\n  <<: *a\n  e: 3\n", Path("a"), hint="") == {
        "a": {"b": [1, 2]},
        "c": {"b": [1, 2]},
        "d": {"b": [1, 2], "e": 3},
    }


@pytest.mark.parametrize("name", sorted(READERS))
@pytest.mark.parametrize("what", ["pipe", "device", "folder", "sparse"])
def test_what_is_no_file_or_of_a_terabyte_is_named_and_nothing_waits(name: str, what: str) -> None:
    path = room() / name
    good = path.read_bytes()
    path.unlink()
    try:
        if what == "pipe":
            os.mkfifo(path)
        elif what == "folder":
            path.mkdir()
        elif what == "device":
            path.symlink_to("/dev/zero")
        else:
            path.write_bytes(good)
            os.truncate(path, 1 << 40)
        if name == "key.npz":
            READERS[name](path)  # a cache is only a saving: what is no file of it is not there
        else:
            with pytest.raises(UserError, match=path.name):
                lines = READERS[name](path)
                assert any(path.name in str(line) for line in lines), lines  # type: ignore[attr-defined]
                raise UserError(path.name)
    finally:
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(good)


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def _said(**values: Any) -> str:
    return repr({"descr": "<f4", "fortran_order": False, "shape": (2,), **values}) + "\n"


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("/tmp/victim-of-a-pickle",)


@pytest.mark.parametrize(
    "data",
    [
        npy(_said(descr="|O"), pickle.dumps(Code())),
        npy(_said(shape=(1 << 40,)), bytes(8)),
        npy(_said(shape=(1 << 62, 1 << 62)), bytes(8)),
        npy(_said(shape=(-2,)), bytes(8)),
        npy(_said(shape=(2,)), bytes(9)),
        npy(_said(descr="<V4"), bytes(8)),
        npy(_said(descr=[("a", "<f4")]), bytes(8)),
        npy("{'descr': __import__('os').mkdir('/tmp/victim-of-a-pickle')}\n"),
        npy("(" * 5000),
        pickle.dumps(Code()),
        b"",
    ],
)
def test_an_array_is_numbers_of_the_length_that_it_says(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    for mapped in (False, True):
        with pytest.raises(UserError, match=r"a\.npy"):
            read_npy(path, mapped=mapped)
    assert not Path("/tmp/victim-of-a-pickle").exists()


@pytest.mark.parametrize(
    "array", [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)), np.zeros((0, 4)), np.array(1.5)]
)
def test_an_array_is_read_as_it_was_written(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    for mapped in (False, True):
        read = read_npy(tmp_path / "a.npy", mapped=mapped)
        assert np.array_equal(read, array)
        assert (read.dtype, read.shape) == (array.dtype, array.shape)


def test_a_cache_of_features_unpacks_no_bomb_and_no_pickle(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(1 << 20))
    np.savez(tmp_path / "pickle.npz", a=np.array([Code()], dtype=object))
    cache.write("good", {"a": np.ones(3)})
    assert cache.read("bomb") is None
    assert cache.read("pickle") is None
    assert np.array_equal((cache.read("good") or {})["a"], np.ones(3))
    (tmp_path / "link.npz").symlink_to(tmp_path / "good.npz")
    assert cache.read("link") is None


@pytest.mark.parametrize("key", ["moments", "token_ids"])
@pytest.mark.parametrize("name", ["../../private.npy", "/etc/passwd", "../latents/moments.npy", ""])
def test_a_latent_cache_maps_no_file_but_its_own(key: str, name: str) -> None:
    path = room() / "latents" / "latents.json"
    good = path.read_text()
    value = json.loads(good)
    value["shards"][0][key] = name
    try:
        path.write_text(json.dumps(value))
        with pytest.raises(UserError, match=r"latents\.json"):
            LatentCache.open(path.parent)
    finally:
        path.write_text(good)


def test_a_checkpoint_lies_in_its_stage(tmp_path: Path) -> None:
    value = json.loads((room() / "checkpoints.json").read_text())
    for name in ("../../other", "/etc", ".hidden"):
        value["checkpoints"][0]["path"] = name
        (tmp_path / "checkpoints.json").write_text(json.dumps(value))
        with pytest.raises(UserError, match=r"checkpoints\.json"):
            read_checkpoints(tmp_path)


def test_a_table_of_more_rows_than_there_are_groups_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), path)
    assert read_group(path, 0)["a"].to_pylist() == [1, 2]
    with pytest.raises(UserError, match="row groups"):
        read_group(path, 1)
    with pytest.raises(UserError, match="no column b"):
        read_table(path, columns=["b"])
    with pytest.raises(UserError, match=r"a\.parquet"):
        read_table(path, pa.schema([("a", pa.list_(pa.int64()))]))


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    "read", [read_json, sha256_file, read_header, Csv.read, read_list, read_table, read_npy, read_text]
)
def test_no_reader_waits_for_a_pipe(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(UserError, match=r"pipe|regular"):
        read(pipe(tmp_path / "a"))


def test_an_adapter_that_is_a_pipe_is_named(tmp_path: Path) -> None:
    pipe(tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(UserError, match="pytorch_lora_weights"):
        read_diffusers(tmp_path)


def test_a_config_over_the_limit_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\n" * (MOST_BYTES // 5 + 1))
    with pytest.raises(UserError, match="over 524,288 bytes"):
        load_config(str(tmp_path / "a.yaml"))
