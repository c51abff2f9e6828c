"""slerp: ends, equal angles, and noise that stays noise."""

from __future__ import annotations

import pytest
import torch

from kdiff import draw_noise
from kdiff.sampling import slerp


def test_the_ends_are_exact_and_the_shape_is_kept():
    a, b = draw_noise(range(5), (3, 4, 4)), draw_noise(range(5, 10), (3, 4, 4))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, b, 0.3), slerp(b, a, 0.7))
    assert slerp(a, b, 0.3).shape == a.shape


def test_equal_weights_are_equal_angles_and_lengths_in_proportion():
    a, b = draw_noise(1, (6,)).double(), 3 * draw_noise([1], (6,)).double()
    points = torch.cat([slerp(a, b, w) for w in torch.linspace(0, 1, 9).double()])
    directions = torch.nn.functional.normalize(points)
    angles = (directions[1:] * directions[:-1]).sum(1).acos()
    torch.testing.assert_close(angles, angles.mean().expand(8))
    lengths = points.norm(dim=1)
    torch.testing.assert_close(lengths.diff(), lengths.diff().mean().expand(8))


def test_a_weight_for_each_sample():
    a, b, w = draw_noise(3, (7,)), draw_noise([7, 8, 9], (7,)), torch.tensor([0.1, 0.5, 0.8])
    one_by_one = [slerp(a[i : i + 1], b[i : i + 1], w[i].item()) for i in range(3)]
    torch.testing.assert_close(slerp(a, b, w), torch.cat(one_by_one))


def test_noise_keeps_its_length_where_a_straight_line_shortens_it():
    a, b = draw_noise(200, (300,)), draw_noise(range(200, 400), (300,))
    assert slerp(a, b, 0.5).std().item() == pytest.approx(1, abs=0.02)
    assert torch.lerp(a, b, 0.5).std().item() == pytest.approx(0.5**0.5, abs=0.02)


def test_vectors_that_nearly_or_quite_agree():
    a = draw_noise(1, (6,)).double()
    torch.testing.assert_close(slerp(a, a, 0.4), a)
    for size in (1e-7, 1e-5, 1e-3):
        b = a + size * draw_noise([1], (6,)).double()
        torch.testing.assert_close(slerp(a, b, 0.4), torch.lerp(a, b, 0.4), rtol=0, atol=10 * size**2 + 1e-12)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), "expected the same"),
        (torch.ones(2, 3), -torch.ones(2, 3), "opposite directions"),
        (torch.ones(2, 3), torch.zeros(2, 3), "is zero"),
    ],
)
def test_mistakes_are_refused(start, end, message):
    with pytest.raises(ValueError, match=message):
        slerp(start, end, 0.5)
