"""Solvers: what a saved scheduler config may decide, and what it may not."""

import inspect
import json
from pathlib import Path
from typing import Any, get_args

import diffusers
import pytest
import torch

from cxr_core.errors import UserError
from cxr_core.models.checkpoints import BUILT_IN
from cxr_core.models.noise_schedule import _DEFAULTS, FILE, NoiseSchedule, read_schedule, schedule_of
from cxr_core.models.presets import NANO, SD21_BASE
from cxr_core.models.sampler import make_scheduler
from cxr_core.models.solver import ancestral_step, inherited, make_solver
from cxr_core.models.solver_options import Scheduler, solver_options
from cxr_core.runs.files import read_json, write_json

SOLVERS = get_args(Scheduler)
PLAIN = {"_class_name": "DDIMScheduler", **SD21_BASE.scheduler}
LEFTOVERS = {
    "algorithm_type": "sde-dpmsolver++",
    "clip_sample": True,
    "clip_sample_range": 3.0,
    "dynamic_thresholding_ratio": 0.9,
    "euler_at_final": True,
    "final_sigmas_type": "sigma_min",
    "flow_shift": 3.0,
    "lambda_min_clipped": -5.1,
    "lower_order_final": False,
    "sample_max_value": 2.0,
    "set_alpha_to_one": True,
    "skip_prk_steps": True,
    "solver_order": 3,
    "solver_type": "heun",
    "steps_offset": 0,
    "thresholding": True,
    "time_shift_type": "linear",
    "timestep_spacing": "trailing",
    "use_beta_sigmas": True,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": True,
    "use_karras_sigmas": True,
    "use_lu_lambdas": True,
    "variance_type": "fixed_large",
}
OF_THE_MODEL = {
    "num_train_timesteps": 500,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.001,
    "beta_end": 0.01,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "trained_betas": [0.001 + i / 1e5 for i in range(1000)],
}


def drawn_through(solver: Any, steps: int = 7) -> torch.Tensor:
    """Latents after all steps from fixed noise, where a model predicts a fixed function of what it sees."""
    solver.set_timesteps(steps)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    noise = torch.Generator().manual_seed(2)
    for timestep in solver.timesteps:
        predicted = (latents * 1.3 + timestep / 1000).sin()
        latents = solver.step(predicted, timestep, latents, generator=noise, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("name", SOLVERS)
def test_every_argument_of_the_librarys_scheduler_is_given(name: Scheduler) -> None:
    kind = type(make_scheduler(PLAIN, name))
    arguments = set(inspect.signature(kind.__init__).parameters) - {"self"}
    assert solver_options(name, schedule_of(PLAIN), 20).keys() == arguments


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("base", [PLAIN, {"_class_name": "DDIMScheduler", **NANO.scheduler}, "tiny"])
def test_given_a_config_without_leftovers_it_draws_as_it_did_when_the_config_decided(
    base: Any, name: Scheduler
) -> None:
    config = read_json(BUILT_IN["tiny_base"] / FILE) if base == "tiny" else base
    assert torch.equal(drawn_through(make_scheduler(config, name)), drawn_through(inherited(name, config)))


@pytest.mark.parametrize("name", SOLVERS)
def test_given_leftovers_of_how_somebody_drew_they_change_nothing(name: Scheduler) -> None:
    plain = make_scheduler(PLAIN, name)
    for left in (LEFTOVERS, *({key: value} for key, value in LEFTOVERS.items())):
        changed = make_scheduler(PLAIN | left | {"_class_name": "DPMSolverMultistepScheduler"}, name)
        assert dict(changed.config) == dict(plain.config), left
        assert torch.equal(drawn_through(changed), drawn_through(plain)), left


@pytest.mark.parametrize("key", OF_THE_MODEL)
@pytest.mark.parametrize("name", SOLVERS)
def test_given_what_belongs_to_the_models_training_it_is_taken_over_and_recorded(name: Scheduler, key: str) -> None:
    schedule = schedule_of(PLAIN | {key: OF_THE_MODEL[key]})
    options = solver_options(name, schedule, 20)
    assert options[key] == OF_THE_MODEL[key]
    assert json.loads(json.dumps(options, allow_nan=False)) == options
    made = drawn_through(make_scheduler(PLAIN | {key: OF_THE_MODEL[key]}, name))
    assert made.isfinite().all()
    if not key.startswith("beta_") or key == "beta_schedule":
        assert not torch.equal(made, drawn_through(make_scheduler(PLAIN, name)))


@pytest.mark.parametrize("name", SOLVERS)
def test_given_a_model_of_pure_noise_at_the_last_time_it_is_asked_there_first(name: Scheduler) -> None:
    solver = make_scheduler(PLAIN | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, name)
    solver.set_timesteps(10)
    assert solver.timesteps[0] == 999


@pytest.mark.parametrize("name", SOLVERS)
def test_given_as_many_steps_as_there_is_room_for_no_time_is_asked_twice_and_more_are_refused(name: Scheduler) -> None:
    schedule = schedule_of(PLAIN | {"num_train_timesteps": 50})
    most = 49 if name == "dpmsolver++" else 50
    solver = make_scheduler(PLAIN | {"num_train_timesteps": 50}, name, steps=most)
    assert drawn_through(solver, most).isfinite().all()
    assert len(set(solver.timesteps.tolist())) == most
    with pytest.raises(UserError, match="knows 50 times") as error:
        solver_options(name, schedule, most + 1)
    assert str(most) in error.value.hint


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_step_of_ddpm_with_given_noise_is_the_librarys(prediction: str) -> None:
    config = PLAIN | {"prediction_type": prediction}
    theirs, ours = make_scheduler(config, "ddpm"), make_scheduler(config, "ddpm")
    wanted, noise = drawn_through(theirs), torch.Generator().manual_seed(2)
    ours.set_timesteps(7)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for timestep in ours.timesteps:
        predicted = (latents * 1.3 + timestep / 1000).sin()
        latents = ancestral_step(ours, predicted, timestep, latents, torch.randn(latents.shape, generator=noise))
    # The library never lets the variance be 0: after the last step 1e-10 of noise is left in its latents.
    assert torch.allclose(latents, wanted, rtol=0, atol=1e-8)


def test_where_a_config_gives_no_betas_they_are_those_of_its_class() -> None:
    for name in _DEFAULTS:
        known = inspect.signature(getattr(diffusers, name).__init__).parameters
        found = schedule_of({"_class_name": name})
        same = [key for key in NoiseSchedule.model_fields if key in known]
        assert {key: getattr(found, key) for key in same} == {key: known[key].default for key in same}, name


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler, which has no betas"),
        (PLAIN | {"use_flow_sigmas": True}, "a flow model"),
        (PLAIN | {"prediction_type": "flow_prediction"}, "a flow model"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"}, "no betas"),
        (PLAIN | {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "EDM"),
        (PLAIN | {"beta_schedule": "laplace"}, "beta_schedule: Input should be 'linear'"),
        (PLAIN | {"prediction_type": "v"}, "prediction_type: Input should be 'epsilon'"),
        (PLAIN | {"trained_betas": [0.1] * 999}, "999 trained_betas for 1000 timesteps"),
    ],
)
def test_what_cannot_be_drawn_with_is_refused_by_name(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    (tmp_path / FILE).parent.mkdir()
    write_json(tmp_path / FILE, config)
    with pytest.raises(UserError, match=words) as error:
        read_schedule(tmp_path)
    assert error.value.where == str(tmp_path / FILE)


def test_given_a_record_of_options_that_the_library_does_not_have_they_are_named() -> None:
    with pytest.raises(UserError, match="has no use_new_sigmas of DDIMScheduler"):
        make_solver("ddim", solver_options("ddim", schedule_of(PLAIN), 20) | {"use_new_sigmas": True})


def test_given_no_readable_scheduler_config_its_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="noise schedule cannot be read") as error:
        read_schedule(tmp_path)
    assert error.value.where == str(tmp_path / FILE)
