"""The parts of a run's page that show what was measured: values with floors, values with intervals, and sweeps.

RUN/evaluation.json         written by `kdiff evaluate RUN`: comparison with the data, with floors
RUN/evaluations/*/*.json    written by `kdiff evaluate RUN --features …`: FID and others, with intervals
RUN/sweeps/*/sweep.json     written by `kdiff sweep RUN`
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from kdiff.evaluation.image_shards import SETTINGS
from kdiff.files.atomic import read_json
from kdiff.report.markup import Markup, code, element, join, note, number, picture, section, table
from kdiff.report.own_data_section import own_data_parts
from kdiff.report.record import Record
from kdiff.run.contents import BACK, NUMBER, read_evaluation
from kdiff.studies.comparison import MEASURES
from kdiff.studies.sweep_result import OPTION, SETTING, shown

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
JUDGE_AGAIN = f"{BACK}, or remove its folder and type the same command again"
RESULT = {
    "samples": {"num": int, "step?": int, "weights?": str, "seed?": int, "sampler?": {...: object}},
    "features": {"name": str, "weights": object},
    "figures?": {...: {"value": NUMBER, "interval": ([float, float], None), "spread": NUMBER, "method": (str, None)}},
    "reference?": {"num": (int, None)},
    "left_out?": {...: str},
    "warnings?": [str],
    "environment": {"date": str},
}
SWEEP = {
    **dict.fromkeys(("best", "cheapest_as_good"), OPTION),
    **dict.fromkeys(("num_samples", "step", "seed"), int),
    "measure": str,
    "settings": [{**SETTING, "close": bool}],
}
BEST = 8  # how many settings of a sweep are shown


def floors_of(record: Record) -> dict[str, Any]:
    """The content of RUN/evaluation.json; empty if there is no such file, or if it holds no figures."""
    path = record.folder / "evaluation.json"
    found = read_evaluation(path) if path.exists() else {}
    return found if found.get("samplers") else {}


def features_of(record: Record) -> list[dict[str, Any]]:
    """The results in RUN/evaluations, in order of step and date."""
    paths = [path for path in sorted((record.folder / "evaluations").glob("*/*.json")) if path.name != SETTINGS]
    return sorted(
        (found for path in paths if "figures" in (found := read_json(path, RESULT, JUDGE_AGAIN))),
        key=lambda result: (result["samples"].get("step", 0), result["environment"]["date"]),
    )


def evaluation_section(record: Record) -> Markup:
    """Everything that `kdiff evaluate` measured."""
    floors = floors_of(record)
    own = own_data_parts(record.folder, floors)
    parts = [*([_floors(floors)] if floors else []), *own, *map(_features, features_of(record))]
    missing = note("Nothing has been measured yet. To measure, run ", code(f"kdiff evaluate {record.folder}"))
    return section("Evaluation", *(parts or [missing]))


def spread(figure: dict[str, Any]) -> Markup:
    """The mean and the standard deviation over groups."""
    deviation = figure.get("spread")
    if deviation is None or math.isnan(deviation):
        return number(figure["grouped"])
    return join(number(figure["grouped"]), " ± ", number(deviation, 2))


def _floors(result: dict[str, Any]) -> Markup:
    rows: list[list[object]] = []
    samplers = result["samplers"]
    options = [judged["options"] for judged in samplers.values()]
    solvers = " and ".join(dict.fromkeys(f"{each['solver']} with {each['steps']} steps" for each in options))
    several = len(samplers) > 1
    if len(samplers) > 1 and len({str((judged["figures"], judged.get("exact"))) for judged in samplers.values()}) == 1:
        samplers = {"": next(iter(samplers.values()))}
    for measure, heldout in result["heldout"].items():
        for sampler, judged in samplers.items():
            figure, exact = judged["figures"][measure], judged.get("exact", {}).get(measure, {}).get("value")
            step = element("small", SAMPLERS.get(sampler, sampler)) if sampler else None
            named = join(MEASURES.get(measure, measure), step)
            value = element("strong", number(figure["value"]))
            rows.append([named, value, number(exact), spread(figure), number(heldout["value"])])
    header = ["measure", f"{result['num_samples']:,} samples", "floor of the samples: exact denoiser"]
    header += [f"groups of {result['group_size']:,} samples", "floor of the groups: held-out data"]
    caption = join(
        f"Step {result['step']:,}, weights {result['weights']}{', calibrated' if result.get('calibrated') else ''}, ",
        f"seed {result['seed']}, solver {solvers}, guidance {options[0]['guidance']:g}. ",
        "A floor is the value that would remain with a perfect network. The floor of the samples is that of an exact denoiser ",
        "of the training data with the same sampler. The floor of the groups is that of as many held-out data as one group ",
        "has; even sets from the same distribution differ. A copying ratio of 1 means that samples are as far from the ",
        "training data as held-out data are, and 0 means copies. ",
        "For all other measures, lower is better.",
        " A clean last step returns the data prediction." * several,
        f" The paper's last step {'gives the same values here' if '' in samplers else 'leaves noise behind where k is near 1'}."
        * several,
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
    said = [f"Features of {features['name']}, weights {features['weights']}; {samples['num']:,} samples"]
    if "seed" in samples:
        used = ", calibrated" if samples.get("calibrated") else ""
        said.append(f"step {samples['step']:,}, weights {samples['weights']}{used}, seed {samples['seed']}")
    said += [", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in sampler.items())] if sampler else []
    said += [f"reference {against}, {reference['num'] or 'an unknown number of'} images"] if against else []
    left_out = result.get("left_out", {}).items()
    caption = join("; ".join(said), ". ", *(f"{name} was left out: {why}. " for name, why in left_out))
    warnings = [note(element("strong", "Warning: "), warning) for warning in result.get("warnings", [])]
    header = ["measure", "value", "95 % interval", "spread over subsets", "method of the interval"]
    return join(table(header, rows, caption, f"Evaluation by {features['name']}"), *warnings)


def sweep_section(record: Record) -> Markup:
    """What `kdiff sweep` found."""
    return section("Sampling options compared", *map(_sweep, sorted((record.folder / "sweeps").glob("*/sweep.json"))))


def _sweep(path: Path) -> Markup:
    found = read_json(path, SWEEP, JUDGE_AGAIN)
    if any(found["best"].keys() - setting["options"].keys() for setting in found["settings"]):
        raise ValueError(f"{path} is damaged: a setting lacks an option that the best one has; {JUDGE_AGAIN}")
    settings = [setting for setting in found["settings"] if setting["value"] is not None]
    settings.sort(key=lambda setting: setting["value"])
    varied = [name for name in found["best"] if len({str(setting["options"][name]) for setting in found["settings"]}) > 1]
    rows = []
    for setting in settings[:BEST]:
        cheapest = setting["options"] == found["cheapest_as_good"] != found["best"]
        marks = ["best"] if setting["options"] == found["best"] else ["not significantly worse"] if setting["close"] else []
        chosen = [shown(setting["options"][name]) for name in varied] or ["as given"]
        compared = ", ".join([*marks, "cheapest that is as good"] if cheapest else marks)
        rows.append([*chosen, f"{setting['evaluations']:g}", number(setting["value"]), compared])
    drawn, measure, every = path.with_suffix(".png"), found["measure"], len(found["settings"])
    caption = (
        f"{'All' if len(rows) == every else f'The best {len(rows)} of'} {every} settings in order of {measure}, each with "
        f"{found['num_samples']:,} samples from the same noise (step {found['step']:,}, seed {found['seed']}). The evaluations "
        "are those of the network for one sample."
    )
    named = (f"{measure} of every setting", f"Sweep {path.parent.name}.")
    header = [*([name.replace("_", " ") for name in varied] or ["setting"]), "evaluations", measure, "compared with the best"]
    seen = picture(drawn, *named, broad=True) if drawn.exists() else None
    return join(table(header, rows, caption, "Sweep"), seen)
