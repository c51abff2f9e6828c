#!/usr/bin/env bash
# jsonargparse 4.53.0: a number in a YAML file stands in for a nested dataclass, although the command line refuses it.
#
# Input: options made from a dataclass with a field that is itself a dataclass; once a file with `sampling: 5`, once the word
# `--sampling 5`.
# Expected: both are refused, because 5 is no Sampling.
# Seen: the command line is refused, and the file is accepted: the parsed value is the number 5, and the defaults of the nested
# dataclass are gone. A program meets the mistake later, where it reads sampling.steps or builds the object.
# What kdiff does: `kdiff.run.yaml_file` and `kdiff.config.values` read and check YAML files themselves, before jsonargparse.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jsonargparse==4.53.0
cat > "$folder/case.py" <<'PYTHON'
import dataclasses
import pathlib
import sys

from jsonargparse import ArgumentError, ArgumentParser


@dataclasses.dataclass
class Sampling:
    steps: int = 18


@dataclasses.dataclass
class Train:
    seed: int = 0
    sampling: Sampling = dataclasses.field(default_factory=Sampling)


parser = ArgumentParser(exit_on_error=False)
parser.add_argument("--config", action="config")
parser.add_class_arguments(Train)
path = pathlib.Path(sys.argv[1]) / "config.yaml"
path.write_text("sampling: 5\n")
print("file:", repr(parser.parse_args(["--config", str(path)]).sampling))
try:
    parser.parse_args(["--sampling", "5"])
    print("command line: accepted")
except ArgumentError:
    print("command line: refused")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/case.py" "$folder")
echo "$seen"
test "$seen" = "file: 5
command line: refused"
