"""One boundary for what leaves: what each field of our records is, and what of a record may be given away.

`public`: of images that nobody has, of weights, of code and of settings. `internal`: of the machine, the people and the
folders that made it. `patient`: of a person who was imaged. What is not declared here is internal, so a new field stays
inside until somebody says otherwise; a test goes over what our writers write and wants each key declared.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

Access = Literal["public", "internal", "patient"]

FEWEST_PATIENTS = 10
"""A published count is of so many patients at least, or of nobody."""

INTERNAL = "INTERNAL: holds images and ids of real patients. Do not share."
"""What each file of an export of real images says of itself."""


def _as(access: Access, names: str) -> dict[str, Access]:
    return dict.fromkeys(names.split(), access)


FIELDS: Mapping[str, Mapping[str, Access]] = {
    "index.parquet": {
        **_as("public", "image_id split view labels prompt seed request generation width height pixel_sha256"),
        **_as("patient", "patient_id age sex follow_up boxes source_sha256"),
        **_as("internal", "shard offset length"),
    },
    "generation": _as(
        "public",
        "dtype channels_last compile attention batch_size threads config scheduler steps guidance noise model bank "
        "from_bank draw gate",
    ),
    "generation gate": _as("public", "draws passed margin scores"),
    "dataset.json": {
        **_as("public", "format findings size num_images digest synthetic about"),
        **_as("internal", "shards"),
    },
    "dataset.json about": {
        **_as("public", "series prompts like source unseen gate seed dtype channels_last compile attention batch_size"),
        **_as("public", "threads config smallest_batch"),
        **_as("internal", "problems notes left_out validation policies"),
        **_as("patient", "boxed_split"),
    },
    "prompts": {
        **_as("public", "style template findings view age sex positions"),
        **_as("internal", "tokenizer"),
    },
    "series": {
        **_as("public", "name request checkpoint scheduler steps guidance model kind prediction bank from_bank noise"),
        **_as("public", "solver training_data num_images"),
        **_as("internal", "role"),
        **_as("patient", "also_learnt_from"),
    },
    "training_data.json": {
        **_as("public", "format images patients dataset images_sha256 findings withheld boxed_split base"),
    },
    "boxed_split": {
        **_as("public", "moved"),
        **_as("patient", "sha256 num_patients"),
    },
    "patients.json": _as("patient", "format access moved"),
    "model.json": _as("public", "format weights_sha256 dtype of_weights_sha256 run losses"),
    "run": _as("public", "name seed config_sha256 git versions"),
    "git": _as("public", "commit dirty"),
    "losses": _as("public", "steps validation_loss commits"),
    "tokenizer_config.json": _as(
        "public",
        "backend bos_token eos_token pad_token unk_token max_length model_max_length pad_to_multiple_of "
        "pad_token_type_id padding_side stride tokenizer_class truncation_side truncation_strategy add_prefix_space "
        "clean_up_tokenization_spaces do_lower_case errors additional_special_tokens added_tokens_decoder",
    ),
    "pggan.json": _as("public", "format latent_width widths channels scale fade lowest about"),
    "pggan.json about": _as("public", "dataset steps images"),
    "run.json": {
        **_as("public", "format name created config_sha256 seed git code_sha256 image versions"),
        **_as("internal", "platform command adopted cluster"),
    },
    "stage.json": {
        **_as("public", "format digest fingerprint steps num_images validation_loss overfit best_step num_classifiers"),
        **_as("internal", "seconds final problems parts gate latent_shape method mean_error num_shards attempts"),
        **_as("internal", "status swept num_enlarged splits code"),
        **_as("patient", "num_patients"),
    },
    "metrics.json": {
        **_as("public", "format utility benefit faithfulness fidelity diversity memorisation real synthetic"),
        **_as("internal", "grids before_gate calibration position sweep published published_source published_caveat"),
    },
}
"""Record -> its fields. `metrics.json`: public are the summary figures that `report.public` words, never its tables."""

_PLAIN = re.compile(r"[\w.+!:-]{1,64}", re.ASCII)
_HEXADECIMAL = re.compile(r"[0-9a-f]{7,64}")


def public(record: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a record's values those that may be given away, in their order."""
    access = FIELDS[record]
    return {name: value for name, value in values.items() if access.get(name, "internal") == "public"}


def undeclared(record: str, names: Iterable[str]) -> list[str]:
    """Names that a record has and this module does not know: they stay inside."""
    return sorted(set(names) - set(FIELDS[record]))


def public_run(about: Mapping[str, Any]) -> dict[str, Any]:
    """What of run.json goes with a model: a path or an address in the place of a version or a commit does not."""
    kept = {name: about.get(name) for name in FIELDS["run"]}
    versions = kept["versions"] if isinstance(kept["versions"], Mapping) else {}
    git = kept["git"] if isinstance(kept["git"], Mapping) else {}
    return kept | {
        "versions": {name: value for name, value in versions.items() if _is_plain(name) and _is_plain(value)},
        "git": {"commit": (commits([git.get("commit")]) or [""])[0], "dirty": bool(git.get("dirty"))},
    }


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and bool(_PLAIN.fullmatch(value))


def commits(values: Iterable[Any]) -> list[str]:
    """Those that are digests."""
    return [value for value in values if isinstance(value, str) and _HEXADECIMAL.fullmatch(value)]


def withheld(patients: Mapping[str, int]) -> frozenset[str]:
    """The cells of a table (name -> patients) that are not published.

    Cells of 1 to 9 patients; and, so that none follows from a total by subtraction, the smallest other one: a patient
    may be in several cells, so small ones may be the same few patients. A cell of nobody tells of nobody.
    """
    cells = sorted((num, name) for name, num in patients.items() if num)
    hidden = [name for num, name in cells if num < FEWEST_PATIENTS]
    return frozenset(name for _, name in cells[: len(hidden) + 1]) if hidden else frozenset()


def withheld_findings(
    patients: Mapping[str, int], images: Mapping[str, int], num_images: int, rest: str
) -> frozenset[str]:
    """`withheld` of a table of findings, which an image may have several of, beside a total of `num_images`.

    `rest` is the cell of images without any: with the total it tells how many have one, so it stays inside where that
    tells of few images that have two findings, or none but another one.
    """
    hidden = withheld(patients)
    if rest in hidden or rest not in images:
        return hidden
    told = {name: num for name, num in images.items() if num and name not in hidden}
    differences = [num_images - told.get(rest, 0) - num for name, num in told.items() if name != rest]
    differences += [] if hidden else [sum(told.values()) - num_images]
    return hidden | {rest} if any(0 < each < FEWEST_PATIENTS for each in differences) else hidden
