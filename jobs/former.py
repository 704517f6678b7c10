"""Commands that had another name: each is answered by the name of now, with exit status 2."""

import typer

from cxr_core.errors import UserError

_ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Words that a former command takes, whatever they are."""


def former(app: typer.Typer, old: str, new: str) -> None:
    """Let `app` answer `old`, as it was typed after `cxr`, with `new`."""

    @app.command(old.split()[-1], hidden=True, context_settings=_ANYTHING, add_help_option=False)
    def answer() -> None:
        raise UserError(f"`cxr {old}` is now `cxr {new}`")
