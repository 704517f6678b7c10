"""Numbers and lists as people read them."""

from collections.abc import Sequence


def count(number: float) -> str:
    """1234567 as "1,234,567"."""
    return f"{int(number):,}"


def percent(part: float, whole: float) -> str:
    """Share of `whole` with one decimal; a dash where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def several(number: int, noun: str, plural: str = "") -> str:
    """ "1 image", "2,000 images"."""
    return f"{count(number)} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Seconds as "12.3 s", "4 min 05 s" or "2 h 07 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"


def plain(name: str) -> str:
    """A finding as words: `Pleural_Thickening` as "Pleural Thickening"."""
    return name.replace("_", " ")
