"""What was measured of a run, as parts of its page: figures beside their floors, figures with intervals, sweeps.

RUN/evaluation.json         `kdiff evaluate RUN`: against the data, with floors
RUN/evaluations/*/*.json    the same with --features: FID and others, with intervals
RUN/sweeps/*/sweep.json     `kdiff sweep RUN`
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from kdiff.experiments.compare import MEASURES
from kdiff.experiments.sweep import shown
from kdiff.files import read_json
from kdiff.report.markup import Markup, code, element, join, note, number, picture, section, table
from kdiff.report.record import Record

SAMPLERS = {"paper": "the paper's last step", "clean": "clean last step"}
FEATURES = {
    "fid": "FID",
    "sfid": "sFID",
    "fd_dinov2": "FD-DINOv2",
    "fd_classifier": "Fréchet distance, classifier",
    "inception_score": "Inception score",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
}
BEST = 8  # settings of a sweep that are shown


def floors_of(record: Record) -> dict[str, Any] | None:
    """RUN/evaluation.json."""
    path = record.folder / "evaluation.json"
    return read_json(path) if path.exists() else None


def features_of(record: Record) -> list[dict[str, Any]]:
    """The results in RUN/evaluations, the newest last."""
    found = [read_json(path) for path in sorted((record.folder / "evaluations").glob("*/*.json"))]
    return sorted(
        (result for result in found if "figures" in result and "samples" in result),
        key=lambda result: (result["samples"].get("step", 0), result["environment"]["date"]),
    )


def evaluation_section(record: Record) -> Markup:
    """Everything that was measured."""
    floors = floors_of(record)
    parts = [] if floors is None else [_floors(floors)]
    parts += map(_features, features_of(record))
    if not parts:
        parts = [note("Nothing was measured yet: ", code(f"kdiff evaluate {record.folder}"))]
    return section("Evaluation", *parts)


def spread(figure: dict[str, Any]) -> Markup:
    """The mean over groups, and its standard deviation over them."""
    deviation = figure.get("spread")
    if deviation is None or math.isnan(deviation):
        return number(figure["grouped"])
    return join(number(figure["grouped"]), " ± ", number(deviation, 2))


def _floors(result: dict[str, Any]) -> Markup:
    rows: list[list[object]] = []
    samplers = result["samplers"]
    for measure, heldout in result["heldout"].items():
        same = len(samplers) > 1 and len({str((judged["figures"], judged.get("exact"))) for judged in samplers.values()}) == 1
        for sampler, judged in list(samplers.items())[:1] if same else samplers.items():
            figure, exact = judged["figures"][measure], judged.get("exact", {}).get(measure, {}).get("value")
            how = element("small", "either last step" if same else SAMPLERS.get(sampler, sampler))
            value = element("strong", number(figure["value"]))
            rows.append(
                [join(MEASURES.get(measure, measure), how), value, number(exact), spread(figure), number(heldout["value"])]
            )
    header = ["measure", f"{result['num_samples']:,} samples", "floor: exact denoiser"]
    header += [f"groups of {result['group_size']:,}", "floor: held-out data"]
    options = next(iter(result["samplers"].values()))["options"]
    caption = join(
        f"Step {result['step']:,}, {result['weights']}, seed {result['seed']}, ",
        f"{options['solver']} with {options['steps']} steps, guidance {options['guidance']:g}. The samples stand beside what ",
        "an exact denoiser of the training data gets through the same sampler, groups of them beside as many held-out data: ",
        "a floor, for finite sets of equal law differ too. Of copying, 1 is fresh, 0 a copy; elsewhere lower is better.",
    )
    return table(header, rows, caption, "Evaluation with floors")


def _features(result: dict[str, Any]) -> Markup:
    samples, features = result["samples"], result["features"]
    rows = []
    for measure, figure in result["figures"].items():
        interval = figure["interval"]
        between = join(number(interval[0], 5), " … ", number(interval[1], 5)) if interval else "–"
        value = element("strong", number(figure["value"], 5))
        rows.append([FEATURES.get(measure, measure), value, between, number(figure["spread"], 2), figure["method"] or ""])
    reference, sampler = result.get("reference", {}), samples.get("sampler", {})
    against = next((reference[name] for name in ("statistics", "images", "data") if reference.get(name)), None)
    said = [f"Features {features['name']}, weights {features['weights']}; {samples['num']:,} samples"]
    said += [f"step {samples['step']:,}, {samples['weights']}, seed {samples['seed']}"] if "seed" in samples else []
    said += [", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in sampler.items())] if sampler else []
    said += [f"reference {against}, {reference['num'] or 'an unknown number of'} images"] if against else []
    caption = join("; ".join(said), ". ", *(f"{name} was left out: {why}. " for name, why in result["left_out"].items()))
    warnings = [note(element("strong", "Warning: "), warning) for warning in result["warnings"]]
    header = ["measure", "value", "95 % interval", "spread over subsets", "interval by"]
    return join(table(header, rows, caption, f"Evaluation by {features['name']}"), *warnings)


def sweep_section(record: Record) -> Markup:
    """The sweeps over ways to sample."""
    return section("Ways to sample", *map(_sweep, sorted((record.folder / "sweeps").glob("*/sweep.json"))))


def _sweep(path: Path) -> Markup:
    found = read_json(path)
    settings = [setting for setting in found["settings"] if setting["value"] is not None]
    settings.sort(key=lambda setting: setting["value"])
    varied = [name for name in found["best"] if len({str(setting["options"][name]) for setting in found["settings"]}) > 1]
    rows = []
    for setting in settings[:BEST]:
        mark = "best" if setting["options"] == found["best"] else "not told apart" if setting["close"] else ""
        if setting["options"] == found["cheapest_as_good"] != found["best"]:
            mark = ", ".join(word for word in (mark, "cheapest as good") if word)
        chosen = [shown(setting["options"][name]) for name in varied] or ["as given"]
        rows.append([*chosen, f"{setting['evaluations']:g}", number(setting["value"]), mark])
    caption = (
        f"The best {len(rows)} of {len(found['settings'])} settings by {found['measure']}, {found['num_samples']:,} samples of "
        f"the same noise each (step {found['step']:,}, seed {found['seed']}). Evaluations are of the network, for one sample."
    )
    drawn = path.with_suffix(".png")
    seen = (
        picture(drawn, f"{found['measure']} of every setting", f"Sweep {path.parent.name}.", broad=True)
        if drawn.exists()
        else None
    )
    header = [name.replace("_", " ") for name in varied] or ["setting"]
    return join(table([*header, "evaluations", found["measure"], "from the best"], rows, caption, "Sweep"), seen)
