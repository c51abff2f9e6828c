from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdiff.data import load
from kdiff.data.formats.dataset_zip import is_dataset_zip, open_dataset_zip

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 3, 6, 8)).astype(np.uint8)
LATENTS = RNG.normal(size=(12, 8, 4, 4)).astype(np.float32)
LATENTS[:, 4:] = np.abs(LATENTS[:, 4:]) + 0.1
ROWS = np.array([5, 0, 23, 5])


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(out, "png")
    return out.getvalue()


def npy(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def made(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def of_tool(count: int = 24) -> dict[str, bytes]:
    """Chunks and a dataset.json, as the dataset tools write them, in an order that is not that of the names."""
    names = [f"{i // 10:05}/img{100 * i:08}.png" for i in range(count)]
    members = {name: png(IMAGES[i]) for i, name in enumerate(names)}
    labels = [[name, i % 5] for i, name in enumerate(names)]
    return dict(reversed(members.items())) | {"dataset.json": json.dumps({"labels": labels}).encode()}


def latents() -> dict[str, bytes]:
    members = {f"00000/img-mean-std-{i:08}.npy": npy(values) for i, values in enumerate(LATENTS)}
    labels = [[name, i] for i, name in enumerate(members)]
    return members | {"dataset.json": json.dumps({"labels": labels}).encode()}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_images_with_labels_of_dataset_json(tmp_path: Path, method: int) -> None:
    path = made(tmp_path / "d.zip", of_tool(), method)
    opened = open_dataset_zip(path)
    assert is_dataset_zip(path)
    assert (opened.x.shape, opened.x.dtype, opened.value_range) == ((24, 3, 6, 8), np.uint8, (0, 255))
    assert np.array_equal(opened.x.read(ROWS), IMAGES[ROWS])
    assert np.array_equal(np.concatenate(list(opened.x.chunks())), IMAGES)
    assert opened.y is not None
    assert opened.y.read(np.arange(24)).tolist() == [i % 5 for i in range(24)]
    assert (opened.classes, opened.remarks) == (None, [])
    assert open_dataset_zip(path, labels=False).y is None


def test_a_tool_without_labels_has_no_classes(tmp_path: Path) -> None:
    members = of_tool() | {"dataset.json": b'{"labels": null}'}
    opened = open_dataset_zip(made(tmp_path / "d.zip", members))
    assert (opened.y, opened.classes) == (None, None)


def test_folders_are_classes_also_below_one_folder_and_sizes_are_brought_together(tmp_path: Path) -> None:
    members = {f"photos/{'cats' if i % 2 else 'dogs'}/old/{i:02}.png": png(IMAGES[i]) for i in range(20)}
    members["photos/cats/99.png"] = png(IMAGES[0][:, :4, :4])
    path = made(tmp_path / "p.zip", members)
    with pytest.raises(ValueError, match=r"images of 2 sizes.*give size"):
        open_dataset_zip(path)
    opened = open_dataset_zip(path, size=4, channels="L")
    assert opened.x.shape == (21, 1, 4, 4)
    assert opened.classes == ["cats", "dogs"]
    assert opened.y is not None
    assert opened.y.read(np.arange(21)).tolist() == [0] * 11 + [1] * 10


def test_chunks_without_dataset_json_are_remarked_on(tmp_path: Path) -> None:
    members = {name: content for name, content in of_tool().items() if name != "dataset.json"}
    assert any("look like chunks" in one for one in open_dataset_zip(made(tmp_path / "d.zip", members)).remarks)


def test_latents_of_edm2_are_recognised_and_halved_on_demand(tmp_path: Path) -> None:
    path = made(tmp_path / "l.zip", latents())
    opened = open_dataset_zip(path)
    rows = np.array([3, 1])
    assert np.array_equal(opened.x.read(rows), LATENTS[rows])
    assert opened.value_range is None
    assert len(opened.remarks) == 1
    assert "means and standard deviations of 4 latent channels" in opened.remarks[0]
    assert "key=mean" in opened.remarks[0]
    for key, part in (("mean", LATENTS[:, :4]), ("std", LATENTS[:, 4:])):
        half = open_dataset_zip(path, key=key)
        assert np.array_equal(half.x.read(rows), part[rows])
        assert half.x.identity != opened.x.identity
        assert not half.remarks
    plain = {f"{i}.npy": npy(values) for i, values in enumerate(RNG.normal(size=(9, 8, 4, 4)))}
    other = made(tmp_path / "a.zip", plain)
    assert open_dataset_zip(other).remarks == []
    with pytest.raises(ValueError, match="leave key out"):
        open_dataset_zip(other, key="mean")
    with pytest.raises(ValueError, match="mean or std"):
        open_dataset_zip(path, key="x")
    with pytest.raises(ValueError, match="for images"):
        open_dataset_zip(path, size=8)


def test_arrays_are_read_in_any_byte_order_and_one_form(tmp_path: Path) -> None:
    values = RNG.normal(size=(12, 3, 5))
    big = made(tmp_path / "b.zip", {f"{i:02}.npy": npy(one.astype(">f8")) for i, one in enumerate(values)})
    found = open_dataset_zip(big).x
    assert found.dtype == np.float64
    assert found.dtype.isnative
    assert np.array_equal(found.read(np.arange(12)), values)
    mixed = made(tmp_path / "m.zip", {"0.npy": npy(values[0]), **{f"{i}.npy": npy(values[i][:2]) for i in range(1, 9)}})
    with pytest.raises(ValueError, match=r"is \(2, 5\) float64; expected \(3, 5\)"):
        open_dataset_zip(mixed)
    objects = made(tmp_path / "o.zip", {"0.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 60) + b" " * 60})
    with pytest.raises(ValueError, match=r"cannot be read as \.npy"):
        open_dataset_zip(objects)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    junk = {"__MACOSX/00000/._img.png": b"", "00000/.DS_Store": b"", "readme.txt": b"a", "b.heic": b"c"}
    opened = open_dataset_zip(made(tmp_path / "d.zip", of_tool() | junk))
    assert len(opened.x) == 24
    (remark,) = opened.remarks
    assert "kdiff does not read .heic (1)" in remark
    assert "hidden (2)" in remark
    assert ".txt (1)" in remark


def test_unreadable_images_are_left_out_with_their_labels(tmp_path: Path) -> None:
    path = made(tmp_path / "d.zip", of_tool() | {"00000/img00000300.png": b"nonsense"})
    opened = open_dataset_zip(path)
    rest = [i for i in range(24) if i != 3]
    assert np.array_equal(opened.x.read(np.arange(23)), IMAGES[rest])
    assert opened.y is not None
    assert opened.y.read(np.arange(23)).tolist() == [i % 5 for i in rest]
    assert opened.about["unreadable"] == ["00000/img00000300.png"]
    assert "1 of 24 images cannot be read" in opened.remarks[0]
    with pytest.raises(ValueError, match="img00000300"):
        open_dataset_zip(path, corrupt="error")


def test_damaged_bytes_are_found_by_the_crc(tmp_path: Path) -> None:
    path = made(tmp_path / "l.zip", latents())
    content = bytearray(path.read_bytes())
    place = content.index(LATENTS[9].tobytes())
    content[place + 10] ^= 1
    path.write_bytes(content)
    opened = open_dataset_zip(path, key="mean")
    with pytest.raises(ValueError, match=r"00000009\.npy is damaged .*CRC.*copy"):
        opened.x.read(np.array([9]))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_zip_that_is_cut_off_is_refused(tmp_path: Path, keep: float) -> None:
    path = made(tmp_path / "d.zip", of_tool())
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(ValueError, match=r"cannot be read as a zip: .*cut off"):
        open_dataset_zip(path)


def patched(path: Path, name: str, offset: int, value: int) -> None:
    """Change two bytes of the entry of a member in the directory of the zip."""
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    while content[place + 46 : place + 46 + len(name)] != name.encode():
        place = content.index(b"PK\x01\x02", place + 4)
    content[place + offset : place + offset + 2] = struct.pack("<H", value)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [(8, 1, "encrypted .*unpack it"), (10, 9, "compressed by deflate64.*stored or deflated"), (26, 0x4000, "declared as 1 GB")],
)
def test_what_the_directory_declares_is_checked_first(tmp_path: Path, offset: int, value: int, message: str) -> None:
    path = made(tmp_path / "d.zip", of_tool())
    patched(path, "00000/img00000400.png", offset, value)
    with pytest.raises(ValueError, match=message):
        open_dataset_zip(path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "holds neither"),
        ({"a.txt": b""}, r"holds neither \(1 file .*\.txt"),
        (of_tool() | {"x.npy": npy(LATENTS[0])}, "24 images and 1 arrays"),
        (of_tool() | {"../../up.png": png(IMAGES[0])}, "leads out of the zip"),
        (of_tool() | {"/root.png": png(IMAGES[0])}, "leads out of the zip"),
        (of_tool() | {"dataset.json": b"{"}, "is damaged"),
        (of_tool() | {"dataset.json": b'{"labels": [["00000/img00000000.png", 1]]}'}, "has no label for"),
    ],
)
def test_other_zips_are_refused(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset_zip(made(tmp_path / "d.zip", members))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused_and_a_missing_file_too(tmp_path: Path) -> None:
    path = made(tmp_path / "d.zip", of_tool())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("00000/img00000100.png", png(IMAGES[3]))
    with pytest.raises(ValueError, match="more than once"):
        open_dataset_zip(path)
    with pytest.raises(FileNotFoundError):
        open_dataset_zip(tmp_path / "none.zip")


def _read_here(source: object, queue: object) -> None:
    queue.put(source.read(np.arange(24)))


def test_threads_forks_and_copies_read_the_same(tmp_path: Path) -> None:
    source = open_dataset_zip(made(tmp_path / "d.zip", of_tool(), zipfile.ZIP_DEFLATED)).x
    source.read(ROWS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(source.read, [np.array([row]) for row in range(24)]))
    assert np.array_equal(np.concatenate(found), IMAGES)
    assert np.array_equal(pickle.loads(pickle.dumps(source)).read(ROWS), IMAGES[ROWS])
    context = multiprocessing.get_context("fork")
    queues = [context.SimpleQueue() for _ in range(2)]
    children = [context.Process(target=_read_here, args=(source, queue)) for queue in queues]
    for child in children:
        child.start()
    assert np.array_equal(source.read(np.arange(24)), IMAGES)
    for queue in queues:
        assert np.array_equal(queue.get(), IMAGES)
    for child in children:
        child.join(10)


def test_a_zip_and_its_folder_are_the_same_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "cache"))
    path = made(tmp_path / "d.zip", of_tool())
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "folder")
    zipped, folder = load(str(path)), load(str(tmp_path / "folder"))
    assert zipped.fingerprint == folder.fingerprint
    assert np.array_equal(zipped.x[:].numpy(), folder.x[:].numpy())
    assert zipped.normalisation.describe() == folder.normalisation.describe()
