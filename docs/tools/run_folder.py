"""docs/reference/run-folder.md: every file of a run folder, who writes it and what it holds.

The fields of records come from the classes that read them. `matches` tells whether a file of a real run is listed here,
and a test asks it of every file of a run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import TypeAdapter

from docs.tools.markdown import NOTE, anchor, cell, code, linked, paragraph, table
from docs.tools.settings import record_rows


@dataclass(frozen=True)
class Entry:
    """A file, or many of one form. In `path` `<name>` stands for one component, `*` at the end for whatever lies below.

    `record` is `module:Class` of its record. A private class is fine: it is read, not used.
    """

    path: str
    writer: str
    holds: str
    form: str
    record: str = ""


RUN = (
    Entry("config.yaml", "the launcher, once", "the config with every default written out", "YAML"),
    Entry(
        "run.json",
        "the launcher, once",
        "what made the run: code, versions, seeds, machine",
        "JSON",
        "cxr_core.runs.code:RunRecord",
    ),
    Entry("report.html", "`cxr report`, `cxr run`", "the internal report", "HTML, self-contained"),
    Entry("report-public.html", "`cxr report --public`", "the report that may be shared", "HTML, self-contained"),
    Entry("_code/<code>.json", "the launcher", "sha256 of each file of the code that worked in the run", "JSON"),
    Entry(
        "accepted_code.json",
        "a command with `--accept-code` or `--accept-image`",
        "which other code or image was accepted, by whom and when",
        "JSON",
        "cxr_core.runs.code:AcceptedCode",
    ),
    Entry("accounting.json", "`cxr status`, `cxr report`", "what sacct said when it was asked last", "JSON"),
    Entry("_auto_resume/*", "`--auto-resume`", "how often the run resumed itself and how it ended; its jobs", "JSON"),
    Entry("cache/*", "evaluate stages", "features of images, shared by stages; may be removed", "Parquet, npy"),
    Entry(".lock", "launchers", "held by the launcher that works in the run; empty", "lock"),
)
STAGE = (
    Entry("plan.jsonl", "freeze, once", "a header, then a line a shard", "JSON lines", "cxr_core.runs.plan:PlanHeader"),
    Entry("plan/*", "freeze, once", "the tables that the shards slice; see [plans](#plans)", "Parquet, JSON, CSV"),
    Entry(
        "sources.json",
        "freeze",
        "files outside of the run that it read: size, time, sha256",
        "JSON",
        "cxr_core.runs.sources:SourcesRecord",
    ),
    Entry("frozen_sources.json", "freeze", "sha256 of files that a plan was made of", "JSON"),
    Entry(".freeze.lock", "freeze", "held while the plan is frozen; empty", "lock"),
    Entry(
        "receipts/<shard>.json",
        "the first whole attempt, once",
        "the record that the shard is done; never edited",
        "JSON",
        "cxr_core.runs.receipt:Receipt",
    ),
    Entry(
        "shards/<data>", "attempts", "`<shard>-<sha12>`: what a shard made, named by its content", "tar, Parquet, npy"
    ),
    Entry("shards/<data>/*", "attempts", "the same as a folder: a checkpoint", "see [checkpoints](#checkpoints)"),
    Entry(
        "attempts/<attempt>/heartbeat.json",
        "its attempt alone",
        "how far it was when it was last heard",
        "JSON",
        "cxr_core.runs.attempt:Heartbeat",
    ),
    Entry("attempts/<attempt>/events.jsonl", "its attempt alone", "what it did, a line an event", "JSON lines"),
    Entry("attempts/<attempt>/log.jsonl", "its attempt alone", "log records of all levels, if any", "JSON lines"),
    Entry(
        "attempts/<attempt>/ended.json",
        "its attempt alone",
        "how it ended; absent of one that was killed",
        "JSON",
        "cxr_core.runs.attempt:End",
    ),
    Entry(
        "attempts/<attempt>/failed/<shard>.json",
        "its attempt alone",
        "the cause of a shard's failure; `.txt` has the traceback",
        "JSON, text",
        "cxr_core.runs.failures:Failure",
    ),
    Entry("attempts/<attempt>/traceback.txt", "its attempt alone", "what ended the attempt itself", "text"),
    Entry("attempts/<attempt>/*", "its attempt alone", "half-made work; logs of ranks in `ranks/`", "various"),
    Entry("submits/<number>/submit.json", "`cxr submit`, `cxr resume`", "what was sent: packs, job id", "JSON"),
    Entry("submits/<number>/script.sbatch", "`cxr submit`, `cxr resume`", "the batch script that was sent", "shell"),
    Entry(
        "submits/<number>/*",
        "the batch shell, Slurm",
        "logs of tasks (`.out`, `.jsonl`), how they ended (`.end`)",
        "text",
    ),
    Entry(
        "parked/<shard>.json",
        "attempts",
        "a shard that failed three times for one cause; `released/` after `--retry-parked`",
        "JSON",
        "cxr_core.runs.failures:Parked",
    ),
    Entry("parked/released/<shard>.json", "`--retry-parked`", "a parked shard that is tried again", "JSON"),
    Entry(
        "pruned/<shard>.json",
        "train stages",
        "what a keep rule removed, and why",
        "JSON",
        "cxr_core.runs.commit:Pruned",
    ),
    Entry(
        "quarantine/*", "`cxr verify --repair`", "what was damaged, with its reason; removed by `cxr gc`", "as it was"
    ),
    Entry(
        "stage.json",
        "finalize, last",
        "digest and facts of the finished stage",
        "JSON",
        "cxr_core.runs.run:Facts",
    ),
)
RESULTS = (
    Entry("index.parquet", "finalize of preprocess, generate", "a row an image of the Dataset", "Parquet"),
    Entry("dataset.json", "finalize of preprocess, generate", "what the Dataset is, its digest and shards", "JSON"),
    Entry("problems.csv", "finalize of preprocess, generate", "what was wrong with an image, and what was done", "CSV"),
    Entry("source_images.parquet", "preprocess", "which file each image was read from", "Parquet"),
    Entry("first_draws/*", "generate with a gate", "a sample of first draws, as a Dataset", "Dataset"),
    Entry("latents.json", "finalize of latents", "shape and digest of the cache", "JSON"),
    Entry("rows.parquet", "finalize of latents", "a row a latent: image, split, prompt", "Parquet"),
    Entry("checkpoints.json", "finalize of train", "checkpoints with their step and loss", "JSON"),
    Entry("bank.json", "finalize of invert", "what the latent bank is", "JSON"),
    Entry("bank.parquet", "finalize of invert", "a row a latent: image, labels, error", "Parquet"),
    Entry("picture.png", "finalize of invert", "images beside what their latents draw", "PNG"),
    Entry("metrics.json", "finalize of evaluate", "[every number](metrics.md) of the evaluation", "JSON"),
    Entry("memorisation-pairs.png", "finalize of evaluate", "the nearest pairs; shows real images", "PNG"),
)

PLANS = (
    ("preprocess", "`source.parquet` (a row an image that is read), `problems.csv`, `boxed.json` (patients moved)"),
    ("latents", "`rows.parquet` (images and prompts), `base.json` (the model's digest)"),
    (
        "train",
        "`base.json`, `training_data.json`, `sampling.json`, `preview.json`, `findings.json`: as the model needs",
    ),
    ("invert", "`rows.parquet` (images whose latents are sought), `latents.parquet`, `model.json`"),
    ("generate", "`requests.parquet` (image id, prompt, seed), `model.json`, `gate.json` (bounds of the gate)"),
    ("evaluate", "a table or a JSON file a part: `cohorts`, `benefit`, `grids`, `points`, `localiser` ..."),
)
CHECKPOINTS = (
    ("`model_index.json`, `unet/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`", "opened by diffusers"),
    ("`lora/`", "the adapter alone, for `load_lora_weights`"),
    ("`classifier.json`, `localiser.json`, `pggan.json`", "what such a model is, beside its weights"),
    ("`training_data.json`", "what the model learnt from: Datasets, images, patients, exclusions"),
    ("`preview.png`, `preview.json`", "images that the checkpoint draws, and their prompts"),
    ("`../<shard>-<sha12>.jsonl`", "metrics of the interval, a line a step"),
    ("`../<shard>-<sha12>.state/`", "weights, moments and counters with which training goes on"),
)


def matches(path: str) -> bool:
    """Whether a file, by its path within the run folder, is one of these."""
    forms = [each.path for each in RUN] + [f"<stage>/{each.path}" for each in (*STAGE, *RESULTS)]
    return any(re.fullmatch(_pattern(form), path) for form in forms)


def _pattern(form: str) -> str:
    parts = re.split(r"(<\w+>|\*$)", form)
    return "".join(r"[^/]+" if part[:1] == "<" else ".+" if part == "*" else re.escape(part) for part in parts)


def page() -> str:
    """The whole page."""
    lines = [
        NOTE,
        "",
        "# A run folder",
        "",
        "```sh",
        "cxr status runs/demo     # plan minus receipts is what is left to do",
        "cxr verify runs/demo     # every file against its receipt",
        "```",
        "",
        "A run is one folder, and every command is a function of it. No file ever has two writers. Data are written",
        "aside, flushed, hashed and renamed; a receipt is published by one exclusive link. Nothing below may be a",
        "symbolic link.",
        "",
        "```",
        *_tree(),
        "```",
        "",
        "## The run",
        "",
        *_files(RUN),
        "",
        "## A stage",
        "",
        *_files(STAGE),
        "",
        "## What a stage is for",
        "",
        "The folder of a finished `preprocess` or `generate` stage is a Dataset.",
        "",
        *_files(RESULTS),
        "",
        "### Plans",
        "",
        *table(("stage", "in plan/"), PLANS),
        "",
        "### Checkpoints",
        "",
        *table(("in the folder of a checkpoint", "what"), CHECKPOINTS),
        "",
        "## Fields of the records",
        "",
        "A record says its `format`. One that is damaged is named and left out; the rest is shown.",
    ]
    for each in (*RUN, *STAGE):
        if each.record:
            lines += ["", *_record(each)]
    return "\n".join(lines) + "\n"


def _tree() -> Iterator[str]:
    yield "runs/<name>/"
    for each in RUN:
        yield f"  {each.path:<40} {_plain(each.holds)}"
    yield "  <stage>/"
    for each in (*STAGE, *RESULTS):
        yield f"    {each.path:<38} {_plain(each.holds)}"


def _plain(text: str) -> str:
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


def _files(entries: tuple[Entry, ...]) -> list[str]:
    rows = [(_name(each), each.writer, linked(cell(each.holds)), each.form) for each in entries]
    return table(("file", "written by", "holds", "form"), rows)


def _name(each: Entry) -> str:
    return f"[{code(each.path)}](#{anchor(each.path)})" if each.record else code(each.path)


def _record(each: Entry) -> list[str]:
    module, _, name = each.record.partition(":")
    record: Any = getattr(import_module(module), name)
    schema = TypeAdapter(record).json_schema(mode="serialization")
    return [f"### `{each.path}`", "", *paragraph(record.__doc__ or ""), "", *record_rows(schema)]
