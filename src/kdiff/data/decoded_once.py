"""Images in archives that are decoded once: into the cache, from where they are mapped into memory, as for a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kdiff.data.opened import Array, Source
from kdiff.data.progress import shown
from kdiff.files import cache

BATCH = 16  # images that a thread decodes at once

logger = logging.getLogger(__name__)


def decoded_once(source: Source) -> Source:
    """The images of a source in the cache, in their own type; the source itself if nothing is known about its content.

    Raises ValueError for an image that cannot be decoded, and OSError if the cache cannot be written.
    """
    if source.identity is None:
        return source
    path = cache.entry("images", "archive", source.identity, source.shape, str(source.dtype)).with_suffix(".npy")
    pixels = cache.read_images(path)
    if pixels is None:
        with cache.alone(path):
            pixels = cache.read_images(path)  # another process may have decoded them meanwhile
            if pixels is None:
                text = "reading %d images from %s; this happens once, they are kept in %s"
                logger.info(text, len(source), source.name, path.parent)
                images = shown(_images(source), len(source), f"decoding {source.name}")
                cache.write_images(path, source.shape[1:], images, source.dtype)
                pixels = cache.read_images(path)
    assert pixels is not None
    return Array(source.name, pixels, source.identity)


def _images(source: Source) -> Iterator[np.ndarray]:
    """All images in order; no more of them wait than the threads decode at once."""
    cores = os.cpu_count() or 1
    starts = range(0, len(source), BATCH)
    parts = [np.arange(start, min(start + BATCH, len(source))) for start in starts]
    with ThreadPoolExecutor(cores) as pool:
        for first in range(0, len(parts), cores):
            for batch in pool.map(source.read, parts[first : first + cores]):
                yield from batch
