from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from kdiff.data import ImageSamples, checks, fashion, load, load_idx
from kdiff.data.idx import DATASETS, read_idx

RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.integers(0, 256, (count, 5, 4)).astype(np.uint8) for count in (60, 40))
TRAIN_LABELS, TEST_LABELS = np.arange(60, dtype=np.uint8) % 3, np.arange(40, dtype=np.uint8) % 3


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_all(folder: Path, ending: str = "", dash: str = "-", labels: bool = True) -> Path:
    for stem, x, y in (("train", TRAIN, TRAIN_LABELS), ("t10k", TEST, TEST_LABELS)):
        write(folder / f"{stem}-images{dash}idx3-ubyte{ending}", idx(x))
        if labels:
            write(folder / f"{stem}-labels{dash}idx1-ubyte{ending}", idx(y))
    return folder


@pytest.mark.parametrize("ending", ["", ".gz"])
class TestFolder:
    @pytest.mark.parametrize("dash", ["-", "."])
    def test_training_and_test_files_make_one_data_set(self, tmp_path: Path, ending: str, dash: str) -> None:
        data = load(write_all(tmp_path / "mine", ending, dash))
        assert (data.name, data.shape, data.num_classes) == ("mine", (1, 5, 4), 3)
        raw = data.normalisation.undo(data.x[:]).round().byte()
        assert torch.equal(raw, torch.from_numpy(np.concatenate([TRAIN, TEST]))[:, None])
        assert data.normalisation.describe() == {"kind": "range", "shift": 127.5, "scale": 127.5}
        assert data.y is not None
        assert data.y.tolist() == [*TRAIN_LABELS, *TEST_LABELS]

    def test_training_files_alone(self, tmp_path: Path, ending: str) -> None:
        data = load(str(write_all(tmp_path, ending)), part="train")
        assert len(data.x) == 60
        assert data.y is not None
        assert data.y.tolist() == TRAIN_LABELS.tolist()

    def test_without_labels(self, tmp_path: Path, ending: str) -> None:
        data = load_idx(write_all(tmp_path, ending, labels=False))
        assert (data.y, len(data.x)) == (None, 100)

    def test_labels_for_some(self, tmp_path: Path, ending: str) -> None:
        write_all(tmp_path, ending)
        (tmp_path / f"t10k-labels-idx1-ubyte{ending}").unlink()
        with pytest.raises(ValueError, match=r"holds no labels for t10k: expected t10k-labels-idx1-ubyte \(or \.gz\)"):
            load(tmp_path)

    def test_labels_and_images_that_do_not_belong_together(self, tmp_path: Path, ending: str) -> None:
        write_all(tmp_path, ending)
        write(tmp_path / f"t10k-labels-idx1-ubyte{ending}", idx(TEST_LABELS[:-1]))
        with pytest.raises(ValueError, match=r"t10k-images\S+ holds 40 images but \S+t10k-labels\S+ 39 labels"):
            load(tmp_path)

    def test_two_sizes(self, tmp_path: Path, ending: str) -> None:
        write_all(tmp_path, ending)
        write(tmp_path / f"t10k-images-idx3-ubyte{ending}", idx(TEST.transpose(0, 2, 1).copy()))
        with pytest.raises(ValueError, match=r"two sizes: train-images\S+ \(5, 4\), t10k-images\S+ \(4, 5\)"):
            load(tmp_path)

    def test_files_are_named_that_are_damaged(self, tmp_path: Path, ending: str) -> None:
        whole, labels = idx(TRAIN), idx(TRAIN_LABELS)
        name = f"train-images-idx3-ubyte{ending}"
        for content, message in (
            (b"", "begins with nothing, expected 00 00 08 03"),
            (labels, "begins with 00 00 08 01, expected 00 00 08 03"),
            (b"\x00\x00\x0d\x03" + whole[4:], "begins with 00 00 0d 03"),
            (b"<html>", "begins with 3c 68 74 6d"),
            (whole[:10], "holds 10 bytes, but its header needs 16; it is cut off"),
            (whole[:-1], r"holds 1215 bytes, but its 60 × 5 × 4 values need 1216; it is cut off"),
            (
                whole[:4] + struct.pack(">I", 2**31) + whole[8:],
                "holds 1216 bytes, but its 2147483648 × 5 × 4 values need 42949672976; it is cut off",
            ),
            (whole + b"\x00", "holds more than 1216 bytes.*need 1216; it has too many bytes"),
        ):
            path = write(tmp_path / name, content)
            with pytest.raises(ValueError, match=rf"{name}: {message}"):
                read_idx(path, 3)
            with pytest.raises(ValueError, match=name):
                load(tmp_path)
        write(tmp_path / name, whole)
        path = write(tmp_path / f"train-labels-idx1-ubyte{ending}", labels[:-1])
        with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\S*: holds 67 bytes"):
            load(tmp_path)

    def test_large_files_stay_bytes(self, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = load(write_all(tmp_path, ending))
        monkeypatch.setattr(checks, "KEEP_BYTES", 0)
        for _ in range(2):
            data = load(tmp_path)
            assert isinstance(data.x, ImageSamples)
            assert data.fingerprint == plain.fingerprint


def test_gzip_files_cut_off_or_of_another_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "train-images-idx3-ubyte.gz", idx(TRAIN))
    whole = path.read_bytes()
    for content in (b"", whole[:8], whole[:-20], whole[: len(whole) // 2], whole[:-6] + b"xxxxxx", idx(TRAIN)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: (damaged or cut off|begins with nothing)"):
            read_idx(path, 3)


def test_no_more_is_decompressed_than_is_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "train-images-idx3-ubyte.gz", idx(TRAIN) + bytes(2**22))
    read, original = [0], gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        content = original(self, size)
        read[0] += len(content)
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(ValueError, match="holds more than 1216 bytes, but its 60 × 5 × 4 values need 1216"):
        read_idx(path, 3)
    assert read[0] == 1217
    monkeypatch.setattr("kdiff.data.idx.memory", lambda: 2000.0)
    with pytest.raises(ValueError, match="values need 1216 bytes, and this machine has 2000 bytes of memory"):
        read_idx(path, 3)


def test_of_a_file_and_its_gzipped_copy_one_is_taken(tmp_path: Path) -> None:
    write_all(tmp_path, ".gz")
    write_all(tmp_path, "")
    assert len(load(tmp_path).x) == 100


def test_several_sets_in_one_folder(tmp_path: Path) -> None:
    write_all(tmp_path)
    write(tmp_path / "letters-train-images-idx3-ubyte", idx(TRAIN))
    with pytest.raises(ValueError, match=r"holds 3 sets of IDX images \(letters-train, train, t10k\)"):
        load(tmp_path)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no IDX images in .*expected files named like train-images-idx3-ubyte"):
        load_idx(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no IDX images in .*nothing"):
        load_idx(tmp_path / "nothing")
    write(tmp_path / "t10k-images-idx3-ubyte", idx(TEST))
    with pytest.raises(ValueError, match=r"holds no training images, only t10k; use part='all'"):
        load(tmp_path, part="train")
    with pytest.raises(ValueError, match=r"part must be train or all, found 'test'"):
        load(tmp_path, part="test")
    with pytest.raises(ValueError, match=r"has no option size; its options are part"):
        load(tmp_path, size=8)


class TestFashion:
    def test_a_folder_of_ones_own_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_all(tmp_path / "fashion-mnist", ".gz")
        monkeypatch.setenv("KDIFF_DATA", str(tmp_path))
        data = load("fashion")
        assert (data.name, len(data.x)) == ("fashion", 100)
        assert data.describe()["class_names"][9] == "Ankle boot"
        assert len(fashion(part="train").x) == 60

    def test_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kdiff.data.idx.DATASETS", (str(tmp_path / "a"), str(tmp_path / "b")))
        with pytest.raises(FileNotFoundError, match=r"apt-get install dataset-fashion-mnist\), or set KDIFF_DATA"):
            load("fashion")

    @pytest.mark.slow
    def test_debians_files(self) -> None:
        if not any((Path(root) / "fashion-mnist").is_dir() for root in DATASETS):
            pytest.skip("Debian's dataset-fashion-mnist is not installed")
        data = load("fashion")
        assert data.x.shape == (70000, 1, 28, 28)
        assert isinstance(data.x, torch.Tensor)
        assert data.y is not None
        assert data.y.bincount().tolist() == [7000] * 10
        assert load("fashion", part="train").y.bincount().tolist() == [6000] * 10  # type: ignore[union-attr]
