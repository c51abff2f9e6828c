"""The colour glyphs of the Noto Color Emoji font as images of any size, with the groups of Unicode as classes.

The font holds a PNG of 136×128 pixels for every glyph (OpenType's tables CBDT and CBLC). The table cmap says which glyph
stands for a code point, the ligatures of GSUB which one for a sequence of them. A glyph is laid on white, centred in a square,
and scaled by Lanczos' filter.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdiff.data import cache
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.emoji import GROUPS, group_of

FONT = "NotoColorEmoji.ttf"
FOLDERS = ("/usr/share/fonts/truetype/noto", "/usr/share/fonts/noto", "/usr/share/fonts/google-noto-emoji")


def glyphs(size: int = 64, font: str | Path | None = None) -> Dataset:
    """About 3,900 emoji as colour images (3, size, size) in [−1, 1], of the 9 groups of Unicode from smileys to flags.

    `font` is the path of the font, by default NotoColorEmoji.ttf in $KDIFF_DATA or where Debian and others put it. Of glyphs
    with equal pictures one is taken; parts of emoji (single letters and digits, tones of skin) are left out. Over half of the
    glyphs show people, most of them in five tones of skin. The images are rendered once and kept in the cache.

    Raises FileNotFoundError, saying what to install, if there is no font; TypeError or ValueError for a size that is none, and
    ValueError for a font without colour bitmaps.
    """
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"size must be a whole number of pixels, found {size!r}")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, found {size}")
    path = find_font(font)
    key = ("glyphs", size, cache.stamp(path))
    stem = cache.entry("images", *key)
    notes, pixels = cache.read_json(stem.with_suffix(".json")), cache.read_images(stem.with_suffix(".npy"))
    if notes is None or pixels is None or len(pixels) != len(notes["labels"]):
        pictures = list(_pictures(path))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            pixels = np.stack(list(pool.map(lambda picture: _draw(picture[0], size), pictures)))
        notes = {"labels": [GROUPS.index(group) for _, group in pictures]}
        cache.write_images(stem.with_suffix(".npy"), pixels.shape[1:], pixels)
        cache.write_json(stem.with_suffix(".json"), notes)
    return make_dataset(
        "glyphs",
        pixels,
        np.array(notes["labels"]),
        normalise="range",
        value_range=(0, 255),
        num_classes=len(GROUPS),
        about={"class_names": list(GROUPS)},
        identity=key,
    )


def find_font(font: str | Path | None = None) -> Path:
    """The font's file: `font`, if it is given, else the first place that has one; FileNotFoundError if there is none."""
    if font is not None:
        path = Path(font).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no font at {path}; give the path of {FONT}")
        return path
    data = os.environ.get("KDIFF_DATA")
    places = [Path(folder) / FONT for folder in ([data] if data else []) + list(FOLDERS)]
    for path in places:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{FONT} was not found in {', '.join(str(path.parent) for path in places)}; install it (Debian, Ubuntu: apt-get "
        "install fonts-noto-color-emoji), or give its path by font=PATH"
    )


def _pictures(path: Path) -> Iterator[tuple[bytes, str]]:
    """PNG and group of every glyph that is an emoji, in the font's order, each picture once."""
    from fontTools.ttLib import TTFont

    try:
        font = TTFont(path, lazy=True)
        strikes = [dict(strike) for strike in font["CBDT"].strikeData] if "CBDT" in font and "CBLC" in font else []
        points = _code_points(font)
        pictures = [(name, glyph.imageData) for name, glyph in max(strikes, key=_resolution, default={}).items()]
    # A damaged font raises nearly anything: TTLibError, struct.error, AssertionError, …
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a font ({type(error).__name__}: {error}); install it again, or give that of {FONT}"
        ) from error
    if not pictures:
        raise ValueError(f"{path} has no colour bitmaps (tables CBDT and CBLC), as {FONT} has; coloured outlines are not read")
    seen = set()
    for name, png in pictures:
        group = group_of(points.get(name, ()))
        if group is not None and png not in seen:
            seen.add(png)
            yield png, group


def _code_points(font: Any) -> dict[str, list[int]]:
    """The code points of each glyph: its own, or those of the sequence that it is a ligature of."""
    points: dict[str, list[int]] = {}
    own = {glyph: [point] for point, glyph in font.getBestCmap().items()}
    for lookup in font["GSUB"].table.LookupList.Lookup if "GSUB" in font else ():
        for table in lookup.SubTable if lookup.LookupType == 4 else ():
            for first, ligatures in table.ligatures.items():
                for ligature in ligatures:
                    sequence = [point for name in (first, *ligature.Component) for point in own.get(name, [])]
                    points.setdefault(ligature.LigGlyph, []).extend(sequence)
    return {**own, **points}


def _resolution(strike: dict[str, Any]) -> int:
    """The pixels of a glyph, for fonts with bitmaps of several sizes."""
    with Image.open(io.BytesIO(next(iter(strike.values())).imageData)) as image:
        return image.width * image.height


def _draw(png: bytes, size: int) -> np.ndarray:
    """The picture on a white square, scaled: uint8 (3, size, size)."""
    with Image.open(io.BytesIO(png)) as image:
        picture = image.convert("RGBA")
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    scaled = square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(scaled).transpose(2, 0, 1)
