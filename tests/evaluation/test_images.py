"""Images as bytes: one rounding, exact for what were bytes; folders and .npz read in order, or refused with what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdiff.data import ImageSamples, Normalisation, make_dataset
from kdiff.evaluation.images import check_ranges, data_images, open_images, quantise, value_range

RANGE = Normalisation.fit("range", torch.empty(0), (0, 255))


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_images(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


def test_what_were_bytes_are_the_same_bytes_again() -> None:
    raw = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)
    assert torch.equal(quantise(RANGE.apply(raw), -1, 1), raw)
    images = random_images(20, 3, 4, 5)
    read = data_images("x", ImageSamples(images, RANGE), -1, 1, {})
    assert (read.count, read.shape) == (20, (3, 4, 5))
    assert torch.equal(torch.cat(list(read.read(7))), torch.from_numpy(images))


def test_the_nearest_byte_is_taken_and_the_rest_clipped() -> None:
    x = torch.linspace(-1.3, 1.3, 1001).view(-1, 1, 1, 1)
    bytes_ = quantise(x, -1, 1).double()
    inside = x.abs() <= 1
    assert ((bytes_ / 255 * 2 - 1) - x.double())[inside].abs().max() <= 1 / 255 + 1e-6
    assert set(bytes_[~inside].tolist()) == {0, 255}
    for broken in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="1 of 2 images have values that are not finite"):
            quantise(torch.tensor([[0.0], [broken]]), -1, 1)


def test_black_and_white_are_those_of_the_data() -> None:
    assert value_range({"normalisation": {"kind": "range"}, "min": -0.5, "max": 0.9}) == (-1, 1)
    assert value_range({"normalisation": {"kind": "standard"}, "min": -0.5, "max": 3}) == (-0.5, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_a_batch_at_a_time_in_order(save, channels: int, tmp_path: Path) -> None:
    images = random_images(11, 4, 6, channels)
    save(tmp_path / "samples.npz", images, np.arange(11))
    read = open_images(str(tmp_path / "samples.npz"))
    assert (read.count, read.shape) == (11, (channels, 4, 6))
    batches = list(read.read(4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert torch.equal(torch.cat(batches).permute(0, 2, 3, 1), torch.from_numpy(images))


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    images = random_images(5, 6, 7, 3)
    folder = write_images(tmp_path / "pictures", images)
    read = open_images(str(folder))
    assert (read.count, read.shape, read.facts["images"]) == (5, (3, 6, 7), str(folder))
    assert torch.equal(torch.cat(list(read.read(2))).permute(0, 2, 3, 1), torch.from_numpy(images))
    small = open_images(f"{folder}(size=4)")
    assert (small.count, small.shape, small.facts["size"]) == (5, (3, 4, 4), 4)
    # Classes are no matter here, and neither are images beside them.
    (folder / "more").mkdir()
    Image.fromarray(images[0]).save(folder / "more" / "0.png")
    assert open_images(str(folder)).count == 6


def described(low: float, high: float, normalise: str, **options: Any) -> dict[str, Any]:
    """The facts of data whose raw values go from low to high."""
    generator = np.random.default_rng(0)
    values = generator.uniform(low, high, (60, 3, 4, 4))
    values[:, :, 0, 0], values[:, :, 0, 1] = low, high
    return make_dataset("pictures", values, normalise=normalise, **options).describe()


@pytest.mark.parametrize("normalise", ["none", "standard"])
def test_images_without_a_value_range_are_compared_with_their_like_only(normalise: str) -> None:
    known = described(0.1, 0.8, "range", value_range=(0, 1))
    guessed = described(0.1, 0.8, normalise)
    assert check_ranges(known, None, "photos") == check_ranges(known, known, "others") == []
    assert check_ranges(None, None, "photos") == []
    (note,) = check_ranges(guessed, guessed, "others")
    assert note.startswith("pictures has no value_range, so black and white are taken as 0.1 and 0.8, the extremes of the ")
    assert note.endswith("compare the figures only with those of the same data")
    for judged, reference in ((guessed, None), (None, guessed), (guessed, known), (known, guessed)):
        with pytest.raises(ValueError, match=r"has no value_range.*cannot be compared with photos/: .*value_range=\[0, 255\]"):
            check_ranges(judged, reference, "photos/")


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (-1, 1)])
def test_extremes_that_are_a_usual_range_stretch_nothing(low: float, high: float) -> None:
    (note,) = check_ranges(described(low, high, "standard"), None, "photos/")
    assert "give the data a value_range if this is wrong" in note
    assert check_ranges(described(low, high, "none"), described(low, high, "none"), "others") == []


def test_channels_of_different_scales_are_never_compared_with_other_images() -> None:
    with pytest.raises(ValueError, match="after normalisation by 'channels', which changes the colours"):
        check_ranges(described(0, 1, "channels"), None, "photos/")


def npz(**arrays: np.ndarray):
    return lambda path: np.savez(path, **arrays)


def cut(path: Path) -> None:
    np.savez(path, random_images(9, 4, 4, 3))
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.npz", npz(arr_0=np.zeros((4, 8, 8, 3))), r"arr_0 is float64, expected uint8.*127\.5 \* x"),
        ("a.npz", npz(arr_0=np.full((4, 8, 8, 3), 7, np.float32)), "arr_0 is float32, expected uint8"),
        ("a.npz", npz(arr_0=np.array([{}, {}])), "arr_0 is object, expected uint8"),
        ("a.npz", npz(arr_0=random_images(4, 3, 8, 8)), r"shape \(4, 3, 8, 8\).*transpose"),
        ("a.npz", npz(arr_0=np.asfortranarray(random_images(4, 8, 8, 3))), "Fortran"),
        ("a.npz", npz(x=random_images(4, 8, 8, 3)), "holds x; expected images as arr_0"),
        ("a.npz", npz(arr_0=random_images(1, 8, 8, 3)), "holds 1 image"),
        ("a.npz", npz(arr_0=random_images(0, 8, 8, 3)), "holds 0 image"),
        ("a.npz", cut, "damaged"),
        ("a.npz", lambda path: path.write_bytes(b"no zip"), "damaged"),
        ("a.pkl", lambda path: path.write_bytes(b"\x80\x04."), "pickles.*EDM2.*not read.*--save-statistics"),
        ("a.txt", lambda path: path.write_bytes(b"words"), "neither a folder of images nor a .npz"),
        ("a", lambda path: path.mkdir(), "holds no images"),
        ("a", lambda path: write_images(path, random_images(1, 8, 8, 3)), "holds 1 image"),
    ],
)
def test_what_cannot_be_judged_is_refused(name, make, message, tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        open_images(str(tmp_path / name))


def test_mixed_sizes_missing_folders_and_options_are_refused(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "mixed", random_images(2, 8, 8, 3))
    Image.fromarray(random_images(9, 8, 3)).save(folder / "taller.png")
    with pytest.raises(ValueError, match=r"2 sizes.*give size"):
        open_images(str(folder))
    with pytest.raises(ValueError, match="mixed has no option flip; its options are size"):
        open_images(f"{folder}(flip=True)")
    np.savez(tmp_path / "a.npz", random_images(2, 8, 8, 3))
    for options in ("4", "size=4"):
        assert open_images(f"{folder}({options})").shape == (3, 4, 4)
        with pytest.raises(ValueError, match="it takes none"):
            open_images(f"{tmp_path / 'a.npz'}({options})")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "nowhere"))):
        open_images(str(tmp_path / "nowhere"))


def test_damage_within_the_images_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, random_images(9, 8, 8, 3))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match=r"damaged.*create it again"):
        list(open_images(str(path)).read(4))
