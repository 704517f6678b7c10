"""Links and anchors lead somewhere, pages are short and plain, and the site is built without a warning or a network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs.tools.markdown import anchors, links, without_code
from docs.tools.pages import REPOSITORY
from tests.docs.pages import is_written_by_a_program, name, pages

README = REPOSITORY / "README.md"


@pytest.mark.parametrize("page", pages(), ids=name)
def test_given_a_link_of_a_page_then_its_file_and_its_anchor_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [link for link in links(text) if not _leads_somewhere(page, link)] == []


def _leads_somewhere(page: Path, link: str) -> bool:
    if re.match(r"(https?|mailto):", link):
        return True
    path, _, fragment = link.partition("#")
    target = Path(os.path.normpath(page.parent / path)) if path else page
    if not target.exists() or not target.is_relative_to(REPOSITORY):
        return False
    return not fragment or fragment in anchors(target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ["[a](no-such.md)", "[a](#no-such)", "[a](README.md#no-such)", "![a](/etc/hostname)"])
def test_given_a_link_that_leads_nowhere_then_the_check_sees_it(text: str) -> None:
    (link,) = links(text)
    assert not _leads_somewhere(README, link)


def test_given_a_link_in_code_then_it_is_no_link() -> None:
    assert links("`[a](b)`\n```sh\n[c](d)\n```\n[e](f#g)") == ["f#g"]


def test_given_the_readme_then_it_has_less_than_2000_words() -> None:
    assert len(README.read_text(encoding="utf-8").split()) < 2000


@pytest.mark.parametrize("page", [each for each in pages() if each.name != "CHANGELOG.md"], ids=name)
def test_given_a_page_then_no_line_of_its_text_is_longer_than_300_characters(page: Path) -> None:
    lines = without_code(page.read_text(encoding="utf-8")).splitlines()
    if is_written_by_a_program(page):  # a cell holds a docstring
        lines = [line for line in lines if not line.startswith("|")]
    assert [line for line in lines if len(line) > 300] == []


@pytest.mark.parametrize("page", [each for each in pages() if each.parent.name == "developers"], ids=name)
def test_given_a_page_for_developers_then_each_file_that_it_names_is_there(page: Path) -> None:
    named = re.findall(r"`((?:cxr_core|jobs|slurm|containers|tests|docs)/[\w/.-]+)`", page.read_text(encoding="utf-8"))
    assert named
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("page", [each for each in pages() if (REPOSITORY / "docs") in each.parents], ids=name)
def test_given_a_page_of_the_docs_then_the_site_leads_to_it(page: Path) -> None:
    assert page.relative_to(REPOSITORY / "docs").as_posix() in _nav(_config()["nav"])


def test_given_code_in_a_text_then_it_is_left_out_and_lines_stay_where_they_are() -> None:
    assert without_code("a `b` c\n```\nd\n```\ne").splitlines() == ["a  c", "", "", "", "e"]


def test_given_the_pages_then_the_site_is_built_without_a_warning_and_asks_no_other_machine(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "assets" / "mermaid.min.js").stat().st_size > 1_000_000
    for page in tmp_path.rglob("*.html"):
        asked = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^\"'> ]*", page.read_text()
        )
        assert [one for one in asked if 'rel="canonical"' not in one] == [], page


def _config() -> dict[str, list[object]]:
    """mkdocs.yml, whose tags of Python are left as they are."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
    return dict(yaml.load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), Loader))


def _nav(part: object) -> set[str]:
    if isinstance(part, str):
        return {part}
    inner = part.values() if isinstance(part, dict) else part
    return {page for each in inner for page in _nav(each)}  # type: ignore[attr-defined]


DRAWINGS = [
    (page, block)
    for page in pages()
    for block in re.findall(r"^```mermaid\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("page", "drawing"), DRAWINGS, ids=lambda part: name(part) if isinstance(part, Path) else "")
def test_given_a_drawing_of_a_page_then_the_script_of_the_site_can_draw_it(page: Path, drawing: str) -> None:
    mermaid = pytest.importorskip("mermaidx", reason="the extra `docs` is not installed")
    assert mermaid.render(drawing).svg().startswith("<svg"), name(page)
