from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

webdataset = pytest.importorskip("webdataset")

from kdiff.data.formats.tar_shards import is_tar_shards, open_tar_shards, shard_paths  # noqa: E402

RNG = np.random.default_rng(1)
IMAGES = RNG.integers(0, 256, (25, 6, 8, 3)).astype(np.uint8)
PARAMS = RNG.normal(size=(25, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "cache"))


def write(folder: Path, shards: int = 3, **more: Any) -> str:
    """Shards by webdataset's own writer: png, cls, json and an array; names in no order."""
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f"train-{shard:03}.tar")) as writer:
            for i in range(shard, 25, shards):
                meta = {"label": i % 3, "mass": i / 4, "site": {"lat": [i, 0.5]}, "name": f"c{i % 2}"}
                writer.write(
                    {
                        "__key__": f"a.b/{99 - i:03}",
                        "png": IMAGES[i],
                        "cls": i % 5,
                        "json": meta,
                        "params.npy": PARAMS[i],
                        **more,
                    }
                )
    return str(folder / f"train-{{000..{shards - 1:03}}}.tar")


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def png(i: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(IMAGES[i]).save(out, "png")
    return out.getvalue()


ORDER = [i for shard in range(3) for i in range(shard, 25, 3)]


def by_webdataset(pattern: str, **options: Any) -> list[dict[str, Any]]:
    return list(webdataset.WebDataset(pattern, shardshuffle=False, **options).decode("rgb8"))


def test_the_samples_and_their_order_are_those_of_webdataset(tmp_path: Path) -> None:
    pattern = write(tmp_path / "d")
    opened, theirs = open_tar_shards(pattern, condition=["params.npy", "mass", "site.lat"]), by_webdataset(pattern)
    rows = np.arange(25)
    assert opened.x.shape == (25, 3, 6, 8)
    assert np.array_equal(opened.x.read(rows), np.stack([one["png"] for one in theirs]).transpose(0, 3, 1, 2))
    assert np.array_equal(opened.x.read(rows), IMAGES[ORDER].transpose(0, 3, 1, 2))
    assert opened.y is not None
    assert opened.y.read(rows).tolist() == [one["cls"] for one in theirs] == [i % 5 for i in ORDER]
    assert np.array_equal(opened.conditions["params"].read(rows), np.stack([one["params.npy"] for one in theirs]))
    assert opened.conditions["mass"].read(rows).tolist() == [one["json"]["mass"] for one in theirs]
    assert opened.conditions["site_lat"].read(rows).tolist() == [[i, 0.5] for i in ORDER]
    assert opened.value_range == (0, 255)
    assert opened.remarks == []
    mixed = RNG.permutation(25)
    assert np.array_equal(opened.x.read(mixed), opened.x.read(rows)[mixed])


def test_one_shard_and_two_readers_lose_nothing_and_read_nothing_twice(tmp_path: Path) -> None:
    one = write(tmp_path / "one", 1)
    assert [path.name for path in shard_paths(tmp_path / "one")] == ["train-000.tar"]
    assert np.array_equal(open_tar_shards(one.replace("{000..000}", "000")).x.read(np.arange(25)), IMAGES.transpose(0, 3, 1, 2))
    pattern = write(tmp_path / "d")
    # webdataset gives each of its two workers every second shard.
    loader = torch.utils.data.DataLoader(
        webdataset.WebDataset(pattern, shardshuffle=False), batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    theirs = sorted(one["__key__"] for one in loader)
    opened = open_tar_shards(pattern)
    ours = [name.partition(": ")[2].partition(".png")[0] for name in opened.x.names]
    assert sorted(ours) == theirs
    assert len(set(ours)) == 25
    context = multiprocessing.get_context("fork")
    queues = [context.SimpleQueue() for _ in range(2)]
    children = [context.Process(target=_read, args=(opened.x, np.arange(i, 25, 2), queues[i])) for i in range(2)]
    for child in children:
        child.start()
    found = np.empty((25, 3, 6, 8), np.uint8)
    for i, queue in enumerate(queues):
        found[i::2] = queue.get()
    for child in children:
        child.join(10)
    assert np.array_equal(found, IMAGES[ORDER].transpose(0, 3, 1, 2))
    assert np.array_equal(pickle.loads(pickle.dumps(opened.x)).read(np.arange(25)), found)


def _read(source: Any, rows: np.ndarray, queue: Any) -> None:
    queue.put(source.read(rows))


def test_paths_are_braces_wildcards_and_folders_in_the_order_of_their_names(tmp_path: Path) -> None:
    pattern = write(tmp_path / "d")
    expected = [tmp_path / "d" / f"train-{i:03}.tar" for i in range(3)]
    assert is_tar_shards(pattern)
    assert is_tar_shards(tmp_path / "d")
    assert not is_tar_shards(tmp_path)
    for path in (pattern, str(tmp_path / "d/train-*.tar"), tmp_path / "d"):
        assert shard_paths(path) == expected
    assert shard_paths(str(tmp_path / "d/train-{002,000}.tar")) == [expected[2], expected[0]]
    with pytest.raises(FileNotFoundError, match=r"1 of 4 shards are missing.*train-003"):
        shard_paths(pattern.replace("002", "003"))
    with pytest.raises(FileNotFoundError, match="0 of 0 shards"):
        shard_paths(str(tmp_path / "d/no-*.tar"))
    with pytest.raises(ValueError, match="more than once"):
        shard_paths(str(tmp_path / "d/train-{000,000}.tar"))
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"compressed.*unpack it to \.tar"):
        shard_paths(tmp_path / "x.tar.gz")


def test_arrays_and_labels_from_json(tmp_path: Path) -> None:
    pattern = write(tmp_path / "d")
    opened = open_tar_shards(pattern, key="params.npy", label_key="label")
    assert np.array_equal(opened.x.read(np.arange(25)), PARAMS[ORDER])
    assert opened.value_range is None
    assert opened.y is not None
    assert opened.y.read(np.arange(25)).tolist() == [i % 3 for i in ORDER]
    assert any(".cls (25), .png (25)" in remark for remark in opened.remarks)
    named = open_tar_shards(pattern, label_key="name", condition={"params.npy": "vector"})
    assert named.classes == ["c0", "c1"]
    assert named.kinds == {"params": "vector"}
    assert open_tar_shards(pattern, labels=False).y is None
    with pytest.raises(ValueError, match="no field 'lable'; it has label"):
        open_tar_shards(pattern, label_key="lable")
    with pytest.raises(ValueError, match="whole number or a name"):
        open_tar_shards(pattern, label_key="mass")
    with pytest.raises(ValueError, match=r"holds 'c[01]'; a condition is a number"):
        open_tar_shards(pattern, condition="name")
    with pytest.raises(ValueError, match="no member ends in 'jpg'; the endings are"):
        open_tar_shards(pattern, key="jpg")


def test_several_images_of_a_sample_need_a_key_and_alternatives_do_not(tmp_path: Path) -> None:
    pattern = write(tmp_path / "d", **{"seg.png": IMAGES[0]})
    with pytest.raises(ValueError, match="give key=png"):
        open_tar_shards(pattern)
    assert len(open_tar_shards(pattern, key="seg.png").x) == 25
    other = tar(tmp_path / "e.tar", [(f"{i}.{'png' if i % 2 else 'bmp'}", png(i)) for i in range(12)])
    assert len(open_tar_shards(other).x) == 12


def test_incomplete_samples_are_counted_and_left_out(tmp_path: Path) -> None:
    members = [(f"{i:02}.{ending}", png(i) if ending == "png" else b"1") for i in range(12) for ending in ("png", "cls")]
    members = [one for one in members if one[0] not in ("03.cls", "05.png", "07.cls")] + [
        ("README", b""),
        ("__meta__/a.png", b""),
    ]
    opened = open_tar_shards(tar(tmp_path / "d.tar", members))
    rest = [i for i in range(12) if i not in (3, 5, 7)]
    assert np.array_equal(opened.x.read(np.arange(9)), IMAGES[rest].transpose(0, 3, 1, 2))
    (remark,) = opened.remarks
    assert "3 of 12 samples are incomplete and left out (2 without .cls, 1 without .png), the first" in remark
    apart = sorted(one for one in members if one[0][0] != "_")[::2] + sorted(one for one in members if one[0][0] != "_")[1::2]
    parted = [*(one for one in apart if one[0].endswith("png")), *(one for one in apart if one[0].endswith("cls"))]
    with pytest.raises(ValueError, match=r"no complete sample: .*must follow each other"):
        open_tar_shards(tar(tmp_path / "e.tar", parted))


def test_unreadable_images_are_left_out_with_their_labels(tmp_path: Path) -> None:
    members = [
        (f"{i:02}.{end}", (png(i) if i != 4 else b"x") if end == "png" else b"%d" % i)
        for i in range(12)
        for end in ("png", "cls")
    ]
    opened = open_tar_shards(tar(tmp_path / "d.tar", members))
    assert opened.y is not None
    assert opened.y.read(np.arange(11)).tolist() == [i for i in range(12) if i != 4]
    assert "1 of 12 images cannot be read" in opened.remarks[0]


@pytest.mark.parametrize("keep", [0, 300, 512, 700, 0.3, 0.55])
def test_shards_that_are_cut_short_are_refused(tmp_path: Path, keep: float) -> None:
    path = tar(tmp_path / "d.tar", [(f"{i:02}.png", png(i)) for i in range(12)])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if 0 < keep < 1 else int(keep)])
    with pytest.raises(ValueError, match=r"cut short"):
        open_tar_shards(path)


def test_a_shard_cut_between_members_is_refused_though_tarfile_reads_it(tmp_path: Path) -> None:
    path = tar(tmp_path / "d.tar", [(f"{i:02}.png", png(i)) for i in range(12)])
    with tarfile.open(path) as file:
        third = file.getmembers()[3].offset
    os.truncate(path, third)
    with tarfile.open(path) as file:
        assert len(file.getmembers()) == 3
    with pytest.raises(ValueError, match="mark of its end is missing"):
        open_tar_shards(path)


def test_the_index_is_kept_and_made_again_when_a_shard_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "d.tar", [(f"{i:02}.png", png(i)) for i in range(12)])
    first = open_tar_shards(path)
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)
        assert open_tar_shards(path).x.identity == first.x.identity
    tar(path, [(f"{i:02}.png", png(i)) for i in range(11, 0, -1)])
    again = open_tar_shards(path)
    assert again.x.identity != first.x.identity
    assert np.array_equal(again.x.read(np.arange(11)), IMAGES[11:0:-1].transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", b""), ("a.PNG", b"")], "each ending once"),
        ([("a.txt", b"")], "neither images nor"),
        ([], "neither images nor .*endings are none"),
        (
            [(f"{i}.{end}", png(i) if end == "png" else b"one") for i in range(12) for end in ("png", "cls")],
            "holds 'one'; expected",
        ),
        (
            [
                (f"{i}.{end}", png(i) if end == "png" else json.dumps({"a": 1})[:-1].encode())
                for i in range(3)
                for end in ("png", "json")
            ],
            "cannot be read as .json",
        ),
    ],
)
def test_other_shards_are_refused(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_tar_shards(tar(tmp_path / "d.tar", members), label_key="a" if any("json" in name for name, _ in members) else None)
