"""Images in zips and tar shards: 16 bits with every value, and many images as bytes from the cache, mirrored as in a folder."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdiff.data import ImageSamples, assembling, checks, load
from kdiff.data.assembling import assemble
from kdiff.data.formats import members
from kdiff.data.formats.dataset_zip import open_dataset_zip
from kdiff.data.source_samples import SourceSamples

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 6, 8, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 2**16, (30, 6, 8)).astype(np.uint16)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def archived(path: Path, content: dict[str, bytes]) -> Path:
    """A zip, a tar shard or a folder of these members."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, one in content.items():
                file.writestr(name, one)
    elif path.suffix == ".tar":
        pytest.importorskip("webdataset")
        with tarfile.open(path, "w") as shard:
            for name, one in content.items():
                info = tarfile.TarInfo(name)
                info.size = len(one)
                shard.addfile(info, io.BytesIO(one))
    else:
        path.mkdir()
        for name, one in content.items():
            (path / name).write_bytes(one)
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
class TestDepth:
    @pytest.mark.parametrize("ending", [".png", ".tif", ".pgm"])
    def test_16_bits_are_read_as_in_a_folder(self, tmp_path: Path, name: str, ending: str) -> None:
        tifffile, imagecodecs = pytest.importorskip("tifffile"), pytest.importorskip("imagecodecs")
        content = {}
        for index, image in enumerate(DEEP):
            out = io.BytesIO()
            if ending == ".tif":
                tifffile.imwrite(out, image, photometric="minisblack")
            pgm = b"P5\n8 6 65535\n" + image.astype(">u2").tobytes()
            one = {".tif": out.getvalue(), ".pgm": pgm, ".png": imagecodecs.png_encode(image)}[ending]
            content[f"{index:02}{ending}"] = one
        data, folder = load(archived(tmp_path / name, content)), load(archived(tmp_path / "folder", content))
        assert np.array_equal(data.normalisation.undo(data.x[:])[:, 0].round().numpy(), DEEP)
        assert data.fingerprint == folder.fingerprint
        assert torch.equal(data.x[:], folder.x[:])
        square, other = (load(f"{tmp_path / one}(size=4, channels=RGB)") for one in (name, "folder"))
        assert torch.equal(square.x[:], other.x[:])

    def test_large_ones_are_decoded_once(self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        imagecodecs = pytest.importorskip("imagecodecs")
        path = archived(tmp_path / name, {f"{i:02}.png": imagecodecs.png_encode(image) for i, image in enumerate(DEEP)})
        known = load(path)
        monkeypatch.setattr(assembling, "KEEP_BYTES", 0)
        data = load(path)
        assert isinstance(data.x, SourceSamples)
        assert data.fingerprint == known.fingerprint
        assert torch.equal(data.x[:], known.x[:])
        monkeypatch.setattr(members, "decode_deep", None)
        assert torch.equal(load(path).x[:], known.x[:])

    def test_deep_images_among_others_are_left_out_and_named(self, tmp_path: Path, name: str) -> None:
        content = {f"{i:02}.png": png(image[..., 0]) for i, image in enumerate(IMAGES)}
        path = archived(tmp_path / name, {"0.png": png(DEEP[0]), **content})
        with pytest.warns(UserWarning, match=r"1 of 31 images cannot be read .*0\.png \(more than 8 bits per channel"):
            assert len(load(path).x) == 30


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
class TestManyImages:
    def path(self, folder: Path, name: str) -> Path:
        return archived(folder / name, {f"{index:02}.png": png(image) for index, image in enumerate(IMAGES)})

    def test_they_stay_bytes_in_the_cache_and_are_mirrored_as_in_memory(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = self.path(tmp_path, name)
        known = load(path, flip=True)
        monkeypatch.setattr(assembling, "KEEP_BYTES", 0)
        monkeypatch.setattr(checks, "KEEP_BYTES", 0)
        for decode in (members.decode, None):  # the second time from the cache
            monkeypatch.setattr(members, "decode", decode)
            data = load(path, flip=True)
            assert isinstance(data.x, ImageSamples)
            assert data.x.raw.dtype == np.uint8
            assert isinstance(data.x.raw.base, np.memmap) or isinstance(data.x.raw, np.memmap)
            assert data.fingerprint == known.fingerprint
            drawn = []
            for dataset in (known, data):
                torch.manual_seed(1)
                drawn.append(dataset.part("train", augment=True)[0][torch.arange(12)])
            assert torch.equal(*drawn)
            assert not torch.equal(drawn[1], data.part("train")[0][:12])

    def test_statistics_of_their_own_read_them_by_rows(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = f"{self.path(tmp_path, name)}(normalise=channels)"
        known = load(path)
        monkeypatch.setattr(assembling, "KEEP_BYTES", 0)
        data = load(path)
        assert isinstance(data.x, SourceSamples)
        assert torch.allclose(data.x[:], known.x[:], atol=1e-6)

    def test_damaged_images_are_named(self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        content = {f"{index:02}.png": png(image) for index, image in enumerate(IMAGES)}
        content["07.png"] = content["07.png"][:-40]
        path = archived(tmp_path / name, content)
        monkeypatch.setattr(assembling, "KEEP_BYTES", 0)
        with pytest.raises(ValueError, match=r"07\.png cannot be read \(OSError"):
            load(path)
        assert not list(tmp_path.rglob("*.npy"))


def test_other_members_of_one_archive_are_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Incomplete samples are left out, so the same shard can give as many other images."""
    content: dict[str, bytes] = {}
    for index, image in enumerate(IMAGES):
        content[f"{index:02}.png"] = png(image)
        content[f"{index:02}.{'ab'[index % 2]}.cls"] = b"0"
    path = archived(tmp_path / "a.tar", content)
    monkeypatch.setattr(assembling, "KEEP_BYTES", 0)
    monkeypatch.setattr(checks, "KEEP_BYTES", 0)
    found = []
    for label in ("a.cls", "b.cls"):
        with pytest.warns(UserWarning, match="15 of 30 samples are incomplete"):
            found.append(load(path, label_key=label))
    assert found[0].fingerprint != found[1].fingerprint
    assert not torch.equal(found[0].x[:], found[1].x[:])


def test_bytes_of_hdf5_stay_bytes_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.importorskip("h5py").File(tmp_path / "a.h5", "w") as file:
        file["x"] = IMAGES
    path = f"{tmp_path}/a.h5(value_range=[0, 255], layout=channels_last, flip=true)"
    known = load(path)
    monkeypatch.setattr(checks, "KEEP_BYTES", IMAGES.size)
    monkeypatch.setattr(assembling, "KEEP_BYTES", IMAGES.size)
    small = load(path)
    monkeypatch.setattr(assembling, "KEEP_BYTES", IMAGES.size - 1)
    large = load(path)
    assert isinstance(small.x, ImageSamples)
    assert isinstance(large.x, SourceSamples)
    assert small.fingerprint == large.fingerprint == known.fingerprint
    assert torch.equal(small.x[:], known.x[:])


def test_a_mixed_archive_needs_a_size_as_a_folder_does(tmp_path: Path) -> None:
    content = {f"{index:02}.png": png(DEEP[index][: 4 + index % 2]) for index in range(20)}
    with pytest.raises(ValueError, match=r"images of 2 sizes, width × height \(images\): 8×4 \(10\), 8×5 \(10\); give size"):
        open_dataset_zip(archived(tmp_path / "a.zip", content))
    assert assemble("a", open_dataset_zip(tmp_path / "a.zip", size=4)).shape == (1, 4, 4)
