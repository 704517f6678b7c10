"""The dry run of `make proof TARGET=scale` at a hundredth of its size."""

from pathlib import Path

from tests.scale import ManyImages


def test_given_many_images_planning_freezing_and_indexing_take_little_memory(tmp_path: Path) -> None:
    many = ManyImages(tmp_path, 100_000, 1000)
    told, cost = many.freeze()
    assert told.split() == ["100"]
    assert cost.memory < 700
    many.pretend_done([f"{i:05d}" for i in range(90)])
    assert "90/100" in many.status()[0]
    told, cost = many.index()
    assert told.split() == ["100000", "0"]
    assert cost.memory < 700
