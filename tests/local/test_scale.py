"""The dry run of `make proof TARGET=scale` at a hundredth of its size."""

from pathlib import Path

from tests.scale import ManyImages


def test_given_many_images_planning_freezing_and_indexing_take_little_memory(tmp_path: Path) -> None:
    many = ManyImages(tmp_path, 100_000, 1000)
    told, _, memory = many.freeze()
    assert told.split() == ["100"]
    assert memory < 700
    many.pretend_done([f"{i:05d}" for i in range(90)])
    told, seconds, _ = many.status()
    assert "90/100" in told
    assert seconds < 10
    told, _, memory = many.index()
    assert told.split() == ["100000", "0"]
    assert memory < 700
