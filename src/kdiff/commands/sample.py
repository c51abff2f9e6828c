"""kdiff sample RUN: draw samples from a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdiff.commands.arguments import SAMPLER_OPTION, needed_run, read_config, sampled_as
from kdiff.config.sampling import SampleConfig, sampler_options

ABOUT = """Draws samples from a run, in the units of its data. Writes a picture, a safetensors file, and a JSON file that says
how the samples were drawn, to RUN/samples. Options that are left out are as the run's configuration says under `sampling`.
Examples: kdiff sample runs/digits --num 100 --guidance 2; kdiff sample runs/digits --sampler paper; kdiff sample runs/digits
--solver heun --steps 20 --times 'shifted(0.5)'; kdiff sample runs/digits --guidance 2 --guidance-checkpoint 500; kdiff sample
runs/sim --condition params=0.3,1.2 --ensemble 16."""

ENDINGS = (".npz", ".safetensors")


def together(argv: list[str], option: str) -> list[str]:
    """The words with all values of an option that is given several times behind its first place."""
    parts = ((option, item[len(option) + 1 :]) if item.startswith(f"{option}=") else (item,) for item in argv)
    rest, values, inside = list[str](), list[str](), False
    for word in (word for part in parts for word in part):
        # The word after the option is a value. A word after a value may also be the run folder.
        first, like_a_value = values[-1:] == [option], "=" in word or Path(word).suffix in ENDINGS
        inside = word == option or (inside and not word.startswith("--") and (first or like_a_value))
        (values if inside else rest).append(word)
    return [*rest, option, *(value for value in values if value != option)] if values else rest


def asked_for(words: list[str]) -> dict[str, Any]:
    """The conditions by name in words such as params=0.3,1.2, y=cat and values.npz.

    Raises:
        ValueError: a word is neither, a file cannot be read, or a condition is given twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        path = Path(word)
        if path.suffix in ENDINGS and (path.exists() or not equals):
            values = _arrays(path)
        elif equals and name.isidentifier():
            values = {name: _value(text)}
        else:
            raise ValueError(
                f"--condition is {word!r}; expected NAME=VALUE, as in params=0.3,1.2, or a file .npz or .safetensors"
            )
        if twice := values.keys() & found.keys():
            raise ValueError(f"--condition gives {', '.join(sorted(twice))} twice; give it once")
        found |= values
    return found


def _value(text: str) -> Any:
    if text.strip().lower() == "none":
        return None
    words = [word.strip() for word in text.strip("[]").split(",")]
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return words if len(words) > 1 else words[0]
    return numbers if len(numbers) > 1 else numbers[0]


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of a file by name; of a file of samples, the conditions of its samples."""
    import numpy as np

    from kdiff.files.tensors import load_tensors

    if not path.exists():
        raise FileNotFoundError(f"--condition is {path}, which does not exist")
    if path.suffix == ".safetensors":
        arrays: dict[str, Any] = dict(load_tensors(path))
        stored = {name.removeprefix("condition."): each for name, each in arrays.items() if name.startswith("condition.")}
        return stored | ({"y": arrays["y"]} if "y" in arrays else {}) if stored else arrays
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}; expected a file of numpy.savez with arrays by name") from None


def command(argv: list[str]) -> None:
    """Draw samples, and print the names of the files."""
    extras = {"sampler": SAMPLER_OPTION}
    argv = together(argv, "--condition")
    config, folder, _ = read_config("sample", SampleConfig, argv, "RUN", extras, sampled_as(argv), ABOUT)
    from kdiff.report.run_pictures import sample_to_files
    from kdiff.run.precision_choice import run_in
    from kdiff.run.run import calibrate_alike, load_run

    run = load_run(needed_run(folder, "sample"), config.checkpoint, config.ema, calibrated=config.calibrated)
    run.autoencoder = config.autoencoder
    weaker = None
    if config.guidance_run is not None or config.guidance_checkpoint is not None:
        weaker = load_run(
            config.guidance_run or run.folder, config.guidance_checkpoint, config.ema, calibrated=config.calibrated
        )
        calibrate_alike(run, weaker)
    run_in(config.precision, run, *([weaker] if weaker else []), batch=config.num or 64)
    out = Path(config.out) if config.out else None
    asked = {"conditions": asked_for(config.condition), "ensemble": config.ensemble} if config.condition else {}
    asked = asked or ({"ensemble": config.ensemble} if config.ensemble > 1 else {})
    files = sample_to_files(run, config.num, config.seed, out, weaker, **asked, **sampler_options(config))
    print("\n".join(str(file) for file in files))
