"""The arrows between the packages, the length of files, no pickle, and a command line that starts without torch.

All but the last read the source with `ast`; what they look for is also planted in small snippets, so that a check that
sees nothing fails.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "kdiff"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST = 350

CORE = {"precision", "path", "target", "timesteps", "sampling"}
OUTER = {
    "arguments",
    "components",
    "export_command",
    "files",
    "heap",
    "latent_commands",
    "report_command",
    "training",
    "evaluation",
    "experiments",
    "report",
    "interop",
    "cli",
}
# Room: the kdiff rooms that it may import besides itself. OUTER rooms may import everything but the command line.
MAY_IMPORT = {
    "precision": set(),
    "path": {"precision"},
    "target": {"precision", "path"},
    "timesteps": {"precision", "path"},
    "sampling": {"precision", "path", "target", "timesteps"},
    "model": CORE,
    "networks": {"weights"},
    "weights": set(),
    "data": {"weights"},
    "latent": {"weights"},
    "theory": {"timesteps"},
}
# Room: the other packages that it may import besides the standard library. OUTER rooms may import any.
MAY_REQUIRE = {
    **{room: {"torch"} for room in [*CORE, "model"]},
    "sampling": {"torch", "torchdiffeq"},
    "networks": {"torch", "numpy"},
    "weights": {"torch", "safetensors"},
    "data": {"torch", "numpy", "sklearn", "safetensors", "PIL", "fontTools", "filelock", "tqdm"},
    "latent": {"torch", "diffusers", "huggingface_hub"},
    "theory": {"torch", "numpy", "scipy", "sklearn"},
}
PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
UNPICKLING = {"torch.load", "torch.save", "torch.serialization.load", "torch.serialization.save"}
# Published weights are mostly pickles. This module alone may read them, by torch's own reader, which runs nothing.
READS_WEIGHTS = "kdiff.weights"


def imports(tree: ast.AST, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that `module` imports, at any depth of the code.

    `from a import b` gives "a.b", whether b is a module or a name in one.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def forbidden_imports(tree: ast.AST, module: str, is_package: bool = False) -> list[str]:
    """What `module` (a dotted name below kdiff) imports against the arrows."""
    room = module.split(".")[1]
    found = []
    for line, name in imports(tree, module, is_package):
        top, _, rest = name.partition(".")
        if top == "kdiff":
            other = rest.split(".")[0]
            if other == room or (room in OUTER and other != "cli") or other in MAY_IMPORT.get(room, set()):
                continue
        elif top in sys.stdlib_module_names or room in OUTER or top in MAY_REQUIRE[room]:
            continue
        found.append(f"line {line}: {name}")
    return found


def pickling(tree: ast.AST, module: str, is_package: bool = False) -> list[str]:
    """Imports of pickling libraries, and calls that pickle: torch.load, torch.save, allow_pickle other than False.

    READS_WEIGHTS may call torch.load(weights_only=True).
    """
    found, names = [], {}
    for line, name in imports(tree, module, is_package):
        if name.split(".")[0] in PICKLERS or name in UNPICKLING:
            found.append(f"line {line}: import {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
        if not isinstance(node, ast.Call):
            continue
        first, dot, rest = ast.unparse(node.func).partition(".")
        called = names.get(first, first) + dot + rest
        weights_only = [k.value for k in node.keywords if k.arg == "weights_only"]
        if module == READS_WEIGHTS and called == "torch.load" and [ast.unparse(value) for value in weights_only] == ["True"]:
            continue
        if called in UNPICKLING:
            found.append(f"line {node.lineno}: {ast.unparse(node.func)}")
        for keyword in node.keywords:
            is_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg == "allow_pickle" and not is_false:
                found.append(f"line {node.lineno}: allow_pickle={ast.unparse(keyword.value)}")
    return found


def dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def everywhere(check, files: list[Path]) -> dict[str, list[str]]:
    """What `check` finds, by file; only files where it finds something."""
    trees = ((p, ast.parse(p.read_text(encoding="utf-8"))) for p in files)
    found = {str(p.relative_to(SOURCE)): check(tree, dotted(p), p.name == "__init__.py") for p, tree in trees}
    return {name: lines for name, lines in found.items() if lines}


# The package's own __init__ names the public objects, and __main__ calls the command line; neither is a room.
ROOMS = [p for p in FILES if p.parent != SOURCE or p.stem not in {"__init__", "__main__"}]


def test_every_room_has_its_place_in_the_table() -> None:
    rooms = {p.relative_to(SOURCE).parts[0].removesuffix(".py") for p in ROOMS}
    assert rooms <= MAY_IMPORT.keys() | OUTER
    assert {"path", "target"} <= rooms


def test_imports_follow_the_arrows() -> None:
    assert everywhere(forbidden_imports, ROOMS) == {}


def test_the_arrows_have_no_cycle() -> None:
    seen: list[str] = []
    while rest := MAY_IMPORT.keys() - set(seen):
        free = [room for room in rest if MAY_IMPORT[room] <= set(seen)]
        assert free, f"these rooms may import each other: {sorted(rest)}"
        seen += free


@pytest.mark.parametrize(
    ("module", "code", "allowed"),
    [
        ("kdiff.path", "from kdiff.model import KDiff", False),
        ("kdiff.path", "from kdiff import KDiff", False),
        ("kdiff.path", "import kdiff.training.loop", False),
        ("kdiff.path", "def f():\n    from .target import FixedK", False),
        ("kdiff.sampling.ode", "from ..training import loop", False),
        ("kdiff.sampling.ode", "from .. import model", False),
        ("kdiff.sampling.ode", "from . import grids\nfrom .grids import uniform\nfrom ..path import LinearPath", True),
        ("kdiff.networks.dit", "import accelerate", False),
        ("kdiff.networks.dit", "import math, torch.nn.functional as F\nimport numpy as np", True),
        ("kdiff.data.toy", "from kdiff.path import LinearPath", False),
        ("kdiff.theory.linear", "from kdiff.networks import MLP", False),
        ("kdiff.model", "from kdiff.target import Target\nfrom kdiff.sampling import solve", True),
        ("kdiff.training.loop", "from kdiff.model import KDiff\nimport accelerate", True),
        ("kdiff.training.loop", "from kdiff.cli import main", False),
    ],
)
def test_the_arrow_check_sees(module: str, code: str, allowed: bool) -> None:
    assert (forbidden_imports(ast.parse(code), module) == []) is allowed


def test_the_arrow_check_reads_relative_imports_of_packages() -> None:
    tree = ast.parse("from .toy import ring\nfrom ..model import KDiff")
    assert forbidden_imports(tree, "kdiff.data", is_package=True) == ["line 2: kdiff.model.KDiff"]


def test_no_file_is_too_long() -> None:
    lengths = {str(p.relative_to(SOURCE)): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_nothing_pickles() -> None:
    assert everywhere(pickling, FILES) == {}


@pytest.mark.parametrize(
    ("code", "harmless"),
    [
        ("import pickle", False),
        ("from joblib import load", False),
        ("import torch\ntorch.load('x.pt', weights_only=True)", False),
        ("import torch as th\nth.save({}, 'x.pt')", False),
        ("from torch import load", False),
        ("import numpy as np\nnp.load('x.npy', allow_pickle=True)", False),
        ("import numpy as np\nnp.load('x.npy', allow_pickle=flag)", False),
        ("import numpy as np\nnp.load('x.npy', allow_pickle=False)", True),
        ("from safetensors.torch import load_file\nload_file('x.safetensors')", True),
    ],
)
def test_the_pickle_check_sees(code: str, harmless: bool) -> None:
    assert (pickling(ast.parse(code), "kdiff.training.checkpoint") == []) is harmless


@pytest.mark.parametrize(
    ("module", "call", "harmless"),
    [
        (READS_WEIGHTS, "torch.load('x.pt', weights_only=True)", True),
        (READS_WEIGHTS, "torch.load('x.pt', weights_only=False)", False),
        (READS_WEIGHTS, "torch.load('x.pt', weights_only=flag)", False),
        (READS_WEIGHTS, "torch.load('x.pt')", False),
        (READS_WEIGHTS, "torch.save({}, 'x.pt')", False),
        ("kdiff.networks.official", "torch.load('x.pt', weights_only=True)", False),
    ],
)
def test_one_module_reads_weights_from_pickles(module: str, call: str, harmless: bool) -> None:
    assert (pickling(ast.parse(f"import torch\n{call}"), module) == []) is harmless


def test_help_comes_without_torch() -> None:
    """`kdiff --help` must answer at once; importing torch takes seconds."""
    code = """
import json, sys
from kdiff.cli import main
status = 0
try:
    status = main(["--help"])
except SystemExit as end:
    status = end.code
heavy = [name for name in ("torch", "sklearn", "matplotlib", "accelerate", "diffusers") if name in sys.modules]
print(json.dumps({"status": status or 0, "heavy": heavy}))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    *text, last = run.stdout.splitlines()
    assert json.loads(last) == {"status": 0, "heavy": []}
    assert "compare" in "\n".join(text)
