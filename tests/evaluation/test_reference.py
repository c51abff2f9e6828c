"""Reference statistics: what is written is read by the layouts in use; what is of other features is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kdiff.evaluation import reference as module
from kdiff.evaluation.features import Extractor, features_of
from kdiff.evaluation.frechet import statistics
from kdiff.evaluation.images import Images
from kdiff.evaluation.reference import file_reference, image_reference, is_statistics, read_statistics, write_statistics


class Plain(Extractor):
    """Of images (1, 2, 2): the four pixels, and three of them."""

    name = "inception"

    def __init__(self, digest: str = "abc") -> None:
        self.digest, self.layers, self.facts = digest, {"pool": 4, "spatial": 3}, {"resize": "none"}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        x = images.flatten(1).float()
        return {"pool": x, "spatial": x[:, 1:]}


RAW = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 1, 2, 2), dtype=np.uint8))
IMAGES = Images(40, (1, 2, 2), lambda size: iter(RAW.split(size)), {"images": "raw"})
MU, SIGMA = np.arange(4.0), np.diag(np.arange(1.0, 5.0))


def close(a, b) -> None:
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(a.covariance, b.covariance, rtol=1e-12, atol=1e-9)


def test_a_reference_of_images_is_the_statistics_of_all(monkeypatch) -> None:
    found = image_reference(IMAGES, Plain(), 7)
    features = features_of(IMAGES, Plain(), 11)
    digest = found.facts["digest"]
    assert found.facts == {"images": "raw", "num": 40, "shape": [1, 2, 2], "digest": digest}
    for layer, values in features.items():
        close(found.statistics[layer], statistics(values))
        assert found.statistics[layer].count == 40
    assert torch.equal(found.features, features["pool"])
    monkeypatch.setattr(module, "MAX_KEPT", 10)
    few = image_reference(IMAGES, Plain(), 7)
    assert len(few.features) == 10
    close(few.statistics["pool"], found.statistics["pool"])
    only = image_reference(IMAGES, Plain(), 9, only="pool")
    assert (set(only.statistics), only.features, only.facts["digest"]) == ({"pool"}, None, digest)
    close(only.statistics["pool"], found.statistics["pool"])
    changed = RAW.clone()
    changed[39, 0, 1, 1] ^= 1
    other = image_reference(Images(40, (1, 2, 2), lambda size: iter(changed.split(size)), {"images": "raw"}), Plain(), 7)
    assert other.facts["digest"] != digest


def test_statistics_come_back_and_have_the_layout_of_adm(tmp_path: Path) -> None:
    path = tmp_path / "below" / "raw.npz"
    found = image_reference(IMAGES, Plain(), 7)
    write_statistics(path, found.statistics, Plain(), found.facts)
    assert is_statistics(path)
    back, stamp = read_statistics(path, Plain())
    for layer in ("pool", "spatial"):
        close(back[layer], found.statistics[layer])
        assert back[layer].count == 40
    assert (stamp["num"], stamp["of"]["images"]) == (40, "raw")
    with np.load(path, allow_pickle=False) as arrays:
        x = RAW.flatten(1).numpy().astype(np.float64)
        np.testing.assert_allclose(arrays["mu"], x.mean(0))
        np.testing.assert_allclose(arrays["sigma"], np.cov(x, rowvar=False))
        np.testing.assert_allclose(arrays["mu_s"], x[:, 1:].mean(0))
        np.testing.assert_allclose(arrays["sigma_s"], np.cov(x[:, 1:], rowvar=False))
    with pytest.raises(ValueError, match=r"written as \.npz.*raw\.npz"):
        write_statistics(tmp_path / "raw.txt", found.statistics, Plain(), {})


def test_statistics_of_others_are_read(tmp_path: Path) -> None:
    edm, adm = tmp_path / "edm.npz", tmp_path / "adm.npz"
    np.savez(edm, mu=MU.astype(np.float32), sigma=SIGMA)
    found = file_reference(edm, Plain(), 8)()
    assert set(found.statistics) == {"pool"}
    assert (found.features, found.facts["num"], found.facts["stamp"]) == (None, None, None)
    assert found.statistics["pool"].covariance.tolist() == SIGMA.tolist()
    images = RAW.permute(0, 2, 3, 1).numpy()
    np.savez(adm, images, mu=MU, sigma=SIGMA, mu_s=MU[1:], sigma_s=SIGMA[1:, 1:])
    found = file_reference(adm, Plain(), 8)()
    assert found.statistics["pool"].mean.tolist() == MU.tolist()
    assert found.statistics["spatial"].mean.tolist() == MU[1:].tolist()
    assert torch.equal(found.features, RAW.flatten(1).float())
    only = file_reference(adm, Plain(), 8, only="pool")()
    assert (set(only.statistics), only.features, only.facts["digest"]) == ({"pool"}, None, found.facts["digest"])
    assert file_reference(edm, Plain(), 8)().facts["digest"] != found.facts["digest"]
    np.savez(tmp_path / "samples.npz", images)
    assert not is_statistics(tmp_path / "samples.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"mu": MU[:3], "sigma": SIGMA[:3, :3]},
            r"mu has shape \(3,\).*expected 4 features \(inception\).*--features.*--save-statistics",
        ),
        ({"mu": MU, "sigma": SIGMA[:3]}, r"sigma \(3, 4\)"),
        ({"mu": MU}, "holds mu; expected sigma too"),
        ({"mu": MU * np.nan, "sigma": SIGMA}, "not finite"),
        ({"mu": MU.astype(str), "sigma": SIGMA}, "expected numbers"),
        ({"mu": np.array([{}] * 4), "sigma": SIGMA}, "damaged or pickled"),
        ({"mu": MU, "sigma": SIGMA, "kdiff": np.array("{}")}, "does not name the features"),
        ({"mu": MU, "sigma": SIGMA, "kdiff": np.array("no JSON")}, "does not name the features"),
    ],
)
def test_what_are_no_statistics_of_these_features_is_refused(arrays, message, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_statistics(tmp_path / "a.npz", Plain())


def test_other_weights_pickles_and_damage_are_refused(tmp_path: Path) -> None:
    found = image_reference(IMAGES, Plain(), 7)
    write_statistics(tmp_path / "a.npz", found.statistics, Plain("other"), {})
    with pytest.raises(ValueError, match="with weights other; expected inception with weights abc"):
        read_statistics(tmp_path / "a.npz", Plain())
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"pickles.*can run code"):
        read_statistics(tmp_path / "a.pkl", Plain())
    with pytest.raises(FileNotFoundError, match="no statistics"):
        read_statistics(tmp_path / "b.npz", Plain())
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        is_statistics(tmp_path / "cut.npz")
    flipped = bytearray(whole)
    flipped[170] ^= 1  # within mu
    (tmp_path / "flipped.npz").write_bytes(bytes(flipped))
    with pytest.raises(ValueError, match="damaged"):
        read_statistics(tmp_path / "flipped.npz", Plain("other"))
