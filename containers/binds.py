"""Folders that a container sees: `SOURCE[:DESTINATION[:ro|rw]]`, as engines write them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cxr_core.errors import UserError
from cxr_core.home import expanded

_HINT = "write /folder, /folder:/place/inside or /folder:/place/inside:ro, with whole paths"


@dataclass(frozen=True)
class Bind:
    """A folder or file of the host at `destination` in the container."""

    source: str
    destination: str
    is_readonly: bool = False

    @classmethod
    def at_its_place(cls, path: Path) -> "Bind":
        """The same place inside; the name may hold any letter."""
        return cls(str(path), str(path))

    @property
    def mount(self) -> str:
        """The value of `--mount`. Its quotes hold any name; `--bind` would split it at colons and commas."""
        source, destination = (text.replace('"', '""') for text in (self.source, self.destination))
        return f'type=bind,"source={source}","destination={destination}"' + ",ro" * self.is_readonly


def bind_of(text: str) -> Bind:
    """Read one bind; a name that is there as a whole may hold colons. Raises UserError for another form."""
    if ":" not in text or Path(text).exists():
        return _whole(Bind(str(expanded(text)), str(expanded(text))), text)
    source, destination, *options = text.split(":")
    source = str(expanded(source))
    if len(options) > 1:
        raise _refusal("it has more than two colons, and there is no folder of this name", text)
    unknown = [word for word in ",".join(options).split(",") if word not in ("ro", "rw", "")]
    if unknown or (options and not options[0]):
        raise _refusal(f"{options[0]!r} is no option of a bind: there are ro and rw", text)
    return _whole(Bind(source, destination, "ro" in ",".join(options).split(",")), text)


def _whole(bind: Bind, text: str) -> Bind:
    for path in (bind.source, bind.destination):
        if "$" in path:
            raise _refusal(f"variables are not replaced in {path!r}", text)
        if not path.startswith("/"):
            hint = f" (an option comes third: {bind.source}:{bind.source}:{path})" if path in ("ro", "rw") else ""
            raise _refusal(f"{path!r} is no whole path{hint}", text)
    return bind


def _refusal(what: str, text: str) -> UserError:
    return UserError(what, where=f"binds: {text!r}", hint=_HINT)


def in_order(binds: Iterable[Bind]) -> list[Bind]:
    """Each once, what lies above before what lies in it, which it would else cover.

    Raises UserError if two go to the same place.
    """
    found: dict[str, Bind] = {}
    for bind in binds:
        other = found.setdefault(bind.destination.rstrip("/") or "/", bind)
        if other.source.rstrip("/") != bind.source.rstrip("/"):
            what = f"two folders are bound to it: {other.source} and {bind.source}"
            raise UserError(what, where=bind.destination, hint="give one of the `binds` another place inside")
    return sorted(found.values(), key=lambda bind: len(Path(bind.destination).parts))
