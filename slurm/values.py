"""Types of the values of a profile: words of Slurm, checked when the profile is read and passed on as they stand."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from slurm import grammar


def _is_plain(text: str) -> str:
    """Words of a directive stand in the script as they are."""
    if re.search(r"[\s'\"\\`$]", text):
        raise ValueError(f"{text!r} has a space, a quote, a backslash or a $")
    return text


Word = Annotated[str, Field(min_length=1), AfterValidator(_is_plain)]


def _is_limit(text: str) -> str:
    """A time that sbatch takes for a limit; packs are planned by it, and tasks stop in time before it."""
    try:
        minutes = grammar.minutes_of(text)
    except ValueError:
        forms = '240 (minutes), "04:00:00" (hours, minutes, seconds) or "2-00:00:00" (with days)'
        raise ValueError(f"{text!r} is no time to Slurm: write {forms}") from None
    if minutes is None:
        raise ValueError(f"{text!r} means no limit to Slurm, and one is needed: write what your partition allows")
    return text


def _is_memory(text: str) -> str:
    try:
        grammar.megabytes_of(text)
    except ValueError:
        mend = "write 32G, 32000M or 32000 (MB), without a decimal point; 0 is all memory of a node"
        raise ValueError(f"{text!r} is no amount of memory to Slurm: {mend}") from None
    return text


def _one_cluster(text: str) -> str:
    if "," in text or text == "all":
        raise ValueError(f"{text!r} is more than one cluster: name one, since a job can only wait for jobs of its own")
    return text


def _in_digits(value: Any) -> Any:
    """A number is what its digits are to Slurm. A truth value is no number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Limit = Annotated[str, BeforeValidator(_in_digits), AfterValidator(_is_limit)]
Memory = Annotated[str, BeforeValidator(_in_digits), AfterValidator(_is_memory)]
OneCluster = Annotated[Word, AfterValidator(_one_cluster)]


def gpus_of(text: str) -> grammar.Gres:
    """`a100:4`, `gpu:4` or `gpu:a100:4`, as one finds them in a site's documentation."""
    given = text if re.match("(gres/)?gpu([:=]|$)", text) else f"gpu:{text}"
    try:
        (found,) = grammar.gres_of(given)
    except ValueError:
        raise _no_gpus(text) from None
    # A kind may have the name 4090, but -1 and 4.5 are no kinds.
    if found.type and not re.search("[A-Za-z]", found.type) and not given.endswith(f":{found.count}"):
        raise _no_gpus(text)
    return found


def _no_gpus(text: str) -> ValueError:
    return ValueError(f"gpus_per_node: {text!r} is not one number of GPUs: write 4, or a100:4 for a kind")
