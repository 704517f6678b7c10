"""Types of the values of a profile: words of Slurm, checked when the profile is read and passed on as they stand."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from slurm import grammar
from slurm.checks.ask import SCHEDULER_VARIABLES


def _is_one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r} is not one line of characters that can be printed")
    return text


Line = Annotated[str, Field(min_length=1), AfterValidator(_is_one_line)]
"""One line of text, such as a path."""


def _is_plain(text: str) -> str:
    """Words of a directive stand in the script as they are."""
    if re.search(r"[\s'\"\\`$]", text):
        raise ValueError(f"{text!r} has a space, a quote, a backslash or a $")
    return text


Word = Annotated[Line, AfterValidator(_is_plain)]

Binding = Annotated[str, Field(pattern=r"^[A-Za-z0-9_:,*]+$")]
"""What `srun --cpu-bind` takes: `none`, `verbose,cores`, `mask_cpu:0x3,0xC`."""


def _is_shell(text: str) -> str:
    odd = [char for char in text if not char.isprintable() and char not in "\n\t"]
    if odd:
        raise ValueError(f"it has the character {odd[0]!r}, which no line of shell needs")
    return text


Shell = Annotated[str, AfterValidator(_is_shell)]
"""Lines of shell, which are executed as they stand."""


def _is_on_node(text: str) -> str:
    """`${` begins what a shell can execute: only its two harmless forms are taken."""
    odd = re.search(r"\$\{(?![A-Za-z_]\w*(:-[^$`\"\\{}]*)?\}).*", text)
    if odd:
        raise ValueError(f"{odd.group()!r}: of the shell's forms, $NAME, ${{NAME}} and ${{NAME:-text}} are read")
    return text


OnNode = Annotated[Line, AfterValidator(_is_on_node)]
"""A folder on a node, with a `~` at the beginning and variables of the job: `/scratch/$USER/${SLURM_JOB_ID}`."""

_STEERS = re.compile(
    r"LD_.*|GCONV_PATH|GLIBC_TUNABLES|LOCPATH|NLSPATH|PATH|HOME|USER|LOGNAME|SHELL|IFS|ENV|BASH.*|SHELLOPTS|CDPATH"
    r"|GLOBIGNORE|PS\d|PROMPT_COMMAND|PYTHON.*|PERL.*|OMP_.*|TMPDIR"
    r"|CXR_(FLAG|START|RANKS|GIT_SHA|IMAGE_.*|SUITE_.*)"
    r"|(APPTAINER|SINGULARITY)(?!_(CACHEDIR|TMPDIR|USERNS|NO_PRIVS)$).*"
)
"""Variables by which another program would be run than is meant, or which are ours to set."""


def _is_no_steering(name: str) -> str:
    if _STEERS.fullmatch(name):
        raise ValueError(f"{name} changes which programs run, or is set by the suite: in `setup`, you may export it")
    if name.startswith(SCHEDULER_VARIABLES):
        raise ValueError(f"{name}: variables of the scheduler must not reach another job")
    return name


Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_is_no_steering)]
"""The name of an environment variable that means something to the work alone."""


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
        hint = "write 32G, 32000M or 32000 (MB), without a decimal point; 0 is all memory of a node"
        raise ValueError(f"{text!r} is no amount of memory to Slurm: {hint}") from None
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
