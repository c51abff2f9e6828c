"""Power spectra: Parseval's identity, closed forms, invariances; a wrong sampler is farther away than the floor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kdiff.evaluation.spectrum import edge_steps, power_spectrum, spectrum_distance, window_for


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(x: Tensor, by: float = 0.1) -> Tensor:
    """Periodic fields of two axes, with the power of white noise times exp(−|f|² / by²)."""
    along = [torch.fft.fftfreq(size) for size in x.shape[2:]]
    square = along[0][:, None] ** 2 + along[1] ** 2
    return torch.fft.ifft2(torch.fft.fft2(x) * torch.exp(-square / by**2 / 2)).real


@pytest.mark.parametrize("shape", [(2, 24, 24), (1, 33), (3, 8, 12, 10), (2, 1, 16), (1, 5, 64), (2, 4)])
def test_the_sum_of_the_spectrum_is_the_variance(shape) -> None:
    x = 3 * noise(20, *shape) + torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) * 100
    found = power_spectrum(x)
    variance = x.double().transpose(0, 1).flatten(1).var(dim=1, correction=0)
    torch.testing.assert_close(found.power.sum(dim=1), variance, rtol=1e-9, atol=0)
    assert found.modes.sum() == math.prod(shape[1:])
    assert found.modes[0] == 1
    assert (found.modes > 0).all()
    assert (found.frequency.diff() > 0).all()
    # Bin 0 is the variance of the means of the samples.
    means = x.double().flatten(2).mean(dim=2)
    torch.testing.assert_close(found.power[:, 0], (means - means.mean(dim=0)).square().mean(dim=0))


def test_with_a_window_the_sum_is_the_windowed_variance() -> None:
    x = noise(5, 2, 16, 12)
    across, along = (np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2 for size in (16, 12))
    weight = np.outer(across, along)
    weight = torch.from_numpy(weight / np.sqrt((weight**2).mean()))
    centred = x.double() - x.double().mean(dim=(0, 2, 3), keepdim=True)
    expected = (centred * weight).square().mean(dim=(0, 2, 3))
    torch.testing.assert_close(power_spectrum(x, "hann").power.sum(dim=1), expected)


@pytest.mark.parametrize("wave", [(3, 0), (0, 5), (3, 4), (-3, 4)])
def test_a_wave_is_in_the_bin_of_its_frequency(wave) -> None:
    """cos(2π k·r / n) has the variance ½, all of it at |f| = |k| / n."""
    size = 16
    grid = torch.arange(size) / size
    phase = wave[0] * grid[:, None] + wave[1] * grid + torch.arange(4)[:, None, None] / 4
    found = power_spectrum(2 * torch.cos(2 * math.pi * phase)[:, None])
    place = int(found.power[0].argmax())
    assert found.power[0, place] == pytest.approx(2)
    assert found.power[0].sum() == pytest.approx(2)
    assert found.frequency[place] == pytest.approx(math.hypot(*wave) / size, abs=0.5 / size)


def test_white_noise_has_the_same_power_in_every_mode() -> None:
    found = power_spectrum(2 * noise(400, 1, 20, 20))
    assert found.power.sum() == pytest.approx(4, rel=0.01)
    spread = (found.density[0] * 400 / 4 - 1) / (2 / (400 * found.modes)).sqrt()  # in standard errors
    assert spread.abs().max() < 4


@pytest.mark.parametrize("window", ["none", "hann"])
def test_units_shifts_and_turns_change_nothing(window) -> None:
    a, b = smooth(noise(60, 2, 16, 16)), noise(60, 2, 16, 16, seed=1)
    plain = spectrum_distance(power_spectrum(a, window), power_spectrum(b, window))
    assert plain.value > 0.5
    for change in (lambda x: 1000 * x, lambda x: x + 5, lambda x: x.flip(3), lambda x: x.transpose(2, 3)):
        moved = spectrum_distance(power_spectrum(change(a), window), power_spectrum(change(b), window))
        assert moved.value == pytest.approx(plain.value, rel=1e-3)
    swapped = spectrum_distance(power_spectrum(b, window), power_spectrum(a, window))
    assert swapped.value == pytest.approx(plain.value, rel=0.1)  # other bins may lie within rounding
    rolled = power_spectrum(a.roll(5, dims=2))
    torch.testing.assert_close(rolled.power, power_spectrum(a).power)


def test_the_distance_of_a_set_from_itself_is_0_and_of_another_set_what_chance_gives() -> None:
    a, b = (power_spectrum(noise(300, 1, 24, 24, seed=seed)) for seed in (0, 1))
    assert spectrum_distance(a, a).value == 0
    found = spectrum_distance(a, b)
    used = a.usable()[0]
    expected = np.mean([math.sqrt(4 / math.pi * 2 / (modes * 300)) for modes in a.modes[used].tolist()])
    assert found.value == pytest.approx(expected, rel=0.6)
    assert (found.used, found.bins) == (12, len(a.modes))


def test_a_factor_in_power_is_its_logarithm_and_wrong_samplers_are_ranked() -> None:
    data, same = smooth(noise(200, 1, 20, 20)), smooth(noise(200, 1, 20, 20, seed=1))
    held = power_spectrum(data)
    scaled = power_spectrum(data * math.sqrt(1.5))
    assert spectrum_distance(scaled, held).value == pytest.approx(math.log(1.5), rel=1e-3)
    floor = spectrum_distance(power_spectrum(same), held).value
    blurred = spectrum_distance(power_spectrum(smooth(same, 0.3)), held).value
    noisy = spectrum_distance(power_spectrum(same + 0.03 * noise(200, 1, 20, 20, seed=2)), held).value
    shuffled = spectrum_distance(power_spectrum(same.flatten(2)[..., torch.randperm(400)].reshape(same.shape)), held).value
    assert floor < 0.15 < 0.5 * blurred
    assert 2 * floor < noisy < shuffled


def test_bins_of_few_values_of_corners_and_within_rounding_are_left_out() -> None:
    few = power_spectrum(noise(3, 1, 24, 24))
    usable = few.usable()[0]
    assert not usable[0]
    assert not usable[few.frequency > 0.5].any()
    assert torch.equal(usable[1:12], 3 * few.modes[1:12] >= 30)
    assert usable.any()
    # A constant with rounding errors has waves of power 1e-15, and the data one of power ½.
    wave = torch.cos(2 * math.pi * 3 * torch.arange(32) / 32)[None, None] * (1 + 0.1 * noise(40, 1, 1))
    usable = power_spectrum(wave).usable()[0]
    assert usable.nonzero().flatten().tolist() == [3]
    # A sampler that leaves the channel constant is infinitely far away, but the number is finite.
    still = spectrum_distance(power_spectrum(torch.zeros(40, 1, 32)), power_spectrum(wave))
    assert 100 < still.value < math.inf


def test_the_edges_show_what_is_periodic() -> None:
    periodic, whole = smooth(noise(50, 2, 32, 32)), smooth(noise(50, 2, 64, 64), 0.05)
    assert max(edge_steps(periodic)) < 1.3
    assert window_for(periodic) == "none"
    assert min(edge_steps(whole[:, :, :32, :32])) > 5
    assert window_for(whole[:, :, :32, :32]) == "hann"
    across, along = edge_steps(whole[:, :, :32])
    assert across > 5
    assert along < 1.3
    assert edge_steps(torch.zeros(3, 1, 8)) == [1.0]
    assert edge_steps(torch.ones(3, 1, 1, 8)) == [1.0, 1.0]


def test_the_window_keeps_the_power_beyond_the_edges_out() -> None:
    """Non-periodic smooth fields: without a window, the step at the edge hides what a sampler does at high frequencies."""
    data = smooth(noise(100, 1, 64, 64), 0.04)[:, :, :32, :32]
    other = data + 0.002 * noise(100, 1, 32, 32, seed=3)
    found = {w: spectrum_distance(power_spectrum(other, w), power_spectrum(data, w)).value for w in ("none", "hann")}
    assert found["hann"] > 5 * found["none"]


def test_what_has_no_spectrum_is_refused() -> None:
    for shape in [(2, 3), (2,), (1, 8, 3), (1, 4, 4, 4, 4), (1, 1, 1)]:
        with pytest.raises(ValueError, match=r"have no spectrum; expected \(C, L\)"):
            power_spectrum(torch.zeros(5, *shape))
    with pytest.raises(ValueError, match="no samples"):
        power_spectrum(torch.zeros(0, 1, 8))
    with pytest.raises(ValueError, match="not finite"):
        power_spectrum(torch.full((2, 1, 8), math.nan))
    with pytest.raises(ValueError, match="window is 'flat'"):
        power_spectrum(torch.zeros(2, 1, 8), "flat")  # type: ignore[arg-type]
    one = power_spectrum(noise(20, 1, 8))
    for other in (power_spectrum(noise(20, 2, 8)), power_spectrum(noise(20, 1, 9))):
        with pytest.raises(ValueError, match="expected the same grid and channels"):
            spectrum_distance(one, other)
    with pytest.raises(ValueError, match="windows none and hann"):
        spectrum_distance(one, power_spectrum(noise(20, 1, 8), "hann"))
    with pytest.raises(ValueError, match="no bin of the spectrum has 30 values"):
        spectrum_distance(power_spectrum(noise(2, 1, 8)), one)
