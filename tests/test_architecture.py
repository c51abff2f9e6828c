"""The order of the rooms, the length of files, no pickle, and a command line that starts without torch.

Most of it reads the source with `ast`. What a check looks for is also planted in small snippets, so that a check that sees
nothing fails.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "kdiff"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST = 300

# The rooms from the ground up. A room may import those before it, and no other. CONTRIBUTING.md shows the same order.
ORDER = ["config", "files", "path", "sampling", "theory", "targets", "networks", "data", "latent", "model", "published"]
ORDER += ["run", "training", "evaluation", "export", "studies", "report", "claims", "commands"]
# Of the rooms before it, a room named here may import these alone: networks, data and autoencoders know nothing of k, and
# theory knows no networks.
ONLY = {
    "files": {"config"},
    "path": {"config"},
    "sampling": {"config", "path"},
    "theory": {"sampling"},
    "targets": {"config", "path", "theory"},
    "networks": {"config", "files"},
    "data": {"config", "files"},
    "latent": {"files"},
    "model": {"config", "path", "sampling", "targets"},
}
# Room: the other packages that it may import besides the standard library. Rooms that are not named may import any.
MAY_REQUIRE = {
    **{room: {"torch"} for room in ("path", "targets", "model")},
    "networks": {"torch", "numpy"},
    "config": set(),
    "sampling": {"torch", "torchdiffeq"},
    "files": {"torch", "numpy", "safetensors", "filelock"},
    "data": {"torch", "numpy", "sklearn", "scipy", "safetensors", "PIL", "fontTools", "filelock", "tqdm"},
    "latent": {"torch", "diffusers", "huggingface_hub"},
    "theory": {"torch", "numpy", "scipy", "sklearn"},
}
PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
UNPICKLING = {"torch.load", "torch.save", "torch.serialization.load", "torch.serialization.save"}
# Published weights are mostly pickles. This module alone may read them, by torch's own reader, which runs nothing.
READS_WEIGHTS = "kdiff.files.weights"


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
    """What `module` (a dotted name below kdiff) imports against the order."""
    room = module.split(".")[1]
    below = ONLY.get(room, set(ORDER[: ORDER.index(room)]))
    found = []
    for line, name in imports(tree, module, is_package):
        top, _, rest = name.partition(".")
        if top == "kdiff":
            if rest == "__version__" or rest.split(".")[0] in {room, *below}:
                continue
        elif top in sys.stdlib_module_names or room not in MAY_REQUIRE or top in MAY_REQUIRE[room]:
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


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_the_house_is_small() -> None:
    assert {room_of(path) for path in ROOMS} == set(ORDER)
    # The rooms, and one folder within a room: the file formats, of which each is one file.
    assert len({path.parent for path in FILES if path.parent != SOURCE}) <= 18, "folders"
    assert len([path for path in FILES if path.parent == SOURCE]) <= 6, "files beside the folders"


def test_imports_follow_the_order() -> None:
    assert everywhere(forbidden_imports, ROOMS) == {}


def test_no_files_import_each_other_in_a_circle() -> None:
    """Within rooms too. A name imported from a package is followed to the file that defines it."""
    modules = {dotted(path): path for path in FILES if path.name != "__init__.py"}
    homes: dict[str, dict[str, str]] = {}
    for path in FILES:
        if path.name == "__init__.py":
            found = (name.rpartition(".") for _, name in imports(ast.parse(path.read_text("utf-8")), dotted(path), True))
            homes[dotted(path)] = {attribute: module for module, _, attribute in found if module in modules}
    arrows: dict[str, set[str]] = {}
    for module, path in modules.items():
        arrows[module] = set()
        for _, name in imports(ast.parse(path.read_text("utf-8")), module):
            base, _, attribute = name.rpartition(".")
            other = name if name in modules else base if base in modules else homes.get(base, {}).get(attribute)
            arrows[module] |= {other} - {None, module}  # type: ignore[arg-type]
    assert sum(map(len, arrows.values())) > len(modules)
    while free := {module for module, to in arrows.items() if not to & arrows.keys()}:
        arrows = {module: to for module, to in arrows.items() if module not in free}
    assert arrows == {}


def test_every_base_name_and_every_public_class_is_there_once() -> None:
    names = Counter(path.stem for path in ROOMS if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []
    classes = Counter(
        name for path in ROOMS for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(encoding="utf-8"), re.M)
    )
    assert [name for name, count in classes.items() if count > 1] == []


def test_contributing_shows_this_order() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = text.partition("## The order of the rooms")[2].partition("```")[2].partition("```")[0]
    shown = [re.findall(r"[a-z]+", line.partition("  ")[0]) for line in picture.strip().splitlines()]
    assert [room for line in reversed(shown) for room in line] == ORDER


@pytest.mark.parametrize(
    ("module", "code", "allowed"),
    [
        ("kdiff.path", "from kdiff.model import KDiff", False),
        ("kdiff.path", "from kdiff import KDiff", False),
        ("kdiff.path", "import kdiff.training.loop", False),
        ("kdiff.path", "def f():\n    from .targets import FixedK", False),
        ("kdiff.sampling.ode", "from ..training import loop", False),
        ("kdiff.sampling.ode", "from .. import model", False),
        ("kdiff.sampling.ode", "from . import grids\nfrom .grids import uniform\nfrom ..path import LinearPath", True),
        ("kdiff.sampling.ode", "from kdiff.targets import FixedK", False),
        ("kdiff.config.parts", "import torch", False),
        ("kdiff.networks.dit", "import accelerate", False),
        ("kdiff.networks.dit", "import math, torch.nn.functional as F\nimport numpy as np", True),
        ("kdiff.data.toy", "from kdiff.path import LinearPath", False),
        ("kdiff.theory.optimum", "from kdiff.networks import MLP", False),
        ("kdiff.model", "from kdiff.targets import Target\nfrom kdiff.sampling import solve", True),
        ("kdiff.training.loop", "from kdiff.model import KDiff\nimport accelerate", True),
        ("kdiff.training.loop", "from kdiff.commands.main import main", False),
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
    assert (pickling(ast.parse(code), "kdiff.run.checkpoint") == []) is harmless


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
from kdiff.commands.main import main
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


CLIMBS = """
import json, sys
source, order = sys.argv[1], sys.argv[2].split()
import accelerate, jsonargparse, matplotlib.figure, sklearn.datasets, torch.nn  # not watched, which would take half a minute
climbs, calls = [], 0

class Reached(Exception):
    pass

def room(frame):
    path = frame.f_code.co_filename
    return path[len(source) + 1 :].split("/")[0].removesuffix(".py") if path.startswith(source) else None

def watch(frame, event, arg):
    global calls
    if event != "call" or room(frame) not in order or frame.f_code.co_name == "<module>":
        return
    calls += 1
    if (room(frame), frame.f_code.co_name) == ("training", "batch"):
        sys.setprofile(None)
        raise Reached
    caller = frame.f_back
    while caller is not None and room(caller) not in order:
        caller = caller.f_back
    if caller is not None and order.index(room(frame)) > order.index(room(caller)):
        climbs.append(f"{room(caller)}.{caller.f_code.co_name} calls {room(frame)}.{frame.f_code.co_name}")

from kdiff.commands.main import main
sys.setprofile(watch)
try:
    main("train --data moons(num_samples=60) --network MLP(width=8) --steps 2 --batch-size 8".split())
except Reached:
    print(json.dumps({"calls": calls, "climbs": climbs}))
"""


def test_calls_from_the_command_to_the_first_batch_run_downwards(tmp_path: Path) -> None:
    """Every call of `kdiff train` until the first batch is drawn, from the room that calls to the room that is called."""
    command = [sys.executable, "-c", CLIMBS, str(SOURCE), " ".join(ORDER)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["calls"] > 100
    assert len(found["climbs"]) <= 4, found["climbs"]
