"""Install the built wheel and sdist, each into a clean environment, and check that everything arrived.

A clean environment has no pip and no packages. The dependencies are lent to it through a .pth file that points at the
packages of the environment that runs this script: a path added that way does not have its own .pth files read, so the
editable kdiff of that environment stays out. Usage: python tools/check_package.py dist
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "kdiff"
CONFIGS = ROOT / "configs"

# Runs inside the clean environment, isolated from the working directory and from PYTHON* variables.
PROBE = """
import importlib, importlib.metadata, json, pathlib, pkgutil
import kdiff
home = pathlib.Path(kdiff.__file__).parent
modules = [m.name for m in pkgutil.walk_packages([str(home)], "kdiff.") if m.name != "kdiff.__main__"]
for name in modules:
    importlib.import_module(name)
for name in kdiff.__all__:
    getattr(kdiff, name)
print(json.dumps({
    "home": str(home),
    "version": kdiff.__version__,
    "metadata": importlib.metadata.version("kdiff"),
    "licence": importlib.metadata.metadata("kdiff").get_all("License-File"),
    "files": [p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file() and "__pycache__" not in p.parts],
}))
"""


def expected_files() -> set[str]:
    """What the package must hold: every source file, and the configurations under configs/."""
    sources = {p.relative_to(PACKAGE) for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    configs = {Path("configs") / p.relative_to(CONFIGS) for p in CONFIGS.rglob("*") if p.is_file()}
    return {p.as_posix() for p in sources | configs}


def install(archive: Path, where: Path) -> Path:
    """Make a clean environment at `where`, with kdiff from `archive` and borrowed dependencies; return its bin/."""
    venv.create(where, with_pip=False)
    scripts = where / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--quiet", "--no-deps"]
    # The wheel by name, as `pip install kdiff` finds it in an index: here the index is the folder that it was built into.
    by_name = ["--no-index", "--find-links", str(archive.parent), "--only-binary", "kdiff", "kdiff"]
    subprocess.run([*pip, *(by_name if archive.suffix == ".whl" else [str(archive)])], check=True)
    (site,) = where.rglob("site-packages")
    (site / "borrowed-dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return scripts


def run(command: list[Path | str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `command` in `folder` and keep what it prints."""
    return subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False)


def check(archive: Path) -> list[str]:
    """What is wrong with one archive; empty if nothing is."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder).resolve()
        scripts = install(archive, where / "env")
        probe = run([scripts / "python", "-I", "-c", PROBE], where)
        if probe.returncode:
            return [f"a module or public name does not load:\n{probe.stderr}"]
        found = json.loads(probe.stdout.splitlines()[-1])
        wrong = []
        if not Path(found["home"]).is_relative_to(where):
            wrong.append(f"kdiff was imported from {found['home']}, not from the clean environment")
        if missing := expected_files() - set(found["files"]):
            wrong.append(f"missing from the installed package: {', '.join(sorted(missing))}")
        if extra := set(found["files"]) - expected_files():
            wrong.append(f"installed, but not in src/kdiff or configs: {', '.join(sorted(extra))}")
        if found["version"] != found["metadata"]:
            wrong.append(f"kdiff.__version__ is {found['version']}, the metadata says {found['metadata']}")
        if "LICENSE" not in (found["licence"] or []):
            wrong.append("the licence is not in the metadata")
        command = run([scripts / "kdiff", "--help"], where)
        if command.returncode or "compare" not in command.stdout:
            wrong.append(f"kdiff --help exits with {command.returncode}:\n{command.stdout}{command.stderr}")
        return wrong


def main(dist: Path) -> int:
    """Check the one wheel and the one sdist in `dist`."""
    archives = [*dist.glob("*.whl"), *dist.glob("*.tar.gz")]
    if len(archives) != 2:
        raise SystemExit(f"{dist} holds {[p.name for p in archives]}; expected one wheel and one sdist: python -m build")
    failed = False
    for archive in archives:
        wrong = check(archive)
        failed = failed or bool(wrong)
        print(f"{archive.name}: {'ok' if not wrong else 'WRONG'}")
        for line in wrong:
            print(f"  {line}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
