"""The colour glyphs of the Noto Color Emoji font as images of any size, with the groups of Unicode as classes.

The font holds a PNG of 136×128 pixels for every glyph (OpenType's tables CBDT and CBLC). The table cmap maps code points to
glyphs, and the ligatures of GSUB map sequences of code points to glyphs. A glyph is drawn on white, centred in a square and
scaled with Lanczos' filter.
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

from kdiff.data.checks import check_whole
from kdiff.data.dataset import Dataset, make_dataset
from kdiff.data.emoji import GROUPS, group_of
from kdiff.files import cache

FONT = "NotoColorEmoji.ttf"
FOLDERS = ("/usr/share/fonts/truetype/noto", "/usr/share/fonts/noto", "/usr/share/fonts/google-noto-emoji")


def glyphs(size: int = 64, font: str | Path | None = None) -> Dataset:
    """About 3,900 emoji as colour images (3, size, size) in [−1, 1], in the 9 groups of Unicode from smileys to flags.

    `font` is the path of the font. By default it is NotoColorEmoji.ttf in $KDIFF_DATA, or in the folders where Debian and other
    distributions install it. Glyphs with equal pictures are taken once. Parts of emoji (single letters and digits, tones of
    skin) are left out. Over half of the glyphs show people, most of them in five tones of skin. The images are rendered once
    and kept in the cache.

    Raises FileNotFoundError, which says what to install, if there is no font; TypeError or ValueError for a wrong size; and
    ValueError for a font without colour bitmaps.
    """
    check_whole("size in pixels", size, 1, int)
    path = find_font(font)
    key = ("glyphs", size, cache.stamp(path))
    stem = cache.entry("images", *key)
    notes, pixels = cache.kept(stem.with_suffix(".json")), cache.read_images(stem.with_suffix(".npy"))
    if notes is None or pixels is None or len(pixels) != len(notes["labels"]):
        pictures = list(_pictures(path))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            pixels = np.stack(list(pool.map(lambda picture: _draw(picture[0], size), pictures)))
        notes = {"labels": [GROUPS.index(group) for _, group in pictures]}
        cache.write_images(stem.with_suffix(".npy"), pixels.shape[1:], pixels)
        cache.keep(stem.with_suffix(".json"), notes)
    labels, about = np.array(notes["labels"]), {"class_names": list(GROUPS)}
    return make_dataset("glyphs", pixels, labels, "range", (0, 255), num_classes=len(GROUPS), about=about, identity=key)


def find_font(font: str | Path | None = None) -> Path:
    """The file of the font: `font` if given, else the first one found; FileNotFoundError if there is none."""
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
        "install fonts-noto-color-emoji), or give its path with font=PATH"
    )


def _pictures(path: Path) -> Iterator[tuple[bytes, str]]:
    """PNG and group of every glyph that is an emoji, in the order of the font, each picture once."""
    from fontTools.ttLib import TTFont

    try:
        font = TTFont(path, lazy=True)
        strikes = [dict(strike) for strike in font["CBDT"].strikeData] if "CBDT" in font and "CBLC" in font else []
        points = _code_points(font)
        pictures = [(name, glyph.imageData) for name, glyph in max(strikes, key=_resolution, default={}).items()]
    # A damaged font raises many kinds of errors: TTLibError, struct.error, AssertionError, …
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a font ({type(error).__name__}: {error}); install it again, or give the path of {FONT}"
        ) from error
    if not pictures:
        raise ValueError(
            f"{path} has no colour bitmaps (tables CBDT and CBLC); expected a font like {FONT}. Coloured outlines are not read"
        )
    seen = set()
    for name, png in pictures:
        group = group_of(points.get(name, ()))
        if group is not None and png not in seen:
            seen.add(png)
            yield png, group


def _code_points(font: Any) -> dict[str, list[int]]:
    """The code points of each glyph: its own code point, or those of the sequence that it stands for (GSUB)."""
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
    """The number of pixels of a glyph, for fonts with bitmaps of several sizes."""
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
