"""The same numbers in files of different formats train to the same bytes of weights."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdiff.config.training import TrainConfig
from kdiff.training.trainer import train_run

RNG = np.random.default_rng(0)
FIELDS = (3 + 2 * RNG.normal(size=(60, 2, 4, 4)) * [[[[1]], [[9]]]]).astype(np.float32)
PARAMS = RNG.random((60, 2))
IMAGES = RNG.integers(0, 256, (40, 6, 6, 3), dtype=np.uint8)


def weights(data: str | Path) -> bytes:
    """The weights after a few steps of `kdiff train`."""
    config = TrainConfig(data=str(data), network="MLP(width=8, depth=1)", steps=4, batch_size=16, warmup=0, split_loss=False)
    with tempfile.TemporaryDirectory() as folder:
        state = train_run(config, Path(folder) / "run").model.state_dict()
    return b"".join(value.numpy().tobytes() for value in state.values())


def write_h5(path: Path) -> None:
    with pytest.importorskip("h5py").File(path, "w") as file:
        file.create_dataset("fields", data=FIELDS.astype(">f4"), chunks=(7, 1, 4, 4), compression="gzip")
        file["params"] = PARAMS


def write_zarr(path: Path) -> None:
    group = pytest.importorskip("zarr", minversion="3").open_group(path, mode="w")
    group.create_array("fields", data=FIELDS, chunks=(9, 2, 4, 4))
    group.create_array("params", data=PARAMS)


def write_nc(path: Path) -> None:
    pytest.importorskip("netCDF4")
    axes = {"fields": (("n", "c", "y", "x"), FIELDS), "params": (("n", "p"), PARAMS)}
    pytest.importorskip("xarray").Dataset(axes).to_netcdf(path, engine="netcdf4")


@pytest.fixture(scope="module")
def from_npz(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("npz") / "sim.npz"
    np.savez(path, fields=FIELDS, params=PARAMS)
    return weights(f"{path}(key=fields, condition=params, normalise=channels)")


@pytest.mark.parametrize(("name", "write"), [("sim.h5", write_h5), ("sim.zarr", write_zarr), ("sim.nc", write_nc)])
def test_fields_with_parameters(tmp_path: Path, from_npz: bytes, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    assert weights(f"{tmp_path / name}(key=fields, condition=params, normalise=channels)") == from_npz


def test_other_parameters_train_to_other_weights(tmp_path: Path, from_npz: bytes) -> None:
    np.savez(tmp_path / "sim.npz", fields=FIELDS, params=PARAMS[:, ::-1])
    assert weights(f"{tmp_path}/sim.npz(key=fields, condition=params, normalise=channels)") != from_npz


def test_a_folder_of_images_a_zip_and_tar_shards_in_the_order_of_the_folder(tmp_path: Path) -> None:
    """Equal labels and an equal order: the names of the folder, sorted, with classes numbered in the order of their names."""
    pytest.importorskip("webdataset")
    shards = [tarfile.TarFile(tmp_path / f"shard-{number}.tar", "w") for number in range(2)]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for index, image in enumerate(IMAGES):
            kind = index // 20
            file = tmp_path / "images" / ("cats", "dogs")[kind] / f"{index:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
            archive.write(file, f"{file.parent.name}/{file.name}")
            for ending, content in (("png", file.read_bytes()), ("cls", str(kind).encode())):
                info = tarfile.TarInfo(f"{index:02}.{ending}")
                info.size = len(content)
                shards[index // 15 > 0].addfile(info, io.BytesIO(content))
    for shard in shards:
        shard.close()
    folder = weights(tmp_path / "images")
    assert weights(tmp_path / "images.zip") == folder
    assert weights(f"{tmp_path}/shard-{{0..1}}.tar") == folder
