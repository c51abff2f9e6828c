"""DPM-Solver++(2M): exact for a constant data prediction, Euler in its first order, and the numbers of diffusers."""

from __future__ import annotations

import pytest
import torch

from kdiff import LinearPath, VariancePreservingPath, draw_noise
from kdiff.sampling import DataMultistep, euler, shifted_times


@pytest.mark.parametrize("path", [LinearPath(), VariancePreservingPath()], ids=repr)
@pytest.mark.parametrize("times", [[0.0, 0.9], [0.2, 0.25, 0.8], [0.0, 0.5, 1.0], [0.8, 0.3, 0.0]], ids=str)
def test_exact_for_a_constant_data_prediction_however_long_the_steps(path, times):
    x, n = draw_noise(2, (3,), seed=1).double(), draw_noise(2, (3,)).double()
    times = torch.tensor(times, dtype=torch.float64)

    def velocity(z, t):
        return path.interpolate(x, (z - path.alpha(t) * x) / path.sigma(t), t)[1]

    found = DataMultistep(path)(velocity, path.mix(x, n, times[0]), times)
    torch.testing.assert_close(found, path.mix(x, n, times[-1]), atol=1e-12, rtol=0)


def test_the_step_after_noise_alone_is_eulers_and_the_last_returns_the_data_prediction(gaussian):
    flow, z = gaussian(), draw_noise(2, (4,)).double()
    for times in ([0.0, 0.1], [0.0, 0.1, 0.25]):
        times = torch.tensor(times, dtype=torch.float64)
        torch.testing.assert_close(DataMultistep()(flow, z, times), euler(flow, z, times), atol=1e-14, rtol=0)
    states = []
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    result = DataMultistep()(flow, z, times, lambda step, t, z: states.append(z))
    torch.testing.assert_close(result, flow.denoised(states[-2], times[-2])[0], atol=1e-14, rtol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_the_numbers_are_those_of_diffusers(shift, gaussian):
    diffusers = pytest.importorskip("diffusers", reason="pip install 'kdiff[latent]' for the comparison with diffusers")
    flow, steps = gaussian(), 12

    def velocity(z, t):
        return flow(z, t) + 0.3 * torch.sin(3 * z)

    times, z = shifted_times(steps, shift), draw_noise(4, (4,)).double()
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
    )
    scheduler.set_timesteps(steps)
    scheduler.sigmas = (1 - times).double()
    theirs = z
    for i, timestep in enumerate(scheduler.timesteps):
        theirs = scheduler.step(-velocity(theirs, times[i].double()), timestep, theirs).prev_sample
    ours = DataMultistep()(velocity, z, times.double())
    # They step in float32.
    torch.testing.assert_close(ours, theirs.double(), atol=5e-6, rtol=0)
