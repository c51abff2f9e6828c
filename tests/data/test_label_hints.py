"""Labels under another name, or in another form, are never dropped without a word."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdiff.commands.main import main
from kdiff.data import load, make_dataset

COUNT = 60
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((COUNT, 6)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (COUNT, 3, 4, 4)).astype(np.uint8)
LABELS = np.arange(COUNT) % 4
ONE_HOT = np.eye(4, dtype=np.int64)[LABELS]


def write(path: Path, **arrays: np.ndarray) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, path)
    return path


def warned(source: Path, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        load(source, **options)
    return [str(each.message) for each in found]


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
class TestUnused:
    @pytest.mark.parametrize("name", ["labels", "targets", "arr_1", "class"])
    @pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
    def test_whole_numbers_are_named_with_the_option(self, tmp_path: Path, ending: str, name: str, dtype: type) -> None:
        path = write(tmp_path / f"a{ending}", images=IMAGES, **{name: LABELS.astype(dtype)})
        (text,) = warned(path)
        kind = np.dtype(dtype)
        assert text == (
            f"{path}: no labels are used, but the file holds {name!r} ({COUNT},) {kind} beside the samples 'images'; if it "
            f"holds classes, give label_key={name!r}"
        )
        assert warned(path, label_key=name) == []
        data = load(path, label_key=name)
        assert data.y is not None
        assert data.y.tolist() == LABELS.tolist()

    @pytest.mark.parametrize(
        ("labels", "form"),
        [
            (ONE_HOT, "y.argmax(1)"),
            (ONE_HOT.astype(np.float32), "y.argmax(1)"),
            (ONE_HOT.astype(bool), "y.argmax(1)"),
            (LABELS[:, None], "y[:, 0]"),
            (LABELS[:, None].astype(np.float32), "y[:, 0].astype('int64')"),
            (LABELS.astype(np.float64), "y.astype('int64')"),
            (LABELS > 1, "y.astype('int64')"),
        ],
    )
    def test_other_forms_are_named_with_what_to_do(self, tmp_path: Path, ending: str, labels: np.ndarray, form: str) -> None:
        path = write(tmp_path / f"a{ending}", x=VECTORS, labels=labels)
        (text,) = warned(path)
        assert text.endswith(f"give label_key='labels', once it is saved as {form}")
        converted = eval(form, {"y": labels, "np": np})
        assert warned(write(tmp_path / f"b{ending}", x=VECTORS, y=converted)) == []
        with pytest.raises(ValueError, match=r"a: labels must") as found:
            load(path, label_key="labels")
        assert str(found.value).endswith(form)

    def test_several_are_listed(self, tmp_path: Path, ending: str) -> None:
        (text,) = warned(write(tmp_path / f"a{ending}", x=VECTORS, id=np.arange(COUNT), label=LABELS))
        assert f"'id' ({COUNT},) int64, 'label' ({COUNT},) int64" in text

    def test_what_is_no_label_is_not_named(self, tmp_path: Path, ending: str) -> None:
        others = {
            "weights": RNG.random(COUNT),
            "pairs": RNG.integers(0, 9, (COUNT, 2)),
            "mean": np.zeros(6),
            "short": LABELS[1:],
            "one": np.array([3]),
            "latents": RNG.standard_normal((COUNT, 3)),
        }
        assert warned(write(tmp_path / f"a{ending}", x=VECTORS, **others)) == []
        assert warned(write(tmp_path / f"b{ending}", x=VECTORS, y=LABELS, id=np.arange(COUNT))) == []


class TestNames:
    def test_of_classes_as_text(self, tmp_path: Path) -> None:
        names = np.array(["cat", "dog", "bird", "fish"])[LABELS]
        path = write(tmp_path / "a.npz", x=VECTORS, labels=names)
        (text,) = warned(path)
        assert text.endswith("give label_key='labels', once it is saved as np.unique(y, return_inverse=True)[1]")
        with pytest.raises(ValueError, match=r"found <U4; convert names with np\.unique\(y, return_inverse=True\)\[1\]$"):
            load(path, label_key="labels")

    def test_adm(self, tmp_path: Path) -> None:
        """np.savez without names: the images are arr_0, channels last, and the labels arr_1."""
        path = tmp_path / "a.npz"
        np.savez(path, RNG.integers(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8), LABELS)
        (text,) = warned(path, layout="channels_last")
        assert "'arr_1' (60,) int64 beside the samples 'arr_0'" in text
        assert load(path, layout="channels_last", label_key="arr_1").num_classes == 4


class TestSiblings:
    @pytest.mark.parametrize("name", ["labels.npy", "y.npy", "a_classes.npy"])
    def test_labels_in_the_file_beside_it(self, tmp_path: Path, name: str) -> None:
        np.save(tmp_path / "a.npy", VECTORS)
        np.save(tmp_path / name, LABELS)
        (text,) = warned(tmp_path / "a.npy")
        assert text.endswith(f"if {tmp_path / name} holds the classes, give labels={str(tmp_path / name)!r}")
        assert warned(tmp_path / "a.npy", labels=str(tmp_path / name)) == []

    def test_other_files(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", VECTORS)
        np.save(tmp_path / "b.npy", VECTORS)
        np.save(tmp_path / "c.npy", LABELS[1:])
        np.save(tmp_path / "d.npy", RNG.random(COUNT))
        (tmp_path / "e.npy").write_bytes(b"no array")
        assert warned(tmp_path / "a.npy") == []


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdiff.studies.estimation.estimate", lambda *given, **options: 1 / 0)
    path = write(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    with pytest.warns(UserWarning, match="no labels are used, but the file holds 'labels'"), pytest.raises(ZeroDivisionError):
        main(["estimate", str(path), "--out", str(tmp_path / "out")])


def test_make_dataset_says_how_to_convert() -> None:
    with pytest.raises(ValueError, match=r"found \(60, 4\); convert them with y\.argmax\(1\)$"):
        make_dataset("a", VECTORS, ONE_HOT)
    with pytest.raises(ValueError, match=r"found float32; convert one-hot rows with y\.argmax\(1\)$"):
        make_dataset("a", VECTORS, ONE_HOT.astype(np.float32))


def test_objects_are_named_and_never_unpickled(tmp_path: Path) -> None:
    """A column of pandas is an array of Python objects."""
    path = tmp_path / "a.npz"
    np.savez(path, x=VECTORS, species=np.array([f"kind {label}" for label in LABELS], dtype=object))
    (text,) = warned(path)
    assert "'species' (60,) object" in text
    assert text.endswith("give label_key='species', once it is saved as np.unique(y, return_inverse=True)[1]")
