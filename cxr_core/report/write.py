"""From a run folder to report.html."""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from cxr_core.boundary import INTERNAL
from cxr_core.errors import UserError
from cxr_core.log import room_log
from cxr_core.report.public import public_sections
from cxr_core.report.read import read_run
from cxr_core.report.sections import sections
from cxr_core.runs.files import write_atomic

log = room_log(__name__)


def write_report(
    run_folder: Path, price: float | None = None, out: Path | None = None, *, public: bool = False
) -> Path:
    """Write `report.html` into a run folder, or the page as the file `out`, atomically, and return its path.

    `public` writes the page that may be shared: `report-public.html`.

    One file that needs no network and runs no script; a function of the folder alone, so equal folders give equal
    bytes. Stages that are not finished are named as such. `price` of a GPU-hour goes before the config's.
    Raises UserError naming the file that is damaged, or the folder that may not be written to.
    """
    path = out or run_folder / ("report-public.html" if public else "report.html")
    page = render(run_folder, price, public=public)
    log.debug("writing %s: %d characters", path, len(page))
    try:
        write_atomic(path, page)
    except PermissionError as error:
        raise UserError(
            "you may not write there", where=str(path.parent), hint="name a file elsewhere: --out FILE"
        ) from error
    return path


def render(run_folder: Path, price: float | None = None, *, public: bool = False) -> str:
    """The HTML of a run's report, or of the one that may be shared."""
    run = read_run(run_folder)
    made = str(run.provenance.get("created", ""))[:10]
    subtitle = f"Run of {made}, seed {run.config.get('seed')}. Research data, not for clinical use."
    found = public_sections(run) if public else sections(run, price)
    mark = "" if public else INTERNAL
    return _template().render(title=run.name, subtitle=subtitle, mark=mark, sections=found, css=_packaged("page.css"))


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_packaged("page.html"))


def _packaged(name: str) -> str:
    return (files("cxr_core.report") / name).read_text(encoding="utf-8")
