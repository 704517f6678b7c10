"""A classifier that was trained elsewhere, as a judge."""

from collections.abc import Sequence
from pathlib import Path

from cxr_core.data.findings import JOIN, NO_FINDING, Findings
from cxr_core.errors import UserError
from cxr_core.models.classifier import build, save
from cxr_core.models.fit import differences
from cxr_core.models.importing.weights import read_weights
from cxr_core.models.strict import shapes
from cxr_core.runs.files import atomic_path

_NO_NAMES = frozenset({"", "nan", "none", "null", "na", "n/a"})


def import_judge(weights: Path, out: Path, preset: str, findings: Sequence[str], image_size: int) -> None:
    """Make a classifier's folder `out` from a safetensors file, or one of torch.save, with our names of tensors.

    Raises UserError that names what is missing, has another shape, or is of something else: nothing is left at random,
    and nothing is left out. So it does for findings that are no names, twice there, or reserved.
    """
    check_findings(findings)
    model = build(preset, image_size, tuple(findings), seed=0)
    given = read_weights(weights)
    if wrong := list(differences(shapes(model.state_dict()), shapes(given))):
        hint = "rename or convert them: `body` as the preset has it, and `head`, an output a finding"
        raise UserError("\n  ".join([f"not the weights of a {preset}:", *wrong]), where=str(weights), hint=hint)
    model.load_state_dict(given)
    with atomic_path(out) as work:
        save(model, work, {"weights": weights.name})


def check_findings(names: Sequence[str]) -> None:
    """Raise UserError naming what cannot be the name of a finding, or stands for one that is there already."""
    where = "--findings"
    if bad := [name for name in names if name.strip().lower() in _NO_NAMES or JOIN in name]:
        raise UserError(
            f"{', '.join(map(repr, bad))} is no name of a finding",
            where=where,
            hint="give one name for each output, in their order; an output without a meaning cannot judge",
        )
    plain = [name.strip().lower().replace("_", " ") for name in names]
    if twice := [name for i, name in enumerate(names) if plain[i] in plain[:i]]:
        raise UserError(f"{', '.join(twice)} is there twice", where=where, hint="give each output a name of its own")
    if NO_FINDING.lower() in plain:
        raise UserError(
            f"{NO_FINDING!r} is reserved: an image without any finding",
            where=where,
            hint="leave that output out of the weights and of --findings; a judge tells findings alone",
        )
    Findings(tuple(names))
