"""Two answers of one network: an exact network agrees with itself, the loss is the stated one, and runs work as any other's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdiff import KDiff, LinearPath, VariancePreservingPath
from kdiff.config.training import TrainConfig
from kdiff.evaluation.exact import ExactDenoiser
from kdiff.networks import MLP
from kdiff.path import GaussianPath
from kdiff.run.build import build_model
from kdiff.run.run import load_run
from kdiff.targets import SelfConsistent, find_target
from kdiff.targets.constant import is_constant, learned_from
from kdiff.training.objective import DiffusionObjective
from kdiff.training.trainer import train_run

PAIRS = [(1.0, 0.5), (0.5, 1.0), (1.0, 0.0), (0.8, 0.3), (0.0, 0.9)]
PATHS = [LinearPath(), VariancePreservingPath()]
VARIANCE = 0.3


class TwoAnswers(nn.Module):
    """E[u_i | z] of N(0, 0.3) data, by the question that the time shows; `off` adds an error of its own to each velocity."""

    def __init__(self, target: SelfConsistent, path: GaussianPath, off: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.questions, self.path = target.answers, path
        self.off = nn.Parameter(torch.tensor(off, dtype=torch.float64))
        self.shown: list[Tensor] = []

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.shown.append(t)
        late = bool((t >= 2).all())
        assert late or bool((t <= 1).all())
        time = (t - 2 * late)[:, None]
        alpha, sigma = self.path.alpha(time), self.path.sigma(time)
        total = alpha**2 * VARIANCE + sigma**2
        x_hat, n_hat = alpha * VARIANCE / total * z, sigma / total * z
        # v + o belongs to x + σ o/det and n − α o/det.
        shift = self.off[int(late)] / self.path.determinant(time)
        return self.questions[late].encode(x_hat + sigma * shift, n_hat - alpha * shift, time[:, 0])


def model(
    early: float, late: float, path: GaussianPath | None = None, off: tuple[float, float] = (0.0, 0.0), **options: Any
) -> KDiff:
    path, weighting = path or LinearPath(), options.pop("weighting", "none")
    target = SelfConsistent(early, late, **options)
    return KDiff(TwoAnswers(target, path, off), target, path, weighting=weighting).double()


def batch(size: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, times (both ends and the middle among them), and noise."""
    t = torch.cat([torch.tensor([0.0, 0.02, 0.5, 0.98, 1.0]), torch.rand(size - 5)]).double()
    return VARIANCE**0.5 * torch.randn(size, 3).double(), t, torch.randn(size, 3).double()


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize(("early", "late"), PAIRS)
def test_an_exact_network_agrees_with_itself_at_every_time(early: float, late: float, path: GaussianPath) -> None:
    exact = model(early, late, path)
    x, t, n = batch()
    error, _ = exact.terms(x, t, n)
    assert error.shape == (24, 3)
    assert exact.target.disagreement(error, t, path).item() < 1e-20
    assert exact.weighed(error, t).item() == pytest.approx(error.square().mean().item())


@pytest.mark.parametrize("weighting", ["none", "den", "log"])
@pytest.mark.parametrize("consistency", [0.0, 0.1, 3.0])
def test_an_exact_network_is_least_in_both_terms(weighting: str, consistency: float) -> None:
    """No shift of either answer lowers the mean over noise, and the gradient there is 0."""
    torch.manual_seed(0)
    x, t, n = batch(8_000)
    exact = model(1.0, 0.5, consistency=consistency, weighting=weighting).eval()
    loss = exact.loss(x, t, n)
    (gradient,) = torch.autograd.grad(loss, exact.network.off)
    assert gradient.abs().max() < 0.05 * loss.item()
    for off in ((0.3, 0.0), (0.0, 0.3), (-0.3, 0.3)):
        worse = model(1.0, 0.5, off=off, consistency=consistency, weighting=weighting).eval()
        assert worse.loss(x, t, n) > loss


def test_the_disagreement_of_data_and_velocity_is_that_of_the_two_data_predictions() -> None:
    """Between v and v + o it is (1 − t)² o² on the linear path; errors that both answers share do not count."""
    x, t, n = batch()
    for off, wanted in (((0.4, 0.0), 0.4), ((0.0, -0.4), 0.4), ((0.4, 0.4), 0.0), ((0.1, 0.4), 0.3)):
        found = model(1.0, 0.5, off=off)
        value = found.target.disagreement(found.terms(x, t, n)[0], t)
        assert value.item() == pytest.approx((wanted**2 * (1 - t) ** 2).mean().item(), abs=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize(("early", "late"), PAIRS)
def test_the_disagreement_of_any_pair_is_weighed_by_both_denominators(early: float, late: float, path: GaussianPath) -> None:
    x, t, n = batch()
    found = model(early, late, path, off=(0.4, 0.0))
    alpha, sigma = path.alpha(t), path.sigma(t)
    dens = [(alpha * (1 - k) + sigma * k) / max(k, 1 - k) for k in (early, late)]
    value = found.target.disagreement(found.terms(x, t, n)[0], t, path)
    assert value.item() == pytest.approx((0.16 * dens[0] ** 2 * dens[1] ** 2).mean().item(), abs=1e-12)


def test_with_den_it_is_half_of_an_x_loss_a_v_loss_and_the_disagreement() -> None:
    """The loss of the paper, by hand: the first answer is x̂, and the second v̂."""
    torch.manual_seed(1)
    network = MLP((3,), width=16, depth=1).double()
    nn.init.normal_(network.output.weight)
    ours = KDiff(network, SelfConsistent(consistency=0.2), weighting="den").double()
    x, t, n = batch()
    z, time = t[:, None] * x + (1 - t)[:, None] * n, t[:, None]
    x_hat, v_hat = network(z, t), network(z, t + 2)
    agreed = x_hat - (z + (1 - time) * v_hat)
    wanted = (x_hat - x).square().mean() + (v_hat - (x - n)).square().mean() + 0.2 * agreed.square().mean()
    assert ours.loss(x, t, n).item() == pytest.approx(wanted.item() / 2)


def test_both_answers_get_a_gradient_from_the_disagreement() -> None:
    x, t, n = batch()
    found = model(1.0, 0.5, off=(0.4, 0.1))
    found.target.disagreement(found.terms(x, t, n)[0], t).backward()
    first, second = found.network.off.grad
    assert first > 0.01
    assert second == pytest.approx(-first)
    with_it, without = (model(1.0, 0.5, off=(0.4, 0.1), consistency=w) for w in (0.6, 0.0))
    gradients = [torch.autograd.grad(m.weighed(m.terms(x, t, n)[0], t), m.network.off)[0] for m in (with_it, without)]
    assert gradients[0] - gradients[1] == pytest.approx(0.3 * found.network.off.grad)


def test_samples_come_from_the_first_answer_and_then_from_the_second() -> None:
    wrong = model(1.0, 0.5, off=(0.4, -0.7), switch=0.25)
    exact = model(1.0, 0.5, switch=0.25)
    z, t = torch.randn(4, 3).double(), torch.tensor([0.0, 0.2, 0.25, 0.9]).double()
    for part, off in ((t[:2], 0.4), (t[2:], -0.7)):
        z_part = z[: len(part)]
        assert (wrong.velocity(z_part, part, 0.0) - exact.velocity(z_part, part, 0.0)).allclose(torch.tensor(off).double())
    wrong.network.shown.clear()
    wrong.sample(z, solver="euler", steps=4)
    assert [shown[0].item() for shown in wrong.network.shown] == pytest.approx([0.0, 2.25, 2.5, 2.75])
    assert wrong.target.true_time(torch.tensor([0.0, 1.0, 2.0, 3.0])).tolist() == [0, 1, 0, 1]


def test_an_exact_network_samples_the_data() -> None:
    exact, normal = model(1.0, 0.3), torch.randn(400, 3).double()
    assert exact.sample(normal, solver="heun", steps=40).allclose(VARIANCE**0.5 * normal, rtol=0.01)


def test_the_objective_logs_the_mean_error_beside_the_loss_and_log_sees_both_answers() -> None:
    torch.manual_seed(0)
    network = KDiff(MLP((4,), num_classes=3, width=8, depth=1), find_target("self_consistent")(), weighting="log")
    x, y = torch.randn(20, 4), torch.randint(3, (20,))
    objective = DiffusionObjective(network, torch.eye(4)[:, :2])
    loss, extras = objective(x, y)
    assert loss.detach() == extras["weighted_loss"] != extras["loss"]
    assert extras["loss_along"] + extras["loss_across"] == pytest.approx(extras["loss"].item())
    objective.settle(None)
    assert network.weighting.visits.sum() == 40


@pytest.mark.parametrize("options", [{"loss_space": "u"}, {"cosine_weight": 1.0}])
def test_losses_of_another_kind_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="self_consistent has a loss of its own"):
        KDiff(MLP((3,)), SelfConsistent(), **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"early": 0.5}, "two different k"),
        ({"switch": 1.2}, "a time in"),
        ({"consistency": -1}, "weight"),
        ({"late": 2}, "k is 2"),
    ],
)
def test_wrong_numbers_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SelfConsistent(**options)


def test_names_make_it() -> None:
    target = find_target("self_consistent(early=0.9, late=noise, switch=0.3)")()
    assert target.state() == pytest.approx({"k": 0.27, "early": 0.9, "late": 0.0})
    assert target.describe().curves[0].values == [0.9, 0.9, 0.0, 0.0]
    assert str(target) == "SelfConsistent(early=0.9, late=0, switch=0.3, consistency=0.1)"


CONFIG = {
    "data": "gaussian_mixture(num_samples=300, ambient_dim=3, components=3)",
    "target": "self_consistent(early=0.9)",
    "network": "MLP(width=8, depth=1)",
    "batch_size": 16,
    "log_every": 2,
}


def test_a_run_resumes_to_the_byte_and_is_read_back(tmp_path: Path) -> None:
    whole = train_run(TrainConfig(**CONFIG, steps=6), tmp_path / "whole")
    train_run(TrainConfig(**CONFIG, steps=4), tmp_path / "parts")
    resumed = train_run(TrainConfig(**CONFIG, steps=6), tmp_path / "parts", resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    back = load_run(tmp_path / "whole")
    x, _ = back.sample(5, guidance=2.0)
    assert torch.equal(x, whole.sample(5, guidance=2.0)[0])
    assert back.model.target.state() == whole.model.target.state() == pytest.approx({"k": 0.7, "early": 0.9, "late": 0.5})


def test_the_floor_of_an_exact_denoiser_of_points_reaches_the_points() -> None:
    """It is asked by the times that are shown, as any network is."""
    points, target = torch.randn(5, 3), SelfConsistent()
    exact = KDiff(ExactDenoiser(points, target, LinearPath()), target)
    samples = exact.sample(torch.randn(50, 3), solver="heun", steps=50)
    assert torch.cdist(samples, points).min(1).values.max() < 0.01


def test_an_export_has_the_same_velocity() -> None:
    pytest.importorskip("diffusers")
    from kdiff.export.diffusers_model import KDiffTransformer

    model = build_model(TrainConfig(**CONFIG), CONFIG["target"], (3,), 3, seed=1)
    nn.init.normal_(model.network.output.weight)
    exported = KDiffTransformer(CONFIG["network"], CONFIG["target"], [3], 3, recipe="balanced")
    exported.model.load_state_dict(model.state_dict())
    z, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    for t in (0.25, 0.75):
        ours = model.velocity(z, t, y=y)
        assert torch.allclose(exported(z, 1000 * (1 - t), y).sample, -ours, atol=1e-6)


@pytest.mark.parametrize("switch", [0.0, 0.2, 0.9])
def test_its_network_is_not_taken_for_that_of_another_target(switch) -> None:
    """Its network is shown t + 2, also where the k of its samples is the same at most times."""
    target = SelfConsistent(switch=switch)
    assert not is_constant(target)
    with pytest.raises(ValueError, match="expected a fixed one"):
        learned_from(target)
