from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from PIL import Image

from kdiff.data import glyphs, load
from kdiff.data.emoji import GROUPS, group_of
from kdiff.data.font import find_font

# Of Debian's package unicode-data.
EMOJI_TEST = Path("/usr/share/unicode/emoji/emoji-test.txt")


def png(colour: tuple[int, int, int], width: int = 136, height: int = 128) -> bytes:
    """A coloured block with a transparent border of 10 pixels."""
    picture = Image.new("RGBA", (width, height))
    picture.paste((*colour, 255), (10, 10, width - 10, height - 10))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def installed() -> Path:
    try:
        return find_font()
    except FileNotFoundError:
        pytest.skip("the font Noto Color Emoji is not installed")


@pytest.mark.parametrize(
    ("points", "group"),
    [
        ("1F600", "Smileys & Emotion"),
        ("1F44B 1F3FD", "People & Body"),
        ("1F469 200D 1F680", "People & Body"),
        ("1F468 200D 2764 FE0F 200D 1F468", "People & Body"),
        ("1F431", "Animals & Nature"),
        ("1F408 200D 2B1B", "Animals & Nature"),
        ("1F34B 200D 1F7E9", "Food & Drink"),
        ("1F680", "Travel & Places"),
        ("26BD", "Activities"),
        ("1F4A1", "Objects"),
        ("2764 FE0F 200D 1F525", "Smileys & Emotion"),
        ("23 20E3", "Symbols"),
        ("31 FE0F 20E3", "Symbols"),
        ("1F1E9 1F1EA", "Flags"),
        ("1F3F4 E0067 E0062 E0065 E006E E0067 E007F", "Flags"),
        ("1F3F4 200D 2620 FE0F", "Flags"),
        ("31", None),
        ("1F1E6", None),
        ("1F3FB", None),
        ("1F9B0", None),
        ("20", None),
        ("FE4E5", None),
        ("", None),
    ],
)
def test_groups_of_sequences_in_both_directions(points: str, group: str | None) -> None:
    sequence = [int(point, 16) for point in points.split()]
    assert group_of(sequence) == group_of(reversed(sequence)) == group


def test_groups_are_those_of_unicode() -> None:
    if not EMOJI_TEST.exists():
        pytest.skip(f"{EMOJI_TEST} is not installed (Debian: unicode-data)")
    group, count, wrong = "", 0, set()
    for line in EMOJI_TEST.read_text(encoding="utf-8").splitlines():
        group = line.removeprefix("# group: ") if line.startswith("# group: ") else group
        if match := re.match(r"([0-9A-F ]+);", line):
            count += 1
            points = [int(point, 16) for point in match[1].split()]
            if group_of(points) != (None if group == "Component" else group):
                wrong.add(points[0])
    assert count > 4000
    # The eye in a speech bubble; newer versions have a broken chain too.
    assert wrong <= {0x1F441, 0x26D3}


class TestInstalledFont:
    def test_the_glyphs(self, installed: Path, cache_folder: Path) -> None:
        data = load("glyphs", size=16)
        assert (data.name, data.shape, data.num_classes) == ("glyphs", (3, 16, 16), 9)
        assert len(data.x) > 3500
        assert data.y is not None
        assert data.y.bincount().min() > 50
        assert data.describe()["class_names"] == list(GROUPS)
        assert (data.x[:].amin(), data.x[:].amax()) == (-1, 1)
        # White corners, and something within.
        assert (data.x[:, :, 0, 0] == 1).float().mean() > 0.9
        assert (data.x[:].flatten(1).amin(1) < 0.9).all()
        # Two sizes are two entries; the second start reads the first one's file.
        before = {path: path.stat().st_mtime_ns for path in cache_folder.rglob("*.npy")}
        again = glyphs(size=16)
        assert torch.equal(again.x[:], data.x[:])
        assert {path: path.stat().st_mtime_ns for path in cache_folder.rglob("*.npy")} == before
        assert len(before) == 1

    def test_known_emoji_are_where_they_belong(self, installed: Path) -> None:
        """The picture of a code point, found by its pixels, has the code point's group."""
        font = TTFont(installed, lazy=True)
        bitmaps, names = font["CBDT"].strikeData[0], font.getBestCmap()
        data = load("glyphs", size=32)
        assert data.y is not None
        for point, group in ((0x1F600, 0), (0x1F431, 2), (0x1F355, 3), (0x1F680, 4), (0x26BD, 5), (0x1F4A1, 6), (0x2764, 0)):
            picture = Image.open(io.BytesIO(bitmaps[names[point]].imageData)).convert("RGBA")
            square = Image.new("RGBA", (136, 136), "white")
            square.alpha_composite(picture, (0, 4))
            pixels = np.asarray(square.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
            wanted = data.normalisation.apply(torch.from_numpy(pixels.copy()))
            place = (data.x[:] == wanted).flatten(1).all(1).nonzero()
            assert data.y[place].tolist() == [[group]]


class TestMadeUpFont:
    """A font with bitmaps of our own under some code points: what is drawn and left out is known."""

    @pytest.fixture
    def make(self, installed: Path, tmp_path: Path) -> Callable[[dict[int, bytes]], Path]:
        def build(pictures: dict[int, bytes]) -> Path:
            font = TTFont(installed)
            names = font.getBestCmap()
            keep = {names[point]: content for point, content in pictures.items()}
            strike = font["CBDT"].strikeData[0]
            for name in list(strike):
                if name in keep:
                    strike[name].ensureDecompiled()
                    strike[name].imageData = keep[name]
                else:
                    del strike[name]
            for table in font["CBLC"].strikes[0].indexSubTables:
                table.names = [name for name in table.names if name in keep]
            font["CBLC"].strikes[0].indexSubTables = [t for t in font["CBLC"].strikes[0].indexSubTables if t.names]
            path = tmp_path / "Made.ttf"
            font.save(path)
            return path

        return build

    def test_pictures_groups_and_what_is_left_out(self, make: Callable[[dict[int, bytes]], Path]) -> None:
        faces = {0x1F600 + i: png((0, 10 * i, 255)) for i in range(12)}
        others = {0x1F680: png((255, 0, 0)), 0x1F681: png((255, 0, 0)), 0x31: png((1, 2, 3)), 0x1F3FB: png((4, 5, 6))}
        data = glyphs(size=34, font=make({**faces, **others}))
        assert data.y is not None
        assert data.y.tolist() == [0] * 12 + [4]
        raw = data.normalisation.undo(data.x[:]).round()
        # 136 × 128 in a square of 136, scaled by 4: the block is 116 × 108 of it.
        assert torch.equal(raw[:12, :, 17, 17], torch.tensor([[0.0, 10.0 * i, 255.0] for i in range(12)]))
        assert raw[12, :, 17, 17].tolist() == [255, 0, 0]
        assert abs(float((255 - raw[12, 1, 17]).sum()) / 255 - 116 / 4) < 0.5
        assert abs(float((255 - raw[12, 1, :, 17]).sum()) / 255 - 108 / 4) < 0.5

    def test_another_file_at_the_same_place_is_rendered_again(self, make: Callable[[dict[int, bytes]], Path]) -> None:
        first = glyphs(size=8, font=make({0x1F600 + i: png((0, 10 * i, 255)) for i in range(12)}))
        second = glyphs(size=8, font=make({0x1F600 + i: png((0, 10 * i, 55)) for i in range(12)}))
        assert first.fingerprint != second.fingerprint


class TestRefusals:
    def test_no_font(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("kdiff.data.font.FOLDERS", (str(tmp_path),))
        with pytest.raises(
            FileNotFoundError, match=r"apt-get install fonts-noto-color-emoji\), or give its path with font=PATH"
        ):
            load("glyphs")
        with pytest.raises(FileNotFoundError, match=r"no font at .*missing\.ttf"):
            load("glyphs", font=str(tmp_path / "missing.ttf"))
        (tmp_path / "NotoColorEmoji.ttf").write_bytes(b"")
        monkeypatch.setenv("KDIFF_DATA", str(tmp_path))
        assert find_font() == tmp_path / "NotoColorEmoji.ttf"

    def test_no_font_at_all_in_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ttf"
        for content in (b"", b"no font at all" * 10, b"\x00\x01\x00\x00" + bytes(200)):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=r"a\.ttf (cannot be read as a font|has no colour bitmaps)"):
                load("glyphs", font=path)

    def test_a_font_cut_off(self, installed: Path, tmp_path: Path) -> None:
        whole, path = installed.read_bytes(), tmp_path / "cut.ttf"
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"cut\.ttf cannot be read as a font \(.*\); install it again"):
            load("glyphs", font=path)

    def test_a_font_without_colour(self) -> None:
        import matplotlib

        path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        with pytest.raises(ValueError, match=r"DejaVuSans\.ttf has no colour bitmaps \(tables CBDT and CBLC\)"):
            load("glyphs", font=path)

    @pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-3, ValueError), (1.5, ValueError), (True, ValueError)])
    def test_sizes(self, size: object, error: type[Exception]) -> None:
        with pytest.raises(error, match=r"size in pixels must be|size of glyphs is .*; expected a whole number"):
            load("glyphs", size=size)
