from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from kdiff.commands.main import overview
from kdiff.config.parts import Part
from kdiff.data import SOURCES, Dataset, digits, load

MODULE = """
import numpy as np
from kdiff.data import make_dataset

number = 3

def make(size=50, shift=0.0):
    return make_dataset("mine", np.arange(3.0 * size).reshape(size, 3) + shift)

def make_wrong():
    return [1, 2]

def make_any(**options):
    return make(**options)

def make_required(size):
    return make(size)

def fails():
    raise TypeError("from inside")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    package = tmp_path / "kdiff_test_sources"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "data.py").write_text(MODULE)
    (package / "broken.py").write_text("import kdiff_no_such_module\n")
    (package / "faulty.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("kdiff_test_sources")]:
        monkeypatch.delitem(sys.modules, name)
    return "kdiff_test_sources.data"


def test_digits() -> None:
    data = digits()
    assert data.x.shape == (1797, 1, 8, 8)
    assert data.x.dtype == torch.float32
    assert (data.x.min(), data.x.max()) == (-1, 1)
    raw, labels = load_digits(return_X_y=True)
    assert torch.equal(data.normalisation.undo(data.x).flatten(1), torch.from_numpy(raw).float())
    assert data.y is not None
    assert torch.equal(data.y, torch.from_numpy(labels))
    assert data.num_classes == 10
    assert data.describe()["normalisation"] == {"kind": "range", "shift": 8.0, "scale": 8.0}
    for part in ("train", "classifier", "heldout"):
        assert set(data.part(part)[1].tolist()) == set(range(10))  # type: ignore[union-attr]


def test_every_name_loads_itself() -> None:
    toys = {"spiral", "moons", "gaussian", "gaussian_mixture", "sphere"}
    assert set(SOURCES) == {"digits", "fashion", "glyphs", "photo_patches"} | toys
    assert all(re.search(rf"\b{name}\b", overview()) for name in SOURCES)
    # The two that are read from Debian's files have tests of their own.
    for name in SOURCES.keys() - {"fashion", "glyphs"}:
        data = load(name)
        assert isinstance(data, Dataset)
        assert data.name == name


def test_options_reach_the_source(tmp_path: Path) -> None:
    spiral = load("spiral", num_samples=50, ambient_dim=7)
    assert spiral.x.shape == (50, 7)
    np.save(tmp_path / "a (1).npy", spiral.x.numpy())
    np.savez(tmp_path / "a.npz", images=spiral.x.numpy(), others=spiral.x.numpy())
    for source in ("spiral(num_samples=50, ambient_dim=7)", "spiral(50, 7)", Part("spiral", {"ambient_dim": 7}, [50])):
        assert load(source).fingerprint == spiral.fingerprint
    assert load("spiral(50)", ambient_dim=7).fingerprint == spiral.fingerprint
    for path in (tmp_path / "a (1).npy", str(tmp_path / "a (1).npy"), f"{tmp_path / 'a.npz'}(images)"):
        assert torch.equal(load(path, normalise="none").x, spiral.x)


@pytest.mark.parametrize("source", ["spiral(50)", "spiral(num_samples=50)"])
def test_an_option_is_given_once(source: str) -> None:
    with pytest.raises(ValueError, match=r"gives num_samples, which is also|multiple values for argument 'num_samples'"):
        load(source, num_samples=60)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "spiral",
            {"ambient": 3},
            r"spiral has no option ambient \(did you mean ambient_dim\?\); its options are num_samples, ",
        ),
        ("digits", {"size": 3}, "digits has no option size; it takes none"),
    ],
)
def test_unknown_options(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(name, **options)


def test_unknown_option_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.npy has no option normalize \(did you mean normalise\?\); its options are key, "):
        load(str(tmp_path / "a.npy"), normalize="none")


def test_a_path_is_not_taken_for_a_misspelt_source() -> None:
    with pytest.raises(FileNotFoundError, match=r"^'latents/fashion': no such file or folder; .*that kdiff encode wrote"):
        load("latents/fashion")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "spirals",
            ValueError,
            r"no data is called 'spirals' \(did you mean 'spiral'\?\)",
        ),
        ("qqq", ValueError, r"digits, fashion, glyphs, photo_patches, .*gaussian_mixture, sphere.*\.npy, \.npz, \.safetensors"),
        ("./qqq", FileNotFoundError, "no such file or folder; expected one of digits"),
        ("no/such/place/x.npz", FileNotFoundError, "no such file"),
        ("qqq.npz", FileNotFoundError, "no such file"),
        ("kdiff_no_such_module.make", ValueError, "there is no module 'kdiff_no_such_module'; .*PYTHONPATH"),
        ("kdiff.no_such_module.make", ValueError, "no module 'kdiff.no_such_module'"),
    ],
)
def test_unknown_names(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(name)


class TestClassPath:
    def test_a_function_of_the_users_own(self, module: str) -> None:
        assert load(f"{module}.make").x.shape == (50, 3)
        assert load(f"{module}.make", size=30, shift=1.0).x[0].tolist() == [1, 2, 3]
        assert load(f"{module}.make_any", size=30).x.shape == (30, 3)

    @pytest.mark.parametrize(
        ("attribute", "options", "error", "message"),
        [
            ("data.make_wrong", {}, TypeError, "must return a kdiff.data.Dataset, found list"),
            ("data.make", {"sise": 3}, ValueError, r"has no option sise \(did you mean size\?\); its options are size, shift"),
            ("data.make_required", {}, ValueError, "needs a value for size"),
            ("data.fails", {}, TypeError, "^from inside$"),
            ("data.mak", {}, ValueError, r"has no 'mak' .did you mean 'make'"),
            ("data.number", {}, ValueError, "data.number is 3; expected a class, or a function"),
            (
                "broken.make",
                {},
                ValueError,
                "importing kdiff_test_sources.broken failed: No module named 'kdiff_no_such_module'",
            ),
            ("faulty.make", {}, ValueError, "importing kdiff_test_sources.faulty failed: ZeroDivisionError: division by zero"),
        ],
    )
    def test_refusals(self, module: str, attribute: str, options: dict, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            load(f"kdiff_test_sources.{attribute}", **options)


def test_importing_the_package_leaves_scikit_learn_and_font_tools_alone() -> None:
    code = "import sys, kdiff.data; print({'sklearn', 'fontTools'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
