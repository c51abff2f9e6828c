"""kdiff info DATA: shapes, ranges, classes, conditions and remarks of what is there, and a picture, without any training."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdiff.commands.main import main
from kdiff.data.opened import Array
from kdiff.report.data_text import READ_BYTES, facts_of, some_rows

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 6, 8, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "cache"))


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def facts(capsys: pytest.CaptureFixture[str], spec: str, *more: str) -> dict[str, Any]:
    assert main(["info", spec, "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, pixels in enumerate(IMAGES):
        place = tmp_path / "pets" / ("cats" if i % 4 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:02}.png").write_bytes(png(pixels))
    (tmp_path / "pets" / "birds").mkdir()
    found = facts(capsys, str(tmp_path / "pets"), "--picture", str(tmp_path / "p.png"))
    assert (found["samples"]["shape"], found["samples"]["dtype"]) == ([20, 3, 6, 8], "uint8")
    assert found["classes"] == {"cats": 15, "dogs": 5}
    assert (found["samples"]["min"], found["samples"]["max"]) == (IMAGES.min(), IMAGES.max())
    assert [one["mean"] for one in found["samples"]["channels"]] == pytest.approx(IMAGES.mean((0, 1, 2)), rel=1e-6)
    assert found["normalisation"] == "range"
    assert any("the folders birds hold no images" in one for one in found["remarks"])
    assert found["commands"][0] == f"kdiff train --data {tmp_path / 'pets'}"
    assert Image.open(tmp_path / "p.png").size[0] > 100
    assert main(["info", str(tmp_path / "pets")]) == 0
    out = capsys.readouterr().out
    for piece in (
        "20 of shape (3, 6, 8), uint8",
        "2 classes: cats (15), dogs (5)",
        "normalise   range",
        "train by    kdiff train",
    ):
        assert piece in out


def test_a_file_of_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = RNG.normal(size=(40, 3)), RNG.integers(0, 2, 40)
    np.savez(tmp_path / "a.npz", x=x, y=y, extra=x[:, :2])
    found = facts(capsys, str(tmp_path / "a.npz"), "--picture", str(tmp_path / "a.png"))
    assert found["arrays"]["extra"] == "(40, 2) float64"
    assert [one["max"] for one in found["samples"]["channels"]] == pytest.approx(x.max(0), rel=1e-5)
    assert (found["normalisation"], found["classes"]) == ("features", {"0": int((y == 0).sum()), "1": int((y == 1).sum())})
    assert (tmp_path / "a.png").exists()
    assert main(["info", str(tmp_path / "a.npz")]) == 0
    assert "array       extra: (40, 2) float64" in capsys.readouterr().out


def test_a_dataset_zip_is_only_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as file:
        for i, pixels in enumerate(IMAGES):
            file.writestr(f"00000/img{i:08}.png", png(pixels))
        file.writestr("dataset.json", json.dumps({"labels": [[f"00000/img{i:08}.png", i % 2] for i in range(20)]}))
        file.writestr("notes.txt", "")
    found = facts(capsys, str(tmp_path / "d.zip"), "--picture", str(tmp_path / "z.png"))
    assert found["classes"] == {"0": 10, "1": 10}
    assert "range" in found["normalisation"]
    assert len(found["remarks"]) == 1
    assert (tmp_path / "z.png").exists()


def test_tar_shards_with_conditions_by_a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("webdataset")
    field = RNG.normal(size=(20, 2, 6, 6)).astype(np.float32)
    for shard in range(2):
        with tarfile.open(tmp_path / f"s-{shard}.tar", "w") as file:
            for i in range(shard, 20, 2):
                content = io.BytesIO()
                np.save(content, field[i])
                for name, bytes_ in ((f"{i}.npy", content.getvalue()), (f"{i}.json", json.dumps({"mass": i}).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(bytes_)
                    file.addfile(info, io.BytesIO(bytes_))
    spec = f"{tmp_path}/s-{{0..1}}.tar(condition=mass)"
    found = facts(capsys, spec, f"--picture={tmp_path / 's.png'}")
    assert found["samples"]["shape"] == [20, 2, 6, 6]
    assert (found["conditions"]["mass"]["min"], found["conditions"]["mass"]["max"]) == (0, 19)
    assert found["normalisation"] == "standard"
    assert found["commands"][0] == f"kdiff train --data '{spec}'"
    assert (tmp_path / "s.png").exists()


def test_missing_values_are_counted_by_what_was_read() -> None:
    values = RNG.normal(size=(50, 4)).astype(np.float32)
    values[:10, 1] = np.nan
    values[3, 2] = np.inf
    found = facts_of(Array("a", values))
    assert found["missing"] == pytest.approx(10 / 200)
    assert found["infinite"] == 1
    assert found["channels"][1]["min"] == values[10:, 1].min()
    assert found["channels"][2]["max"] == values[np.arange(50) != 3, 2].max()


def test_options_of_the_data_set_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = np.random.default_rng(1).normal(size=(20, 6, 8, 3))
    last[3, 0, 0, 1] = np.nan
    with pytest.importorskip("h5py").File(tmp_path / "a.h5", "w") as file:
        file["x"] = last
    found = facts(capsys, f"{tmp_path}/a.h5(layout=channels_last, normalise=channels, missing=mask)")
    assert found["samples"]["shape"] == [20, 3, 6, 8]
    assert [one["max"] for one in found["samples"]["channels"]] == pytest.approx(np.nanmax(last, (0, 1, 2)))
    for options, said in (("layout=channels_last", True), ("layout=channels_last, missing=mask", False)):
        assert main(["info", f"{tmp_path}/a.h5({options})"]) == 0
        assert ("type missing=mask" in capsys.readouterr().out) == said
    assert main(["info", f"{tmp_path}/a.h5(layout=last)"]) != 0
    assert "layout must be one of channels_first, channels_last" in capsys.readouterr().err


def test_large_data_are_sampled_at_equal_distances() -> None:
    class Large(Array):
        def __init__(self) -> None:
            super().__init__("large", np.zeros((1, 2**20), np.float32))
            self.shape = (1000, 2**20)

    rows = some_rows(Large())
    assert len(rows) * 2**22 <= READ_BYTES
    assert rows[0] == 0
    assert rows[-1] == 999
    assert np.diff(rows).max() - np.diff(rows).min() <= 1


@pytest.mark.parametrize("shape", [(20, 2, 16), (20, 1, 4, 5, 6), (20, 40)])
def test_pictures_of_signals_volumes_and_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...]
) -> None:
    np.save(tmp_path / "a.npy", RNG.normal(size=shape).astype(np.float32))
    assert facts(capsys, str(tmp_path / "a.npy"), "--picture", str(tmp_path / "a.png"))["picture"] == str(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size[0] > 100


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--foo"], "has no option --foo for data"),
        (["--picture"], "takes the path of a PNG"),
        (["digits"], "info takes one source of data; found digits as well"),
    ],
)
def test_mistakes(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "moons", *more]) == 2
    assert message in capsys.readouterr().err


def test_what_is_neither_a_run_nor_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path / "no.zip")]) == 2
    assert "no zip at" in capsys.readouterr().err
    assert main(["info", str(tmp_path)]) == 2
    assert main(["info", "moons"]) == 0
    assert "of shape" in capsys.readouterr().out
