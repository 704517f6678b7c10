"""Headers of results: what is read of them, and what is refused."""

from pathlib import Path

import pytest

from docs.tools.header import lines
from docs.tools.measured import Figure, figures_of

HEADER = """\
# date: 2026-12-01
# commit: 0123abc
# machine: 2 cores
# command: make proof TARGET=kill
# about: kills
"""


def figures(path: Path, text: str) -> list[Figure]:
    path.write_text(text)
    return [each for each in figures_of(path) if isinstance(each, Figure)]


def test_given_two_commands_then_each_figure_has_the_command_above_it(tmp_path: Path) -> None:
    said = "# what: kills\n# figure: same\n#   digests\n# command: make bench ROW=C1\n# what: speed\n# figure: 2x\n"
    first, second = figures(tmp_path / "a.txt", HEADER + said)
    assert (first.figure, first.command, first.has_output) == ("same digests", "make proof TARGET=kill", False)
    assert (second.figure, second.command, second.date) == ("2x", "make bench ROW=C1", "2026-12-01")


def test_given_no_figure_then_pytests_last_line_stands_for_it(tmp_path: Path) -> None:
    (only,) = figures(tmp_path / "a.txt", HEADER + "\n=== 4 passed, 1 warning in 167.93s (0:02:47) ===\n")
    assert only.figure == "4 passed, 1 warning in 167.93s (0:02:47)"
    assert only.has_output


@pytest.mark.parametrize("text", ["1 passed\n", "# date: 1\n# speed: 2x\n", HEADER.replace("kills", "luck")])
def test_given_a_result_without_a_header_or_with_an_unknown_key_then_it_is_refused_by_name(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(ValueError, match=r"a\.txt|speed|luck"):
        figures(tmp_path / "a.txt", text)


def test_given_a_new_result_then_its_header_can_be_read(tmp_path: Path) -> None:
    (only,) = figures(tmp_path / "a.txt", "\n".join(lines("make proof TARGET=new")) + "\n1 passed in 2.00s\n")
    assert (only.command, only.figure) == ("make proof TARGET=new", "1 passed in 2.00s")
    assert "torch" in only.machine
