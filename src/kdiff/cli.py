"""The command: subcommands, each a thin call into the package.

Configuration is typed by dataclasses (`kdiff.training.config`) and read by jsonargparse: YAML files, one option per field. A thin
layer on top resolves what jsonargparse does not: the positional argument, presets by name, `--network.width 512` for the options
of a component, lists as words, and dashes in option names. Nothing here imports torch before there is work to do.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdiff import __version__
from kdiff.components import parse
from kdiff.training.config import TrainConfig, from_dict

OVERVIEW = """usage: kdiff COMMAND …

Train diffusion and flow models whose prediction target is learned (k-Diff, arXiv 2601.21419).

commands:
  compare DATA       noise, velocity, data or learned: which prediction target suits this data?
  train [CONFIG]     train a model into a run folder
  sample RUN         draw samples from a run: a picture and a file
  evaluate RUN       judge a run's samples, with floors
  info RUN           what a run folder holds

Start with:          kdiff compare digits --seeds 1
Help on a command:   kdiff COMMAND --help
DATA is digits, spiral, moons, gaussian_mixture, sphere ("spiral(ambient_dim=32)"), or a file (.npy, .npz, .safetensors).
"""
COMPONENTS = ("data", "network", "target", "path", "timesteps")


@dataclass
class SampleConfig:
    """How to draw samples.

    Args:
        num: how many.
        seed: of the noise; sample i is the same whatever num and the batch size.
        guidance: scale of classifier-free guidance; 1 is none.
        guidance_interval: guide while low < t < high.
        solver: heun or euler.
        steps: of the solver.
        last_step: data ends with the data prediction; euler is the paper's, which leaves noise behind where k is near 1.
        ema: decay of the averaged weights; the first configured if left out; none for the raw weights.
        checkpoint: step of the checkpoint; the newest if left out.
        out: file name without ending; in the run's samples folder if left out.
    """

    num: int = 64
    seed: int = 0
    guidance: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    solver: str = "heun"
    steps: int = 50
    last_step: Literal["data", "euler"] = "data"
    ema: float | str | None = None
    checkpoint: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"num is {self.num}; expected at least 1")


@dataclass
class EvaluateConfig:
    """How to judge a run.

    Args:
        num_samples: drawn from the run; at least as many as its data holds out.
        seed: of the noise.
        guidance: scale of classifier-free guidance; 1 is none.
        ema: decay of the averaged weights; the first configured if left out; none for the raw weights.
        checkpoint: step of the checkpoint; the newest if left out.
        exact: compute the exact denoiser's floor too.
    """

    num_samples: int = 2000
    seed: int = 0
    guidance: float = 1.0
    ema: float | str | None = None
    checkpoint: int | None = None
    exact: bool = True


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 2 for the user's mistakes, 1 for a run that failed, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(OVERVIEW, end="")
        return 0
    if arguments[0] == "--version":
        print(f"kdiff {__version__}")
        return 0
    name = arguments.pop(0)
    commands: dict[str, Callable[[list[str]], None]] = {
        "compare": _compare,
        "train": _train,
        "sample": _sample,
        "evaluate": _evaluate,
        "info": _info,
    }
    if name not in commands:
        close = difflib.get_close_matches(name, commands, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"kdiff: error: no command is called {name!r}{hint} (kdiff --help lists them)", file=sys.stderr)
        return 2
    # A user's own modules are named from where they stand.
    sys.path.insert(0, os.getcwd())
    try:
        commands[name](arguments)
        return 0
    except (ValueError, OSError) as error:
        return _report(name, error, 2)
    except RuntimeError as error:
        return _report(name, error, 1)
    except KeyboardInterrupt:
        print("\nstopped; the same command with --resume (compare: the same command) goes on from the last checkpoint")
        return 130


def _report(command: str, error: Exception, code: int) -> int:
    if os.environ.get("KDIFF_TRACEBACK"):
        traceback.print_exc()
    print(f"kdiff {command}: error: {error}", file=sys.stderr)
    return code


def _read(
    command: str, kind: type, argv: list[str], positional: str, extras: dict[str, dict[str, Any]] | None = None
) -> tuple[Any, str | None, dict[str, Any]]:
    """The configuration of a command, its positional argument, and its further options.

    Raises:
        ValueError: an unknown option or field, or a value of another type.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    argv, place = list(argv), None
    if argv and not argv[0].startswith("-"):
        place = argv.pop(0)
    fields = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    argv, overrides = _normalise(argv, fields)
    parser = ArgumentParser(
        prog=f"kdiff {command}",
        usage=f"kdiff {command} {positional} [--option value …]",
        description=(kind.__doc__ or "").partition("\n")[0],
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file of options; those on the command line win")
    for name, how in (extras or {}).items():
        parser.add_argument(f"--{name}", **how)
    parser.add_class_arguments(kind)
    if positional == "[CONFIG]" and place is not None:
        argv = ["--config", str(find_config(place)), *argv]
    try:
        values = parser.parse_args(argv).as_dict()
    except ArgumentError as error:
        raise ValueError(f"{_explain(error, [*fields, *(extras or {})])} (kdiff {command} --help lists the options)") from None
    values.pop("config", None)
    further = {name: values.pop(name) for name in extras or {}}
    for field, options in overrides.items():
        component = parse(values[field])
        values[field] = {"name": component.name, **component.options, **options}
    return from_dict(kind, values), place, further


def _explain(error: Exception, options: list[str]) -> str:
    """jsonargparse's message on one line, with the nearest option where one was not recognised."""
    text = " ".join(str(error).split())
    wrong = re.search(r"(?:arguments: --|Option ')(\w+)", text)
    close = difflib.get_close_matches(wrong[1], options, n=1) if wrong else []
    return f"{text}; did you mean {close[0]!r}?" if close else text


def _normalise(argv: list[str], fields: dict[str, str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The arguments as jsonargparse reads them, and the options of components, which it does not.

    `--network.width 512` is taken out; `--targets noise 0.9` becomes a list; `--batch-size` becomes `--batch_size`.
    """
    import yaml

    rest: list[str] = []
    overrides: dict[str, dict[str, Any]] = {}
    waiting = list(argv)
    while waiting:
        item = waiting.pop(0)
        if not item.startswith("--"):
            rest.append(item)
            continue
        option, equals, value = item.partition("=")
        option = "--" + option[2:].replace("-", "_")
        field, dot, key = option[2:].partition(".")
        if dot and field in COMPONENTS and field in fields:
            value = value if equals else waiting.pop(0) if waiting else ""
            overrides.setdefault(field, {})[key] = yaml.safe_load(value)
            continue
        rest.append(option + equals + value)
        if fields.get(field, "").startswith("list") and not equals:
            words = []
            while waiting and not waiting[0].startswith("--"):
                words.append(waiting.pop(0))
            as_list = len(words) == 1 and words[0].startswith("[")
            rest.append(words[0] if as_list else json.dumps([_number(word) for word in words]))
    return rest, overrides


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def config_folder() -> Path:
    """The configurations that come with the package: inside it when installed, at the root of a source tree."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def find_config(name: str) -> Path:
    """A YAML file by path, or one of the package's configurations by name.

    Raises:
        ValueError: neither.
    """
    presets = {path.stem: path for path in sorted(config_folder().glob("*.yaml"))}
    if name in presets:
        return presets[name]
    if Path(name).is_file() and Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    raise ValueError(
        f"no configuration {name!r}: expected a YAML file or one of {', '.join(presets)}; "
        f"to train on data of your own, kdiff train --data {name}"
    )


def _compare(argv: list[str]) -> None:
    from kdiff.experiments.config import CompareConfig

    extras = {"out": {"type": str, "default": None, "help": "folder for the comparison; comparisons/DATA if left out"}}
    config, data, further = _read("compare", CompareConfig, argv, "DATA", extras)
    if data is not None:
        config.data = data
    from kdiff.experiments.compare import compare, table, verdict
    from kdiff.experiments.runner import slug
    from kdiff.report.comparison import draw_comparison

    out = Path(further["out"] or Path("comparisons") / slug(_data_name(config.data)))
    jobs, rows, dataset = compare(config, out)
    picture = out / "comparison.png"
    draw_comparison(picture, jobs, rows, dataset)
    print(f"\n{table(rows)}\n\n{verdict(rows)}\n")
    print(f"picture    {picture}\nfigures    {out / 'results.csv'}, {out / 'results.json'}\nruns       {out / 'runs'}")
    best = jobs[-1].folder
    print(f"\nLook at the picture, then: kdiff info {best}, kdiff sample {best}, or compare on data of your own.")


def _train(argv: list[str]) -> None:
    extras: dict[str, dict[str, Any]] = {
        "out": {"type": str, "default": None, "help": "the run folder; runs/DATA if left out"},
        "resume": {"action": "store_true", "help": "go on from the newest checkpoint of the run folder"},
    }
    config, _, further = _read("train", TrainConfig, argv, "[CONFIG]", extras)
    from kdiff.report.run import draw_run
    from kdiff.training.run import train_run

    out = Path(further["out"] or Path("runs") / _data_name(config.data))
    run = train_run(config, out, resume=further["resume"], progress="training")
    pictures = draw_run(run)
    print(f"\n{out}: {run.step} steps, loss {run.metrics()[-1]['loss']:.4g}, target {run.model.target}")
    print("".join(f"picture    {path}\n" for path in pictures), end="")
    print(f"Next: kdiff sample {out}, kdiff evaluate {out}")


def _sample(argv: list[str]) -> None:
    config, folder, _ = _read("sample", SampleConfig, argv, "RUN")
    from kdiff.report.run import sample_to_files
    from kdiff.training.run import load_run

    run = load_run(_needed(folder, "sample"), config.checkpoint, config.ema)
    options = {name: getattr(config, name) for name in ("guidance", "guidance_interval", "solver", "steps", "last_step")}
    files = sample_to_files(run, config.num, config.seed, Path(config.out) if config.out else None, **options)
    print("\n".join(str(file) for file in files))


def _evaluate(argv: list[str]) -> None:
    config, folder, _ = _read("evaluate", EvaluateConfig, argv, "RUN")
    from kdiff.evaluation.judge import Judge, evaluate, evaluation_table
    from kdiff.files import write_json
    from kdiff.training.run import load_run

    run = load_run(_needed(folder, "evaluate"), config.checkpoint, config.ema)
    result = evaluate(run, Judge(run.dataset()), config.num_samples, config.seed, config.guidance, config.exact)
    write_json(run.folder / "evaluation.json", result)
    print(f"{evaluation_table(result)}\n\n{run.folder / 'evaluation.json'}")


def _info(argv: list[str]) -> None:
    if argv and argv[0] in ("-h", "--help"):
        print("usage: kdiff info RUN\n\nWhat a run folder holds: data, model, k, loss, checkpoints.")
        return
    from kdiff.report.run import describe_run
    from kdiff.training.run import load_run

    print(describe_run(load_run(_needed(argv[0] if argv else None, "info"))))


def _needed(folder: str | None, command: str) -> str:
    if folder is None:
        raise ValueError(f"which run? kdiff {command} RUN, with the folder that kdiff train made (runs/…)")
    return folder


def _data_name(data: Any) -> str:
    """What folders are called after: the data's name, or its file's."""
    return Path(parse(data).name).stem.rstrip(".") or "data"


if __name__ == "__main__":
    sys.exit(main())
