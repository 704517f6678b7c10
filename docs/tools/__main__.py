"""`python -m docs.tools`: write the pages that the code knows."""

from cxr_core.shown import say
from docs.tools.pages import PAGES, REPOSITORY


def main() -> None:
    """Write each page and say which ones changed."""
    for name, page in PAGES.items():
        path, text = REPOSITORY / "docs" / name, page()
        changed = not path.is_file() or path.read_text(encoding="utf-8") != text
        if changed:
            path.write_text(text, encoding="utf-8")
        say(f"docs/{name}: {'written' if changed else 'as it was'}")


if __name__ == "__main__":
    main()
