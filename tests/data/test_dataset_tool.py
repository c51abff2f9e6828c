"""Folders of the dataset tool of StyleGAN and EDM: chunks of numbered images, with labels in dataset.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdiff.commands.main import main
from kdiff.data import load

COUNT, CHUNK = 45, 20
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, COUNT)
NAMES = [f"{i // CHUNK:05d}/img{i // CHUNK * 1000 + i % CHUNK:08d}.png" for i in range(COUNT)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (4, 4, 3)).astype(np.uint8)).save(path)
    return tmp_path


def describe(root: Path, content: Any) -> None:
    (root / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def pairs() -> list[list[Any]]:
    return [[name, int(label)] for name, label in zip(NAMES, LABELS)]


@pytest.mark.parametrize("form", ["pairs", "shuffled", "dictionary", "Windows"])
def test_labels_come_from_the_file(root: Path, form: str) -> None:
    listed = pairs()
    if form == "shuffled":
        listed = listed[::-1]
    if form == "Windows":
        listed = [[name.replace("/", "\\"), label] for name, label in listed]
    describe(root, {"labels": dict(map(tuple, listed)) if form == "dictionary" else listed})
    data = load(root)
    assert data.y is not None
    assert data.y.tolist() == LABELS.tolist()
    assert data.num_classes == 3
    assert "class_names" not in data.describe()
    assert load(root, labels=False).y is None


def test_null_labels_are_none(root: Path) -> None:
    describe(root, {"labels": None})
    assert load(root).y is None


def test_the_labels_of_unreadable_images_are_left_out(root: Path) -> None:
    describe(root, {"labels": pairs()})
    (root / NAMES[7]).write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of 45 images cannot be read"):
        data = load(root)
    assert data.y is not None
    assert data.y.tolist() == np.delete(LABELS, 7).tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"labels": [["00000/img', r"dataset\.json is damaged \(.*\); expected \{\"labels\": .*, or give labels=False"),
        ("[" * 100_000, "is damaged"),
        ({"labels": pairs()[:-1]}, r"has no label for 00002/img00002004\.png; make the folder"),
        ({"labels": pairs()[9:]}, r"has no label for 00000/img00000000\.png, .* and 4 more"),
        ({"labels": [*pairs(), ["00009/img.png", 1]]}, r"has labels for images that are not in .*: 00009/img\.png"),
        ({"labels": []}, "has no label for .* and 40 more"),
        ({"labels": [*pairs(), [NAMES[0], 7]]}, r"gives 00000/img00000000\.png two labels, \d and 7"),
        ({"labels": [[name, [0, 1, 0]] for name in NAMES]}, "its label is a vector, and kdiff takes one whole number"),
        ({"labels": [[name, 1.5] for name in NAMES]}, r'holds \["00000/img00000000\.png", 1\.5\]; expected'),
        ({"labels": [[name, True] for name in NAMES]}, "holds"),
        ({"labels": [[name, None] for name in NAMES]}, "holds"),
        ({"labels": LABELS.tolist()}, r"holds \d; expected"),
        ({"labels": "none"}, "labels is a str; expected"),
        ({"labels": [[name, -1] for name in NAMES]}, "labels must lie in 0 … 0"),
    ],
)
def test_refusals(root: Path, content: Any, message: str) -> None:
    describe(root, content)
    with pytest.raises(ValueError, match=message) as found:
        load(root)
    assert "\n" not in str(found.value)
    assert load(root, labels=False).y is None


def test_a_file_of_something_else_changes_nothing(tmp_path: Path) -> None:
    for i in range(40):
        path = tmp_path / ("cats" if i % 2 else "dogs") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (4, 4, 3)).astype(np.uint8)).save(path)
    describe(tmp_path, {"title": "animals"})
    assert load(tmp_path).describe()["class_names"] == ["cats", "dogs"]


@pytest.mark.parametrize("form", ["EDM", "FFHQ"])
def test_chunks_without_the_file_are_remarked_on(root: Path, form: str) -> None:
    if form == "FFHQ":
        for i, name in enumerate(NAMES):
            path = root / f"{i // CHUNK * 1000:05d}" / f"{i // CHUNK * 1000 + i % CHUNK:05d}.png"
            path.parent.mkdir(exist_ok=True)
            (root / name).rename(path)
    with pytest.warns(
        UserWarning, match=r"look like chunks of numbered images, and they are taken as classes; give labels=False"
    ):
        assert load(root).num_classes == 3
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and any(folder.iterdir()):
            folder.rename(root / f"c{folder.name}")
    assert load(root).num_classes == 3  # no warning, which would be an error


def test_from_the_command_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    describe(root, {"labels": pairs()[:-2]})
    assert main(["train", "--data", str(root), "--steps", "1", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"kdiff train: error: .*dataset\.json has no label for 00002/img00002003\.png, 00002/img00002004\.png; .*\n", error
    )


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "images.7z").write_bytes(b"")
    with pytest.raises(ValueError, match=r"accepted endings: .*; unpack an archive first, and name the folder$"):
        load(tmp_path / "images.7z")


def test_a_dataset_json_without_labels_is_said_not_to_be_used(tmp_path: Path) -> None:
    for number in range(40):
        file = tmp_path / f"{number % 2}" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(file)
    (tmp_path / "dataset.json").write_text("[1, 2]")
    with pytest.warns(UserWarning, match=r"dataset\.json is not used, because it is a list; expected"):
        assert load(tmp_path).num_classes == 2
    (tmp_path / "dataset.json").write_text('{"labels": {"a": "apple"}}')
    with pytest.raises(ValueError, match=r"if this dataset\.json is of something else, move it out of the folder"):
        load(tmp_path)


def test_classes_without_images_are_no_remark(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for number in range(60):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / f"{number}.png")
    listed = [[f"{number}.png", 100 * (number % 3)] for number in range(60)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": listed}))
    assert load(tmp_path).num_classes == 201
    assert [str(each.message) for each in recwarn if "labels" in str(each.message)] == []
