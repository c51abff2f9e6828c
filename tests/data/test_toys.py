from __future__ import annotations

import numpy as np
import pytest
import torch

from kdiff.data import Dataset, gaussian_mixture, load, make_manifold, moons, sphere, spiral
from kdiff.data.toys import _generator, _whiten

TOYS = [
    ("spiral", {}, 2),
    ("moons", {}, 2),
    ("gaussian_mixture", {}, 2),
    ("gaussian_mixture", {"components": 2}, 2),
    ("gaussian_mixture", {"components": 5, "spread": 0.3, "intrinsic_dim": 4}, 4),
    ("gaussian_mixture", {"components": 1, "intrinsic_dim": 3}, 3),
    ("sphere", {}, 3),
    ("sphere", {"intrinsic_dim": 1}, 2),
    ("sphere", {"intrinsic_dim": 5}, 6),
]
EMBEDDINGS = [("linear", 0), ("linear", 14), ("curved", 1), ("curved", 14)]


def coordinates(data: Dataset) -> torch.Tensor:
    assert data.manifold is not None
    return data.manifold.coordinates(data.x)


@pytest.mark.parametrize(("name", "options", "plane_dim"), TOYS)
class TestEveryToy:
    def test_mean_zero_and_unit_variance_in_every_direction_of_the_plane(
        self, name: str, options: dict, plane_dim: int
    ) -> None:
        count = 100_000
        c = coordinates(load(name, num_samples=count, ambient_dim=plane_dim, **options)).double()
        # Five standard deviations of a mean; fourth moments here are at most a Gaussian's 3, so var(c_i c_j) ≤ 2.
        tolerance = 5 / count**0.5
        torch.testing.assert_close(c.mean(0), torch.zeros(plane_dim, dtype=torch.float64), atol=tolerance, rtol=0)
        torch.testing.assert_close(torch.cov(c.T), torch.eye(plane_dim, dtype=torch.float64), atol=2**0.5 * tolerance, rtol=0)

    @pytest.mark.parametrize(("embedding", "extra"), EMBEDDINGS)
    @pytest.mark.parametrize("normalise", ["none", "standard", "features"])
    def test_samples_lie_on_the_manifold_and_coordinates_invert_the_embedding(
        self, name: str, options: dict, plane_dim: int, embedding: str, extra: int, normalise: str
    ) -> None:
        ambient_dim = plane_dim + extra
        data = load(name, num_samples=300, ambient_dim=ambient_dim, embedding=embedding, normalise=normalise, **options)
        manifold = data.manifold
        assert manifold is not None
        assert data.shape == (ambient_dim,)
        assert data.normalisation.kind == normalise
        assert manifold.plane_dim == plane_dim
        assert manifold.distance(data.x).shape == (300,)
        assert manifold.distance(data.x).max() < 2e-6
        torch.testing.assert_close(manifold.embed(manifold.coordinates(data.x)), data.x, atol=5e-6, rtol=0)

    def test_same_seed_same_bytes_and_another_seed_another_embedding(self, name: str, options: dict, plane_dim: int) -> None:
        def draw(seed: int, count: int = 200) -> Dataset:
            return load(name, num_samples=count, ambient_dim=9, embedding="curved", seed=seed, **options)

        first, again, other, more = draw(3), draw(3), draw(4), draw(3, 500)
        assert first.x.numpy().tobytes() == again.x.numpy().tobytes()
        assert torch.equal(first.split, again.split)
        assert first.fingerprint == again.fingerprint != other.fingerprint
        for data, same in ((again, True), (other, False), (more, True)):
            assert torch.equal(data.manifold.basis, first.manifold.basis) == same  # type: ignore[union-attr]
            assert torch.equal(data.manifold.frequencies, first.manifold.frequencies) == same  # type: ignore[union-attr]


class TestManifold:
    @pytest.mark.parametrize("ambient_dim", [2, 3, 64])
    def test_linear_embedding_is_orthonormal(self, ambient_dim: int) -> None:
        manifold = make_manifold(2, ambient_dim, seed=5)
        c = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        torch.testing.assert_close(torch.cdist(manifold.embed(c), manifold.embed(c)), torch.cdist(c, c))
        if ambient_dim == 2:
            assert torch.equal(manifold.embed(c), c)

    def test_distance_off_a_flat_plane_is_the_length_of_the_complement(self) -> None:
        manifold = make_manifold(2, 7)
        generator = torch.Generator().manual_seed(0)
        c = torch.randn(20, 2, generator=generator)
        off = torch.randn(20, 7, generator=generator)
        off = off - manifold.embed(manifold.coordinates(off))
        x = manifold.embed(c) + off
        torch.testing.assert_close(manifold.distance(x), off.norm(dim=1))
        torch.testing.assert_close(manifold.coordinates(x), c, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("embedding", ["linear", "curved"])
    def test_distance_to_a_sphere_counts_the_radius_and_the_offset(self, embedding: str) -> None:
        data = sphere(num_samples=100, ambient_dim=6, embedding=embedding)
        manifold = data.manifold
        assert manifold is not None
        stretched = manifold.embed(1.5 * manifold.coordinates(data.x))
        if embedding == "linear":
            expected = torch.full((100,), 0.5 * 3**0.5)
            torch.testing.assert_close(manifold.distance(stretched), expected)
            # Brute force: no point of a dense sample of the sphere is nearer, and some are nearly as near.
            dense = sphere(num_samples=40_000, ambient_dim=6).x
            x = data.x[:10] + 0.3
            nearest = torch.cdist(x, dense).amin(1)
            torch.testing.assert_close(manifold.distance(x), nearest, atol=2e-3, rtol=0)
            assert (manifold.distance(x) <= nearest + 1e-5).all()
        else:
            # An upper bound of the distance, here at least the change along the plane.
            assert (manifold.distance(stretched) > 0.5 * 3**0.5).all()
        centre = manifold.embed(torch.zeros(1, 3))
        assert manifold.distance(centre) >= 3**0.5 - 1e-6

    def test_curved_embedding_bends_and_keeps_its_variance_for_any_dimension(self) -> None:
        for ambient_dim in (3, 12, 128):
            data = gaussian_mixture(num_samples=20_000, ambient_dim=ambient_dim, embedding="curved", components=1)
            assert 2.7 < data.describe()["total_variance"] < 3.2
            assert data.x.mean(0).abs().max() < 0.05
        # No linear map of the coordinates explains the bend.
        c = coordinates(data).double()
        centred = data.x.double()
        residual = centred - c @ torch.linalg.lstsq(c, centred).solution
        assert residual.var(0).sum() > 0.5

    def test_distance_sees_the_normalisation(self) -> None:
        plain, scaled = (spiral(num_samples=200, ambient_dim=8, normalise=kind) for kind in ("none", "standard"))
        assert plain.manifold is not None
        assert scaled.manifold is not None
        step = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        moved = scaled.normalisation.apply(plain.x + step)
        torch.testing.assert_close(scaled.manifold.distance(moved), plain.manifold.distance(plain.x + step), atol=1e-5, rtol=0)
        assert scaled.describe()["std"] == pytest.approx(1, abs=1e-6)


class TestLaws:
    def test_labels(self) -> None:
        for data, classes in ((spiral(400), 2), (moons(400), 2), (gaussian_mixture(400, components=5), 5)):
            assert data.num_classes == classes
            assert set(data.y.tolist()) == set(range(classes))  # type: ignore[union-attr]
        assert (sphere(100).y, sphere(100).num_classes) == (None, 0)
        assert gaussian_mixture(100, components=60).num_classes == 60

    def test_spiral_arms_are_opposite_curves_of_one_radius_per_angle(self) -> None:
        data = spiral(num_samples=2000, noise=0.0)
        w = 6 * np.pi
        covariance = np.array([[1 / 4 + 3 / w**2, 6 / w**3 - 1 / w], [6 / w**3 - 1 / w, 1 / 4 - 3 / w**2]])
        values, vectors = np.linalg.eigh(covariance)
        points = data.x.numpy() @ (vectors * np.sqrt(values)) @ vectors.T
        radius = np.linalg.norm(points, axis=1)
        sign = np.where(data.y.numpy() == 0, 1, -1)[:, None]  # type: ignore[union-attr]
        expected = sign * radius[:, None] * np.stack([np.cos(w / 2 * radius), np.sin(w / 2 * radius)], axis=1)
        np.testing.assert_allclose(points, expected, atol=2e-5)

    def test_moons_are_two_half_circles(self) -> None:
        data = moons(num_samples=2000, noise=0.0)
        covariance = np.array([[3 / 4, 1 / 8 - 1 / np.pi], [1 / 8 - 1 / np.pi, 9 / 16 - 1 / np.pi]])
        values, vectors = np.linalg.eigh(covariance)
        points = data.x.numpy() @ (vectors * np.sqrt(values)) @ vectors.T + np.array([0.5, 0.25])
        upper = data.y.numpy() == 0  # type: ignore[union-attr]
        for half, centre, side in ((points[upper], (0, 0), 1), (points[~upper], (1, 0.5), -1)):
            np.testing.assert_allclose(np.linalg.norm(half - centre, axis=1), 1, atol=2e-6)
            assert (side * (half - centre)[:, 1] > -1e-6).all()

    def test_whitening_uses_the_symmetric_root(self) -> None:
        covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
        root = _whiten(np.eye(2), np.zeros(2), covariance)
        np.testing.assert_allclose(root, root.T, atol=1e-12)
        np.testing.assert_allclose(root @ covariance @ root, np.eye(2), atol=1e-12)

    def test_mixture_components_have_the_means_and_spread_of_the_ring(self) -> None:
        data = gaussian_mixture(num_samples=40_000, components=4, spread=0.2)
        scale = (0.5 + 0.2**2) ** 0.5
        for j in range(4):
            points = data.x[data.y == j].double() * scale
            angle = torch.tensor(torch.pi * j / 2, dtype=torch.float64)
            torch.testing.assert_close(points.mean(0), torch.stack([angle.cos(), angle.sin()]), atol=0.01, rtol=0)
            torch.testing.assert_close(points.std(0), torch.full((2,), 0.2, dtype=torch.float64), atol=0.01, rtol=0)

    def test_sample_stream_differs_from_the_embedding_stream(self) -> None:
        drawn = _generator(10, 4, 0).standard_normal((4, 2))
        basis, same = make_manifold(2, 4).basis.numpy(), np.linalg.qr(drawn)[0]
        # Compared as planes: the factor's signs are a matter of convention.
        assert not np.allclose(same @ same.T, basis @ basis.T)


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("spiral", {"ambient_dim": 1}, "a linear embedding of 2 coordinates needs ambient_dim ≥ 2, found 1"),
            ("moons", {"embedding": "curved"}, "a curved embedding of 2 coordinates needs ambient_dim ≥ 3, found 2"),
            ("sphere", {"intrinsic_dim": 4}, "needs ambient_dim ≥ 5, found 3"),
            ("sphere", {"intrinsic_dim": 0}, "intrinsic_dim must be at least 1, found 0"),
            ("gaussian_mixture", {"intrinsic_dim": 1}, "intrinsic_dim must be at least 2"),
            ("gaussian_mixture", {"components": 0}, "components must be at least 1"),
            ("gaussian_mixture", {"spread": 0}, "spread must be positive"),
            ("spiral", {"embedding": "bent"}, "linear, curved, found 'bent'"),
            ("spiral", {"noise": -0.1}, "noise must be finite and not negative, found -0.1"),
            ("spiral", {"noise": float("nan")}, "noise must be finite"),
            ("moons", {"seed": -1}, "seed must be at least 0"),
            ("moons", {"num_samples": 5}, "at least 10 samples"),
            ("moons", {"num_samples": 0}, "num_samples must be at least 1"),
            ("moons", {"normalise": "range"}, "moons has no known range of values"),
        ],
    )
    def test_values(self, name: str, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load(name, **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_samples": 1e4}, "num_samples must be a whole number, found 10000.0"),
            ({"ambient_dim": True}, "ambient_dim must be a whole number, found True"),
            ({"noise": "0.1"}, "noise must be a number, found '0.1'"),
        ],
    )
    def test_types(self, options: dict, message: str) -> None:
        with pytest.raises(TypeError, match=message):
            spiral(**options)


def test_gaussian_has_the_variances_it_was_given() -> None:
    data = load("gaussian", num_samples=40000, ambient_dim=5, intrinsic_dim=3, variance=[4.0, 1.0, 0.25])
    moments = np.linalg.eigvalsh(np.cov(data.x.double().numpy().T, bias=True))[::-1]
    assert moments == pytest.approx([4.0, 1.0, 0.25, 0.0, 0.0], rel=0.03, abs=1e-9)
    assert data.y is None
    white = load("gaussian", num_samples=1000, ambient_dim=3, intrinsic_dim=3, variance=2.0)
    assert white.x.var().item() == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("variance", [0.0, [1.0, 2.0], [1.0, 0.0, 1.0], -1.0])
def test_gaussian_refuses_other_variances(variance) -> None:
    with pytest.raises(ValueError, match="variance"):
        load("gaussian", ambient_dim=4, intrinsic_dim=3, variance=variance)
