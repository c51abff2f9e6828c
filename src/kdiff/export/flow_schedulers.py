"""The steps of a scheduler of diffusers, set and checked: the flow of a model needs σ that fall from 1 to 0 without new noise.

A scheduler that stops at another σ, gives the model wrong times or adds noise of the wrong size would draw wrong samples
without an error. It is refused before the model is called.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdiff.export.diffusers_model import TIMESTEPS
from kdiff.sampling.times import uniform_times

USE = "type pipeline.scheduler = FlowMatchEulerDiscreteScheduler()"
SMALL = 1e-5  # a σ that is 0 but for rounding
NEAR_ONE = 0.01  # some schedulers begin at σ = 0.999
ROUNDED = 1.5e-3  # some schedulers round timesteps to whole numbers, or down


def uniform_sigmas(num_inference_steps: int) -> list[float]:
    """1 − i/N for i = 0 … N − 1, which is kdiff's uniform grid; the scheduler appends the last 0."""
    return [1 - t for t in uniform_times(num_inference_steps)[:-1].tolist()]


def set_steps(
    scheduler: Any, steps: int, sigmas: list[float] | None, started: bool, noise_scale: float, device: torch.device
) -> Tensor:
    """Set the steps of `scheduler`; returns its timesteps.

    Args:
        scheduler: a scheduler of diffusers for flow matching.
        steps: the number of steps, if `sigmas` is left out.
        sigmas: falling from 1, without the last 0; 1 − i/N if left out. A scheduler that takes no sigmas uses its own.
        started: whether starting points were given, which may have less noise than σ = 1.
        noise_scale: the scale of the model's noise.
        device: where the timesteps are needed.

    Raises:
        ValueError: the scheduler is not for flow matching, adds noise that the model does not expect, cannot set these steps,
            or its σ do not fall to 0.
    """
    config, name = scheduler.config, type(scheduler).__name__
    if not name.startswith("FlowMatch") and not (
        config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction"
    ):
        raise ValueError(
            f"the scheduler is {name} with prediction_type={config.get('prediction_type')!r}; expected one for flow "
            'matching: FlowMatch…, or one with use_flow_sigmas=True and prediction_type="flow_prediction"'
        )
    _check_noise(scheduler, name, noise_scale)
    if config.num_train_timesteps != TIMESTEPS:
        raise ValueError(f"num_train_timesteps of the scheduler is {config.num_train_timesteps}; expected {TIMESTEPS}")
    takes_sigmas = "sigmas" in inspect.signature(scheduler.set_timesteps).parameters
    if not takes_sigmas and sigmas is not None:
        raise ValueError(f"{name} takes no sigmas; leave them out, or use another scheduler")
    try:
        if takes_sigmas:
            scheduler.set_timesteps(sigmas=np.asarray(uniform_sigmas(steps) if sigmas is None else sigmas), device=device)
        else:
            scheduler.set_timesteps(steps, device=device)
    except Exception as error:  # every scheduler has errors of its own
        raise ValueError(f"{name} cannot set its steps ({' '.join(str(error).split())}): {USE}") from None
    _check_sigmas(scheduler, name, started, takes_sigmas)
    return scheduler.timesteps


def _check_noise(scheduler: Any, name: str, noise_scale: float) -> None:
    """Raise ValueError if the scheduler adds noise in its steps that the model does not expect."""
    config = scheduler.config
    stochastic = bool(config.get("stochastic_sampling"))
    if stochastic or any("LCM" in base.__name__ for base in type(scheduler).__mro__):
        shown = f"{name} with stochastic_sampling=True" if stochastic else name
        raise ValueError(f"{shown} adds noise again in each step, which is for distilled models and loses spread here; {USE}")
    kind = str(config.get("algorithm_type", ""))
    if kind.startswith("sde") and noise_scale != 1:
        raise ValueError(
            f"{name} with algorithm_type={kind!r} adds noise of scale 1 in each step, but the noise_scale of this model is "
            f"{noise_scale:g}; {USE}"
        )


def _check_sigmas(scheduler: Any, name: str, started: bool, once: bool) -> None:
    """Raise ValueError unless the scheduler's σ fall from 1, or from any σ with given starting points, to 0.

    once: whether each σ must stand once. The Heun scheduler repeats each σ, for the second evaluation of a step.
    """
    if not hasattr(scheduler, "sigmas"):
        raise ValueError(f"{name} has no sigmas; expected a scheduler for flow matching: {USE}")
    sigmas, times = (torch.as_tensor(found).double().cpu() for found in (scheduler.sigmas, scheduler.timesteps))
    if not len(times):
        raise ValueError(f"{name} has no steps; expected at least one of num_inference_steps, or of sigmas")
    if not (sigmas.diff() <= 0).all() or sigmas[0] > 1 + SMALL:
        listed = ", ".join(f"{sigma:.3g}" for sigma in sigmas[:3].tolist())
        raise ValueError(f"the σ of {name} are {listed}, … {sigmas[-1]:.3g}; expected σ that fall from 1 to 0: {USE}")
    if sigmas[-1].abs() > SMALL:
        raise ValueError(
            f"the last σ of {name} is {sigmas[-1]:.3g}; expected 0, because noise of this size would be left in the "
            f'samples: {USE}, or give the scheduler final_sigmas_type="zero" if it has this option'
        )
    if sigmas[0] < 1 - NEAR_ONE and not started:
        raise ValueError(
            f"the first σ of {name} is {sigmas[0]:.3g}; expected 1, because samples start from pure noise: {USE} and leave "
            "sigmas out, or give latents with this much noise"
        )
    if times.min() <= SMALL * TIMESTEPS:
        raise ValueError(
            f"a step of {name} begins at σ = 0, where nothing is left to do; leave the last 0 out of sigmas, or take fewer "
            "steps"
        )
    if once and (same := sigmas[:-1][sigmas.diff() == 0]).numel():
        raise ValueError(f"the σ of {name} contain {same[0]:.6g} twice; expected sigmas that fall, each value once")
    if (times / TIMESTEPS - sigmas[: len(times)]).abs().max() > ROUNDED:
        raise ValueError(f"the timesteps of {name} are not {TIMESTEPS} σ, so the model would get wrong times: {USE}")
