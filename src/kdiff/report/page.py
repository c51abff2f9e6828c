"""A run as one HTML page, RUN/report.html: settings, k and loss, samples, measured values, and a comparison with another run.

The page holds everything that it shows and loads nothing, so it can be sent, kept and opened anywhere.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from kdiff import __version__
from kdiff.config.recipes import chosen_recipe, resolved
from kdiff.config.training import TrainConfig
from kdiff.files.atomic import write_text
from kdiff.report.chart import Line, chart, position_scale
from kdiff.report.curve import LOSSES, shown_losses
from kdiff.report.drawing import labelled_values, value_label
from kdiff.report.evaluation_section import FEATURES, evaluation_section, features_of, floors_of, sweep_section
from kdiff.report.markup import Markup, code, definitions, document, element, join, note, number, picture, section, table
from kdiff.report.record import Picture, Record, read_record
from kdiff.report.run_text import settings
from kdiff.report.versus import comparison_section
from kdiff.run.environment import describe_environment
from kdiff.run.given import in_words, specs_of
from kdiff.run.lock import Place
from kdiff.studies.comparison import MEASURES
from kdiff.targets import LINE, Axis
from kdiff.training.start import as_text as describe_start

STYLES = {"loss": "ink", "loss_along": "along", "loss_across": "across"}
SHOWN = 12  # how many pictures from training are shown
SMALL = 375  # the width of small pictures in pixels, twice the width that they are shown at
LINES = 12  # how many lines of the metrics the table has
CLASSES = 20  # how many names of classes are given


def write_page(folder: Path, other: Path | None = None) -> Path:
    """Write RUN/report.html, to a temporary file first; returns its path.

    Args:
        folder: the folder of the run.
        other: the folder of another run to compare with.

    Raises:
        ValueError: a folder is not a run folder, files are damaged, or both folders are the same run.
        FolderReplaced: the folder was removed or replaced while the page was made.
    """
    place, record = Place(folder), read_record(folder)
    second = None if other is None else read_record(other)
    for each in filter(None, (record, second)):
        if each.problem:
            warnings.warn(f"the page does not show the checkpoint of {each.folder}: {each.problem}", stacklevel=2)
    path, content = folder / "report.html", page(record, comparison_section(record, second) if second else None)
    place.check()
    write_text(path, content)
    return path


def page(record: Record, versus: Markup | None = None) -> str:
    """The HTML of a run's page; `versus` is the part that compares it with another run."""
    below = (_trained, _target, _loss, _samples, _denoising, evaluation_section, sweep_section)
    parts = [part(record) for part in below]
    return document(f"{record.name} – kdiff", _header(record), _hero(record), versus, *parts, _footer())


def duration(seconds: float) -> str:
    """A time in seconds as text, in seconds, minutes or hours with three digits."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _header(record: Record) -> Markup:
    lead = f"{record.config.network.name} on {record.data['name']}, target {record.target}"
    about = element("p", lead, class_="lead")
    return element("header", element("p", "A training run", class_="kicker"), element("h1", record.name), about)


def _hero(record: Record) -> Markup:
    name, axis = record.main, record.first.axis
    now, start = record.last.get(name or ""), record.start.get(name or "")
    facts: dict[str, object] = {}
    if record.rows:
        reached, steps = record.last["step"], record.config.steps
        took = element("small", duration(record.seconds)) if record.seconds is not None else None
        facts["trained for"] = join(f"{steps:,} steps" if reached == steps else f"{reached:,} of {steps:,} steps", took)
        along, across = record.last.get("loss_along"), record.last.get("loss_across")
        split = element("small", number(along), " along the principal directions of the data, ", number(across), " across them")
        facts["loss"] = join(number(record.last["loss"]), split if "loss_across" in shown_losses(record.rows) else None)

    def at_step(step: int | None) -> Markup | None:
        return None if step in (None, record.last.get("step")) else element("small", f"at step {step:,}")

    if floors := floors_of(record):
        judged = floors["samplers"]["clean"]
        main = next(measure for measure in MEASURES if measure in judged["figures"])
        exact = judged.get("exact", {}).get(main, {}).get("value")
        floor = element("small", "an exact denoiser reaches ", number(exact)) if exact is not None else None
        facts[MEASURES[main]] = join(number(judged["figures"][main]["value"]), floor, at_step(floors["step"]))
    for result in features_of(record):
        for name, figure in list(result["figures"].items())[:1]:
            between = figure["interval"]
            said = element("small", number(between[0]), " … ", number(between[1]), " (95 % interval)") if between else None
            facts[FEATURES.get(name, name)] = join(number(figure["value"]), said, at_step(result["samples"].get("step")))
    aside = definitions(facts)
    if now is None or name is None:
        return element("div", element("p", f"Target {record.target}.", class_="lead"), aside, class_="hero")
    size = "k-value" if len(name) < 3 else "k-value k-long"
    value = element("p", element("i", name), " = ", number(now, 3), class_=size)
    near = f", {_near(axis, now)}" if axis else ""
    words = f"{name} is fixed{near}."
    if start != now:
        words = f"{name} is learned. It began at {start:.3g} and is {now:.3g} after step {record.last['step']:,}{near}."
    scale = position_scale(axis, name, now, start) if axis else None
    shown = element("div", value, element("p", words, class_="k-said"), scale)
    return element("div", shown, aside, class_="hero")


def _near(axis: Axis, value: float) -> str:
    """Where a value lies on a target's axis: at a label, between two labels, or beyond the last."""
    what = " prediction" if axis == LINE else ""
    labels = {at: f"{name}{what}" if name else value_label(at) for at, name in labelled_values(axis).items()}
    if value in labels:
        return labels[value]
    below, above = [name for at, name in labels.items() if at < value], [name for at, name in labels.items() if at > value]
    return f"between {below[-1]} and {above[0]}" if below and above else f"beyond {[*below[-1:], *above[:1]][0]}"


def _trained(record: Record) -> Markup:
    data, config, run = record.data, record.config, record.run
    recipe = chosen_recipe(config.recipe, config.loss_space)
    classes, shape = data.get("class_names") or [], " × ".join(map(str, data["shape"]))
    counted = f"{data['num_classes']} classes" if data["num_classes"] else "no classes"
    named = element("small", ", ".join(classes[:CLASSES]), " …" if len(classes) > CLASSES else "") if classes else None
    normalised, size = f"normalisation: {data['normalisation']['kind']}; total variance after it: ", math.prod(data["shape"])
    after = f" in {size:,} dimensions; fingerprint: {data['fingerprint']}"
    more = element("small", normalised, number(data["total_variance"]), after)
    parameters = weights = None
    if run:
        parameters = element("small", number(sum(p.numel() for p in run.model.network.parameters())), " parameters")
        weights = element("small", f"{run.model.target} in the weights {run.weights} at step {run.step:,}")
    facts: dict[str, object] = {
        "data": join(f"{data['name']}: {data['counts']['train']:,} training samples of shape {shape}, {counted}", named, more),
        **({"conditions": "; ".join(in_words(spec) for spec in specs_of(data))} if data.get("conditions") else {}),
        "network": join(code(config.network), parameters),
        "target": join(code(record.target), weights),
        "recipe": join(code(recipe), ", weight over time: ", code(resolved(config.target, recipe)[1])),
        "path": join(code(config.path), ", times in training: ", code(config.timesteps)),
    }
    if record.other_weights:
        facts["weights"] = describe_start(record.other_weights)
    if record.environment:
        facts |= _environment(record.environment)
    problem = note("The checkpoint could not be shown: ", record.problem) if record.problem else None
    return section("What was trained", problem, definitions(facts), _settings(record))


def _environment(made: dict[str, Any]) -> dict[str, object]:
    versions = ", ".join(f"{name} {version}" for name, version in made["packages"].items() if version)
    return {
        "environment": join(
            f"{made['platform']}, threads: {made['threads']}",
            element("small", f"{made['device']}, Python {made['python']}, {versions}"),
        ),
        "command": code(made["command"]),
        "started": f"{made['date'][:16].replace('T', ' ')} UTC",
    }


def _settings(record: Record) -> Markup:
    plain, own = settings(TrainConfig()), settings(record.config)
    chosen = {name for name, value in own.items() if value != plain.get(name)}
    rows = [[name, code(value), "" if name in chosen else "default"] for name, value in own.items()]
    said = element("summary", f"All {len(rows)} settings; {len(chosen)} of them differ from the default")
    return element("details", said, table(["setting", "value", ""], rows, "The content of config.yaml.", "All settings"))


def _target(record: Record) -> Markup:
    """The target's numbers through training, and its curves in the newest checkpoint."""
    name, axis = record.main, record.first.axis
    if name is None:
        return Markup("")
    several = list(record.first.scalars)
    lines = [Line(each, record.points(each), "k" if each == name else "k faint") for each in several[::-1]]
    caption = f"The value of {name} before the first step and at every logged step."
    if axis == LINE:
        named = [f"the {what} at {value_label(at)}" for at, what in LINE.names.items()]
        caption += f" The network predicts {', '.join(named)}."
    if len(several) > 1:
        caption += f" The fainter lines are the other numbers of the target: {', '.join(several[1:])}."
    drawn = [chart(lines, f"{name} over the steps", axis=axis)]
    for curve in record.run.model.target.curves() if record.run else []:
        line = Line(curve.name, list(zip(curve.at, curve.values)), "k")
        along = {"t": "t, from noise (0) to data (1)", "direction": "direction, in order of falling variance"}[curve.over]
        drawn.append(chart([line], f"{curve.name} over {curve.over}", axis=axis, along=along))
    return section(f"{name} through training", element("figure", *drawn, element("figcaption", caption)))


def _loss(record: Record) -> Markup:
    if not record.rows:
        return section("Loss", note("No loss has been logged yet."))
    shown = shown_losses(record.rows)
    lines = [Line(LOSSES[name][0], record.points(name), STYLES[name]) for name in shown]
    space = {"v": "velocity", "u": "network's output"}[record.config.loss_space]
    every = record.config.log_every
    caption = f"The loss on the {space}{f', in means over {every:,} steps' if every > 1 else ''}."
    if "loss_along" in record.rows[0]:
        caption += " It has two parts: along the principal directions, which hold 95 % of the data's variance, and across them."
        caption += "" if "loss_across" in shown else " The part across them is only rounding here and is not drawn."
    drawn = chart(lines, "Loss and its parts over the steps", log=True)
    return section("Loss", element("figure", drawn, element("figcaption", caption)), _metrics(record))


def _metrics(record: Record) -> Markup:
    """A table of some lines of the metrics, the last line among them."""
    rows = record.rows[:: -math.ceil(len(record.rows) / LINES)][::-1]
    names = [name for name in record.rows[-1] if name != "step"]
    lines = [[f"{row['step']:,}", *(number(row.get(name)) for name in names)] for row in rows]
    caption = f"{len(rows)} of the {len(record.rows)} lines of metrics.jsonl."
    header = ["step", *(name.replace("_", " ") for name in names)]
    return element("details", element("summary", "The values as a table"), table(header, lines, caption, "Logged values"))


def spaced(pictures: list[Picture], most: int) -> list[Picture]:
    """At most `most` evenly spaced pictures, the first and the last among them."""
    if len(pictures) <= most:
        return pictures
    return [pictures[round(i * (len(pictures) - 1) / (most - 1))] for i in range(most)]


def _samples(record: Record) -> Markup:
    usual, others = ([each for each in record.pictures if each.usual is kind] for kind in (True, False))
    if not usual:
        return section("Samples", note("The run has no pictures of samples yet."))
    *earlier, last = spaced(usual, SHOWN)
    parts = [picture(last.path, f"Samples at step {last.step}", f"Step {last.step:,}{last.how}")]
    if earlier:
        seen = [picture(each.path, f"Samples at step {each.step}", f"Step {each.step:,}", SMALL) for each in earlier]
        some = f"{len(earlier)} of the {len(usual) - 1} earlier pictures" if len(usual) > SHOWN else "Earlier pictures"
        through = note(f"{some}, drawn from the same noise and classes. Each sample keeps its place.")
        parts.append(element("div", through, element("div", *seen, class_="strip")))
    more = []
    for each in others[-SHOWN:]:
        named = f"Step {each.step:,}, seed {each.seed}" + (f", guidance {each.guidance:g}" if each.guidance != 1 else "")
        more.append(picture(each.path, f"Samples: {named}", f"{named}{each.how}", SMALL))
    drawn = [element("h3", "Samples with other seeds or options"), element("div", *more, class_="strip")] if more else []
    return section("Samples", element("div", *parts, class_="samples"), *drawn)


def _denoising(record: Record) -> Markup:
    path = record.folder / "denoising.png"
    if not path.exists():
        return Markup("")
    caption = "How noise becomes samples. Time runs from t = 0 (noise) on the left to t = 1 (data) on the right."
    return section("From noise to sample", picture(path, "Sampling trajectories from noise to samples", caption, broad=True))


def _footer() -> Markup:
    made = describe_environment()
    return element("footer", f"Written by kdiff {__version__} on {made['date'][:10]} with the command ", code(made["command"]))
