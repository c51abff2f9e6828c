"""Time grids: their formulas by another route, and their names."""

from __future__ import annotations

import pytest
import torch

from kdiff.config.parts import parse
from kdiff.sampling import check_times, find_times, karras_times, shifted_times, uniform_times
from kdiff.sampling.times import TIMES


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("make", [uniform_times, lambda n: shifted_times(n, 0.1), lambda n: shifted_times(n, 9), karras_times])
def test_grids_run_from_0_to_1_in_that_many_steps(make, steps):
    times = check_times(make(steps))
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (0, 1)
    assert times.dtype == torch.float32


def test_a_shift_moves_the_log_snr_and_its_inverse_undoes_it():
    for shift in (0.3, 1.0, 3.0):
        t, shifted = uniform_times(20)[1:-1], shifted_times(20, shift)[1:-1]
        moved = torch.logit(shifted.double()) - torch.logit(t.double())
        torch.testing.assert_close(moved, torch.full_like(moved, shift).log(), atol=2e-6, rtol=0)
    assert torch.equal(shifted_times(20, 1.0), uniform_times(20))
    assert shifted_times(20, 0.3)[10] < 0.5 < shifted_times(20, 3.0)[10]


def test_the_shift_is_stable_diffusion_3s_with_the_inverse_factor():
    """Their time is τ = 1 − t, and their shift a τ/(1 + (a − 1) τ)."""
    tau, a = 1 - uniform_times(20).double(), 1 / 0.3
    torch.testing.assert_close(shifted_times(20, 0.3).double(), 1 - a * tau / (1 + (a - 1) * tau), atol=1e-7, rtol=0)


def test_karras_is_even_in_a_root_of_the_noise_to_signal_ratio():
    for rho in (1.0, 3.0, 7.0):
        times = karras_times(10, rho, sigma_min=0.01, sigma_max=50.0)[1:-1].double()
        roots = ((1 - times) / times) ** (1 / rho)
        torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(8), rtol=1e-4, atol=1e-5)
        assert (1 / times[-1] - 1).item() == pytest.approx(0.01, rel=1e-4)
        # σ_max itself is where the first step starts, for which pure noise stands.
        assert (roots[0] - roots.diff().mean()).item() == pytest.approx(50 ** (1 / rho), rel=1e-4)


MODULE = """
import torch

def power(steps, exponent=2):
    return torch.linspace(0, 1, steps + 1) ** exponent
"""


def test_a_function_of_steps_is_a_grid_by_its_class_path(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "kdiff_test_times.py").write_text(MODULE)
    t = uniform_times(5)
    for times, exponent in (("kdiff_test_times.power", 2), ("kdiff_test_times.power(3)", 3)):
        assert torch.equal(find_times(times, 5), t**exponent)
        assert torch.equal(find_times(parse(times), 5), t**exponent)
    with pytest.raises(ValueError, match="has no option power; its options are exponent"):
        find_times("kdiff_test_times.power(power=3)", 5)


def test_names_and_lists_are_found():
    assert torch.equal(find_times(None, 5), uniform_times(5))
    assert torch.equal(find_times("uniform", 5), uniform_times(5))
    assert torch.equal(find_times("shifted(0.3)", 5), shifted_times(5, 0.3))
    assert torch.equal(find_times("shifted(shift=0.3)", 5), shifted_times(5, 0.3))
    assert torch.equal(find_times("karras", 5), karras_times(5))
    assert torch.equal(find_times("karras(rho=3, sigma_max=10)", 5), karras_times(5, rho=3, sigma_max=10))
    for listed in ("[0, 0.25, 1]", parse("[0, 0.25, 1]"), [0, 0.25, 1], torch.tensor([0, 0.25, 1])):
        assert find_times(listed, 5).tolist() == [0, 0.25, 1]
    assert {"uniform", "shifted", "karras"} == TIMES.keys()


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ("cosine", "no grid of times is called 'cosine'.* Known: uniform, shifted, karras; or a list"),
        ("shifted", "shifted needs a value for shift"),
        ("shifted(0.3, 2)", "too many positional arguments; its options are shift"),
        ("shifted(steps=3, shift=1)", "shifted has no option steps; its options are shift"),
        ("uniform(2)", "too many positional arguments; it takes none"),
        ("karras(power=2)", "its options are rho, sigma_min, sigma_max"),
        ("shifted(0)", "shift is 0"),
        ("karras(rho=-1)", "rho is -1"),
        ("[0, 1", "cannot read the times"),
        ("[0, 'a']", "cannot read the times"),
        ("[0, 0.5, 0.2]", "strictly monotonic"),
        ("[0, 2]", r"times = 0 … 2; expected times in \[0, 1\]"),
        ("shifted[0.3]", "no grid of times is called"),
    ],
)
def test_mistakes_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        find_times(times, 5)


def test_one_rounding_beyond_1_is_1_and_more_is_told_with_its_digits():
    beyond = 1 + 2.0**-23
    assert check_times([0.0, 0.5, beyond]).tolist() == [0.0, 0.5, 1.0]
    assert check_times(torch.tensor([beyond, 0.25, -(2.0**-24)])).tolist() == [1.0, 0.25, 0.0]
    summed = [torch.zeros(())]
    for _ in range(10):
        summed.append(summed[-1] + 0.1)
    assert summed[-1] > 1  # 1.0000001
    assert check_times(torch.stack(summed))[-1] == 1
    with pytest.raises(ValueError, match=r"times = 0 … 1\.00000024; expected times in \[0, 1\]"):
        check_times(torch.tensor([0.0, 1 + 2.0**-22]))
    with pytest.raises(ValueError, match="times = nan"):
        check_times([0.0, torch.nan, 1.0])
