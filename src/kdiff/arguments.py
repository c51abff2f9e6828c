"""Reading a command's configuration: typed by a dataclass, written in YAML and on the command line.

jsonargparse does the work: one option per field, files, types, help. A thin layer on top resolves what it does not: the
positional argument, presets by name, `--network.width 512` for the options of a component, lists as words, dashes in names.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

from kdiff.components import parse
from kdiff.training.config import from_dict

EPILOGS = {
    "compare": "Trains the same network with each target and writes a table, a picture, figures (CSV, JSON) and the runs to "
    "comparisons/DATA. Examples: kdiff compare digits --seeds 1; kdiff compare vectors.npz --targets velocity 0.9 learned; "
    'kdiff compare "spiral(ambient_dim=32)" --steps 2000. A comparison that was cut off goes on by the same command.',
    "train": "Trains one model into a run folder, runs/DATA: configuration, metrics, checkpoints, pictures. CONFIG is a YAML "
    "file, or the name of one that comes with kdiff (digits, …). Examples: kdiff train digits; kdiff train --data "
    "vectors.npz --network.width 512 --steps 20000; kdiff train my.yaml --seed 1 --out runs/second.",
    "train-autoencoder": "Trains a small autoencoder (diffusers' AutoencoderKL) on images into a run folder, "
    "runs/DATA_autoencoder: latents of a quarter of the side. Examples: kdiff train-autoencoder fashion; kdiff "
    "train-autoencoder photos/ --data.size 64 --channels 32 64 128 128.",
    "encode": "Encodes images once into a folder of latents, latents/DATA: shards, and what they were made of and by. One that "
    "was cut off goes on by the same command. Then kdiff train --data latents/DATA; kdiff sample decodes. Examples: kdiff "
    "encode fashion --autoencoder runs/fashion_autoencoder; kdiff encode photos/ --data.size 256 --data.flip true "
    "--autoencoder stabilityai/sd-vae-ft-mse.",
    "plan": "Says what a run would cost, from the true-size network: parameters, FLOPs of a step, memory by part on 1 and 8 "
    "devices, device-hours. Needs no data if the configuration says what to expect. Examples: kdiff plan digits; kdiff plan "
    "my.yaml --peak-tflops 312. kdiff train CONFIG --dry-run takes real steps of the same network.",
    "sample": "Draws samples from a run, in the data's own units: a picture, a safetensors file and a JSON stamp in "
    "RUN/samples. Examples: kdiff sample runs/digits --num 100 --guidance 2; kdiff sample runs/digits --solver ab3 --steps 20 "
    "--times 'shifted(0.5)'; kdiff sample runs/digits --guidance 2 --guidance-checkpoint 500.",
    "sweep": "Samples from a run in every combination of the values given, the same noise for all, and says which is best, "
    "which are not told apart from it, and which is the cheapest as good: a table, a picture, CSV and JSON in RUN/sweeps. "
    "One that was cut off goes on by the same command, and what is there is not sampled again. Examples: kdiff sweep "
    "runs/digits --guidance 1 1.5 2 3 --guidance-interval '[[0, 1], [0.2, 0.9]]'; kdiff sweep runs/digits --solver heun ab3 "
    "--steps 5 10 20; kdiff sweep runs/photos --features inception --reference photos64.npz --guidance 1 1.5 2 --num-samples "
    "5000.",
    "report": "Writes RUN/report.html, one page that holds all it shows: what was trained, k, loss, samples through training, "
    "what was measured, sweeps. Examples: kdiff report runs/digits; kdiff report runs/digits --compare runs/digits_velocity.",
    "export": "Writes a run as a folder that diffusers loads, offline: the velocity of its target, a flow-matching scheduler, "
    "the autoencoder of latents, a model card. Examples: kdiff export runs/digits; kdiff export runs/digits --ema none --out "
    "digits_diffusers; kdiff export runs/digits --push-to-hub me/digits.",
    "estimate": "Measures dimensions, spectrum and variance of data and says what each theory of the best k makes of them, for "
    "whole samples and for patches: text, a picture and JSON in estimates/DATA. Takes seconds to minutes. Examples: kdiff "
    "estimate digits; kdiff estimate my_images/ --patch-size 16; kdiff estimate vectors.npz --rank 64.",
    "reproduce": "Puts a claim of the paper to the test. Says what is claimed, varied and measured and what would refute it, "
    "runs the experiment (2 minutes, or hours with --full; resumable by the same command), and writes a table, a picture and a "
    "verdict. Examples: kdiff reproduce --list; kdiff reproduce linear; kdiff reproduce toy --full; kdiff reproduce all.",
    "evaluate": "Judges a run's samples against its data, each figure beside its floor, under the paper's sampler and with a "
    "clean last step; writes RUN/evaluation.json. With --reference or --features, judges images (a run, a folder, a .npz) by "
    "FID, sFID, Inception score, KID, precision and recall, or FD-DINOv2; one that was cut off goes on by the same command. "
    "Examples: kdiff evaluate runs/digits; kdiff evaluate runs/photos --features inception --num-samples 50000; kdiff evaluate "
    "samples.npz --reference VIRTUAL_imagenet256_labeled.npz; kdiff evaluate photos/ --save-statistics photos.npz.",
}
COMPONENTS = ("data", "network", "target", "path", "timesteps", "start_from")


def read_config(
    command: str,
    kind: type,
    argv: list[str],
    positional: str,
    extras: dict[str, dict[str, Any]] | None = None,
    defaults: Callable[[str], dict[str, Any]] | None = None,
) -> tuple[Any, str | None, dict[str, Any]]:
    """The configuration of a command, its positional argument, and its further options.

    `defaults(positional argument)`, if there is one, takes the place of kind's own.

    Raises:
        ValueError: an unknown option or field, or a value of another type.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    fields = _fields(kind)
    flags = {"help", "print_config", *(name for name, how in (extras or {}).items() if how.get("action") == "store_true")}
    place, argv, overrides = _normalise(argv, fields, flags)
    parser = ArgumentParser(
        prog=f"kdiff {command}",
        usage=f"kdiff {command} {positional} [--option value …]",
        description=EPILOGS.get(command, ""),
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file of options; those on the command line win")
    for name, how in (extras or {}).items():
        parser.add_argument(f"--{name}", **how)
    parser.add_class_arguments(kind)
    if defaults and place is not None:
        parser.set_defaults(defaults(place))
    if positional == "[CONFIG]" and place is not None:
        argv = ["--config", str(find_config(place)), *argv]
    if positional == "DATA" and place is not None:
        argv += ["--data", place]
    try:
        if overrides:
            # Read once to learn whose options these are, and again with them, so that --print_config has them too.
            values = parser.parse_args([item for item in argv if not item.startswith("--print_config")]).as_dict()
            for field, options in overrides.items():
                given = values[field]
                own = {} if given is None else {"name": parse(given).name, **parse(given).options}
                argv += [f"--{field}", json.dumps({**own, **options})]
        values = parser.parse_args(argv).as_dict()
    except ArgumentError as error:
        raise ValueError(f"{_explain(error, [*fields, *(extras or {})])} (kdiff {command} --help lists the options)") from None
    values.pop("config", None)
    further = {name: values.pop(name) for name in extras or {}}
    return from_dict(kind, values), place, further


def _fields(kind: type) -> dict[str, str]:
    """The types of a dataclass's fields as they are written; of fields that are dataclasses too, "sampling.guidance"."""
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    for name, hint in get_type_hints(kind).items():
        for one in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(one):
                types |= {f"{name}.{part.name}": str(part.type) for part in dataclasses.fields(one)}
    return types


def _explain(error: Exception, options: list[str]) -> str:
    """jsonargparse's message on one line, with the nearest option where one was not recognised."""
    text = " ".join(str(error).split())
    if typed := re.search(r'key "(\w+)": Expected a (.+?)\. Got value: (.*)', text):
        wanted = (
            typed[2].replace("<class 'int'>", "whole number").replace("<class 'float'>", "number").replace("typing.Literal", "")
        )
        text = f"{typed[1]}: expected a {wanted}, got {typed[3]!r}".replace("a [", "one of [")
    wrong = re.search(r"(?:arguments: --|Option ')(\w+)", text)
    close = difflib.get_close_matches(wrong[1], options, n=1) if wrong else []
    return f"{text}; did you mean {close[0]!r}?" if close else text


def _normalise(
    argv: list[str], fields: dict[str, str], flags: set[str]
) -> tuple[str | None, list[str], dict[str, dict[str, Any]]]:
    """The positional argument, wherever it stands, the others as jsonargparse reads them, and the options of components.

    `--network.width 512` is taken out; `--targets noise 0.9` becomes a list; `--batch-size` becomes `--batch_size`; files come
    first, because what comes last wins.
    """
    import yaml

    place: str | None = None
    files: list[str] = []
    rest: list[str] = []
    overrides: dict[str, dict[str, Any]] = {}
    waiting = list(argv)
    while waiting:
        item = waiting.pop(0)
        if not item.startswith("--"):
            if place is None and not item.startswith("-"):
                place = item
            else:
                rest.append(item)
            continue
        option, equals, value = item.partition("=")
        option = "--" + option[2:].replace("-", "_")
        field, dot, key = option[2:].partition(".")
        if dot and field in COMPONENTS and field in fields:
            if not equals and (not waiting or waiting[0].startswith("--")):
                raise ValueError(f"{item} needs a value, as in {item} VALUE")
            value = value if equals else waiting.pop(0)
            try:
                loaded = yaml.safe_load(value)
            except yaml.YAMLError:
                raise ValueError(f"{option} is {value!r}; expected a number, a word, or a list like [0, 1]") from None
            # YAML reads 1e-5, without a point, as text.
            overrides.setdefault(field, {})[key] = _number(loaded) if isinstance(loaded, str) else loaded
            continue
        if option == "--config":
            files += [option + equals + value, *([] if equals else waiting[:1])]
            waiting = waiting if equals else waiting[1:]
            continue
        rest.append(option + equals + value)
        if fields.get(option[2:], "").startswith(("list", "tuple")) and not equals:
            words = []
            while waiting and not waiting[0].startswith("--"):
                words.append(waiting.pop(0))
            as_list = len(words) == 1 and words[0].startswith("[")
            rest.append(words[0] if as_list else json.dumps([_number(word) for word in words]))
        elif field not in flags and not equals and waiting and not waiting[0].startswith("--"):
            rest.append(waiting.pop(0))
    return place, files + rest, overrides


def _number(word: str) -> float | str:
    """A whole number, a number, or the word."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
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


def own_sampling(run: str) -> dict[str, Any]:
    """`kdiff.training.folder.sampling_of`, which is not imported before there is a run."""
    from kdiff.training.folder import sampling_of

    return sampling_of(run)


def check_data_given(data: str | None, argv: list[str], usage: str) -> None:
    """Raises ValueError, with how to name them, for a command line that names no data."""
    if data is None and not any(item.startswith(("--data", "--config")) for item in argv):
        raise ValueError(f"which data? {usage}")


def data_name(data: Any) -> str:
    """What folders are called after: the data's name, or its file's."""
    return Path(parse(data).name).stem.rstrip(".") or "data"
