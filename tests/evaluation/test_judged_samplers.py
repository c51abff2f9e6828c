"""The samplers that judge a run, and floors that runs share: equal where they are shared, their own where the clamp acts."""

from __future__ import annotations

import pytest
import torch

from kdiff import KDiff
from kdiff.config.sampling import SAMPLERS
from kdiff.data import load
from kdiff.evaluation import judged_samplers
from kdiff.evaluation.judged_samplers import CLEAN, PAPER, draw_each, exact_floors, samplers_for
from kdiff.evaluation.sliced import SlicedDistance, sliced_wasserstein
from kdiff.networks import MLP
from kdiff.run.generate import generate
from kdiff.targets import GeneralTarget, as_target

SHAPE = (8,)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "cache"))


def model_of(target: object) -> KDiff:
    torch.manual_seed(0)
    return KDiff(MLP(SHAPE, width=8, depth=1), as_target(target))


@pytest.mark.parametrize(("target", "acts"), [(0.5, False), (0.95, False), (0.97, True), ("data", True), ("noise", True)])
def test_the_papers_sampler_judges_where_its_clamp_acts(target, acts) -> None:
    model = model_of(target)
    assert samplers_for(model, SHAPE, "default") == ({"paper": PAPER["paper"], **CLEAN} if acts else CLEAN)
    assert samplers_for(model, SHAPE, "paper") == PAPER


def test_the_clamp_acts_where_the_velocity_is_another_one() -> None:
    """`clamped` against the conversion itself, at single times, for targets on and off the line."""
    z, u = torch.randn(1, 8), torch.randn(1, 8)
    for target in (as_target(0.3), as_target("data"), GeneralTarget(0.02, 0.03)):
        for t in torch.linspace(0.01, 0.99, 15):
            differs = not torch.equal(target.to_velocity(u, z, t), target.to_velocity(u, z, t, min_denominator=0.0))
            assert target.clamped(t[None], SHAPE) == differs, (target, t)


def test_samplers_that_share_their_steps_draw_what_each_draws_alone() -> None:
    model = model_of("data")
    found = draw_each(model, {**PAPER, "default": SAMPLERS["default"]}, 6, SHAPE, None, 3)
    assert list(found) == ["paper", "clean", "default"]
    for name, options in {**PAPER, "default": SAMPLERS["default"]}.items():
        torch.testing.assert_close(found[name], generate(model, 6, SHAPE, None, 3, **options)[0])


def test_floors_are_shared_where_no_clamp_acts(monkeypatch) -> None:
    data, drawn = load("spiral", num_samples=300, ambient_dim=8), []
    monkeypatch.setattr(
        judged_samplers, "draw_each", lambda *args, **options: drawn.append(args) or draw_each(*args, **options)
    )

    def measure(x: torch.Tensor) -> dict[str, judged_samplers.Figure]:
        return {"size": judged_samplers.Figure(x.square().mean().item(), x.mean().item(), float("nan"), 1)}

    def floors(target: object, num: int = 40, facts: tuple[object, ...] = ()) -> dict[str, dict[str, judged_samplers.Figure]]:
        return exact_floors(data, model_of(target), CLEAN, num, None, 0, measure, facts)

    first = floors(0.5)
    assert len(drawn) == 1
    for target in (0.7, "learned", "data", 0.5):  # under the default sampler no clamp acts up to k = 1
        assert repr(floors(target)) == repr(first)
    assert len(drawn) == 1
    # What is shared is what each target would find for itself.
    own = measure(
        draw_each(judged_samplers._exact_model(data, (m := model_of(0.8)), m.target), CLEAN, 40, SHAPE, None, 0)["clean"]
    )
    assert own["size"].value == pytest.approx(first["clean"]["size"].value, rel=1e-4)
    assert floors("noise") != first  # its clamp acts at t = 0
    assert len(drawn) == 2
    floors(0.5, 50), floors(0.5, 40, ("another classifier",))
    assert len(drawn) == 4


def test_a_learned_k_beyond_the_clamp_has_its_own_floor(monkeypatch) -> None:
    data, measured = load("spiral", num_samples=300, ambient_dim=8), []

    def measure(x: torch.Tensor) -> dict[str, judged_samplers.Figure]:
        measured.append(x)
        return {"size": judged_samplers.Figure(x.square().mean().item(), 0.0, 0.0, 1)}

    for k in (0.98, 0.99, 0.98):
        exact_floors(data, model_of(f"learned(init={k})"), {"paper": PAPER["paper"]}, 20, None, 0, measure, ())
    assert len(measured) == 3  # nothing is kept for a k that no other run has
    assert not torch.equal(measured[0], measured[1])


@pytest.mark.parametrize("kept", [2**25, 0])
def test_a_kept_reference_gives_the_same_distances(kept, monkeypatch) -> None:
    monkeypatch.setattr("kdiff.evaluation.sliced.KEPT", kept)
    monkeypatch.setattr("kdiff.evaluation.sliced.ELEMENTS", 700)  # several chunks, of different sizes for different counts
    b = torch.randn(50, 5)
    distance = SlicedDistance(b)
    for count in (20, 50, 7, 20):
        a = torch.randn(count, 5)
        assert distance(a) == sliced_wasserstein(a, b)
        weights = torch.rand(count)
        weights /= weights.sum()
        assert distance(a, weights) == pytest.approx(sliced_wasserstein(a, b, weights=weights), rel=1e-6)
