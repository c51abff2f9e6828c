"""Samples that are members of an archive, one file each: images or .npy arrays, which are decoded when they are read.

An archive gives the bytes of a member by its name. All members get one form, which is found from their headers: images as in
a folder of images (`kdiff.data.image_folder`, and `kdiff.data.deep_folder` for more than 8 bits per channel), arrays by the
shape and type of the first one.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from kdiff.data.checks import check_whole
from kdiff.data.decoding import Content, Header, decode, depth_of, header
from kdiff.data.deep_folder import common_deep_form
from kdiff.data.deep_images import TIFF_ENDINGS, DeepHeader, decode_deep, deep_header, scaled, to_mode, tried_deep
from kdiff.data.folder_names import few
from kdiff.data.image_folder import CHANNELS, common_form
from kdiff.data.opened import Source
from kdiff.data.progress import shown

LARGEST = 2**28  # bytes of one member
BATCH = 64  # members that a thread takes at once


class Archive(ABC):
    """Bytes of members by name. It may be used by threads, and by processes that were forked or that it was sent to."""

    path: str

    def __init__(self) -> None:
        self._process, self._handle, self._lock = -1, None, threading.Lock()

    @abstractmethod
    def open(self) -> Any:
        """A new handle."""

    @abstractmethod
    def content(self, handle: Any, name: str) -> bytes:
        """The bytes of a member. Raises ValueError if it is damaged."""

    def read(self, name: str) -> bytes:
        """The bytes of a member. A process that was forked opens a handle of its own, as both would move one position."""
        with self._lock:
            if self._process != os.getpid():
                self._handle, self._process = self.open(), os.getpid()
            handle = self._handle
        return self.content(handle, name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": -1, "_handle": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_lock": threading.Lock()})


class MemberImages(Source):
    """Images (N, C, H, W) of type uint8 in an archive."""

    dtype, decoded = np.dtype(np.uint8), True

    def __init__(
        self, archive: Archive, names: Sequence[str], headers: Sequence[Header], mode: str, size: int | None, identity: object
    ) -> None:
        self.name, self.archive, self.names, self.headers, self.mode, self.size = (
            archive.path,
            archive,
            names,
            headers,
            mode,
            size,
        )
        width, height = (size, size) if size else headers[0].size
        self.shape = (len(names), CHANNELS[mode], height, width)
        self.identity = (identity, _digest(names), mode, size)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These images. Raises ValueError for a member that is damaged."""
        values = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows.tolist()):
            work = partial(decode, known=self.headers[row], mode=self.mode, size=self.size)
            found = tried_bytes(work, self.archive.read(self.names[row]))
            if isinstance(found, str) or found.shape != values.shape[1:]:
                raise ValueError(
                    f"{self.name}: {self.names[row]} cannot be read ({found}); repair it, or make the archive again"
                )
            values[place] = found
        return values


class DeepMemberImages(Source):
    """Images (N, C, H, W) of more than 8 bits per channel in an archive, in the type of the files."""

    decoded = True

    def __init__(
        self,
        archive: Archive,
        names: Sequence[str],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        size: int | None,
        identity: object,
    ) -> None:
        self.name, self.archive, self.names, self.size = archive.path, archive, names, size
        self.shape, self.dtype, self.identity = (len(names), *shape), dtype, (identity, _digest(names), "deep", size, shape)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These images. Raises ValueError for a member that is damaged."""
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows.tolist()):
            name = self.names[row]
            found = tried_deep(decode_deep, Content(name, self.archive.read(name)))
            if not isinstance(found, str):
                found = to_mode(found, self.shape[1])
                found = scaled(found, self.size) if self.size else found
            if isinstance(found, str) or found.shape != values.shape[1:] or found.dtype != self.dtype:
                raise ValueError(f"{self.name}: {name} cannot be read ({found}); repair it, or make the archive again")
            values[place] = found
        return values


class MemberArrays(Source):
    """Arrays (N, *shape) in an archive, a .npy file each. `channels` cuts out some of the first axis of each array."""

    def __init__(self, archive: Archive, names: Sequence[str], identity: object, channels: slice | None = None) -> None:
        self.name, self.archive, self.names, self.channels = archive.path, archive, names, channels
        first = array_of(archive.path, names[0], archive.read(names[0]))
        if first.dtype.kind not in "iufb":
            raise ValueError(f"{archive.path}: {names[0]} holds values of type {first.dtype}; expected integers or floats")
        self.whole, self.dtype = first.shape, first.dtype.newbyteorder("=")
        self.shape = (len(names), *(first.shape if channels is None else first[channels].shape))
        self.identity = (identity, _digest(names), str(channels))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These arrays. Raises ValueError for one that is damaged or has another shape or type than the first one."""
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows.tolist()):
            name = self.names[row]
            found = array_of(self.name, name, self.archive.read(name))
            if found.shape != self.whole or found.dtype.newbyteorder("=") != self.dtype:
                raise ValueError(
                    f"{self.name}: {name} is {found.shape} {found.dtype}; expected {self.whole} {self.dtype} like "
                    f"{self.names[0]}; save arrays of one shape and type"
                )
            values[place] = found if self.channels is None else found[self.channels]
        return values


def array_of(path: str, name: str, content: bytes) -> np.ndarray:
    """The array in the bytes of a .npy file. Raises ValueError if it is damaged or holds Python objects."""
    try:
        return np.asarray(np.lib.format.read_array(io.BytesIO(content), allow_pickle=False))
    except Exception as error:  # NumPy's parser raises many kinds
        raise ValueError(f"{path}: {name} cannot be read as .npy ({error}); save it again by np.save") from error


def tried_bytes(read: Any, content: bytes) -> Any:
    """What `read` finds in the bytes of an image, or why it cannot be read."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if found := depth_of(image, content):
                return f"more than 8 bits per channel ({found}); convert it to 8 bits"
            return read(image)
    except Exception as error:  # as in `kdiff.data.decoding`
        return f"{type(error).__name__}: {error}"


def open_images(
    archive: Archive, names: Sequence[str], size: int | None, channels: str | None, identity: object
) -> tuple[Source, dict[str, str]]:
    """The images with these names whose headers can be read, and the other names with the reasons.

    As in a folder, images of more than 8 bits per channel are read with their full depth if all are such images; they cannot be
    read among images of 8 bits. Raises ValueError if no image can be read, and for images of several sizes without `size`, or
    of several types.
    """
    if size is not None:
        check_whole("size in pixels", size, 1, int)
    if channels is not None and channels not in CHANNELS:
        raise ValueError(f"channels must be one of {', '.join(CHANNELS)}, found {channels!r}")
    if _is_deep(names[0], archive.read(names[0])):
        deep = _headers(archive, names, _deep_header)
        if None not in deep.values():
            shape, dtype = common_deep_form(archive.path, deep, size, channels)
            return DeepMemberImages(archive, _good(deep), shape, dtype, size, (identity, channels)), _bad(deep)
    headers = _headers(archive, names, lambda name, content: tried_bytes(partial(header, size=size), content))
    mode, _ = common_form(archive.path, headers, size, channels)
    known = [one for one in headers.values() if not isinstance(one, str)]
    return MemberImages(archive, _good(headers), known, mode, size, identity), _bad(headers)


def _is_deep(name: str, content: bytes) -> bool:
    """Whether an image is deeper than Pillow reads, or a TIFF that Pillow does not read."""
    found = tried_bytes(lambda image: None, content)
    tiff = name.lower().endswith(TIFF_ENDINGS)
    return isinstance(found, str) and (found.startswith("more than 8 bits") or (tiff and "UnidentifiedImage" in found))


def _deep_header(name: str, content: bytes) -> DeepHeader | str | None:
    """The header, why it cannot be read, or None for an image of 8 bits."""
    found = tried_deep(deep_header, Content(name, content))
    return None if isinstance(found, str) and tried_bytes(lambda image: "", content) == "" else found


def _digest(names: Sequence[str]) -> str:
    """Which members are samples, because incomplete ones are left out."""
    return hashlib.blake2b("\0".join(names).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _headers(archive: Archive, names: Sequence[str], read: Callable[[str, bytes], Any]) -> dict[str, Any]:
    """What `read` finds in each member, or why it cannot be read."""
    parts = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = pool.map(lambda some: [read(name, archive.read(name)) for name in some], parts)
        looked = shown(found, len(names), f"looking through {archive.path}", len)
        return dict(zip(names, [one for part in looked for one in part]))


def _good(headers: Mapping[str, Any]) -> list[str]:
    return [name for name, one in headers.items() if not isinstance(one, str)]


def _bad(headers: Mapping[str, Any]) -> dict[str, str]:
    return {name: one for name, one in headers.items() if isinstance(one, str)}


def unreadable_text(path: str, bad: dict[str, str], count: int) -> str:
    """One line on the images that cannot be read."""
    listing = few([f"{name} ({reason})" for name, reason in bad.items()], "; ")
    return f"{path}: {len(bad)} of {count} images cannot be read and are left out: {listing}; repair them, or remove them"
