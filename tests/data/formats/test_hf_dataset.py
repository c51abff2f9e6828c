"""Data sets that `datasets` saves to disk: columns, images, classes and splits come back, and nothing outside is read."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

datasets = pytest.importorskip("datasets")

from kdiff.data import load  # noqa: E402
from kdiff.data.formats.hf_dataset import is_hf_dataset, open_hf_dataset  # noqa: E402

RNG = np.random.default_rng(0)
N = 20
PIXELS = RNG.integers(0, 256, (N, 6, 8, 3)).astype(np.uint8)
GRID = RNG.normal(size=(N, 2, 3)).astype(np.float32)
CUBE = RNG.integers(0, 256, (N, 2, 2, 3)).astype(np.uint8)
VECTOR = RNG.normal(size=(N, 4))
ROWS = np.array([13, 0, 7, 13])


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


def made(**others) -> datasets.Dataset:
    features = {
        "label": datasets.ClassLabel(names=["z", "a", "unseen"]),
        "grid": datasets.Array2D((2, 3), "float32"),
        "cube": datasets.Array3D((2, 2, 3), "uint8"),
        "vector": datasets.Sequence(datasets.Value("float64"), length=4),
        "free": datasets.Sequence(datasets.Value("float64")),
        "number": datasets.Value("int32"),
        "text": datasets.Value("string"),
    }
    columns = {
        "label": [i % 2 for i in range(N)],
        "grid": GRID.tolist(),
        "cube": CUBE.tolist(),
        "vector": VECTOR.tolist(),
        "free": VECTOR.tolist(),
        "number": list(range(N)),
        "text": ["…"] * N,
    }
    for name, (feature, values) in others.items():
        features[name], columns[name] = feature, values
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def pictures(pixels: np.ndarray = PIXELS) -> list[Image.Image]:
    return [Image.fromarray(one) for one in pixels]


def saved(path: Path, dataset: datasets.Dataset, **options) -> Path:
    dataset.save_to_disk(str(path), **options)
    return path


@pytest.mark.parametrize(
    ("key", "expected"),
    [("grid", GRID), ("cube", CUBE), ("vector", VECTOR), ("free", VECTOR), ("number", np.arange(N, dtype=np.int32)[:, None])],
)
def test_columns_come_back(tmp_path: Path, key: str, expected: np.ndarray) -> None:
    opened = open_hf_dataset(
        saved(tmp_path / "a", made(), num_shards=3), key=key, condition="vector" if key == "grid" else None
    )
    assert (opened.x.shape, opened.x.dtype) == (expected.shape, expected.dtype)
    assert np.array_equal(opened.x.read(ROWS), expected[ROWS])
    assert opened.classes == ["z", "a", "unseen"]
    assert opened.y.read(ROWS).tolist() == (ROWS % 2).tolist()
    assert any("the labels are the column label; give labels=False" in remark for remark in opened.remarks)
    assert any("text (string)" in remark and "not used" in remark for remark in opened.remarks)
    if key == "grid":
        assert np.array_equal(opened.conditions["vector"].read(ROWS), VECTOR[ROWS])
    assert open_hf_dataset(tmp_path / "a", key=key, labels=False).y is None


def test_chosen_and_shuffled_rows_stay_in_their_order(tmp_path: Path) -> None:
    order = RNG.permutation(N)[:12]
    path = saved(tmp_path / "a", made().select(order))
    assert open_hf_dataset(path, key="number").x.read(np.arange(12))[:, 0].tolist() == order.tolist()


class TestImages:
    def test_images_are_the_samples(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a", made(image=(datasets.Image(), pictures())))
        opened = open_hf_dataset(path)
        assert (opened.x.shape, opened.about["columns"]) == ((N, 3, 6, 8), ["image"])
        assert opened.value_range == (0, 255)
        with pytest.warns(UserWarning, match=r"grid \(list<item: list<item: float>>\), .* are not used"):
            assert load(path).normalisation.describe() == {"kind": "range", "shift": 127.5, "scale": 127.5}
        assert np.array_equal(opened.x.read(ROWS), PIXELS.transpose(0, 3, 1, 2)[ROWS])
        assert opened.y.read(ROWS).tolist() == (ROWS % 2).tolist()
        assert open_hf_dataset(path, size=4).x.shape == (N, 3, 4, 4)
        assert open_hf_dataset(path, channels="L").x.shape == (N, 1, 6, 8)
        with pytest.raises(ValueError, match="size and channels are for images"):
            open_hf_dataset(path, key="grid", size=4)

    def test_sizes_and_colours_are_not_mixed_in_silence(self, tmp_path: Path) -> None:
        mixed = [*pictures()[:-1], Image.fromarray(PIXELS[0, :5])]
        x = open_hf_dataset(saved(tmp_path / "a", made(image=(datasets.Image(), mixed)))).x
        with pytest.raises(ValueError, match="row 19 has 8×5 pixels, and the first one has 8×6; give size=5"):
            x.read(np.arange(N))
        coloured = [*pictures(PIXELS[..., 0])[:-1], Image.fromarray(PIXELS[0])]
        path = saved(tmp_path / "b", made(image=(datasets.Image(), coloured)))
        assert open_hf_dataset(path).x.shape == (N, 1, 6, 8)
        with pytest.raises(ValueError, match="row 19 has colours, and the first one is grey; give channels='RGB'"):
            open_hf_dataset(path).x.read(np.arange(N))
        assert np.array_equal(open_hf_dataset(path, channels="RGB").x.read(np.array([19]))[0], PIXELS[0].transpose(2, 0, 1))

    def test_only_images_inside_the_data_set_are_read(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        Image.fromarray(PIXELS[0]).save(file, "PNG")
        (tmp_path / "outside.png").write_bytes(file.getvalue())
        for stored, message in (
            ({"bytes": None, "path": str(tmp_path / "outside.png")}, "only images inside are read"),
            ({"bytes": None, "path": "../outside.png"}, "only images inside are read"),
            ({"bytes": None, "path": "https://example.org/a.png"}, "only images inside are read"),
            ({"bytes": b"not a picture", "path": None}, "row 0 cannot be read"),
            (None, "row 0 is missing"),
        ):
            dataset = made(image=(datasets.Image(decode=False), [stored] * N))
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
            dataset._data  # noqa: B018
            saved_without_embedding(path, dataset)
            with pytest.raises(ValueError, match=message):
                open_hf_dataset(path)
        (path / "inside.png").write_bytes(file.getvalue())
        saved_without_embedding(path, made(image=(datasets.Image(decode=False), [{"bytes": None, "path": "inside.png"}] * N)))
        assert np.array_equal(open_hf_dataset(path).x.read(ROWS)[0], PIXELS[0].transpose(2, 0, 1))

    def test_several_columns_of_images(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a", made(one=(datasets.Image(), pictures()), two=(datasets.Image(), pictures())))
        with pytest.raises(ValueError, match="the data set has the images one, two; give key='one'"):
            open_hf_dataset(path)
        assert open_hf_dataset(path, key="two").about["columns"] == ["two"]
        with pytest.raises(ValueError, match="one column of images makes the samples"):
            open_hf_dataset(path, key=["one", "two"])


def saved_without_embedding(path: Path, dataset: datasets.Dataset) -> None:
    """`save_to_disk` would read the files that the images name."""
    import pyarrow as pa

    path.mkdir(exist_ok=True)
    table = dataset.data.table
    with pa.OSFile(str(path / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    state = dict.fromkeys(("_format_columns", "_format_type", "_split"))
    state |= {
        "_data_files": [{"filename": "data.arrow"}],
        "_fingerprint": "0",
        "_format_kwargs": {},
        "_output_all_columns": False,
    }
    (path / "state.json").write_text(json.dumps(state))
    (path / "dataset_info.json").write_text(json.dumps({"features": dataset.features.to_dict()}))


class TestRefused:
    def test_a_split_must_be_named(self, tmp_path: Path) -> None:
        datasets.DatasetDict(train=made(), test=made().select(range(5))).save_to_disk(str(tmp_path / "a"))
        assert is_hf_dataset(tmp_path / "a")
        with pytest.raises(ValueError, match="has the splits train, test; give split='train'"):
            open_hf_dataset(tmp_path / "a")
        with pytest.raises(ValueError, match="'dev' is none of them"):
            open_hf_dataset(tmp_path / "a", split="dev")
        assert len(open_hf_dataset(tmp_path / "a", split="test", key="grid").x) == 5
        with pytest.raises(ValueError, match="is one data set without splits"):
            open_hf_dataset(tmp_path / "a" / "test", split="test")

    def test_other_folders_and_damaged_ones(self, tmp_path: Path) -> None:
        assert not is_hf_dataset(tmp_path)
        with pytest.raises(ValueError, match=r"has no state\.json"):
            open_hf_dataset(tmp_path)
        with pytest.raises(FileNotFoundError):
            open_hf_dataset(tmp_path / "none")
        path = saved(tmp_path / "a", made())
        file = next(path.glob("*.arrow"))
        content = file.read_bytes()
        for broken in (content[: len(content) // 3], b""):
            file.write_bytes(broken)
            with pytest.raises(ValueError, match="cannot be read as a Hugging Face data set: it is damaged or cut off"):
                open_hf_dataset(path)
        with pytest.raises(ValueError, match=r"numbers \(number\) and arrays \(grid, cube, vector, free\)"):
            open_hf_dataset(saved(tmp_path / "b", made()))
        with pytest.raises(ValueError, match="no rows"):
            open_hf_dataset(saved(tmp_path / "c", made().select([])), key="grid")

    def test_sound(self, tmp_path: Path) -> None:
        dataset = made(
            sound=({"bytes": datasets.Value("binary"), "path": datasets.Value("string")}, [{"bytes": b"", "path": ""}] * N)
        )
        path = saved(tmp_path / "a", dataset)
        facts = json.loads((path / "dataset_info.json").read_text())
        facts["features"]["sound"] = {"_type": "Audio"}  # `datasets` writes it only with torchcodec
        (path / "dataset_info.json").write_text(json.dumps(facts))
        with pytest.raises(ValueError, match="'sound' is Audio, which kdiff does not read; save it as arrays first"):
            open_hf_dataset(path, key="sound")
        assert open_hf_dataset(path, key="grid").x.shape == (N, 2, 3)
