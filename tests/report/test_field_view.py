"""Fields as colours, signals as lines: what is drawn is the samples."""

from __future__ import annotations

import matplotlib
import pytest
import torch

from kdiff.report.drawing import ImageView, Points, new_figure, view_for, view_of
from kdiff.report.field_view import FieldView, SignalView


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((5,), Points), ((1, 8, 8), ImageView), ((2, 8, 8), FieldView), ((1, 4, 4, 4), FieldView), ((2, 30), SignalView)],
)
def test_the_shape_of_samples_says_how_they_are_drawn(shape, kind) -> None:
    x = torch.randn(20, *shape)
    view = view_of(x)
    assert type(view) is kind is view_for(shape)
    axes = new_figure(3, 3).subplots()
    view.draw(axes, x[: view.shown], columns=3)
    assert axes.images or axes.lines


def test_colours_are_those_of_each_channel_in_its_own_range() -> None:
    ramp = torch.linspace(0, 1, 1001).reshape(1001, 1, 1, 1).expand(-1, 1, 4, 6)
    data = torch.cat([ramp, 100 * ramp], dim=1)
    view = FieldView(data)
    tiles = view.tiles(torch.stack([data[5], data[500], data[995]]))
    assert tiles.shape == (3, 3, 4 + 1 + 4, 6)
    colours = matplotlib.colormaps["viridis"]
    for place, at in enumerate((0.0, 0.5, 1.0)):
        expected = torch.tensor(colours(at)[:3], dtype=torch.float64)
        for top in (0, 5):
            assert tiles[place, :, top, 3] == pytest.approx(expected, abs=0.01)
    assert (tiles[:, :, 4] == 1).all()


def test_missing_values_are_white_and_volumes_are_cut_in_the_middle() -> None:
    field = torch.rand(3, 1, 4, 4)
    view = FieldView(field)
    field[0, 0, 1, 2] = torch.nan
    assert (view.tiles(field)[0, :, 1, 2] == 1).all()
    volume = torch.rand(3, 1, 6, 4, 4)
    assert torch.equal(FieldView(volume).tiles(volume), FieldView(volume).tiles(volume[:, :, 3]))
