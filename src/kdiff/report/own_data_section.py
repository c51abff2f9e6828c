"""What `kdiff evaluate` found of fields, tables and ensembles: pictures beside evaluation.json, and tables of a run's page.

RUN/evaluation_spectrum.png        power spectra and their ratio to held-out data
RUN/evaluation_one_point.png       histograms of the values of each channel
RUN/evaluation_columns.png         histograms of a table's columns
RUN/evaluation_correlations.png    correlation matrices of a table
RUN/evaluation_ensemble.png        truth, members, mean and spread for some held-out conditions
RUN/evaluation_ranks.png           ranks of the truth among the members
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdiff.evaluation.own_data import Seen
from kdiff.evaluation.own_data_text import own_lines
from kdiff.report.ensemble_picture import draw_ensemble, draw_ranks
from kdiff.report.field_pictures import draw_one_point, draw_spectra
from kdiff.report.markup import Markup, element, join, note, number, picture, table
from kdiff.report.table_pictures import draw_columns, draw_correlations

CAPTIONS = {
    "spectrum": "Power spectra by channel, and their ratio to that of held-out data. In the band, the ratio differs by chance.",
    "one_point": "How often each value occurs, by channel. The vertical axis is logarithmic, so that the tails are seen.",
    "columns": "Histograms of the columns that differ most.",
    "correlations": "Correlations of every two columns.",
    "ensemble": "Truth, members, mean and spread for held-out conditions.",
    "ranks": "How many members lie below the truth. All ranks are equally frequent if the truth is like a member.",
}
SAID = {
    "fields": (
        "Fields",
        "Spectrum: the mean of |ln ratio| of the power over frequencies. One-point distribution: the Wasserstein distance "
        "of the values, in units of their deviation. The floor is the figure of training data in the place of samples.",
    ),
    "table": (
        "Table",
        "Means over columns and over pairs of columns. The classifier cannot tell samples from data at an AUC of 0.5. The "
        "floor is the figure of training data in the place of samples.",
    ),
    "ensemble": (
        "Ensembles",
        "CRPS and error in units of the standard deviation of held-out data. The floor is what the figure would be if the "
        "truth were like a member; the climatology is an ensemble of training data, the same for every condition.",
    ),
}


def draw_own_data(folder: Path, result: dict[str, Any], seen: Seen | None) -> list[str]:
    """Write the pictures of the entries of `kdiff.evaluation.own_data` into a folder; returns the names of the files."""
    drawn = []

    def draw(name: str, function: Any, *given: Any) -> None:
        file = f"evaluation_{name}.png"
        function(folder / file, *given)
        drawn.append(file)

    if fields := result.get("fields"):
        if "spectrum" in fields:
            draw("spectrum", draw_spectra, fields)
        draw("one_point", draw_one_point, fields)
    if (columns := result.get("table")) and "histograms" in columns:
        draw("columns", draw_columns, columns)
        if len(columns["correlations"]["columns"]) > 1:
            draw("correlations", draw_correlations, columns)
    if ensemble := result.get("ensemble"):
        if seen:
            draw("ensemble", draw_ensemble, seen, ensemble)
        draw("ranks", draw_ranks, ensemble)
    return drawn


def own_data_parts(folder: Path, result: dict[str, Any]) -> list[Markup]:
    """The tables and pictures of these entries for the page of a run; none if evaluation.json has no such entries."""
    parts = []
    for name, (title, caption) in SAID.items():
        if name in result:
            parts += [element("h3", title), _table(name, result[name], caption)]
            parts += [note(f"{what} is left out: {why}.") for what, why in result[name].get("left_out", {}).items()]
    seen = []
    for what, said in CAPTIONS.items():
        if (file := f"evaluation_{what}.png") in result.get("pictures", []) and (folder / file).is_file():
            seen.append(picture(folder / file, said.partition(".")[0], said, broad=True))
    return [*parts, *seen]


def _spread(value: float | None) -> Markup | None:
    return None if value is None else join(" ± ", number(value, 2))


def _table(name: str, found: dict[str, Any], caption: str) -> Markup:
    ensemble = name == "ensemble"
    counted = f"{found['conditions']:,} ensembles of {found['members']}" if ensemble else f"{found['samples']:,} samples"
    header: list[object] = ["measure", counted, "floor", *(["climatology"] if ensemble else [])]
    rows = []
    for line in own_lines(found):
        value = join(element("strong", number(line["value"])), _spread(line.get("spread")))
        floor = join(number(line["floor"]), _spread(line.get("floor_spread")))
        named = join(
            line["measure"], element("small", f"sampler {line['sampler']}") if line["sampler"] and not ensemble else None
        )
        rows.append([named, value, floor, *([number(line["baseline"])] if ensemble else [])])
    against = found["conditions"] if ensemble else found["heldout"]
    compared = f" Compared with {against:,} of {found['heldout_of']:,} held-out rows; seed {found['seed']}."
    return table(header, rows, caption + compared, SAID[name][0])
