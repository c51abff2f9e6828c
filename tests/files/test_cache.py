from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kdiff.files import cache

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5)).astype(np.uint8)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_images_round_trip_as_a_plain_npy_file(tmp_path: Path, count: int) -> None:
    path = tmp_path / "deep" / "a.npy"
    assert cache.write_images(path, (3, 4, 5), iter(IMAGES[:count])) == count
    found = cache.read_images(path)
    if count:
        assert found is not None
        assert np.array_equal(found, IMAGES[:count])
        assert not found.flags.writeable
    assert np.array_equal(np.load(path, allow_pickle=False), IMAGES[:count])
    assert [file.name for file in path.parent.iterdir()] == ["a.npy"]


def test_many_images_do_not_outgrow_the_header(tmp_path: Path) -> None:
    header = [cache._npy_header(count, (3, 64, 64)) for count in (0, 1, 10**15)]
    assert len({len(text) for text in header}) == 1
    assert len(header[0]) % 64 == 0


def test_what_is_not_whole_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    assert cache.read_images(path) is None
    cache.write_images(path, (3, 4, 5), IMAGES)
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert cache.read_images(path) is None
    assert cache.kept(tmp_path / "a.json") is None
    (tmp_path / "a.json").write_text('{"a": ')
    assert cache.kept(tmp_path / "a.json") is None


def test_writing_stopped_half_way_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    cache.write_images(path, (3, 4, 5), IMAGES)

    def broken():
        yield IMAGES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.write_images(path, (3, 4, 5), broken())
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]
    found = cache.read_images(path)
    assert found is not None
    assert len(found) == 7


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write to the cache in .*No space left.*KDIFF_CACHE") as caught:
        cache.keep(tmp_path / "kept" / "a.json", {})
    assert caught.value.errno == errno.ENOSPC
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("count", [1, 7], ids=["at the end", "between"])
def test_a_disk_that_fills_while_images_are_written(count: int, tmp_path: Path) -> None:
    """The rest of the bytes does not fit either when the file is closed; the message is that of the first failure, once."""
    images = [np.full((3, 40, 50), i, np.uint8) for i in range(count)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"KDIFF_CACHE") as caught:
            cache.write_images(tmp_path / "kept" / "a.npy", (3, 40, 50), images)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value).count("cannot write to the cache in") == 1
    assert list((tmp_path / "kept").iterdir()) == []


def test_an_image_that_cannot_be_read_is_no_fault_of_the_cache(tmp_path: Path) -> None:
    def images() -> Iterator[np.ndarray]:
        yield np.zeros((2, 2), np.uint8)
        raise OSError(errno.EIO, "the disk of the images", "cat.png")

    with pytest.raises(OSError, match=r"the disk of the images: 'cat.png'"):
        cache.write_images(tmp_path / "kept" / "a.npy", (2, 2), images())
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot write to the cache in .*KDIFF_CACHE"):
        cache.keep(cache.entry("images", 1).with_suffix(".json"), {})


def test_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "one"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    assert cache.cache_folder() == tmp_path / "one"
    monkeypatch.delenv("KDIFF_CACHE")
    assert cache.cache_folder() == tmp_path / "two" / "kdiff"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache" / "kdiff"
    assert cache.entry("images", 1, "a") == cache.entry("images", 1, "a")
    assert len({cache.entry("images", 1, "a"), cache.entry("images", 1, "b"), cache.entry("other", 1, "a")}) == 3


def test_stamps_tell_changed_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    before = cache.stamp(path)
    # Same size, same time of modification, as archives set it: the time of the change itself still differs, once the
    # system's clock has moved on.
    while path.stat().st_ctime_ns == before[-1]:
        path.write_bytes(b"two")
        os.utime(path, ns=(1, 1))
    assert cache.stamp(path) != before


def test_of_two_that_want_the_same_one_works_and_the_other_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ends its work only when the second has said that it waits."""
    path, begun, waiting = tmp_path / "kind" / "a.json", threading.Event(), threading.Event()
    monkeypatch.setattr(cache, "PATIENCE", 0)
    monkeypatch.setattr(cache.logger, "warning", lambda message, *facts: waiting.set())

    def work() -> str:
        begun.set()
        assert waiting.wait(60)
        return "worked out"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.json_of, path, work)
        assert begun.wait(60)
        second = pool.submit(cache.json_of, path, lambda: pytest.fail("worked out twice"))
        assert first.result(60) == second.result(60) == "worked out"


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left, others = tmp_path / ".a.npy.partial-1", tmp_path / ".b.npy.partial-1"
    for file in (left, others):
        file.write_bytes(b"half")
    with cache.alone(tmp_path / "a"):
        assert not left.exists()
    assert others.exists()


def test_who_waited_for_one_that_failed_does_the_work(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.json_of(tmp_path / "a.json", fail)
    assert cache.json_of(tmp_path / "a.json", lambda: [1]) == [1]
    assert cache.json_of(tmp_path / "a.json", fail) == [1]
