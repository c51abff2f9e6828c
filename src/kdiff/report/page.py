"""A run as one page, RUN/report.html: what was trained, k and loss, samples, what was measured; alone or beside another run.

The page holds all it shows and asks for nothing else: it can be sent, kept, and opened anywhere.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from kdiff import __version__
from kdiff.components import parse
from kdiff.experiments.compare import MEASURES
from kdiff.files import write_text
from kdiff.report.chart import K_TICKS, Line, chart, k_scale
from kdiff.report.curve import LOSSES, NEGLIGIBLE
from kdiff.report.judged import FEATURES, evaluation_section, features_of, floors_of, sweep_section
from kdiff.report.markup import Markup, code, definitions, document, element, join, note, number, picture, section, table
from kdiff.report.record import Picture, Record, read_record
from kdiff.report.run import settings
from kdiff.report.versus import comparison_section
from kdiff.training.build import describe_environment
from kdiff.training.config import TrainConfig
from kdiff.training.start import as_text as describe_start

STYLES = {"loss": "ink", "loss_along": "along", "loss_across": "across"}
SHOWN = 12  # pictures through training
SMALL = 375  # pixels: twice what the smaller ones are shown at
LINES = 12  # of the metrics, as figures
CLASSES = 20  # whose names are given


def write_page(folder: Path, other: Path | None = None) -> Path:
    """Write RUN/report.html, aside first; returns it.

    Args:
        folder: the run's.
        other: that of a run to compare with.

    Raises:
        ValueError: no run folder, damaged files, or twice the same run.
    """
    record = read_record(folder)
    versus = None if other is None else comparison_section(record, read_record(other))
    path = folder / "report.html"
    write_text(path, page(record, versus))
    return path


def page(record: Record, versus: Markup | None = None) -> str:
    """The page of a run; `versus` is a part that sets it beside another."""
    return document(
        f"{record.name} – kdiff",
        _header(record),
        _hero(record),
        versus,
        _trained(record),
        _k(record),
        _loss(record),
        _samples(record),
        _denoising(record),
        evaluation_section(record),
        sweep_section(record),
        _footer(),
    )


def duration(seconds: float) -> str:
    """Seconds for a person."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _header(record: Record) -> Markup:
    lead = f"{parse(record.config.network).name} on {record.data['name']}, target {record.target}"
    about = element("p", lead, class_="lead")
    return element("header", element("p", "A training run", class_="kicker"), element("h1", record.name), about)


def _hero(record: Record) -> Markup:
    k, start = record.last.get("k"), record.start.get("k")
    facts: dict[str, object] = {}
    if record.rows:
        reached, steps = record.last["step"], record.config.steps
        took = element("small", duration(record.seconds)) if record.seconds is not None else None
        facts["trained for"] = join(f"{steps:,} steps" if reached == steps else f"{reached:,} of {steps:,} steps", took)
        along, across = record.last.get("loss_along"), record.last.get("loss_across")
        split = element("small", number(along), " along the principal directions, ", number(across), " across them")
        facts["loss"] = join(number(record.last["loss"]), split if along is not None else None)
    floors = floors_of(record)
    if floors:
        judged = floors["samplers"]["clean"]
        main = next(measure for measure in MEASURES if measure in judged["figures"])
        exact = judged.get("exact", {}).get(main, {}).get("value")
        beside = element("small", "an exact denoiser gets ", number(exact)) if exact is not None else None
        of = element("small", f"step {floors['step']:,}") if floors["step"] != record.last.get("step") else None
        facts[MEASURES[main]] = join(number(judged["figures"][main]["value"]), beside, of)
    for result in features_of(record):
        for name, figure in list(result["figures"].items())[:1]:
            between = figure["interval"]
            said = element("small", number(between[0]), " … ", number(between[1]), " (95 %)") if between else None
            step = result["samples"].get("step")
            of = element("small", f"step {step:,}") if step not in (None, record.last.get("step")) else None
            facts[FEATURES.get(name, name)] = join(number(figure["value"]), said, of)
    aside = definitions(facts)
    if k is None:
        return element("div", element("p", f"Target {record.target}.", class_="lead"), aside, class_="hero")
    value = element("p", element("i", "k"), " = ", number(k, 3), class_="k-value")
    if start == k:
        words = f"Fixed throughout: {_near(k)}."
    else:
        words = f"Learned: it began at {start:.3g} and stands at {k:.3g} at step {record.last['step']:,}, {_near(k)}."
    shown = element("div", value, element("p", words, class_="k-said"), k_scale(k, start))
    return element("div", shown, aside, class_="hero")


def _near(k: float) -> str:
    named = {0.0: "noise prediction", 0.5: "velocity prediction", 1.0: "data prediction"}
    if k in named:
        return named[k]
    low, high = ((0.0, 0.5), (0.5, 1.0))[k > 0.5]
    return f"between {named[low]} and {named[high]}"


def _trained(record: Record) -> Markup:
    data, config, run = record.data, record.config, record.run
    classes, shape = data.get("class_names") or [], " × ".join(map(str, data["shape"]))
    counted = f"{data['num_classes']} classes" if data["num_classes"] else "no classes"
    named = element("small", ", ".join(classes[:CLASSES]), " …" if len(classes) > CLASSES else "") if classes else None
    more = element(
        "small",
        f"normalised by {data['normalisation']['kind']}; total variance ",
        number(data["total_variance"]),
        f" in {math.prod(data['shape']):,} dimensions; fingerprint {data['fingerprint']}",
    )
    parameters = weights = None
    if run:
        parameters = element("small", number(sum(p.numel() for p in run.model.network.parameters())), " parameters")
        weights = element("small", f"{run.model.target}, of the weights {run.weights} at step {run.step:,}")
    facts: dict[str, object] = {
        "data": join(f"{data['name']}: {data['counts']['train']:,} training samples of shape {shape}, {counted}", named, more),
        "network": join(code(parse(config.network)), parameters),
        "target": join(code(record.target), weights),
        "path": join(code(parse(config.path)), ", times ", code(parse(config.timesteps))),
    }
    if record.other_weights:
        facts["weights"] = describe_start(record.other_weights)
    if record.environment:
        facts |= _environment(record.environment)
    problem = note("Its checkpoint could not be shown: ", record.problem) if record.problem else None
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
    said = element("summary", f"All {len(rows)} settings, {len(chosen)} of them not the default")
    return element("details", said, table(["setting", "value", ""], rows, "As in config.yaml.", "All settings"))


def _k(record: Record) -> Markup:
    rows = [record.start, *record.rows]
    if all(row.get("k") is None for row in rows):
        return Markup("")
    several = [name for name in rows[0] if name.startswith("k")]
    lines = [
        Line(name, [(row["step"], row.get(name)) for row in rows], "k" if name == "k" else "k faint") for name in several[::-1]
    ]
    caption = "k at every line of metrics, from where it began. At 0 the network predicts the noise, at ½ the velocity, at 1 "
    caption += "the data."
    if len(several) > 1:
        caption += (
            " Other than k, which is the mean, are k at single times, at both ends of time, or the two numbers of a pair."
        )
    drawn = chart(lines, "k over the steps", ticks=K_TICKS)
    return section("k through training", element("figure", drawn, element("figcaption", caption)))


def _loss(record: Record) -> Markup:
    if not record.rows:
        return section("Loss", note("There is no line of metrics yet."))
    least = NEGLIGIBLE * min((row["loss"] for row in record.rows if row["loss"] is not None), default=0)
    columns = {name: record.points(name) for name in LOSSES}
    shown = {
        name: points for name, points in columns.items() if max((y for _, y in points if y is not None), default=0) >= least
    }
    lines = [Line("loss" if name == "loss" else LOSSES[name][0], points, STYLES[name]) for name, points in shown.items()]
    space = {"v": "velocity", "u": "network's output"}[record.config.loss_space]
    caption = f"Loss on the {space}, a mean over {record.config.log_every} steps each."
    if "loss_along" in record.rows[0]:
        caption += " It is split into what lies along the directions that hold 95 % of the data's variance, and the rest."
        caption += "" if "loss_across" in shown else " There is nothing across them."
    drawn = chart(lines, "Loss and its split over the steps", log=True)
    return section("Loss", element("figure", drawn, element("figcaption", caption)), _metrics(record))


def _metrics(record: Record) -> Markup:
    """Some lines of the metrics as figures, the last among them."""
    rows = record.rows[:: -math.ceil(len(record.rows) / LINES)][::-1]
    names = [name for name in record.rows[-1] if name != "step"]
    lines = [[f"{row['step']:,}", *(number(row.get(name)) for name in names)] for row in rows]
    caption = f"{len(rows)} of {len(record.rows)} lines of metrics.jsonl."
    header = ["step", *(name.replace("_", " ") for name in names)]
    return element("details", element("summary", "As figures"), table(header, lines, caption, "Lines of metrics"))


def spaced(pictures: list[Picture], most: int) -> list[Picture]:
    """At most so many, at even distances, the first and the last among them."""
    if len(pictures) <= most:
        return pictures
    return [pictures[round(i * (len(pictures) - 1) / (most - 1))] for i in range(most)]


def _samples(record: Record) -> Markup:
    usual, others = ([each for each in record.pictures if each.usual is kind] for kind in (True, False))
    if not usual:
        return section("Samples", note("There are no pictures of samples yet."))
    *earlier, last = spaced(usual, SHOWN)
    parts = [picture(last.path, f"Samples at step {last.step}", f"Step {last.step:,}{last.how}")]
    if earlier:
        seen = [picture(each.path, f"Samples at step {each.step}", f"Step {each.step:,}", SMALL) for each in earlier]
        some = f"{len(earlier)} of {len(usual) - 1} pictures" if len(usual) > SHOWN else "Earlier"
        through = note(f"{some}, of the same noise and classes: each sample in its place.")
        parts.append(element("div", through, element("div", *seen, class_="strip")))
    more = []
    for each in others[-SHOWN:]:
        named = f"Step {each.step:,}, seed {each.seed}" + (f", guidance {each.guidance:g}" if each.guidance != 1 else "")
        more.append(picture(each.path, f"Samples: {named}", f"{named}{each.how}", SMALL))
    drawn = [element("h3", "Drawn otherwise"), element("div", *more, class_="strip")] if more else []
    return section("Samples", element("div", *parts, class_="samples"), *drawn)


def _denoising(record: Record) -> Markup:
    path = record.folder / "denoising.png"
    if not path.exists():
        return Markup("")
    caption = "How noise becomes samples: time from t = 0, noise, on the left to t = 1, data, on the right."
    return section("From noise to sample", picture(path, "Sampling trajectories from noise to samples", caption, broad=True))


def _footer() -> Markup:
    made = describe_environment()
    return element("footer", f"Written by kdiff {__version__} on {made['date'][:10]}: ", code(made["command"]))
