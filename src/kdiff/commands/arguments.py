"""Reading the configuration of a command: a dataclass gives its types, and YAML files and the command line give its values.

jsonargparse makes one option of each field, and reads files, checks types and prints help. The code here adds the positional
argument, configurations by name, `--network.width 512` for the options of a part, lists as words, and dashes in names.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from kdiff.config.parts import OptionalPartField, Part, PartField, parse
from kdiff.config.plain import from_dict
from kdiff.config.sampling import SAMPLERS
from kdiff.run.trust import check_config_file
from kdiff.run.yaml_file import load_yaml, read_settings

SAMPLER_OPTION: dict[str, Any] = {
    "choices": list(SAMPLERS),
    "default": None,
    "help": "A sampler by name. It sets solver, steps and last_step where these are not given. If left out, they are as the "
    "run's configuration says.",
}


def out_option(what: str) -> dict[str, Any]:
    """An option of a command that names a place to write to, with `what` as its help text."""
    return {"type": str, "default": None, "help": what}


def flag(what: str) -> dict[str, Any]:
    """An option of a command that takes no value, with `what` as its help text."""
    return {"action": "store_true", "help": what}


RESUME = flag("Continue from the newest checkpoint of the run folder.")
TRUST = "--trust"  # every command has it, and `kdiff.commands.main` acts on it
TRUSTED = flag(
    "Let run folders import what they name outside kdiff, which runs that code. Folders that you wrote on this machine need no "
    "--trust."
)


def read_config(
    command: str,
    kind: type,
    argv: list[str],
    positional: str,
    extras: dict[str, dict[str, Any]] | None = None,
    defaults: Callable[[str], dict[str, Any]] | None = None,
    about: str = "",
) -> tuple[Any, str | None, dict[str, Any]]:
    """The configuration of a command, its positional argument, and its further options.

    Args:
        command: the name of the command.
        kind: the dataclass of the configuration. Every field is an option.
        argv: the words after the command.
        positional: the name of the positional argument: "[CONFIG]" is a YAML file, "DATA" sets the field `data`.
        extras: further options, as argparse takes them.
        defaults: a function of the positional argument; it returns defaults that replace those of `kind`.
        about: the text of --help that says what the command does. Examples come last, after "Examples: ".

    Raises:
        ValueError: an option or field is unknown, or a value has the wrong type.
    """
    from jsonargparse import ArgumentError, ArgumentParser
    from jsonargparse.typing import register_type

    for each in (Part, PartField, OptionalPartField):
        register_type(each, str, _part, type_check=lambda value, kind: isinstance(value, Part), fail_already_registered=False)
    fields = _fields(kind)
    flags = {name for name, how in (extras or {}).items() if how.get("action") == "store_true"}
    flags |= {"help", "print_config", TRUST.removeprefix("--")}
    place, argv, overrides = _normalise(argv, fields, flags)
    parser = ArgumentParser(
        prog=f"kdiff {command}",
        usage=f"kdiff {command} {positional} [--option value …]",
        description=about,
        formatter_class=_formatter(),
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="A YAML file of options. Options on the command line override it.")
    for name, how in (extras or {}).items():
        parser.add_argument(f"--{name}", **how)
    parser.add_argument(TRUST, **TRUSTED)
    parser.add_class_arguments(kind)
    if defaults and place is not None:
        parser.set_defaults(defaults(place))
    if positional == "[CONFIG]" and place is not None:
        argv = ["--config", str(find_config(place)), *argv]
    if positional == "DATA" and place is not None:
        argv += ["--data", place]
    argv = _files_read(argv, kind, fields, extras or {})
    try:
        if overrides:
            # Parse once to find the parts that these options belong to, and again with them, so that --print_config has them.
            values = parser.parse_args([item for item in argv if not item.startswith("--print_config")]).as_dict()
            for field, options in overrides.items():
                given = values[field]
                given = Part(options.pop("name")) if given is None and "name" in options else given
                if given is None:
                    raise ValueError(f"--{field}.{next(iter(options))} belongs to a part that is not named; add --{field} NAME")
                argv += [f"--{field}", str(Part(given.name, {**given.options, **options}, given.values))]
        values = parser.parse_args(argv).as_dict()
    except ArgumentError as error:
        raise ValueError(f"{_explain(error, [*fields, *(extras or {})])} (kdiff {command} --help lists the options)") from None
    for name in ("config", "trust"):
        values.pop(name, None)
    further = {name: values.pop(name) for name in extras or {}}
    return from_dict(kind, values), place, further


def _files_read(argv: list[str], kind: type, fields: dict[str, str], extras: dict[str, dict[str, Any]]) -> list[str]:
    """The arguments with the content of YAML files in place of their names."""
    words = [word for item in argv for word in (item.split("=", 1) if item.startswith("--config=") else [item])]
    # Options that are no fields. A file cannot trust itself, but --print_config prints `trust: false`.
    others = {name: how.get("type", bool) | None for name, how in extras.items()} | {"trust": Literal[False]}
    for place, (word, after) in enumerate(zip(words, words[1:]), start=1):
        if word == "--config" and Path(after).is_file():
            check_config_file(Path(after))
            words[place] = json.dumps(read_settings(Path(after), kind, list(fields), others), ensure_ascii=False)
    return words


def sampled_as(argv: list[str]) -> Callable[[str], dict[str, Any]]:
    """Defaults for drawing samples, for `read_config`: those of the run, overridden by those of the sampler that is named."""
    words = [word for item in argv for word in item.split("=", 1)]
    named = next((after for word, after in zip(words, words[1:]) if word == "--sampler"), "")
    return lambda run: own_sampling(run) | SAMPLERS.get(named, {})


def _formatter() -> type:
    """jsonargparse's formatter of help, but with each example on its own line and only simple names of types."""
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            about, _, examples = " ".join(text.split()).partition("Examples: ")
            lines = [f"  {each}" for each in examples.rstrip(".").split("; ") if each]
            return "\n".join([super()._fill_text(about, width, indent), *(["", "examples:", *lines] if lines else [])])

        def _expand_help(self, action: Any) -> str:
            text = re.sub(r"type: (?!(?:int|float|str|bool), ).*, (?=default: )", "", super()._expand_help(action))
            return re.sub(r"Part\((['\"])(.*?)\1\)", r"\2", re.sub(r" \((type: \w+, )?default: (null)?\)$", "", text))

    return Formatter


def _part(value: Any) -> Part:
    """A part from a value that jsonargparse passes on. YAML's null is refused, so that it can mean None in `Part | None`."""
    if value is None:
        raise ValueError("null names no part")
    return parse(value)


def _fields(kind: type) -> dict[str, str]:
    """The types of a dataclass's fields, as written. Fields of a field are included, as "sampling.guidance"."""
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    for name, hint in get_type_hints(kind).items():
        for one in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(one):
                types |= {f"{name}.{part.name}": str(part.type) for part in dataclasses.fields(one)}
    return types


def _explain(error: Exception, options: list[str]) -> str:
    """jsonargparse's message on one line. If an option is unknown, it suggests the most similar one."""
    text = re.sub(r'^Parser key "([\w.]+)": (?:Not of type \w+: )?', r"\1: ", " ".join(str(error).split()))
    one_or_none = r"^([\w.]+): Does not .*? - Expected a (.+?)(?:\. Got .*)? - Expected a <class 'NoneType'> .*value: (.*)"
    if typed := re.search(r"^([\w.]+): Expected a (.+?)\. Got value: (.*)", text) or re.search(one_or_none, text):
        wanted = typed[2].replace("<class 'int'>", "whole number").replace("<class 'float'>", "number")
        wanted = "true or false" if wanted == "<class 'bool'>" else f"a {wanted}".replace("a typing.Literal[", "one of [")
        text = f"{typed[1]}: expected {wanted}, got {typed[3]!r}"
    if value := re.search(r"argument --(\w+): ignored explicit argument (.*)", text):
        place = "; name the run folder by --out" if value[1] == "resume" else ""
        return f"--{value[1]} takes no value, but {value[2]} was given{place}"
    wrong = re.search(r"(?:arguments: --|Option ')(\w+)", text)
    close = difflib.get_close_matches(wrong[1], options, n=1) if wrong else []
    return f"{text}; did you mean {close[0]!r}?" if close else text


def _normalise(
    argv: list[str], fields: dict[str, str], flags: set[str]
) -> tuple[str | None, list[str], dict[str, dict[str, Any]]]:
    """The positional argument, wherever it stands, the other arguments as jsonargparse reads them, and the options of parts.

    `--network.width 512` is taken out, `--targets noise 0.9` becomes a list, and `--batch-size` becomes `--batch_size`. Files
    are put first, because later arguments override earlier ones.
    """
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
        if dot and fields.get(field) in ("PartField", "OptionalPartField"):
            if not equals and (not waiting or waiting[0].startswith("--")):
                raise ValueError(f"{item} needs a value, as in {item} VALUE")
            value = value if equals else waiting.pop(0)
            try:
                loaded = load_yaml(value, option)
            except ValueError:
                raise ValueError(f"{option} is {value!r}; expected a number, a word, or a list like [0, 1]") from None
            overrides.setdefault(field, {})[key] = _number(loaded) if isinstance(loaded, str) else loaded
            continue
        if option == "--config":
            files += [option + equals + value, *([] if equals else waiting[:1])]
            waiting = waiting if equals else waiting[1:]
            continue
        kind = fields.get(option[2:], "")
        rest.append(option + equals + _whole(value, kind))
        if kind.startswith(("list", "tuple")) and not equals:
            words = []
            while waiting and not waiting[0].startswith("--"):
                words.append(waiting.pop(0))
            as_list = len(words) == 1 and words[0].startswith("[")
            numbers = [_number(_whole(word, kind)) for word in words]
            rest.append(words[0] if as_list else json.dumps(numbers, ensure_ascii=False))
        elif field not in flags and not equals and waiting and not waiting[0].startswith("--"):
            rest.append(_whole(waiting.pop(0), kind))
    return place, files + rest, overrides


def _whole(word: str, kind: str) -> str:
    """The word, in which 1e3 is 1000 if an option of this type takes whole numbers."""
    number = _number(word) if kind in ("int", "int | None", "list[int]", "list[int] | None") else word
    return str(int(number)) if isinstance(number, float) and number.is_integer() else word


def _number(word: str) -> float | str:
    """The word as a whole number or a number if it is one; otherwise the word itself."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def config_folder() -> Path:
    """The folder of kdiff's own configurations: in the installed package, or at the root of a source tree."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "configs"


def find_config(name: str) -> Path:
    """The YAML file with this path, or kdiff's own configuration with this name. Raises ValueError if there is neither."""
    presets = {path.stem: path for path in sorted(config_folder().glob("*.yaml"))}
    if name in presets:
        return presets[name]
    if Path(name).is_file() and Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    for folder in (Path(name), *Path(name).parents) if Path(name).exists() else ():
        if all((folder / file).is_file() for file in ("config.yaml", "data.json")):
            raise ValueError(
                f"{name} is {'' if folder == Path(name) else 'in '}a run folder; to continue that run, type kdiff train "
                f"{folder / 'config.yaml'} --out {folder} --resume"
            )
    raise ValueError(
        f"there is no configuration {name!r}; expected a YAML file or one of {', '.join(presets)}. "
        f"To train on data of your own, type kdiff train --data {name}"
    )


def own_sampling(run: str) -> dict[str, Any]:
    """`kdiff.run.folder.sampling_of`, imported only when there is a run. Parts become text, as on a command line."""
    from kdiff.run.folder import sampling_of

    return {name: str(value) if isinstance(value, Part) else value for name, value in sampling_of(run).items()}


def check_data_given(data: str | None, argv: list[str], usage: str) -> None:
    """Raise ValueError if the command line names no data. The message shows how to name them."""
    if data is None and not any(item.startswith(("--data", "--config")) for item in argv):
        raise ValueError(f"which data? Type {usage}")


def needed_run(folder: str | None, command: str) -> str:
    """The run folder that was named. If none was named, ValueError says how to name one."""
    if folder is None:
        raise ValueError(f"which run? Type kdiff {command} RUN, where RUN is a folder that kdiff train has made (runs/…)")
    return folder
