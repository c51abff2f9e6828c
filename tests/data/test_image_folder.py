from __future__ import annotations

import os
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdiff.data import ImageSamples, checks, decoding, image_folder, load, load_folder, make_dataset, progress
from kdiff.files import cache

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (40, 6, 8, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (40, 6, 8)).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write(root: Path, images: np.ndarray, classes: tuple[str, ...] = ("",), ending: str = ".png") -> Path:
    for i, pixels in enumerate(images):
        save(root / classes[i % len(classes)] / f"{i:03}{ending}", pixels)
    return root


def bytes_of(data) -> torch.Tensor:
    return data.normalisation.undo(data.x[:]).round().byte()


class TestContent:
    def test_colour_images_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        data = load(str(write(tmp_path / "photos", COLOUR)))
        assert (data.name, data.shape, data.y, data.num_classes) == ("photos", (3, 6, 8), None, 0)
        assert torch.equal(bytes_of(data), torch.from_numpy(COLOUR).permute(0, 3, 1, 2))
        assert data.normalisation.describe() == {"kind": "range", "shift": 127.5, "scale": 127.5}
        assert "unreadable" not in data.describe()
        assert "class_names" not in data.describe()

    @pytest.mark.parametrize("ending", [".png", ".bmp", ".tiff", ".pgm", ".PNG", ".gif"])
    def test_grey_images_have_one_channel_unless_asked_otherwise(self, tmp_path: Path, ending: str) -> None:
        root = write(tmp_path, GREY, ending=ending)
        grey = torch.from_numpy(GREY)[:, None]
        data = load(root) if ending != ".gif" else load(root, channels="L")
        assert torch.equal(bytes_of(data), grey)
        assert torch.equal(bytes_of(load(root, channels="RGB")), grey.expand(-1, 3, -1, -1))

    def test_one_coloured_image_makes_all_of_them_so(self, tmp_path: Path) -> None:
        save(write(tmp_path, GREY) / "z.png", COLOUR[0])
        assert load(tmp_path).shape == (3, 6, 8)
        assert load(tmp_path, channels="L").shape == (1, 6, 8)

    def test_classes_from_folders_at_any_depth(self, tmp_path: Path) -> None:
        write(tmp_path, COLOUR, ("dogs", "cats/old", "cats/young"))
        (tmp_path / "empty").mkdir()
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "read.txt").write_text("")
        data = load(tmp_path)
        assert data.describe()["class_names"] == ["cats", "dogs"]
        assert data.num_classes == 2
        names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
        assert data.y is not None
        assert data.y.tolist() == [int(name.startswith("dogs")) for name in names]
        pixels = np.stack([np.asarray(Image.open(tmp_path / name)) for name in names]).transpose(0, 3, 1, 2)
        assert np.array_equal(bytes_of(data).numpy(), pixels)
        unlabelled = load(tmp_path, labels=False)
        assert (unlabelled.y, unlabelled.num_classes) == (None, 0)
        assert torch.equal(unlabelled.x[:], data.x[:])

    @pytest.mark.parametrize(
        ("folders", "order"),
        [
            (("10", "2", "1"), ["1", "2", "10"]),
            (("010", "002", "100"), ["002", "010", "100"]),
            (("10", "2", "cats"), ["10", "2", "cats"]),
            (("class10", "class2"), ["class10", "class2"]),
        ],
    )
    def test_folders_named_by_numbers_are_in_their_order(self, tmp_path: Path, folders, order) -> None:
        write(tmp_path, COLOUR, folders)
        data = load(tmp_path)
        assert data.describe()["class_names"] == order
        names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
        assert [order[label] for label in data.y.tolist()] == [name.split("/")[0] for name in names]

    def test_a_single_folder_is_no_class(self, tmp_path: Path) -> None:
        assert load(write(tmp_path, COLOUR, ("images",))).y is None

    def test_hidden_files_are_left_out_and_links_followed_once(self, tmp_path: Path) -> None:
        root = write(tmp_path / "root", COLOUR, ("a", "b"))
        save(root / "a" / "._000.png", COLOUR[0])
        save(root / ".thumbnails" / "000.png", COLOUR[0])
        (root / "a" / "round").symlink_to(root)
        write(tmp_path / "elsewhere", COLOUR[:5])
        (root / "c").symlink_to(tmp_path / "elsewhere")
        data = load(root)
        assert data.describe()["class_names"] == ["a", "b", "c"]
        assert len(data.x) == 45

    def test_transparent_pixels_become_white(self, tmp_path: Path) -> None:
        pixels = np.concatenate([COLOUR, np.full((40, 6, 8, 1), 255, np.uint8)], axis=-1)
        pixels[:, :3, :, 3] = 0
        data = bytes_of(load(write(tmp_path, pixels)))
        assert (data[:, :, :3] == 255).all()
        assert torch.equal(data[:, :, 3:], torch.from_numpy(COLOUR).permute(0, 3, 1, 2)[:, :, 3:])

    @pytest.mark.parametrize("size", [None, 6])
    def test_cameras_notes_on_orientation_are_obeyed(self, tmp_path: Path, size: int | None) -> None:
        # Smooth, since JPEG keeps no noise: red grows to the right, green downwards.
        rows, columns = np.mgrid[0:48, 0:64]
        image = np.stack([columns * 3, rows * 3, np.full_like(rows, 90)], axis=-1).astype(np.uint8)
        for i in range(20):
            exif = Image.Exif()
            exif[0x0112] = 6  # the camera was turned: what is shown on top is at the left of the file
            turned = np.rot90(image + np.uint8(i)).copy()
            save(tmp_path / f"{i}.jpg", turned, quality=95, exif=exif)
        data = load(tmp_path, size=size)
        assert data.shape == (3, *((48, 64) if size is None else (6, 6)))
        found = bytes_of(data)[0].float()
        assert (found[0, :, 1:] - found[0, :, :-1]).mean() > 2
        assert (found[1, 1:] - found[1, :-1]).mean() > 2
        assert (found[0, 1:] - found[0, :-1]).abs().mean() < 1


class TestSize:
    @pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 30), (20, 20), (200, 20), (9, 14)])
    def test_the_centred_square_is_scaled(self, tmp_path: Path, width: int, height: int) -> None:
        # A ramp along x and another along y: what is cut off and how much it is scaled can be read off.
        x = np.linspace(0, 250, width).round()[None].repeat(height, 0)
        y = np.linspace(0, 250, height).round()[:, None].repeat(width, 1)
        for i in range(20):
            image = np.stack([x, y, np.full_like(x, i)], axis=-1).astype(np.uint8)
            save(tmp_path / f"{i:02}.png", image)
        data = bytes_of(load(tmp_path, size=10)).float()
        assert data.shape == (20, 3, 10, 10)
        side = min(width, height)
        for channel, length in ((0, width), (1, height)):
            values = data[0, channel].mean(0 if channel == 0 else 1)
            step = 250 / (length - 1)
            first = (length - side) / 2 + side / 20 - 0.5
            expected = torch.tensor([(first + i * side / 10) * step for i in range(10)])
            # The filter reaches over the border of the image at both ends.
            torch.testing.assert_close(values[3:-3], expected[3:-3], atol=1.5, rtol=0.02)

    def test_large_photographs_come_out_the_same_when_decoded_small(self, tmp_path: Path) -> None:
        y, x = np.mgrid[0:400, 0:600]
        image = np.stack([x / 3, y / 2, (x + y) / 5], axis=-1).astype(np.uint8)
        for i in range(20):
            save(tmp_path / "jpg" / f"{i}.jpg", image + np.uint8(i), quality=95)
            save(tmp_path / "png" / f"{i}.png", image + np.uint8(i))
        jpg, png = (bytes_of(load(tmp_path / kind, size=24)).float() for kind in ("jpg", "png"))
        assert (jpg - png).abs().max() < 4

    def test_mixed_sizes_need_a_size(self, tmp_path: Path) -> None:
        write(tmp_path, COLOUR)
        save(tmp_path / "wide.png", np.zeros((9, 30, 3), np.uint8))
        with pytest.raises(ValueError, match=r"images of 2 sizes, .*: 8×6 \(40\), 30×9 \(1\); give size, e\.g\. size=6"):
            load(tmp_path)
        assert load(tmp_path, size=6).shape == (3, 6, 6)

    def test_many_sizes_are_not_all_listed(self, tmp_path: Path) -> None:
        for side in range(5, 25):
            save(tmp_path / f"{side}.png", np.zeros((side, side, 3), np.uint8))
        with pytest.raises(ValueError, match=r"images of 20 sizes.*and 15 more; give size, e\.g\. size=5"):
            load(tmp_path)


class TestUnreadable:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        write(tmp_path, COLOUR, ("a", "b"))
        whole = (tmp_path / "a" / "000.png").read_bytes()
        (tmp_path / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "b" / "empty.jpg").write_bytes(b"")
        (tmp_path / "b" / "text.png").write_text("no image at all")
        save(tmp_path / "b" / "deep.png", (GREY[0].astype(np.uint16) * 257))
        return tmp_path

    def test_they_are_left_out_and_named(self, root: Path) -> None:
        # The second time from the cache.
        for _ in range(2):
            with pytest.warns(
                UserWarning, match=r"4 of 44 images cannot be read and are left out: a/cut\.png \(.*; b/deep"
            ) as found:
                data = load(root)
            assert "more than 8 bits per channel" in str(found[0].message)
            assert data.describe()["unreadable"] == ["a/cut.png", "b/deep.png", "b/empty.jpg", "b/text.png"]
            assert data.y is not None
            assert (len(data.x), data.y.tolist()) == (40, [0] * 20 + [1] * 20)
            assert torch.equal(bytes_of(data)[:20], torch.from_numpy(COLOUR[::2]).permute(0, 3, 1, 2))

    def test_or_refused(self, root: Path) -> None:
        for _ in range(2):
            with pytest.raises(
                ValueError, match=r"4 of 44 images cannot be read: a/cut.png.*leave them out with corrupt='list'"
            ):
                load(root, corrupt="error")

    @pytest.mark.parametrize("cut", [True, False])
    def test_none_can_be_read(self, tmp_path: Path, cut: bool, cache_folder: Path) -> None:
        for path in write(tmp_path, COLOUR).iterdir():
            path.write_bytes(path.read_bytes()[:60] if cut else b"nothing")
        with pytest.raises(ValueError, match=r"none of its 40 images can be read, e\.g\. 000\.png: "):
            load(tmp_path)
        assert [path for path in cache_folder.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


class TestCache:
    def test_the_second_start_decodes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = write(tmp_path, COLOUR, ("a", "b"))
        first = load(root, size=4)
        monkeypatch.setattr(decoding.Image, "open", None)
        again = load(root, size=4)
        assert torch.equal(again.x[:], first.x[:])
        assert again.fingerprint == first.fingerprint
        assert load(root, size=4, labels=False, flip=True).y is None
        for options in ({"size": 5}, {}, {"size": 4, "channels": "L"}):
            with pytest.raises(ValueError, match="none of its 40 images can be read"):
                load(root, **options)

    def test_two_at_once_decode_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As the processes of torchrun do: who is first ends only when the other has said that it waits, or decodes as well."""
        root, decoded, original, other = write(tmp_path, COLOUR), [], image_folder._decode_all, threading.Event()
        monkeypatch.setattr(cache, "PATIENCE", 0)
        monkeypatch.setattr(cache.logger, "warning", lambda *facts: other.set())

        def decode(*given: object) -> object:
            decoded.append(given)
            if len(decoded) > 1:
                other.set()
            assert other.wait(60)
            return original(*given)

        monkeypatch.setattr(image_folder, "_decode_all", decode)
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: load(root).x[:], range(2))
        assert torch.equal(first, second)
        assert len(decoded) == 1

    def test_what_takes_long_shows_how_far_it_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(checks, "KEEP_BYTES", 0)
        monkeypatch.setattr(progress, "DELAY", 3600)
        load(write(tmp_path / "a", COLOUR))
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(progress, "DELAY", 0)
        load(write(tmp_path / "b", COLOUR))
        shown = capsys.readouterr().err
        for work in (rf"decoding {tmp_path}/b", "hashing b", "mean and variance"):
            assert re.search(rf"{work}: 100%.*(40/40|24/24)", shown), work

    @pytest.mark.parametrize("change", ["content", "name", "new", "gone"])
    def test_a_changed_folder_is_read_again(self, tmp_path: Path, change: str) -> None:
        root = write(tmp_path / "root", COLOUR)
        first = load(root)
        if change == "content":
            os.utime(save(root / "003.png", COLOUR[0]), ns=(1, 1))
        elif change == "name":
            (root / "003.png").rename(root / "999.png")
        elif change == "new":
            save(root / "999.png", COLOUR[0])
        else:
            (root / "003.png").unlink()
        files = sorted(root.iterdir())
        expected = make_dataset("", np.stack([np.asarray(Image.open(file)) for file in files]).transpose(0, 3, 1, 2))
        assert load(root).fingerprint == expected.fingerprint != first.fingerprint

    def test_equal_names_in_other_folders_are_other_images(self, tmp_path: Path) -> None:
        for name, images in (("one", COLOUR), ("two", 255 - COLOUR)):
            for path in write(tmp_path / name, images, ending=".bmp").iterdir():
                os.utime(path, ns=(1, 1))
        assert load(tmp_path / "one").fingerprint != load(tmp_path / "two").fingerprint

    def test_a_damaged_cache_is_filled_again(self, tmp_path: Path, cache_folder: Path) -> None:
        first = load(write(tmp_path, COLOUR))
        for ending in (".npy", ".json"):
            (file,) = (cache_folder / "images").glob(f"*{ending}")
            file.write_bytes(file.read_bytes()[:-3])
            assert torch.equal(load(tmp_path).x[:], first.x[:])

    def test_large_folders_are_mapped_and_not_copied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = load(write(tmp_path, COLOUR, ("a", "b")))
        monkeypatch.setattr(checks, "KEEP_BYTES", 0)
        monkeypatch.setattr(image_folder, "AT_ONCE_BYTES", 500)
        data = load(tmp_path, flip=True)
        assert isinstance(data.x, ImageSamples)
        assert not data.x.raw.flags.writeable
        assert torch.equal(data.x[:], plain.x[:])
        assert data.fingerprint == plain.fingerprint
        assert data.part("train", augment=True)[0][torch.tensor([0, 1])].shape == (2, 3, 6, 8)

    def test_a_cache_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "root", COLOUR)
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "file"))
        with pytest.raises(OSError, match=r"cannot write to the cache in .*set KDIFF_CACHE to a folder with enough space"):
            load(tmp_path / "root")


class TestRefusals:
    def test_missing_empty_and_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"photos': no such file or folder"):
            load(str(tmp_path / "photos"))
        with pytest.raises(FileNotFoundError, match=r"no folder at .*photos"):
            load_folder(tmp_path / "photos")
        with pytest.raises(ValueError, match=r"holds no images: expected files ending in \.png, .*found nothing"):
            load(tmp_path)
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b.txt").write_text("")
        with pytest.raises(ValueError, match=r"holds no images.*found 1 other files"):
            load(tmp_path)
        with pytest.raises(ValueError, match=r"is a file, expected a folder of images"):
            load_folder(tmp_path / "a" / "b.txt")

    def test_too_few(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="at least 10 samples are needed for the three parts, found 9"):
            load(write(tmp_path, COLOUR[:9]))

    def test_images_beside_classes(self, tmp_path: Path) -> None:
        write(tmp_path, COLOUR, ("a", "b", ""))
        with pytest.raises(ValueError, match=r"holds 13 images beside the folders a, b: .*labels=False"):
            load(tmp_path)
        assert len(load(tmp_path, labels=False).x) == 40

    def test_parts_taken_for_classes(self, tmp_path: Path) -> None:
        write(tmp_path, COLOUR, ("train/a", "train/b", "Val/a"))
        with pytest.raises(ValueError, match=r"the folders Val, train, which look like parts.*labels=False"):
            load(tmp_path)
        assert load(tmp_path / "train").num_classes == 2

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"size": 0}, ValueError, "size in pixels must be at least 1, found 0"),
            ({"size": 2.5}, ValueError, r"size of .* is 2\.5; expected a whole number"),
            ({"size": True}, ValueError, "whole number"),
            ({"channels": "RGBA"}, ValueError, "channels must be one of RGB, L, all, found 'RGBA'"),
            ({"corrupt": "ignore"}, ValueError, "corrupt must be list or error, found 'ignore'"),
            ({"resize": 8}, ValueError, "has no option resize .*its options are size, channels, flip, corrupt, labels"),
        ],
    )
    def test_options(self, tmp_path: Path, options: dict, error: type[Exception], message: str) -> None:
        write(tmp_path, COLOUR)
        with pytest.raises(error, match=message):
            load(tmp_path, **options)


def test_no_warning_without_reason(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(write(tmp_path, COLOUR))


class TestIndexing:
    """Small images of one form are decoded as soon as they are opened; the result is that of two passes."""

    @pytest.mark.parametrize("ending", [".png", ".jpg", ".gif"])
    @pytest.mark.parametrize("options", [{}, {"size": 4}, {"channels": "L"}, {"channels": "RGB", "size": 5}])
    def test_one_pass_and_two_give_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, options: dict[str, object]
    ) -> None:
        root = write(tmp_path / "images", COLOUR, ("b", "a"), ending)
        (root / "a" / f"bad{ending}").write_bytes(b"nonsense")
        passes = []
        for most in (image_folder.SMALL, 0):
            monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / f"cache {most}"))
            monkeypatch.setattr(image_folder, "SMALL", most)
            with pytest.warns(UserWarning, match="1 of 41 images cannot be read"):
                passes.append(load(root, **options))
        first, second = passes
        assert torch.equal(first.x[:], second.x[:])
        assert (first.fingerprint, first.describe()) == (second.fingerprint, second.describe())

    def test_each_file_of_one_form_is_opened_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root, opened, original = write(tmp_path / "images", COLOUR), list[str](), decoding.Image.open

        def counted(file: object, *more: object) -> Image.Image:
            opened.append(str(getattr(file, "name", file)))
            return original(file, *more)

        monkeypatch.setattr(decoding.Image, "open", counted)
        load(root)
        assert sorted(set(opened)) == sorted(str(path) for path in root.iterdir())
        assert len(opened) <= len(COLOUR) + 4  # the first one also shows the form of all, and whether it is deep

    @pytest.mark.parametrize("grey_first", [True, False])
    def test_a_form_that_the_first_image_does_not_have(self, tmp_path: Path, grey_first: bool) -> None:
        root = write(tmp_path / "images", COLOUR)
        save(root / ("000.png" if grey_first else "999.png"), GREY[0])
        pixels = bytes_of(load(root))
        assert pixels.shape[1:] == (3, 6, 8)
        assert torch.equal(pixels[0 if grey_first else -1], torch.from_numpy(GREY[0]).expand(3, -1, -1))
        assert torch.equal(pixels[1 if grey_first else 0], torch.from_numpy(COLOUR[1 if grey_first else 0]).permute(2, 0, 1))

    def test_the_cache_is_used_again_until_any_file_changes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = write(tmp_path / "images", COLOUR)
        first = load(root)
        with monkeypatch.context() as patch:
            patch.setattr(image_folder, "_decode_all", None)
            assert load(root).fingerprint == first.fingerprint
        before = (root / "007.png").stat()
        save(root / "007.png", COLOUR[8])
        os.utime(root / "007.png", ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy that keeps the time
        again = load(root)
        assert again.fingerprint != first.fingerprint
        assert torch.equal(bytes_of(again)[7], torch.from_numpy(COLOUR[8]).permute(2, 0, 1))

    def test_stamps_of_many_files_are_those_of_each(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = write(tmp_path / "images", COLOUR[:3], ("b", "a"))
        names = ["a/001.png", "b/000.png"]
        monkeypatch.chdir(tmp_path)
        for folder in (root, Path("images"), Path("images/../images")):
            assert cache.stamps(folder, names) == [cache.stamp(folder / name) for name in names]


class TestLeftOut:
    def test_files_are_counted_by_kind_and_empty_classes_named(self, tmp_path: Path) -> None:
        root = write(tmp_path / "images", COLOUR, ("a", "b"))
        for name in ("a/x.txt", "a/y.txt", "notes", "b/z.heic", "b/._z.png", ".DS_Store", "dataset.json"):
            (root / name).write_text("[]")
        (root / "c").mkdir()
        with pytest.warns(UserWarning, match=r"left out|hold no images") as said:
            image_folder.image_names(root)
        texts = [str(one.message) for one in said]
        assert len(texts) == 2
        assert "1 pictures are left out, because kdiff does not read .heic (1); convert them to .png" in texts[0]
        assert "4 files that are no images are left out too: .txt (2)" in texts[0]
        assert "no ending (1)" in texts[0]
        assert "hidden (1)" in texts[0]
        assert "the folders c hold no images, so they are no classes" in texts[1]

    def test_nothing_is_said_where_nothing_is_left_out(self, tmp_path: Path) -> None:
        root = write(tmp_path / "images", COLOUR, ("a", "b"))
        (root / ".DS_Store").write_text("")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(image_folder.image_names(root)) == len(COLOUR)
