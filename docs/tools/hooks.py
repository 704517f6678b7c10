"""What the site does beside Markdown: it serves Mermaid's script, and files of the repository that pages link to."""

import hashlib
import os
import re
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"

MERMAID = "assets/mermaid.min.js"
MERMAID_SHA256 = "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b"
"""Of dist/mermaid.min.js of mermaid 11.16.0, as its authors publish it."""

BESIDE = "repository"
"""Where files outside of docs/ lie in the site."""

_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s#]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the script, and every file that a page links to outside of docs/."""
    files.append(File.generated(config, MERMAID, content=_mermaid()))
    waiting = [Path(page.abs_src_path) for page in files.documentation_pages() if page.abs_src_path]
    while waiting:
        page = waiting.pop()
        for target in _outside(page):
            name = f"{BESIDE}/{target.relative_to(REPOSITORY)}"
            if files.get_file_from_path(name) is None:
                files.append(
                    File.generated(config, name, abs_src_path=str(target), inclusion=InclusionLevel.NOT_IN_NAV)
                )
                waiting += [target] if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that lead out of docs/, or come from a file outside of it, as links of the site."""
    here = Path(page.file.abs_src_path)
    return _each_link(markdown, lambda found: _link(found, here, page.file.src_uri))


def _mermaid() -> bytes:
    script = package_files("mermaidx").joinpath("assets/mermaid.js").read_bytes()
    if hashlib.sha256(script).hexdigest() != MERMAID_SHA256:
        raise ValueError("mermaidx carries another script than mermaid 11.16.0: install the version of pyproject.toml")
    return script


def _outside(page: Path) -> list[Path]:
    """Files outside of docs/ that a page links to."""
    found: list[Path] = []

    def note(match: re.Match[str]) -> str:
        target = _target(page, match[2])
        if target is not None and target.is_file() and not target.is_relative_to(DOCS):
            found.append(target)
        return match[0]

    _each_link(page.read_text(encoding="utf-8"), note)
    return found


def _target(page: Path, link: str) -> Path | None:
    """The path that a link of a page leads to; None where it leads to another machine."""
    if ":" in link:
        return None
    return Path(os.path.normpath(page.parent / link))


def _link(found: re.Match[str], page: Path, uri: str) -> str:
    target = _target(page, found[2])
    if target is None or (target.is_relative_to(DOCS) and page.is_relative_to(DOCS)):
        return found[0]
    if target.is_dir():  # a site has no page of a folder
        return found[1].strip("![]")
    base = DOCS if target.is_relative_to(DOCS) else REPOSITORY
    inside = target.relative_to(base) if base == DOCS else Path(BESIDE) / target.relative_to(base)
    return f"{found[1]}({os.path.relpath(inside, Path(uri).parent)}{found[3] or ''})"


def _each_link(markdown: str, change: Any) -> str:
    """The text with each link changed; code stays what it is."""
    parts, end = [], 0
    for code in _CODE.finditer(markdown):
        parts += [_LINK.sub(change, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _LINK.sub(change, markdown[end:])])
