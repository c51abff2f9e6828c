"""The images below a folder by name, the classes of these names, and what is left out.

    cats/1.jpg, cats/2.jpg, dogs/1.png      →   classes cats 0, dogs 1
    00000/img00000000.png, dataset.json     →   labels of dataset.json (`kdiff.data.dataset_tool`)

Names are relative and separated by "/", so they may also be those of the members of an archive.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kdiff.data import dataset_tool

READ = "png jpg jpeg jpe jfif webp avif bmp gif tif tiff ppm pgm pbm pnm"
NOT_READ = "heic heif hif jp2 j2k jpx jxl jxr tga exr hdr psd svg ico apng raw dng cr2 cr3 nef arw orf rw2 pcx dds qoi dcm"
ENDINGS, OTHER_ENDINGS = (tuple(f".{ending}" for ending in text.split()) for text in (READ, NOT_READ))
EXPECTED = {".ds_store", "thumbs.db", "desktop.ini", ".gitkeep", ".gitignore"}  # of systems and tools, in any folder
PART_NAMES = {"train", "training", "val", "valid", "validation", "test"}


def image_names(path: Path) -> list[str]:
    """The sorted relative names of the image files below a folder, without hidden files; no folder is read twice.

    Other files are counted by their endings in one warning, and sub-folders without images are named in another.
    """
    if not path.exists():
        raise FileNotFoundError(f"no folder at {path}")
    if not path.is_dir():
        raise ValueError(f"{path} is a file, expected a folder of images")
    names, others, seen, left_out, folders = list[str](), 0, set(), Counter[str](), set[str]()
    for folder, below, files in os.walk(path, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inside = os.path.relpath(folder, path).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        if not prefix:
            folders.update(below)
        for file in files:
            if is_picture(file):
                names.append(prefix + file)
            else:
                others += 1
                if file.lower() not in EXPECTED and (prefix or file != dataset_tool.FILE):
                    left_out[kind_of_file(file)] += 1
    if not names:
        found = f"{others} other files" if others else "nothing"
        raise ValueError(f"{path} holds no images: expected files ending in {', '.join(ENDINGS)}, found {found}")
    if left_out:
        warnings.warn(f"{path}: {left_out_text(left_out)}", stacklevel=4)
    used = {name.partition("/")[0] for name in names if "/" in name}
    if used and (empty := sorted(folders - used)):
        warnings.warn(
            f"{path}: the folders {few(empty)} hold no images, so they are no classes; remove them, or put images there",
            stacklevel=4,
        )
    return sorted(names)


def is_picture(file: str) -> bool:
    """Whether the name of a file, without folders, is that of an image that is read."""
    return not file.startswith(".") and file.lower().endswith(ENDINGS)


def kind_of_file(file: str) -> str:
    """The ending of a file's name, by which files that are left out are counted."""
    return "hidden" if file.startswith(".") else os.path.splitext(file)[1].lower() or "no ending"


def left_out_text(left_out: Counter[str]) -> str:
    """One line that counts the files that are left out by kind, pictures of other formats first."""
    pictures = Counter({kind: count for kind, count in left_out.items() if kind in OTHER_ENDINGS})
    others = left_out - pictures
    pictures_listed, others_listed = (
        ", ".join(f"{kind} ({count})" for kind, count in counted.most_common()) for counted in (pictures, others)
    )
    count = others.total()
    rest = f"{count} files that are no images are left out" if count > 1 else "1 file that is no image is left out"
    if not pictures:
        return f"{rest}: {others_listed}"
    text = f"{pictures.total()} pictures are left out, because kdiff does not read {pictures_listed}; convert them to .png"
    return text + (f"; {rest} too: {others_listed}" if others else "")


def class_labels(path: Path | zipfile.Path, names: Sequence[str]) -> tuple[list[str], list[int] | None]:
    """The names of the classes, if the images have classes with names, and the class of every image or None."""
    if dataset_tool.has_labels(path):
        return [], dataset_tool.read_labels(path, names)
    classes, ids = named_classes(path, names)
    if classes and dataset_tool.look_like_chunks(names):
        warnings.warn(
            f"{path}: the folders {few(classes)} look like chunks of numbered images, and they are taken as classes; give "
            "labels=False if they are no classes",
            stacklevel=4,
        )
    return classes, ids


def named_classes(path: Path | zipfile.Path, names: Sequence[str]) -> tuple[list[str], list[int] | None]:
    """The names of the classes and the class of every image; an empty list and None if there are fewer than two classes."""
    tops = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(tops) - {""})
    if all(name.isdecimal() for name in classes):
        classes.sort(key=int)  # 1, 2, 10
    beside = tops.count("")
    if classes and beside:
        raise ValueError(
            f"{path} holds {beside} images beside the folders {few(classes)}: either all images have a class or none has; "
            "move them into a folder, or give labels=False for images without classes"
        )
    if len(classes) > 1 and {name.lower() for name in classes} <= PART_NAMES:
        raise ValueError(
            f"{path} holds the folders {few(classes)}, which look like parts of a data set, not classes; name one of them, "
            f"{path / classes[0]}, or give labels=False to take all images without classes"
        )
    if len(classes) < 2:
        return [], None
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number[top] for top in tops]


def few(items: Sequence[str], separator: str = ", ") -> str:
    """The first five items, and how many more there are."""
    more = [f"and {len(items) - 5} more"] if len(items) > 5 else []
    return separator.join([*items[:5], *more])
