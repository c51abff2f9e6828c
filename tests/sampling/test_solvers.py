"""What holds for every solver: its order, its evaluations, none at t = 1, and the same result for every target and batch."""

from __future__ import annotations

import math

import pytest
import torch

from kdiff import GeneralTarget, VariancePreservingPath, draw_noise
from kdiff.config.parts import parse
from kdiff.config.sampling import Sampling
from kdiff.sampling import SOLVERS, EulerMaruyama, check_times, find_solver, karras_times, shifted_times
from kdiff.sampling.runge_kutta import heun
from kdiff.targets import LearnedKOfTime

ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4, "ab2": 2, "ab3": 3, "ab4": 4, "dpmpp_2m": 2}
FIXED = [*ORDERS, "sde"]
# For N steps from 0 to 1: the step to t = 1 costs heun 1 and rk4 3; ab3 and ab4 start with 2 steps of 2 and 3 of 3.
EVALUATIONS = {
    "euler": lambda n: n,
    "heun": lambda n: 2 * n - 1,
    "midpoint": lambda n: 2 * n,
    "rk4": lambda n: 4 * n - 1,
    "ab2": lambda n: n,
    "ab3": lambda n: n + 2,
    "ab4": lambda n: n + 6,
    "dpmpp_2m": lambda n: n,
    "sde": lambda n: n,
}


def slope(name, velocity, exact, start, end, steps, path=None):
    """How fast the error falls: log₂ of its ratio from each number of steps to twice as many, on average over `steps`."""
    errors = []
    for number in (steps[0], steps[-1]):
        times = torch.linspace(start, end, number + 1, dtype=torch.float64)
        found = find_solver(name, path=path)(velocity, exact(start), times)
        errors.append((found - exact(end)).abs().max().item())
    return math.log2(errors[0] / errors[1]) / math.log2(steps[-1] / steps[0])


def order_of(name, start, end):
    """Walks that start at t = 1 are of order 3 at most, for their first step."""
    return min(ORDERS[name], 3) if start == 1 else ORDERS[name]


def test_the_lists_here_are_of_all_solvers():
    assert SOLVERS.keys() == {*FIXED, "dopri5"}
    assert all(name in (Sampling.__doc__ or "") for name in SOLVERS)
    assert EVALUATIONS.keys() == set(FIXED)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.1, 0.9), (0.9, 0.1), (1.0, 0.0)])
@pytest.mark.parametrize("name", ORDERS)
def test_error_falls_with_the_order_of_the_solver(name, start, end):
    """dz/dt = −(1 + 2t) z², solved by 1/(1 + t + t²)."""

    def exact(t):
        return 1 / (1 + t + torch.tensor([t], dtype=torch.float64) ** 2)

    found = slope(name, lambda z, t: -(1 + 2 * t) * z * z, exact, start, end, (256, 512))
    expected = order_of(name, start, end)
    if name == "dpmpp_2m" and (start, end) in ((0.0, 1.0), (1.0, 0.0)):
        # At both ends its steps in log-SNR stay long however many there are, and the sum over them grows like log N: N⁻² log N.
        assert found == pytest.approx(2 - 1 / math.log(512), abs=0.15)
    else:
        assert found == pytest.approx(expected, abs=0.12)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("path", [None, VariancePreservingPath()], ids=repr)
@pytest.mark.parametrize("name", ORDERS)
def test_the_flow_of_gaussian_data_is_followed_with_at_least_that_order(name, path, start, end, gaussian):
    flow = gaussian(path)
    noise = draw_noise(3, (4,)).double()
    found = slope(name, flow, lambda t: flow.exact(noise, 0, t), start, end, (400, 1600), flow.path)
    assert found > order_of(name, start, end) - 0.4


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_evaluations_are_those_promised_and_never_at_the_singular_end(name, steps, gaussian):
    flow = gaussian()
    z = draw_noise(2, (4,)).double()
    find_solver(name)(flow, z, torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    promised = EVALUATIONS[name](steps)
    if name in ("ab3", "ab4") and steps < 3:  # still starting
        promised = steps * {"ab3": 2, "ab4": 3}[name]
    assert len(flow.calls) == promised
    assert min(flow.calls) == 0
    assert max(flow.calls) < 1
    if name != "sde":
        flow.calls.clear()
        find_solver(name)(flow, z, torch.linspace(1, 0, steps + 1, dtype=torch.float64))
        assert min(flow.calls) >= 0
        assert max(flow.calls) < 1


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.3, 1.0], [0.1, 0.15, 0.7, 0.9, 1.0]], ids=str)
def test_data_at_a_point_are_reached_on_any_grid(name, times):
    """v = (x − z)/(1 − t), without a clamp: what every perfect network says in a direction in which the data do not vary."""
    x = torch.tensor([0.3, -1.2], dtype=torch.float64)
    times = torch.tensor(times, dtype=torch.float64)
    z = draw_noise(4, (2,)).double()
    result = find_solver(name)(lambda z, t: (x - z) / (1 - t), z, times)
    torch.testing.assert_close(result, x.expand(4, 2), atol=1e-4 if name == "dopri5" else 1e-12, rtol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_callback_sees_the_start_and_every_step(name, gaussian):
    flow, seen = gaussian(), []
    z, times = draw_noise(2, (4,)).double(), shifted_times(7, 0.5).double()
    result = find_solver(name)(flow, z, times, lambda step, t, z: seen.append((step, t.item(), z)))
    assert [step for step, _, _ in seen] == list(range(len(seen)))
    assert [t for _, t, _ in seen if t != pytest.approx(0.999)] == times.tolist()
    assert len(seen) == 8 + (name == "dopri5")
    assert torch.equal(seen[0][2], z)
    assert torch.equal(seen[-1][2], result)
    if name != "sde":
        assert all((state - flow.exact(z, 0, t)).abs().max() < 0.5 for _, t, state in seen)


@pytest.mark.parametrize("name", [*ORDERS, "dopri5"])
@pytest.mark.parametrize("target", ["noise", 0.3, "data", GeneralTarget(1, 1), LearnedKOfTime()], ids=str)
def test_every_target_gives_the_same_samples(name, target, exact_model):
    """Exact networks for different targets are one velocity; k = 0 is singular at t = 0 and so starts a little later."""
    times = karras_times(30).double() if target != "noise" else torch.linspace(0.01, 1, 31, dtype=torch.float64)
    noise = draw_noise(3, (4,)).double()
    found, usual = (
        exact_model(which).sample(noise, solver=name, times=times, min_denominator=0.0) for which in (target, "velocity")
    )
    torch.testing.assert_close(found, usual, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [*FIXED, "dopri5"])
def test_samples_do_not_depend_on_the_batch(name, exact_model):
    model = exact_model(0.7)
    noise = draw_noise(7, (4,)).double()
    whole = model.sample(noise, solver=name, steps=6, seed=3)
    cuts = (slice(2), slice(2, 7))
    parts = [model.sample(noise[cut], solver=name, steps=6, indices=range(7)[cut], seed=3) for cut in cuts]
    # The steps of dopri5 are those of the worst sample, and so agree to within its tolerance.
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-3 if name == "dopri5" else 0, rtol=0)


def test_a_name_may_have_options_and_a_function_is_used_as_it_is(gaussian):
    assert find_solver("sde(diffusion=constant, norm=0.5)") == EulerMaruyama("constant", 0.5)
    assert find_solver("dopri5(1e-6)").rtol == 1e-6
    assert find_solver(heun) is heun
    assert find_solver("heun") is heun


MODULE = """
from kdiff.sampling import euler

def own(velocity, z, times, callback=None):
    return euler(velocity, z, times, callback)

class Damped:
    def __init__(self, damp: float = 1.0, path=None):
        self.damp, self.path = damp, path

    def __call__(self, velocity, z, times, callback=None):
        return euler(lambda z, t: self.damp * velocity(z, t), z, times, callback)

class Nothing:
    pass
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "kdiff_test_solvers.py").write_text(MODULE)
    return "kdiff_test_solvers"


def test_a_solver_of_ones_own_is_found_by_its_class_path(module):
    z, times = torch.randn(3, 2), torch.linspace(0, 1, 5)
    wanted = {"own": 1.0, "Damped": 1.0, "Damped(damp=0.5)": 0.5, "Damped(0.5)": 0.5}
    for name, damp in wanted.items():
        for solver in (f"{module}.{name}", parse(f"{module}.{name}")):
            found = find_solver(solver)(lambda z, t: -z, z, times)
            torch.testing.assert_close(found, z * (1 - damp / 4) ** 4)
    path = VariancePreservingPath()
    assert find_solver(f"{module}.Damped", path=path, seed=3).path is path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own(3)", "is a function that takes none; leave them out"),
        ("Damped(dam=1)", "did you mean damp.*its options are damp$"),
        ("Damped(damp=much)", "damp of kdiff_test_solvers.Damped is 'much'; expected a number"),
        ("Damped(path=linear)", "path cannot be set by text"),
        ("Nothing", "makes a Nothing; expected a function of velocity, z, times and callback"),
    ],
)
def test_mistakes_in_a_class_path_are_refused(module, name, message):
    with pytest.raises(ValueError, match=message):
        find_solver(f"{module}.{name}")


def test_what_the_caller_knows_fills_only_what_is_not_set():
    path = VariancePreservingPath()
    assert find_solver("sde", seed=4, path=path) == EulerMaruyama(seed=4, path=path)
    assert find_solver("sde(seed=2)", seed=4).seed == 2
    assert find_solver(EulerMaruyama(seed=0), seed=4).seed == 0
    assert find_solver("rk4", seed=4, path=path) is SOLVERS["rk4"]()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rk45", "no solver is called 'rk45'.* Known: euler, heun"),
        ("heun(order=3)", "heun has no option order; it takes none"),
        ("dopri5(1, 2, 3, 4, 5)", "too many positional arguments; its options are rtol, atol, last"),
        ("dopri5(rtoll=1)", "did you mean rtol.*its options are rtol, atol, last"),
        ("dopri5(rtol=0)", "expected positive tolerances"),
        ("dopri5(last=0)", "last between 0 and 1"),
        ("ab2(order=5)", "gives order twice: the name 'ab2' already sets it"),
        ("sde(diffusion=wild)", "no diffusion is called 'wild'; expected one of constant, sigma"),
        ("sde(norm=-1)", "norm is -1"),
        ("dopri5(", "did you mean 'dopri5'"),
        ("a.b()", "cannot import"),
        ("sde(**x)", "cannot read"),
        ("sde(norm=1+1)", "cannot read"),
    ],
)
def test_mistakes_in_a_name_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        find_solver(text)


def test_float32_times_serve_float64_samples(gaussian):
    z = draw_noise(2, (4,)).double()
    for name in FIXED:
        assert find_solver(name)(gaussian(), z, check_times([0, 0.5, 1])).dtype == torch.float64
