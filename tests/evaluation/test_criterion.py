"""The cheap quantities of a model: closed forms of linear denoisers, what an exact network has none of, and common noise."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.linalg import hadamard
from torch import Tensor, nn

from kdiff.data import load
from kdiff.evaluation import criterion
from kdiff.evaluation.criterion import INTERVALS, Probe, Spectrum, criterion_noise, criterion_times, spectrum
from kdiff.model import KDiff
from kdiff.networks import MLP
from kdiff.path import GaussianPath, LinearPath, VariancePreservingPath
from kdiff.targets import FixedK, LearnedK, Target

VARIANCES = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
BASIS = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
PATHS = [LinearPath(), VariancePreservingPath()]


class LinearDenoiser(nn.Module):
    """x̂_i = f_i c_i(t) z_i along the columns of BASIS, where c is the best coefficient; f = 1 is exact for Gaussian data."""

    def __init__(self, target: Target, path: GaussianPath, factors: Tensor) -> None:
        super().__init__()
        self.target_of = [target]  # in a list, so that its parameters stay those of the model
        self.path, self.factors = path, factors

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.path.alpha(t[:1]), self.path.sigma(t[:1])
        best = VARIANCES * alpha / (VARIANCES * alpha**2 + sigma**2)
        x_hat = z @ BASIS * (self.factors * best) @ BASIS.T
        return self.target_of[0].encode(x_hat, (z - alpha * x_hat) / sigma, t)


def model(factors: Tensor, k: float | str = 0.7, path: GaussianPath | None = None) -> KDiff:
    path = path or LinearPath()
    target = FixedK(k)
    return KDiff(LinearDenoiser(target, path, factors), target, path).double().eval()


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    """Rows and noise whose second moments are exactly those of their law: columns of a Hadamard matrix."""
    columns = torch.from_numpy(hadamard(8)).double()
    monkeypatch.setattr(criterion, "criterion_noise", lambda rows, time, shape, seed: columns[:, 4:7] @ BASIS.T)
    x = columns[:, 1:4] * VARIANCES.sqrt() @ BASIS.T
    return Probe(x, None, Spectrum(torch.zeros(3).double(), BASIS, VARIANCES))


def expected(factors: Tensor, k: float, path: GaussianPath) -> dict[str, float]:
    """The quantities by hand: x̂ = c z leaves e = (c α − 1) x + c σ n."""
    t = criterion_times()[:, None]
    alpha, sigma, det = path.alpha(t), path.sigma(t), torch.as_tensor(path.determinant(t))
    c = factors * VARIANCES * alpha / (VARIANCES * alpha**2 + sigma**2)
    ee = (c * alpha - 1) ** 2 * VARIANCES + c**2 * sigma**2
    n_hat = (1 - alpha * c) / sigma  # times z
    z_z, e_z = alpha**2 * VARIANCES + sigma**2, (c * alpha - 1) * VARIANCES * alpha + c * sigma**2
    v = ee * (det / sigma) ** 2
    weak, late = slice(2, 3), t[:, 0] > 0.7  # 4 + 1 of 5.25 are over 95 %
    den = alpha * (1 - k) + sigma * k
    gain = (e_z * c) ** 2 / (c**2 * z_z)  # every direction is a band
    return {
        "v_error": v.mean(),
        "u_error": (v * (den / det) ** 2).mean(),
        "x_error": ee.mean(),
        "log_error": v.mean(1).log().mean(),
        "snr_error": (v.mean(1) * (alpha / sigma / det)[:, 0]).mean(),
        "v_error_leading": v[:, :2].sum() / 3 / INTERVALS,
        "v_error_weak": v[:, weak].sum() / 3 / INTERVALS,
        "band_error": ee.log().mean(),
        "x_error_late": ee[late].mean(),
        "noise_left": (c * sigma)[:, weak].mean(),
        "noise_left_late": (c * sigma)[late][:, weak].mean(),
        "noise_excess": ((n_hat * e_z)[:, weak].sum(1) / (n_hat**2 * z_z)[:, weak].sum(1)).square().mean().sqrt(),
        "gain_left": (gain * (det / sigma) ** 2).sum() / v.sum(),
    }


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("factors", [(1.0, 1.0, 1.0), (0.9, 1.0, 1.4), (1.1, 0.8, 0.5)])
def test_closed_forms_of_linear_denoisers(probe: Probe, path: GaussianPath, factors: tuple[float, ...]) -> None:
    f = torch.tensor(factors, dtype=torch.float64)
    found = probe.errors(model(f, 0.7, path))
    wanted = {name: float(value) for name, value in expected(f, 0.7, path).items()}
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-7)


def test_an_exact_network_has_no_noise_and_no_gain_to_take_out(probe: Probe) -> None:
    exact = probe.errors(model(torch.ones(3).double()))
    assert exact["noise_excess"] == pytest.approx(0, abs=1e-6)
    assert exact["gain_left"] == pytest.approx(0, abs=1e-6)
    assert exact["noise_left"] > 0.05, "an exact network leaves noise too"
    worse = probe.errors(model(torch.tensor([1, 1, 1.5]).double()))
    for name in ("noise_excess", "gain_left", "noise_left", "v_error", "v_error_weak", "log_error", "band_error"):
        assert worse[name] > exact[name] + 0.001, name
    assert worse["v_error_leading"] == pytest.approx(exact["v_error_leading"])


def test_only_the_error_of_u_depends_on_the_target_of_an_exact_network(probe: Probe) -> None:
    """The same denoiser in another form has the same v̂. Its error of û has other units."""
    half, most = (probe.errors(model(torch.full((3,), 1.2).double(), k)) for k in (0.5, 0.9))
    assert half.pop("u_error") != pytest.approx(most.pop("u_error"), rel=0.05)
    assert half == pytest.approx(most, rel=1e-6)


def test_a_gain_takes_out_what_gain_left_says(probe: Probe) -> None:
    """A factor for each direction is what a gain removes, so the rest is the error of the exact denoiser."""
    factors = torch.tensor([0.9, 1.2, 1.5]).double()
    with_factors, exact = probe.errors(model(factors)), probe.errors(model(torch.ones(3).double()))
    assert with_factors["v_error"] * (1 - with_factors["gain_left"]) == pytest.approx(exact["v_error"], rel=1e-5)


class Shifted(nn.Module):
    """A denoiser of data that are shifted by m: the data prediction of another denoiser (k = 1) at z − α m, plus m."""

    def __init__(self, denoiser: nn.Module, mean: Tensor) -> None:
        super().__init__()
        self.denoiser, self.mean = denoiser, mean

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.mean + self.denoiser(z - t[:, None] * self.mean, t)


def test_the_mean_of_the_data_changes_nothing(probe: Probe) -> None:
    before = model(torch.tensor([0.9, 1.2, 1.5]).double(), 1.0)
    wanted, mean = probe.errors(before), torch.tensor([3.0, -1.0, 2.0]).double()
    moved = Probe(probe.x + mean, None, Spectrum(mean, probe.spectrum.directions, probe.spectrum.variances))
    assert moved.errors(KDiff(Shifted(before.network, mean), 1.0).double().eval()) == pytest.approx(wanted, rel=1e-5)


def test_the_noise_has_the_scale_of_the_model(probe: Probe) -> None:
    """Twice the data in twice the noise give a linear network twice the error."""

    class Halving(nn.Module):
        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            return z / 2

    single = probe.errors(KDiff(Halving(), 0.8).eval())
    probe.x = 2 * probe.x
    double = probe.errors(KDiff(Halving(), 0.8, noise_scale=2.0).eval())
    assert double["v_error"] == pytest.approx(4 * single["v_error"])
    assert double["noise_left"] == pytest.approx(single["noise_left"])


def test_directions_that_training_rows_lack_are_one_band_and_weak(probe: Probe) -> None:
    """Two directions of three are known; the third is what is left. All sums over weak directions stay the same."""
    factors = torch.tensor([1.1, 0.8, 1.5]).double()
    whole = probe.errors(model(factors))
    known = probe.spectrum
    probe.spectrum = Spectrum(known.mean, known.directions[:, :2], known.variances[:2] * torch.tensor([1, 1]).double())
    assert probe.spectrum.leading == 2
    assert probe.errors(model(factors)) == pytest.approx(whole, rel=1e-5)


def test_the_spectrum_of_few_wide_rows_is_that_of_their_covariance() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 3) * torch.tensor([3.0, 1.0, 0.2])
    wide = torch.zeros(40, 2, 60)
    wide[:, 1, 5:8] = x + 2
    narrow, found = spectrum(x + 2), spectrum(wide)
    assert found.variances == pytest.approx(narrow.variances, rel=1e-5)
    assert found.directions.shape == (120, 3)
    assert found.directions.T @ found.directions == pytest.approx(torch.eye(3), abs=1e-5)
    assert found.mean[65:68].tolist() == pytest.approx(narrow.mean.tolist(), rel=1e-5)
    assert found.bands.tolist() == [0, 1, 2]


def test_bands_double() -> None:
    many = Spectrum(torch.zeros(20), torch.eye(20), torch.ones(20))
    assert many.bands.bincount().tolist() == [1, 1, 2, 4, 8, 4]
    assert many.leading == 19


def test_noise_differs_between_rows_times_and_seeds_and_is_else_the_same() -> None:
    first = criterion_noise(4, 0, (5,))
    assert first.equal(criterion_noise(4, 0, (5,)))
    others = [criterion_noise(4, 1, (5,)), criterion_noise(4, 0, (5,), seed=1), first.flip(0)]
    assert not any((first == other).any() for other in others)


def test_the_probe_of_a_data_set_measures_any_model_and_prefers_data() -> None:
    dataset = load("sphere", num_samples=600, ambient_dim=6)
    probe = Probe.of(dataset, rows=64)
    assert len(probe.x) == 64
    torch.manual_seed(0)
    network = KDiff(MLP((6,), width=8, depth=1), LearnedK()).eval()
    found = probe.measure(network)
    assert found == probe.measure(network)
    assert all(map(math.isfinite, found.values()))
    x, noise = dataset.part("train")[0], torch.randn(500, 6)
    assert probe.distance is not None
    assert probe.distance(x) < 0.5 * probe.distance(noise)


def test_labels_reach_the_network_and_samples_of_a_broken_network_are_infinitely_far() -> None:
    seen: list[Tensor] = []

    class Broken(nn.Module):
        def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
            seen.append(y)
            return z * (math.nan if len(z) == criterion.SAMPLES // 2 else 1)

    probe = Probe(
        torch.randn(3, 2), torch.tensor([0, 1, 1]), Spectrum(torch.zeros(2), torch.eye(2), torch.ones(2)), lambda x: 1.0
    )
    with pytest.warns(UserWarning, match="not finite"):
        found = probe.measure(KDiff(Broken(), 0.5).eval(), [1, 2])
    assert seen[0].tolist() == [0, 1, 1]
    assert found["sliced"] == math.inf
    assert "noise_left" not in found, "both directions hold variance"
