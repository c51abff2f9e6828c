"""Patches of photographs: the tiles of scikit-learn's two sample pictures, a temple and a flower of 640 × 427 pixels.

Tiles do not overlap: no pixel is in two of them. The parts of a data set are drawn sample by sample, so overlapping patches
would put most pixels of a training sample into held-out samples. (Neighbouring tiles may still be in different parts, and they
are as similar as neighbouring patches of a photograph.)
"""

from __future__ import annotations

import numpy as np

from kdiff.data.checks import check_whole
from kdiff.data.dataset import Dataset, make_dataset

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue: the luma of ITU-R BT.601, as in JPEG files


def photo_patches(size: int = 8, num_samples: int | None = None, seed: int = 0, colour: bool = False) -> Dataset:
    """Square patches (1, size, size), or in colour (3, size, size), with values 0 … 255 mapped to [−1, 1]; no labels.

    `seed` draws where the grid of tiles begins, so that it does not always match the 8 × 8 blocks of the JPEG files. It also
    draws which `num_samples` tiles are taken, and their order. By default all are taken: about 8,300 of 8 × 8 pixels.

    Raises TypeError for a value that is not a whole number. Raises ValueError for a size below 2 or too large, and for more
    samples than there are tiles.
    """
    check_whole("size", size, 2)
    if num_samples is not None:
        check_whole("num_samples", num_samples, 1)
    check_whole("seed", seed, 0)
    from sklearn.datasets import load_sample_images

    pictures = [np.asarray(picture) for picture in load_sample_images().images]
    shortest = min(min(picture.shape[:2]) for picture in pictures)
    if 2 * size > shortest:
        raise ValueError(f"size is {size}; expected at most {shortest // 2} pixels, the pictures have {shortest} on a side")
    rng = np.random.default_rng(seed)
    tiles = np.concatenate([_tiles(picture, size, *rng.integers(0, size, 2)) for picture in pictures])
    count = len(tiles) if num_samples is None else num_samples
    if count > len(tiles):
        raise ValueError(
            f"num_samples is {num_samples}, but the pictures hold {len(tiles)} tiles of {size} × {size} pixels; choose a "
            "smaller num_samples or a smaller size"
        )
    raw = tiles[rng.permutation(len(tiles))[:count]].transpose(0, 3, 1, 2).astype(np.float32)
    if not colour:
        # One channel at a time: the rounding of a matrix product depends on its size and on the machine.
        raw = sum(np.float32(weight) * raw[:, i : i + 1] for i, weight in enumerate(GREY))
    return make_dataset("photo_patches", raw.clip(0, 255), normalise="range", value_range=(0, 255))


def _tiles(picture: np.ndarray, size: int, top: int, left: int) -> np.ndarray:
    """The tiles (N, size, size, channels) of a picture (H, W, channels), in a grid that begins at (top, left)."""
    rows, columns = (picture.shape[0] - top) // size, (picture.shape[1] - left) // size
    part = picture[top : top + rows * size, left : left + columns * size]
    return part.reshape(rows, size, columns, size, -1).swapaxes(1, 2).reshape(rows * columns, size, size, -1)
