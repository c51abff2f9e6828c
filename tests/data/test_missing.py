from __future__ import annotations

import numpy as np
import pytest
import torch

from kdiff import KDiff
from kdiff.data import Dataset, Normalisation, make_dataset
from kdiff.training.objective import DiffusionObjective

N = 400
DRAWN = np.random.default_rng(0)


def gappy(land: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Fields with gaps, and which values are present."""
    raw = (5 + 3 * DRAWN.standard_normal((N, 2, 4, 4))).astype(np.float32)
    present = DRAWN.random(raw.shape) < 0.8
    present[:, :, 0, 0] = not land
    return np.where(present, raw, np.float32(np.nan)), present


def masked(raw: np.ndarray, normalise: str = "channels", missing: str = "mask") -> Dataset:
    return make_dataset("sea", raw, normalise=normalise, missing=missing)


@pytest.mark.parametrize("normalise", ["standard", "channels", "features"])
def test_statistics_are_over_present_entries_and_gaps_are_zero(normalise: str) -> None:
    raw, present = gappy()
    dataset = masked(raw, normalise)
    train = (dataset.split == 0).numpy()
    axes = {"standard": None, "channels": (0, 2, 3), "features": 0}[normalise]
    mean, std = np.nanmean(raw[train].astype(float), axes), np.nanstd(raw[train].astype(float), axes)
    assert np.allclose(dataset.normalisation.shift.squeeze(), mean, atol=1e-5)
    assert np.allclose(dataset.normalisation.scale.squeeze(), std, atol=1e-5)
    assert isinstance(dataset.mask, torch.Tensor)
    assert np.array_equal(dataset.mask.numpy(), present)
    x = dataset.x[:]
    assert (x[~dataset.mask] == 0).all()
    assert torch.allclose(dataset.normalisation.undo(x)[dataset.mask], torch.from_numpy(raw)[dataset.mask], atol=1e-4)
    assert abs(dataset.describe()["mean"]) < 1e-5
    assert dataset.describe()["missing"]["share"] == pytest.approx(1 - present.mean())


def test_the_part_of_a_sample_does_not_depend_on_the_others() -> None:
    raw, _ = gappy()
    assert torch.equal(masked(raw).split[100:], masked(raw[100:]).split)


def test_the_mask_follows_the_order_of_each_part() -> None:
    raw, present = gappy()
    dataset = masked(raw)
    for index, part in enumerate(("train", "classifier", "heldout")):
        assert np.array_equal(dataset.mask_of(part)["mask"][:].numpy(), present[(dataset.split == index).numpy()])
    assert make_dataset("whole", np.nan_to_num(raw)).mask_of("train") == {}


def test_whole_data_are_the_same_with_missing_mask() -> None:
    raw = np.nan_to_num(gappy()[0])
    plain, asked = make_dataset("a", raw), make_dataset("a", raw, missing="mask")
    assert asked.mask is None
    assert asked.fingerprint == plain.fingerprint
    assert torch.equal(asked.x[:], plain.x[:])


def test_land_is_nan_again_in_samples_and_kept_in_the_description() -> None:
    dataset = masked(gappy(land=True)[0])
    land = torch.zeros(2, 4, 4, dtype=torch.bool)
    land[:, 0, 0] = True
    again = Normalisation.from_description(dataset.normalisation.describe())
    for normalisation in (dataset.normalisation, again):
        raw = normalisation.undo(torch.randn(7, 2, 4, 4))
        assert torch.equal(raw.isnan(), land.expand(7, 2, 4, 4))
        assert (normalisation.apply(raw)[:, land] == 0).all()
    assert "absent" not in masked(gappy()[0]).normalisation.describe()


def test_the_network_is_shown_the_mask_if_asked() -> None:
    raw, present = gappy()
    condition = masked(raw, missing="mask_channel").conditions["present"]
    assert condition.spec.kind == "field"
    assert np.allclose(condition.normalisation.undo(condition.values[:]), present, atol=1e-5)


def test_a_mask_of_the_file_counts_like_nan() -> None:
    raw, present = gappy()
    marked = make_dataset("sea", np.nan_to_num(raw, nan=-9999), normalise="channels", missing="mask", mask=present)
    assert marked.fingerprint == masked(raw).fingerprint
    assert torch.equal(marked.x[:], masked(raw).x[:])


class Recorder(torch.nn.Module):
    """A network that returns its own parameter, whose gradient shows which entries are in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.nn.Parameter(torch.zeros(8, 2, 4, 4))

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.out


def test_missing_entries_have_no_gradient_and_the_loss_is_the_mean_over_the_others() -> None:
    dataset = masked(gappy()[0])
    network = Recorder()
    x, mask = dataset.x[:][:8], dataset.mask_of("all")["mask"][:][:8]
    loss, _ = DiffusionObjective(KDiff(network, "velocity"))(x, {"mask": mask})
    loss.backward()
    assert network.out.grad is not None
    assert torch.equal(network.out.grad != 0, mask)


@pytest.mark.parametrize("missing", ["drop", "Mask"])
def test_other_words_are_refused(missing: str) -> None:
    with pytest.raises(ValueError, match="expected one of refuse, mask, mask_channel"):
        masked(gappy()[0], missing=missing)


def test_samples_without_any_value_are_refused() -> None:
    raw, _ = gappy()
    raw[5] = np.nan
    with pytest.raises(ValueError, match="1 samples have no value at all"):
        masked(raw)
