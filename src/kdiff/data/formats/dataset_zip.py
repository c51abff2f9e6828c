"""Zips of images, as the dataset tools of StyleGAN, EDM and EDM2 write them, and other zips of images or of .npy arrays.

    dataset.json, 00000/img00000000.png, …               labels from dataset.json (`kdiff.data.dataset_tool`)
    cats/1.jpg, dogs/2.jpg                                classes are the top folders, as in a folder of images
    dataset.json, 00000/img-mean-std-00000000.npy, …      latents of EDM2, (8, h, w): mean and standard deviation

Members are read in place, and nothing is unpacked to disk. Sizes that the zip declares are checked before a member is
decompressed, and zipfile reads no more than was declared.
"""

from __future__ import annotations

import stat
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data import dataset_tool
from kdiff.data.deep_folder import range_of
from kdiff.data.folder_names import ENDINGS, class_labels, few, is_picture, kind_of_file, left_out_text
from kdiff.data.formats.members import LARGEST, Archive, MemberArrays, open_images, unreadable_text
from kdiff.data.opened import Array, Opened, Source
from kdiff.files import cache

ENDING = ".zip"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
AGAIN = "make the zip again, stored or deflated"
LATENTS = "mean-std"  # in the names of EDM2's latents
HALVES = ("mean", "std")
LOOKED = 8  # arrays that show whether they are latents


class ZipMembers(Archive):
    """The members of a zip."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = str(path)

    def open(self) -> zipfile.ZipFile:
        """The zip."""
        try:
            return zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"{self.path}: cannot be read as a zip: the file is damaged, cut off or of another format ({error}); copy or "
                "make it again"
            ) from error

    def content(self, handle: zipfile.ZipFile, name: str) -> bytes:
        """The bytes of a member, of which zipfile checks the CRC."""
        try:
            return handle.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise ValueError(f"{self.path}: {name} is damaged ({error}); copy the zip again, or make it again") from error


def is_dataset_zip(path: Path) -> bool:
    """Whether the path is that of a zip, which may hold a data set."""
    return path.suffix.lower() == ENDING and path.is_file()


def open_dataset_zip(
    path: str | Path,
    size: int | None = None,
    channels: str | None = None,
    labels: bool = True,
    key: str | None = None,
    corrupt: str = "list",
) -> Opened:
    """The images, or the arrays, in a zip, in the order of their names.

    `size` and `channels` are for images, as in a folder of images. With labels=False, labels and classes are left out. Latents
    of EDM2 are read as they are, means above standard deviations; key="mean" or key="std" takes one half of the channels.
    Images that cannot be read are left out and named (corrupt="list"), or they raise an error (corrupt="error").

    Raises FileNotFoundError for a missing file. Raises ValueError for a zip that is damaged, encrypted or compressed by another
    method, that holds neither images nor arrays, or both, a name twice, names that lead out of the zip, or members of more than
    256 MB, and for everything that a folder of images refuses.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no zip at {path}")
    if corrupt not in ("list", "error"):
        raise ValueError(f"corrupt must be list or error, found {corrupt!r}")
    archive = ZipMembers(path)
    with archive.open() as opened:
        members = [info for info in opened.infolist() if not info.is_dir()]
    left_out = Counter[str]()
    names = _checked(path, members, left_out)
    top = _common_folder([*names, *(info.filename for info in members if info.filename.endswith(dataset_tool.FILE))])
    inside = sorted(name.removeprefix(top) for name in names)
    remarks = [f"{path}: {left_out_text(left_out)}"] if left_out else []
    ids: Sequence[int] | None
    classes, ids = _labels(path, top, inside, remarks) if labels else ([], None)
    full, identity = [top + name for name in inside], ("zip", cache.stamp(path))
    x: Source
    about: dict[str, Any] = {}
    if inside[0].endswith(".npy"):
        if size is not None or channels is not None:
            raise ValueError(f"{path} holds arrays, and size and channels are for images; leave them out")
        x, about = _arrays(path, archive, full, key, identity, remarks)
    else:
        if key is not None:
            raise ValueError(f"{path} holds images, and key={key!r} is for latents of EDM2; leave it out")
        x, bad = open_images(archive, full, size, channels, identity)
        if bad:
            text = unreadable_text(str(path), bad, len(full))
            if corrupt == "error":
                raise ValueError(text)
            remarks.append(text)
            about["unreadable"] = list(bad)
            ids = None if ids is None else [one for one, name in zip(ids, full) if name not in bad]
    y = None if ids is None else Array(f"{path}: labels", np.array(ids, np.int64), ("labels", identity))
    value_range = range_of(x.dtype) if x.decoded else (0.0, 255.0) if x.dtype == np.uint8 else None
    return Opened(x, y, classes or None, value_range=value_range, about=about, remarks=remarks)


def _checked(path: Path, members: Sequence[zipfile.ZipInfo], left_out: Counter[str]) -> list[str]:
    """The names of the images, or of the arrays, after all checks of what the zip declares; others are counted."""
    found: dict[bool, list[zipfile.ZipInfo]] = {False: [], True: []}
    for info in members:
        parts = info.filename.replace("\\", "/").split("/")
        file = parts[-1]
        if ".." in parts or info.filename.startswith("/") or ":" in parts[0]:
            raise ValueError(f"{path} holds {info.filename!r}, a name that leads out of the zip; {AGAIN}, with relative names")
        link = stat.S_ISLNK(info.external_attr >> 16)
        hidden = any(part.startswith(".") for part in parts) or parts[0] == "__MACOSX"
        if (is_picture(file) or file.lower().endswith(".npy")) and not hidden and not link:
            found[file.lower().endswith(".npy")].append(info)
        elif file != dataset_tool.FILE or hidden:
            left_out["link" if link else "hidden" if hidden else kind_of_file(file)] += 1
    if all(found.values()) or not any(found.values()):
        what = f"{len(found[False])} images and {len(found[True])} arrays" if any(found.values()) else "neither"
        other = f" ({left_out_text(left_out)})" if left_out else ""
        expected = f"expected images ({', '.join(ENDINGS)}) or .npy arrays, one sample each"
        raise ValueError(f"{path} holds {what}{other}; {expected}")
    chosen = found[False] or found[True]
    used = [*chosen, *(info for info in members if info.filename.endswith(dataset_tool.FILE))]
    if twice := [name for name, count in Counter(info.filename for info in used).items() if count > 1]:
        raise ValueError(f"{path} holds {few(twice)} more than once, and it is not known which one is meant; {AGAIN}")
    for info in used:
        if info.flag_bits & 1:
            raise ValueError(f"{path} is encrypted ({info.filename}); unpack it with the password, and {AGAIN}")
        if info.compress_type not in METHODS:
            method = zipfile.compressor_names.get(info.compress_type, str(info.compress_type))  # type: ignore[attr-defined]
            raise ValueError(f"{path}: {info.filename} is compressed by {method}, which Python does not read; {AGAIN}")
        if info.file_size > LARGEST:
            raise ValueError(
                f"{path}: {info.filename} is declared as {info.file_size / 2**30:.3g} GB; expected at most 0.25 GB for a sample"
            )
    return [info.filename for info in chosen]


def _common_folder(names: Sequence[str]) -> str:
    """The folders in which all members lie, as in a zip of one folder; empty if there is none."""
    top = ""
    while True:
        firsts = {name.removeprefix(top).partition("/")[::2] for name in names}
        heads = {head for head, rest in firsts}
        if len(heads) != 1 or not all(rest for _, rest in firsts):
            return top
        top += heads.pop() + "/"


def _labels(path: Path, top: str, names: list[str], remarks: list[str]) -> tuple[list[str], list[int] | None]:
    """Names of classes and labels, as for a folder; warnings become remarks."""
    with zipfile.ZipFile(path) as opened, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = class_labels(zipfile.Path(opened, top), names)
    remarks += [str(one.message) for one in said if issubclass(one.category, UserWarning)]
    return found


def _arrays(
    path: Path, archive: Archive, names: list[str], key: str | None, identity: object, remarks: list[str]
) -> tuple[Source, dict[str, Any]]:
    """The arrays, and what they are."""
    if key is not None and key not in HALVES:
        raise ValueError(f"{path}: key must be mean or std for latents of EDM2, found {key!r}")
    whole = MemberArrays(archive, names, identity)
    rows = whole.read(np.arange(min(LOOKED, len(names))))
    half = rows.shape[1] // 2 if rows.ndim == 4 else 0
    paired = half > 0 and rows.shape[1] == 2 * half and rows.dtype.kind == "f"
    named = all(LATENTS in name.rpartition("/")[2] for name in names[:LOOKED])
    if not paired or not (named or (bool((rows[:, half:] > 0).all()) and bool((rows[:, :half] < 0).any()))):
        if key is not None:
            raise ValueError(
                f"{path}: key={key!r} is for latents of EDM2, floats (2 C, h, w) with a positive second half; "
                f"found {rows.shape[1:]} {rows.dtype}; leave key out"
            )
        return whole, {}
    if key is None:
        remarks.append(
            f"{path}: the {2 * half} channels are means and standard deviations of {half} latent channels, as of EDM2, "
            f"and are read as they are; type key=mean to train on the means alone"
        )
        return whole, {"latents": f"{half} means, then {half} standard deviations"}
    channels = slice(0, half) if key == "mean" else slice(half, None)
    return MemberArrays(archive, names, identity, channels), {"latents": key}
