"""Images as a transformer sees them: patches (tokens) of p × p pixels, with D = C p² numbers each.

    images (N, C, H, W)  →  patches (N · T, C p²),   T = (H / p) (W / p)

The patches are ordered image by image and row by row, and the numbers of a patch have the order (C, p, p).
"""

from __future__ import annotations

import numpy as np

from kdiff.theory.nearest import Rows, read_chunks


def patches(x: Rows, patch_size: int) -> np.ndarray:
    """All patches of images (N, C, H, W): (N · T, C p²), in the type that `read_chunks` reads.

    Raises ValueError if x holds no images, or if p = `patch_size` does not divide their height and width.
    """
    shape = _image_shape(x, patch_size)
    return np.concatenate([_cut(rows, shape, patch_size).reshape(-1, shape[0] * patch_size**2) for _, rows in read_chunks(x)])


def random_patches(x: Rows, patch_size: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`count` different random patches (count, C p²) of images (N, C, H, W), and the number of each patch's image (count,).

    All patches are returned if there are no more than `count`. The patches come from as many images as possible, because
    patches of one image are alike: up to N patches come from as many images. The images are read a chunk at a time.

    Raises ValueError as `patches` does, or if count is below 1.
    """
    channels, height, width = shape = _image_shape(x, patch_size)
    if count < 1:
        raise ValueError(f"count must be at least 1, found {count}")
    tokens = (height // patch_size) * (width // patch_size)
    rng = np.random.default_rng(seed)
    drawn = np.arange(min(count, len(x) * tokens))
    image = rng.permutation(len(x))[drawn % len(x)]
    # All images share one order of patches, and each starts at its own place. If drawn again, an image gives its next patch.
    token = rng.permutation(tokens)[(rng.integers(tokens, size=len(x))[image] + drawn // len(x)) % tokens]
    order = np.argsort(image, kind="stable")
    image, token = image[order], token[order]
    parts = []
    for start, rows in read_chunks(x):
        low, high = np.searchsorted(image, [start, start + len(rows)])
        parts.append(_cut(rows, shape, patch_size)[image[low:high] - start, token[low:high]])
    return np.concatenate(parts).reshape(len(drawn), channels * patch_size**2), image


def _cut(rows: np.ndarray, shape: tuple[int, int, int], patch_size: int) -> np.ndarray:
    """Flat images (n, C H W) as (n, T, C, p, p)."""
    channels, height, width = shape
    down, across = height // patch_size, width // patch_size
    grid = rows.reshape(len(rows), channels, down, patch_size, across, patch_size).transpose(0, 2, 4, 1, 3, 5)
    return grid.reshape(len(rows), down * across, channels, patch_size, patch_size)


def _image_shape(x: Rows, patch_size: int) -> tuple[int, int, int]:
    shape = tuple(np.shape(x[0:1]))[1:]
    if len(shape) != 3 or len(x) == 0:
        raise ValueError(f"patches are cut from images (N, C, H, W), found {len(x)} rows of shape {shape}")
    channels, height, width = shape
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(f"patch_size must divide the height and width of the images, {height} × {width}, found {patch_size}")
    return channels, height, width
