"""Tar shards of WebDataset: members that follow each other and share a name up to the first dot are one sample.

    shards/train-{000..012}.tar      000/0001.jpg, 000/0001.cls, 000/0001.json, 000/0002.jpg, …

The order of the samples is that of the shards, and within a shard that of the members. The places of all members are found in
one pass over the headers and kept in the cache under the sizes and times of change of the shards. So any sample is read on its
own, and training, split and resumption know no shards. Names are grouped by `webdataset.tariterators.group_by_keys` itself.
"""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.deep_folder import range_of
from kdiff.data.folder_names import ENDINGS, few
from kdiff.data.formats import needed
from kdiff.data.formats.members import LARGEST, Archive, MemberArrays, open_images, unreadable_text
from kdiff.data.formats.sample_fields import class_of, value_of
from kdiff.data.opened import Array, Opened, Source
from kdiff.data.progress import shown
from kdiff.files import cache

ENDING = ".tar"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LABELS = ("cls", "cls2")
META = re.compile(r"__[^/]*__($|/)")  # members that WebDataset passes over
IMAGES = tuple(ending[1:] for ending in ENDINGS)
BLOCK = tarfile.BLOCKSIZE

Group = dict[str, Any]  # "__key__", and by ending the name of the member


class TarMembers(Archive):
    """Members of shards by "shard: name". Each read opens the shard, so that threads and processes share no position."""

    def __init__(self, path: str, places: Mapping[str, tuple[str, int, int]]) -> None:
        super().__init__()
        self.path, self.places = path, places

    def open(self) -> None:
        """Nothing is kept open."""

    def content(self, handle: None, name: str) -> bytes:
        """The bytes of a member."""
        shard, offset, size = self.places[name]
        with open(shard, "rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise ValueError(f"{name}: the shard has become shorter since it was opened; copy it again")
        return content


def is_tar_shards(path: str | Path) -> bool:
    """Whether a path, which may hold braces and wildcards, names tar shards; or a folder of them and of nothing but notes."""
    name = str(path)
    if name.lower().endswith((ENDING, *PACKED)):
        return True
    folder = Path(path).expanduser()
    files = [file.suffix.lower() for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    return ENDING in files and not {f".{ending}" for ending in IMAGES}.intersection(files)


def shard_paths(path: str | Path) -> list[Path]:
    """The shards in order: braces as WebDataset expands them, wildcards and folders by name.

    Raises FileNotFoundError for a shard that is missing, and ValueError for compressed shards.
    """
    name = os.path.expanduser(str(path))
    if Path(name).is_dir():
        found = sorted(str(file) for file in Path(name).iterdir() if file.name.lower().endswith((ENDING, *PACKED)))
    elif Path(name).exists():
        found = [name]
    else:
        spread = needed("webdataset.shardlists", f"{name} (tar shards)").expand_urls(name) if "{" in name else [name]
        found = [shard for one in spread for shard in (sorted(glob.glob(one)) if re.search(r"[*?[]", one) else [one])]
    missing = [shard for shard in found if not Path(shard).is_file()]
    if missing or not found:
        listing = f": {few(missing)}" if missing else ""
        raise FileNotFoundError(f"{path}: {len(missing)} of {len(found)} shards are missing{listing}; correct the path")
    if packed := [shard for shard in found if shard.lower().endswith(PACKED)]:
        raise ValueError(f"{packed[0]} is compressed, and samples are read in any order; unpack it to .tar (gunzip, …)")
    if twice := [shard for shard, count in Counter(found).items() if count > 1]:
        raise ValueError(f"{path} names {twice[0]} more than once; name each shard once")
    return [Path(shard) for shard in found]


def open_tar_shards(
    path: str | Path,
    key: str | None = None,
    label_key: str | None = None,
    labels: bool = True,
    condition: str | Sequence[str] | Mapping[str, str] | None = None,
    size: int | None = None,
    channels: str | None = None,
) -> Opened:
    """The samples of tar shards. `path` is a file, a folder, or a pattern with braces or wildcards.

    `key` is the ending of the samples, such as jpg, npy or seg.png; "jpg;png" takes the first one that a sample has. By
    default it is the only kind of image, or else of array. Labels come from .cls if there is one, or from `label_key`: another
    ending, or a field of .json ("meta.class" is a field in a field). `condition` names arrays (endings such as params.npy) and
    fields of .json that are numbers or lists of numbers. `size` and `channels` are for images, as in a folder of images.
    Samples that lack one of these are left out and counted.

    Raises FileNotFoundError for missing shards. Raises ValueError for shards that are damaged, cut short or compressed, a name
    twice in a sample, an ambiguous `key`, no complete sample, labels that are no whole numbers, and large members.
    """
    shards = shard_paths(path)
    identity = ("tar", [cache.stamp(shard) for shard in shards])
    entries = cache.json_of(cache.entry("shards", identity).with_suffix(".json"), lambda: _index(shards))
    places: dict[str, tuple[str, int, int]] = {}
    groups = _groups(shards, entries, places)
    archive, remarks = TarMembers(str(path), places), list[str]()
    counts = Counter(ending for group in groups for ending in group if not ending.startswith("__"))
    conditions = [condition] if isinstance(condition, str) else list(condition or ())
    ways = _ways(path, groups, counts, key, conditions)
    label = _label_ending(counts, label_key) if labels else None
    fields = [name for name in conditions if name not in counts]
    wanted = [*(name for name in conditions if name in counts), *([label] if label else []), *(["json"] if fields else [])]
    complete = _complete(path, groups, ways, wanted, remarks)
    unused = {ending: count for ending, count in counts.items() if ending not in (*ways, *wanted)}
    if unused:
        listing = ", ".join(f".{ending} ({count})" for ending, count in sorted(unused.items()))
        remarks.append(f"{path}: members that are neither samples, labels nor conditions are not used: {listing}")
    names = [next(group[way] for way in ways if way in group) for group in complete]
    x: Source
    about: dict[str, Any] = {"shards": len(shards)}
    if ways[0].rpartition(".")[2] == "npy":
        x = MemberArrays(archive, names, (identity, "x", ways))
    else:
        x, bad = open_images(archive, names, size, channels, (identity, "x", ways))
        if bad:
            remarks.append(unreadable_text(str(path), bad, len(names)))
            about["unreadable"] = list(bad)
            complete = [group for group, name in zip(complete, names) if name not in bad]
    y: Source | None = None
    classes: list[str] | None = None
    if label is not None:
        found = (class_of(archive, group[label], label_key if label == "json" else None) for group in complete)
        ids, classes = _numbers(path, list(shown(found, len(complete), f"labels of {path}")), label_key or label)
        y = Array(f"{path}: labels", ids, (identity, label, label_key))
    made: dict[str, Source] = {}
    for name in conditions:
        short = short_name(name)
        if name in counts:
            made[short] = MemberArrays(archive, [group[name] for group in complete], (identity, name))
        else:
            values = np.array([value_of(archive, group["json"], name) for group in complete])
            made[short] = Array(f"{path}: {name}", values, (identity, name))
    given = condition.items() if isinstance(condition, Mapping) else ()
    kinds = {short_name(one): kind for one, kind in given}
    value_range = range_of(x.dtype) if x.decoded else None
    return Opened(x, y, classes, made, kinds, value_range=value_range, about=about, remarks=remarks)


def short_name(name: str) -> str:
    """The name of a condition from that of a member's ending or a field: params for params.npy, meta_size for meta.size."""
    return re.sub(r"\W", "_", name.removesuffix(".npy"))


def _index(shards: Sequence[Path]) -> list[list[tuple[str, int, int]]]:
    """Name, offset and size of all members of each shard that WebDataset reads."""
    return [list(_members(shard)) for shard in shown(shards, len(shards), "looking through shards", unit="shard")]


def _members(shard: Path) -> Iterator[tuple[str, int, int]]:
    try:
        with tarfile.open(shard, "r:") as file:
            for member in file:
                if member.isreg() and not META.match(member.name):
                    if member.issparse():
                        raise ValueError(f"{shard}: {member.name} is stored as a sparse file; make the shard again")
                    if member.size > LARGEST:
                        raise ValueError(f"{shard}: {member.name} has {member.size / 2**30:.3g} GB; expected at most 0.25 GB")
                    yield member.name, member.offset_data, member.size
                file.members = []  # type: ignore[attr-defined]  # else tarfile keeps all headers in memory
            end = file.offset
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{shard}: cannot be read as tar: it is damaged, cut short or of another format ({error})") from error
    with shard.open("rb") as raw:
        raw.seek(end)
        if raw.read(BLOCK) != bytes(BLOCK):
            raise ValueError(
                f"{shard} is cut short, because the mark of its end is missing; copy it again, or close the writer"
            )


def _groups(shards: Sequence[Path], entries: Sequence[Any], places: dict[str, tuple[str, int, int]]) -> list[Group]:
    """The samples, as WebDataset groups members; `places` gets the place of every member."""
    group_by_keys = needed("webdataset.tariterators", f"{shards[0]} (tar shards)").group_by_keys

    def members() -> Iterator[dict[str, Any]]:
        for shard, listed in zip(shards, entries):
            for name, offset, size in listed:
                full = f"{shard}: {name}"
                places[full] = (str(shard), offset, size)
                yield {"fname": name, "data": full, "__url__": str(shard)}
            yield {}  # samples do not go on in the next shard

    try:
        return list(group_by_keys(members()))
    except ValueError as error:
        raise ValueError(f"{error.args[0]}; a sample has each ending once, so rename the members") from error


def _ways(path: Any, groups: list[Group], counts: Counter[str], key: str | None, conditions: list[str]) -> list[str]:
    """The endings of the samples, of which the first one counts that a sample has."""
    listing = ", ".join(f"{ending} ({count})" for ending, count in counts.most_common())
    if key is not None:
        ways = [way for way in key.split(";") if way in counts]
        if not ways:
            raise ValueError(f"{path}: no member ends in {key!r}; the endings are {listing or 'none'}")
        kinds = {"npy" if way.rpartition(".")[2] == "npy" else "image" for way in ways}
        other = [way for way in ways if way.rpartition(".")[2] not in (*IMAGES, "npy")]
        if other or len(kinds) > 1:
            raise ValueError(f"{path}: samples are images or .npy arrays, one kind at a time; found key={key!r}")
        return ways
    for kind in (IMAGES, ("npy",)):
        ways = [one for one in counts if one not in conditions and one.rpartition(".")[2] in kind]
        if ways and all(sum(way in group for way in ways) < 2 for group in groups):
            return ways
        if ways:
            raise ValueError(f"{path}: samples have several members that may be meant: {listing}; give key={ways[0]}")
    raise ValueError(f"{path} holds neither images nor .npy arrays, one a sample; the endings are {listing or 'none'}")


def _label_ending(counts: Counter[str], label_key: str | None) -> str | None:
    if label_key is None:
        return next((ending for ending in LABELS if ending in counts), None)
    return label_key if label_key in counts and label_key != "json" else "json"


def _complete(path: Any, groups: list[Group], ways: list[str], wanted: list[str], remarks: list[str]) -> list[Group]:
    """The samples that have everything; the others are counted by what they lack."""
    lacking = Counter[str]()
    complete, first = [], ""
    for group in groups:
        lacks = [f".{ending}" for ending in wanted if ending not in group]
        if not any(way in group for way in ways):
            lacks.insert(0, " or ".join(f".{way}" for way in ways))
        if lacks:
            lacking[" and ".join(lacks)] += 1
            first = first or f"{group['__url__']}: {group['__key__']}"
        else:
            complete.append(group)
    listing = ", ".join(f"{count} without {what}" for what, count in lacking.most_common())
    apart = "members of a sample must follow each other (tar --sort=name)"
    if not complete:
        raise ValueError(f"{path} holds no complete sample: {listing or 'no members'}; {apart}")
    if lacking:
        remarks.append(
            f"{path}: {lacking.total()} of {len(groups)} samples are incomplete and left out ({listing}), the first {first}; "
            f"{apart}"
        )
    return complete


def _numbers(path: Any, found: list[Any], what: str) -> tuple[np.ndarray, list[str] | None]:
    """Labels as whole numbers, and the names of the classes if labels are texts."""
    if all(isinstance(one, int) for one in found):
        return np.array(found, np.int64), None
    if all(isinstance(one, str) for one in found):
        classes = sorted(set(found))
        number = {name: i for i, name in enumerate(classes)}
        return np.array([number[one] for one in found], np.int64), classes
    odd = next(one for one in found if not isinstance(one, int | str))
    raise ValueError(f"{path}: labels under {what!r} must be whole numbers or names throughout; found {odd!r}")
