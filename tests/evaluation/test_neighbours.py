from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdiff.evaluation import neighbours
from kdiff.evaluation.neighbours import nearest_distance


def brute(a: Tensor, b: Tensor, exclude_self: bool = False) -> Tensor:
    distances = (a.double().flatten(1)[:, None] - b.double().flatten(1)[None]).norm(dim=2)
    if exclude_self:
        distances.fill_diagonal_(torch.inf)
    return distances.amin(dim=1).float()


@pytest.fixture(params=[2**22, 200, 1], ids=["one chunk", "chunks", "row by row"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "ELEMENTS", request.param)


@pytest.mark.usefixtures("_chunks")
def test_against_brute_force() -> None:
    a, b = torch.randn(23, 2, 3), torch.randn(41, 2, 3)
    got = nearest_distance(a, b)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, brute(a, b), rtol=1e-6, atol=0)
    torch.testing.assert_close(nearest_distance(b, a), brute(b, a), rtol=1e-6, atol=0)


@pytest.mark.usefixtures("_chunks")
def test_excluding_oneself() -> None:
    x = torch.randn(34, 6)  # 34 = 33 + 1: in chunks of 33 the last has only the row itself
    assert nearest_distance(x, x).eq(0).all()
    torch.testing.assert_close(nearest_distance(x, x, exclude_self=True), brute(x, x, True), rtol=1e-6, atol=0)
    x[5] = x[20]
    assert nearest_distance(x, x, exclude_self=True).eq(0).nonzero().flatten().tolist() == [5, 20]


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("gap", [1e-3, 1e-5])
def test_near_copies_far_from_the_origin(gap: float) -> None:
    """Exact copies are at 0, near copies at their distance, also where |x| is 1e5 times that distance."""
    train = torch.randn(60, 12, dtype=torch.float64) + 30
    moved = train.clone()
    moved[:, 0] += gap
    assert nearest_distance(train, train.flip(0)).eq(0).all()
    torch.testing.assert_close(nearest_distance(moved, train), torch.full((60,), gap), rtol=1e-5, atol=0)
    # The moved copies among their originals: which of two such neighbours is nearer must not be left to rounding.
    assert nearest_distance(train.float(), torch.cat([moved, train]).float()).eq(0).all()


def test_errors() -> None:
    x = torch.randn(5, 3)
    with pytest.raises(ValueError, match="3 and 4"):
        nearest_distance(x, torch.randn(5, 4))
    with pytest.raises(ValueError, match="sets of 5 and 4"):
        nearest_distance(x, x[:4], exclude_self=True)
    with pytest.raises(ValueError, match="no row left"):
        nearest_distance(x, x[:0])
    with pytest.raises(ValueError, match="no row left"):
        nearest_distance(x[:1], x[:1], exclude_self=True)
    with pytest.raises(ValueError, match=r"\(5,\)"):
        nearest_distance(x[:, 0], x)
