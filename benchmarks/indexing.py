"""Compare how long this checkout and another commit take to read a folder of small images: the first time, and from the cache.

    python benchmarks/indexing.py COMMIT [--images 20000] [--size 32] [--repeats 3] [--ending .png]

Each way is a process of its own with an empty cache. The two take turns, because other programs may use the processor; the
figure is the ratio within a pair. The files were written just before, so they come from the system's memory. The time is that
of `kdiff.data.load`, without the start of Python. Both must give the same fingerprint.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
WORK = """
import json, sys, time, warnings
import PIL.Image, sklearn, torch
warnings.simplefilter("ignore")
from kdiff.data import load
began, cpu = time.perf_counter(), time.process_time()
data = load(sys.argv[1])
print(json.dumps([time.perf_counter() - began, time.process_time() - cpu, data.fingerprint]))
"""


def write_images(folder: Path, count: int, size: int, ending: str) -> None:
    """Images of smooth noise in ten classes, so that they compress like photographs."""

    def write(number: int) -> None:
        random = np.random.default_rng(number)
        small = Image.fromarray(random.integers(0, 256, (max(2, size // 4), max(2, size // 4), 3), dtype=np.uint8))
        image = small.resize((size, size), Image.Resampling.BICUBIC)
        image.save(folder / f"class {number % 10}" / f"{number:06}{ending}")

    for label in range(10):
        (folder / f"class {label}").mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))


def seconds(source: Path, images: Path, cache: Path) -> tuple[float, float, str]:
    """Seconds that passed, seconds of the processor, and the fingerprint."""
    environment = {**os.environ, "PYTHONPATH": str(source / "src"), "KDIFF_CACHE": str(cache)}
    command = [sys.executable, "-c", WORK, str(images)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    passed, used, fingerprint = json.loads(done.stdout.splitlines()[-1])
    return passed, used, fingerprint


def main() -> None:
    """Print the times of each pair, and the median of the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit", help="the commit to compare with, such as HEAD")
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ending", default=".png")
    parser.add_argument("--folder", type=Path, help="where the images are written; a temporary folder by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        images, other = folder / "images", folder / "other"
        other.mkdir()
        packed = subprocess.run(["git", "-C", ROOT, "archive", given.commit, "src"], check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x", "-C", other], input=packed, check=True)
        write_images(images, given.images, given.size, given.ending)
        print(f"{given.images} images of {given.size} × {given.size} ({given.ending}); seconds passed (of the processor)")
        print(f"{given.commit[:12]:>18} {'this checkout':>18} {'ratio':>7}    from the cache: other, this")
        ratios: dict[str, list[float]] = {"passed": [], "processor": []}
        for repeat in range(given.repeats):
            found = {}
            for name, source in (("other", other), ("this", ROOT)) if repeat % 2 else (("this", ROOT), ("other", other)):
                cache = folder / f"cache {name} {repeat}"
                found[name] = seconds(source, images, cache), seconds(source, images, cache)
            (old, old_again), (new, new_again) = found["other"], found["this"]
            if len({one[2] for pair in found.values() for one in pair}) > 1:
                raise RuntimeError(f"the fingerprints differ: {found}")
            ratios["passed"].append(old[0] / new[0])
            ratios["processor"].append(old[1] / new[1])
            print(
                f"{old[0]:9.2f} ({old[1]:5.2f}) {new[0]:10.2f} ({new[1]:5.2f}) {old[0] / new[0]:7.2f}"
                f"    {old_again[0]:.2f}, {new_again[0]:.2f}",
                flush=True,
            )
        print("median ratio: " + ", ".join(f"{statistics.median(each):.2f} ({name})" for name, each in ratios.items()))


if __name__ == "__main__":
    main()
