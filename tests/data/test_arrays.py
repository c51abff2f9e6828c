from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdiff.data import ImageSamples, checks, load, load_array, make_dataset

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((120, 6)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (120, 3, 4, 4)).astype(np.uint8)
LABELS = np.arange(120) % 5


def write(path: Path, **arrays: np.ndarray) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file({key: torch.from_numpy(array) for key, array in arrays.items()}, path)
    else:
        np.save(path, *arrays.values())
    return path


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors"])
class TestEveryFormat:
    def test_round_trip(self, tmp_path: Path, ending: str) -> None:
        path = write(tmp_path / f"mine{ending}", x=VECTORS)
        for data in (load(str(path), normalise="none"), load(path, normalise="none"), load_array(path, normalise="none")):
            assert data.name == "mine"
            assert torch.equal(data.x, torch.from_numpy(VECTORS))
            assert data.y is None
            assert data.fingerprint == make_dataset("", VECTORS).fingerprint

    def test_default_normalisation(self, tmp_path: Path, ending: str) -> None:
        vectors = load_array(write(tmp_path / f"a{ending}", x=VECTORS))
        images = load_array(write(tmp_path / f"b{ending}", x=IMAGES))
        floats = load_array(write(tmp_path / f"c{ending}", x=IMAGES.astype(np.float32)))
        bytes_in_rows = load_array(write(tmp_path / f"d{ending}", x=IMAGES.reshape(120, -1)))
        assert vectors.normalisation.kind == "features"
        assert images.normalisation.describe() == {"kind": "range", "shift": 127.5, "scale": 127.5}
        assert floats.normalisation.kind == "standard"
        assert bytes_in_rows.normalisation.kind == "features"
        given = load_array(tmp_path / f"b{ending}", value_range=(0, 510))
        assert given.normalisation.describe() == {"kind": "range", "shift": 255.0, "scale": 255.0}

    def test_truncated_or_foreign_files_are_named(self, tmp_path: Path, ending: str) -> None:
        whole = write(tmp_path / f"whole{ending}", x=VECTORS).read_bytes()
        path = tmp_path / f"cut{ending}"
        for content in (
            b"",
            b"no array at all" * 20,
            *(whole[:size] for size in (4, 9, 60, 130, len(whole) // 2, len(whole) - 1)),
        ):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"cut{re.escape(ending)}: cannot be read as {re.escape(ending)}: .*damaged"):
                load(str(path))

    def test_missing_file(self, tmp_path: Path, ending: str) -> None:
        with pytest.raises(FileNotFoundError, match=r"expected a file ending in \.npy, \.npz, \.safetensors"):
            load_array(tmp_path / f"nothing{ending}")
        write(tmp_path / f"images{ending}", x=VECTORS)
        with pytest.raises(FileNotFoundError, match=rf"no such file or folder \(did you mean images{re.escape(ending)}\?\)"):
            load(str(tmp_path / f"image{ending}"))

    def test_content_is_checked(self, tmp_path: Path, ending: str) -> None:
        broken = VECTORS.copy()
        broken[3, 1] = np.nan
        with pytest.raises(ValueError, match=r"bad: 1 values in 1 samples are NaN.*first in sample 3"):
            load(write(tmp_path / f"bad{ending}", x=broken))
        with pytest.raises(ValueError, match=r"found bool"):
            load(write(tmp_path / f"bad{ending}", x=VECTORS > 0))
        with pytest.raises(ValueError, match=r"found \(120,\)"):
            load(write(tmp_path / f"bad{ending}", x=VECTORS[:, 0].copy()))


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
class TestKeys:
    def test_labels_are_taken_if_they_are_there(self, tmp_path: Path, ending: str) -> None:
        path = write(tmp_path / f"a{ending}", x=IMAGES, y=LABELS, other=VECTORS)
        data = load(path)
        assert data.shape == (3, 4, 4)
        assert data.y is not None
        assert data.y.tolist() == LABELS.tolist()
        assert data.num_classes == 5
        assert load(path, num_classes=9).num_classes == 9
        assert load(path, key="other").shape == (6,)
        with pytest.raises(ValueError, match=r"0 … 2 \(num_classes=3\), found 0 … 4"):
            load(path, num_classes=3)

    def test_the_only_array_of_samples_serves_under_any_name(self, tmp_path: Path, ending: str) -> None:
        path = write(tmp_path / f"a{ending}", images=IMAGES, y=LABELS, weights=VECTORS[:, 0].copy())
        data = load(path)
        assert data.shape == (3, 4, 4)
        assert data.num_classes == 5
        named = write(tmp_path / f"b{ending}", images=IMAGES, classes=LABELS)
        with pytest.warns(UserWarning, match=r"the file holds 'classes' \(120,\) int64 beside the samples 'images'"):
            assert load(named).y is None
        assert load(named, label_key="classes").num_classes == 5

    def test_keys_that_cannot_be_told_apart_or_are_absent(self, tmp_path: Path, ending: str) -> None:
        path = write(tmp_path / f"a{ending}", images=IMAGES, latents=VECTORS)
        listing = r".*'images' \(120, 3, 4, 4\) (torch\.)?uint8.*"
        for options in ({}, {"key": "vectors"}):
            with pytest.raises(ValueError, match=r"no array under '(x|vectors)'; name the samples with key=…;" + listing):
                load(path, **options)
        single = write(tmp_path / f"b{ending}", images=IMAGES)
        with pytest.raises(ValueError, match=r"no array under 'pictures'" + listing):
            load(single, key="pictures")
        with pytest.raises(ValueError, match=r"no labels under 'classes'" + listing):
            load(single, key="images", label_key="classes")

    def test_labels_by_path_are_for_npy(self, tmp_path: Path, ending: str) -> None:
        path = write(tmp_path / f"a{ending}", x=VECTORS)
        with pytest.raises(ValueError, match=r"labels=PATH is for .npy files"):
            load(path, labels="labels.npy")


class TestNpy:
    def test_labels_from_a_second_file(self, tmp_path: Path) -> None:
        path, labels = write(tmp_path / "a.npy", x=VECTORS), write(tmp_path / "labels.npy", y=LABELS)
        data = load(path, labels=str(labels))
        assert data.y is not None
        assert data.y.tolist() == LABELS.tolist()
        with pytest.raises(FileNotFoundError, match=r"no data file at .*classes.npy"):
            load(path, labels=tmp_path / "classes.npy")
        with pytest.raises(ValueError, match=r"labels must be the path of a .npy file"):
            load(path, labels=write(tmp_path / "labels.npz", y=LABELS))
        with pytest.raises(ValueError, match=r"has no keys"):
            load(path, key="images")

    def test_a_zip_in_disguise(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.npz", x=VECTORS)
        with pytest.raises(ValueError, match=r"b.npy: cannot be read as .npy"):
            load(path.rename(tmp_path / "b.npy"))
        path = write(tmp_path / "c.npy", x=VECTORS)
        with pytest.raises(ValueError, match=r"d.npz: cannot be read as .npz"):
            load(path.rename(tmp_path / "d.npz"))

    def test_other_byte_and_memory_orders(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.npy", x=np.asfortranarray(VECTORS.astype(">f8")))
        assert torch.equal(load(path, normalise="none").x, torch.from_numpy(VECTORS))


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors"])
class TestLayout:
    def test_grey_images_of_bytes_get_a_channel(self, tmp_path: Path, ending: str) -> None:
        data = load(write(tmp_path / f"a{ending}", x=IMAGES[:, 0].copy()))
        assert data.shape == (1, 4, 4)
        assert torch.equal(data.normalisation.undo(data.x[:]).byte()[:, 0], torch.from_numpy(IMAGES[:, 0]))
        floats = load(write(tmp_path / f"b{ending}", x=IMAGES[:, 0].astype(np.float32)))
        assert floats.shape == (4, 4)

    def test_channels_last_are_turned_if_it_is_said_that_they_are(self, tmp_path: Path, ending: str) -> None:
        images = RNG.integers(0, 256, (60, 5, 7, 3)).astype(np.uint8)
        path = write(tmp_path / f"a{ending}", x=images)
        with pytest.raises(
            ValueError, match=r"expected as \(N, C, H, W\), found \(60, 5, 7, 3\), which looks .* layout='channels_last'"
        ):
            load(path)
        turned = load(path, layout="channels_last")
        assert turned.shape == (3, 5, 7)
        assert turned.fingerprint == make_dataset("", images.transpose(0, 3, 1, 2)).fingerprint
        assert load(path, layout="channels_first").shape == (5, 7, 3)

    @pytest.mark.parametrize("shape", [(60, 3, 8, 3), (60, 1, 8, 4), (60, 3, 8, 8), (60, 16, 4, 4), (60, 8, 4, 2)])
    def test_what_may_be_right_is_left_alone(self, tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
        path = write(tmp_path / f"a{ending}", x=RNG.integers(0, 256, shape).astype(np.uint8))
        assert load(path).shape == shape[1:]

    def test_refusals(self, tmp_path: Path, ending: str) -> None:
        with pytest.raises(ValueError, match=r"layout must be one of channels_first, channels_last, .*found layout='NHWC'"):
            load(write(tmp_path / f"a{ending}", x=IMAGES), layout="NHWC")
        with pytest.raises(ValueError, match=r"for images of rank 4; found .* shape \(120, 6\)"):
            load(write(tmp_path / f"b{ending}", x=VECTORS), layout="channels_last")

    def test_flip(self, tmp_path: Path, ending: str) -> None:
        data = load(write(tmp_path / f"a{ending}", x=IMAGES), flip=True)
        assert isinstance(data.part("train", augment=True)[0], ImageSamples)


class TestMapped:
    """Large .npy files are mapped; what is wrong with them is told in the same words."""

    @pytest.fixture(autouse=True)
    def _everything_is_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kdiff.data.arrays.MAPPED_BYTES", 100)

    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2"])
    def test_the_same_values(self, tmp_path: Path, dtype: str, order: str) -> None:
        path = write(tmp_path / "a.npy", x=np.array(VECTORS.round(), dtype, order=order))  # type: ignore[call-overload]
        assert torch.equal(load(path, normalise="none").x[:], torch.from_numpy(VECTORS.round()))
        assert np.array_equal(np.load(path), VECTORS.round())

    @pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
    def test_images_stay_in_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
        monkeypatch.setattr(checks, "KEEP_BYTES", 0)
        path = write(tmp_path / "a.npy", x=IMAGES if layout == "channels_first" else IMAGES.transpose(0, 2, 3, 1).copy())
        data = load(path, layout=layout)
        assert isinstance(data.x, ImageSamples)
        assert isinstance(data.x.raw, np.ndarray)
        assert not data.x.raw.flags.writeable
        assert torch.equal(data.x[torch.arange(120)], load(write(tmp_path / "b.npz", x=IMAGES)).x[:])
        assert data.fingerprint == make_dataset("", IMAGES).fingerprint

    def test_damage(self, tmp_path: Path) -> None:
        whole = write(tmp_path / "a.npy", x=VECTORS).read_bytes()
        for content in (whole[: len(whole) // 2], whole[:-1], b"no array at all" * 20):
            (tmp_path / "a.npy").write_bytes(content)
            with pytest.raises(ValueError, match=r"a\.npy: cannot be read as \.npy: the file is damaged"):
                load(tmp_path / "a.npy")
        with pytest.raises(ValueError, match=r"b\.npy: holds an array of Python objects"):
            load(write(tmp_path / "b.npy", x=VECTORS.astype(object)))
        with pytest.raises(ValueError, match=r"d\.npy: cannot be read as \.npy"):
            load(write(tmp_path / "c.npz", x=VECTORS).rename(tmp_path / "d.npy"))


class TestOtherFiles:
    @pytest.mark.parametrize("ending", [".npy", ".npz"])
    def test_objects_are_never_unpickled(self, tmp_path: Path, ending: str) -> None:
        path = write(tmp_path / f"a{ending}", x=VECTORS.astype(object))
        with pytest.raises(ValueError, match=rf"a{re.escape(ending)}: holds an array of Python objects"):
            load(path)

    def test_bfloat16(self, tmp_path: Path) -> None:
        values = torch.from_numpy(VECTORS).bfloat16()
        save_file({"x": values}, tmp_path / "a.safetensors")
        assert torch.equal(load(tmp_path / "a.safetensors", normalise="none").x, values.float())

    def test_folders_and_other_endings(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"is a folder, expected a file ending in \.npy, .*load_folder"):
            load_array(tmp_path)
        (tmp_path / "a.xyz").write_text("1,2")
        with pytest.raises(ValueError, match=r"ending in '\.xyz'; accepted endings: \.npy, \.npz, \.safetensors"):
            load(tmp_path / "a.xyz")


def test_conditions_of_an_npz_are_named_on_the_command_line(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    raw, params, kind = drawn.standard_normal((200, 2, 4, 4)), drawn.random((200, 2)), np.arange(200) % 3
    np.savez(tmp_path / "sim.npz", fields=raw, params=params, kind=kind)
    dataset = load(f"{tmp_path}/sim.npz(condition={{params: vector, kind: class}})")
    assert [each.spec.kind for each in dataset.conditions.values()] == ["vector", "class"]
    assert dataset.shape == (2, 4, 4)
    assert list(load(f"{tmp_path}/sim.npz(key=fields, condition=params)").conditions) == ["params"]
    with pytest.raises(ValueError, match="no condition under 'parms'; the file holds"):
        load(f"{tmp_path}/sim.npz(condition=parms)")
    raw[3, 0, 0, 0] = np.nan
    np.savez(tmp_path / "gaps.npz", fields=raw)
    with pytest.raises(ValueError, match="missing=mask"):
        load(tmp_path / "gaps.npz")
    assert load(f"{tmp_path}/gaps.npz(missing=mask)").mask is not None


@pytest.mark.filterwarnings("ignore:.*not used, although:UserWarning", "ignore:.*no labels are used:UserWarning")
@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_several_arrays_become_channels_as_in_hdf5(tmp_path: Path, ending: str) -> None:
    h5py = pytest.importorskip("h5py")
    drawn = np.random.default_rng(0)
    arrays = {name: drawn.standard_normal((60, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    path = write(tmp_path / f"sim{ending}", **arrays)
    with h5py.File(tmp_path / "sim.h5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
    for key, channels in (("[u, v]", 2), ("[v, u]", 2), ("[u, w]", 3), ("[u]", 4)):
        mine, theirs = (load(f"{one}(key={key}, condition=params)") for one in (path, tmp_path / "sim.h5"))
        assert mine.shape[0] == channels
        assert mine.fingerprint == theirs.fingerprint
        assert torch.equal(mine.x, theirs.x)
        assert mine.normalisation.kind == theirs.normalisation.kind == ("standard" if key == "[u]" else "channels")
        assert mine.about.get("variables", ["u"]) == theirs.about["variables"]
    assert load(f"{path}(key=[mass, age])").normalisation.kind == "features"
    for key, message in (
        ("[u, params]", "their grids must be the same"),
        ("[u, q]", r"no array under 'q'; name the samples with key=…; the file holds '"),
        ("[]", "key is an empty list; name the samples"),
    ):
        with pytest.raises(ValueError, match=message):
            load(f"{path}(key={key})")


SHAPES = {"u": (4, 4), "v": (4, 4), "w": (2, 4, 4), "params": (2,), "mass": (), "age": ()}
