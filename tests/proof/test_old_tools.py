"""Exports opened by transformers 4.57, diffusers 0.35 and peft 0.17, in an environment of their own: `make proof
TARGET=old_tools`, some minutes. Needs the network, for pip alone.

Each image is drawn by these, by today's versions and, where it is not of a LoRA file, by our own sampler: from the same
latents, in float32, on the CPU. torch is the same everywhere, so that what differs is what the libraries make of files.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxr_core.data.prompts import MAX_TOKENS
from cxr_core.export.model import export_model
from cxr_core.models import stable_diffusion
from cxr_core.models.checkpoints import BUILT_IN, final_checkpoint
from cxr_core.models.lora_files import DIFFUSERS, KOHYA
from cxr_core.models.noise import Philox
from cxr_core.models.presets import NANO
from cxr_core.models.sampler import decode, encode_prompts, load_model, sample
from tests.conftest import REPOSITORY
from tests.local.conftest import nano_base, nano_latents  # noqa: F401 - fixtures
from tests.training import diffusion_stage, finish

pytestmark = pytest.mark.proof

OLD = ("transformers==4.57.*", "diffusers==0.35.*", "peft==0.17.*", "accelerate", "safetensors", "ftfy")
PROMPTS = [
    "frontal chest x-ray, PA view, effusion",
    "frontal chest x-ray, AP view, no finding",
    "chest x-ray, Cardiomegaly & 3 nodules (2.5 cm), it's unclear",
]
STEPS, GUIDANCE, SEED = 6, 4.0, 2**62 + 5

DRAW = """\
import json, sys, warnings
import numpy as np, torch
import diffusers, peft, transformers
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

warnings.simplefilter("ignore")
torch.set_num_threads(1)
print("drawn by", *(f"{m.__name__} {m.__version__}" for m in (transformers, diffusers, peft, torch)))
for job in json.load(open(sys.argv[1])):
    pipeline = StableDiffusionPipeline.from_pretrained(job["folder"], torch_dtype=torch.float32)
    if job["solver"]:
        pipeline.scheduler = DPMSolverMultistepScheduler.from_pretrained(job["folder"], subfolder=job["solver"])
    if job["lora"]:
        pipeline.load_lora_weights(job["lora"], weight_name=job["weight_name"])
    pipeline.set_progress_bar_config(disable=True)
    ids = pipeline.tokenizer(job["prompts"], padding="max_length", max_length=77, truncation=True).input_ids
    drawn = [pipeline(prompt, num_inference_steps=job["steps"], guidance_scale=job["guidance"],
                      latents=torch.from_numpy(np.load(job["latents"])), output_type="np").images[0]
             for prompt in job["prompts"]]
    np.savez(sys.argv[2] + "/" + job["name"], images=np.stack(drawn) * 255, ids=np.array(ids))
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    same = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "numpy")]
    subprocess.run([folder / "bin" / "pip", "install", "-q", *same, *OLD], check=True)
    return folder / "bin" / "python"


def draw(python: Path | str, jobs: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Images and token ids of each job, by its name."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [python, "-c", DRAW, folder / "jobs.json", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout.strip())
    return {job["name"]: np.load(folder / f"{job['name']}.npz") for job in jobs}


def ours(folder: Path, latents: tuple[int, int, int], scheduler: Any) -> np.ndarray:
    """Of our sampler: (num_prompts, height, width)."""
    model = load_model(folder, "float32")
    assert model.latent_shape == latents
    texts = encode_prompts(model, ["", *PROMPTS])
    how = {"scheduler": scheduler, "steps": STEPS, "guidance": GUIDANCE}
    drawn = [decode(model, sample(model, texts[prompt], texts[""], [SEED], **how)) for prompt in PROMPTS]
    return np.concatenate(drawn)


def with_clips_words(folder: Path, words: Path) -> Path:
    """A nano model that reads with the tokenizer of the real Stable Diffusion 2.1."""
    from dataclasses import replace

    from transformers import CLIPTokenizer

    vocab = json.loads((words / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (words / "merges.txt").read_text().splitlines()[1:] if line]
    pipeline = stable_diffusion.build(replace(NANO, text_encoder={**NANO.text_encoder, "vocab_size": len(vocab)}), 4)
    tokenizer: Any = CLIPTokenizer(vocab=vocab, merges=merges, pad_token="!", model_max_length=MAX_TOKENS)
    pipeline.register_modules(tokenizer=tokenizer)
    stable_diffusion.save(pipeline, folder)
    return folder


def test_exports_draw_the_same_images_in_last_years_libraries(
    old_python: Path,
    nano_base: Path,  # noqa: F811
    nano_latents: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    torch.set_num_threads(1)
    adapted = finish(
        diffusion_stage(
            tmp_path / "stage", nano_latents, nano_base, lora={"rank": 4, "alpha": 32.0}, steps=6, learning_rate=0.1
        )
    )
    words = REPOSITORY.parent / "shared" / "data" / "clip_bpe_tokenizer"
    models = {"tiny": BUILT_IN["tiny_base"], "base": nano_base, "lora": final_checkpoint(adapted)}
    if words.is_dir():
        models["clip"] = with_clips_words(tmp_path / "clip", words)
    plans: list[dict[str, Any]] = []
    wanted: dict[str, np.ndarray] = {}
    for name, model in models.items():
        for dtype in ("float32", "float16"):
            out = tmp_path / f"{name}-{dtype}"
            export_model(model, out, dtype)  # type: ignore[arg-type]
            plans += _of(out, tmp_path, wanted)
    for form in (DIFFUSERS, KOHYA):
        at = tmp_path / "lora-float32" / "lora"
        base = _of(tmp_path / "base-float32", tmp_path, {})[0]
        job = base | {"name": f"base-with-{form}", "lora": str(at), "weight_name": form}
        plans.append(job)
        wanted[job["name"]] = wanted["lora-float32-dpmsolver"]
    made = {
        "a year ago": draw(old_python, plans, tmp_path / "then"),
        "today": draw(sys.executable, plans, tmp_path / "now"),
    }
    print(f"{'':44}{'a year ago':>12}{'today':>8}   largest difference of a grey value, of 255")
    for job in plans:
        name = job["name"]
        apart = {
            when: float(np.abs(found[name]["images"].mean(axis=-1) - wanted[name]).max())
            for when, found in made.items()
        }
        print(f"{name:44}{apart['a year ago']:12.3f}{apart['today']:8.3f}")
        assert max(apart.values()) < 1, name
        assert np.array_equal(made["a year ago"][name]["ids"], made["today"][name]["ids"]), name
    plain = made["a year ago"]["base-float32-dpmsolver"]["images"]
    effect = float(np.abs(plain - made["a year ago"]["lora-float32-dpmsolver"]["images"]).max())
    print(f"the LoRA changes the base's images by up to {effect:.1f}")
    assert effect > 20


def _of(out: Path, folder: Path, wanted: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Jobs of an exported folder by both of its solvers; `wanted` gets what our sampler draws."""
    pipeline = stable_diffusion.load(out)
    side = pipeline.unet.config.sample_size
    latents = folder / f"{out.name}.npy"
    np.save(latents, Philox([SEED], (4, side, side)).draw().numpy())
    common = {"folder": str(out), "lora": None, "weight_name": None, "prompts": PROMPTS, "latents": str(latents)}
    common |= {"steps": STEPS, "guidance": GUIDANCE}
    jobs = []
    for solver, scheduler in (("dpmsolver", "dpmsolver++"), ("scheduler", "ddim")):
        name = f"{out.name}-{solver}"
        wanted[name] = ours(out, (4, side, side), scheduler)
        jobs.append(common | {"name": name, "solver": solver if solver == "dpmsolver" else None})
    return jobs
