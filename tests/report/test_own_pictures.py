"""Pictures and tables of judged fields, tables and ensembles: for every shape of samples, and on the page of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch

from kdiff.evaluation.ensemble import judge_ensemble
from kdiff.evaluation.one_point import histograms
from kdiff.evaluation.own_data import Seen, ensemble_lines
from kdiff.evaluation.spectrum import power_spectrum, spectrum_distance
from kdiff.evaluation.tabular import correlations
from kdiff.report.ensemble_picture import draw_ensemble, plane
from kdiff.report.field_pictures import COLOURS
from kdiff.report.own_data_section import CAPTIONS, draw_own_data, own_data_parts

FIGURES = [{"sampler": name, "measure": "spectrum", "value": 0.25, "floor": 0.125} for name in ("paper", "clean")]
FACTS: dict[str, Any] = {"samples": 40, "train": 40, "heldout": 30, "heldout_of": 31, "seed": 3, "left_out": {}}


def fields_of(shape: tuple[int, ...], still: bool = False) -> dict[str, Any]:
    """An entry `fields` for white noise, or with `still` for a channel that is constant in the samples."""
    sets = {name: torch.randn(40, *shape) for name in ("paper", "clean", "train", "heldout")}
    if still:
        sets["clean"] = torch.zeros(40, *shape)
    spectra = {name: power_spectrum(x) for name, x in sets.items()}
    return {
        **FACTS,
        "channels": [str(channel) for channel in range(shape[0])],
        "figures": FIGURES,
        "window": "none",
        "spectrum": {
            "frequency": spectra["heldout"].frequency.tolist(),
            "modes": spectra["heldout"].modes.tolist(),
            "density": {name: each.density.tolist() for name, each in spectra.items()},
            "counts": {name: each.count for name, each in spectra.items()},
            "used": spectra["heldout"].usable().tolist(),
            "distances": {name: [spectrum_distance(each, spectra["heldout"]).value] for name, each in spectra.items()},
        },
        "one_point": {"histograms": histograms(sets)},
    }


def table_of(columns: int) -> dict[str, Any]:
    rows = {name: np.random.default_rng(0).normal(size=(40, columns)) for name in ("clean", "train", "heldout")}
    shown = list(range(min(12, columns)))
    return {
        **FACTS,
        "columns": [f"column {column}" for column in range(columns)],
        "figures": [{**line, "measure": "classifier: AUC", "floor_spread": 0.0625} for line in FIGURES],
        "histograms": {
            "columns": shown,
            "sets": histograms({name: torch.from_numpy(each[:, shown]) for name, each in rows.items()}),
        },
        "correlations": {
            "columns": list(range(columns)),
            "heldout": correlations(rows["heldout"]).tolist(),
            "samples": correlations(rows["clean"]).tolist(),
        },
    }


def ensemble_of(shape: tuple[int, ...], rows: int = 3, holes: bool = False) -> tuple[dict[str, Any], Seen]:
    truth, members = torch.randn(rows, *shape), torch.randn(rows, 4, *shape)
    if holes:
        truth[..., 0] = math.nan
    found = judge_ensemble(members, truth, torch.ones(shape[0]))
    entry = {
        **FACTS,
        "members": 4,
        "conditions": rows,
        "channels": [str(channel) for channel in range(shape[0])],
        "scale": [1.0] * shape[0],
        "figures": ensemble_lines(found, found, found),
        "details": {"model": vars(found)},
    }
    return entry, Seen(truth, members, [0.5] * rows, [f"wind = {row}; y = 1" for row in range(rows)])


def colours_of(path: Path) -> set[tuple[int, ...]]:
    picture = (matplotlib.image.imread(path)[..., :3] * 255).round().astype(int)
    codes = np.unique(picture @ [1 << 16, 1 << 8, 1])
    return {(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


@pytest.mark.parametrize("shape", [(2, 12, 12), (6, 16), (1, 4, 6, 8)])
def test_spectra_and_one_point_distributions_are_drawn(shape, tmp_path) -> None:
    files = draw_own_data(tmp_path, {"fields": fields_of(shape)}, None)
    assert files == ["evaluation_spectrum.png", "evaluation_one_point.png"]
    for file in files:
        found = colours_of(tmp_path / file)
        assert all(rgb(COLOURS[name]) in found for name in ("paper", "clean", "train")), file


def test_samples_without_variance_are_drawn_too(tmp_path) -> None:
    draw_own_data(tmp_path, {"fields": fields_of((1, 8, 8), still=True)}, None)
    assert rgb(COLOURS["paper"]) in colours_of(tmp_path / "evaluation_spectrum.png")


@pytest.mark.parametrize("columns", [1, 5, 30])
def test_tables_are_drawn(columns, tmp_path) -> None:
    files = draw_own_data(tmp_path, {"table": table_of(columns)}, None)
    assert files == ["evaluation_columns.png", *(["evaluation_correlations.png"] if columns > 1 else [])]
    assert rgb(COLOURS["clean"]) in colours_of(tmp_path / files[0])


@pytest.mark.parametrize("shape", [(2, 8, 10), (1, 20), (2, 4, 6, 8), (5,)])
@pytest.mark.parametrize("rows", [1, 3])
def test_ensembles_are_drawn_for_samples_of_every_rank(shape, rows, tmp_path) -> None:
    entry, seen = ensemble_of(shape, rows)
    assert draw_own_data(tmp_path, {"ensemble": entry}, seen) == ["evaluation_ensemble.png", "evaluation_ranks.png"]
    assert len(colours_of(tmp_path / "evaluation_ensemble.png")) > 30
    assert draw_own_data(tmp_path, {"ensemble": entry}, None) == ["evaluation_ranks.png"]


def test_missing_truth_is_drawn_as_a_gap(tmp_path) -> None:
    for shape in ((2, 8, 10), (1, 20)):
        entry, seen = ensemble_of(shape, holes=True)
        draw_ensemble(tmp_path / "a.png", seen, entry)
        assert len(colours_of(tmp_path / "a.png")) > 30


def test_what_is_shown_of_a_sample() -> None:
    volume = torch.arange(3 * 2 * 4 * 5 * 6.0).reshape(3, 2, 4, 5, 6)
    np.testing.assert_array_equal(plane(volume, 1, lead=1), volume[:, 1, 2])
    members = torch.arange(3 * 7 * 2 * 5 * 6.0).reshape(3, 7, 2, 5, 6)
    np.testing.assert_array_equal(plane(members, 1, lead=2), members[:, :, 1])
    np.testing.assert_array_equal(plane(members[..., 0], 0, lead=2), members[:, :, 0, :, 0])
    vectors = torch.randn(3, 7)
    np.testing.assert_array_equal(plane(vectors, 0, lead=1), vectors.double())


def test_the_page_has_the_tables_and_the_pictures_that_belong_to_it(tmp_path) -> None:
    entry, seen = ensemble_of((2, 8, 8))
    fields = {**fields_of((1, 8, 8)), "left_out": {"spectrum": "because <b>"}}
    result: dict[str, Any] = {"fields": fields, "table": table_of(3), "ensemble": entry}
    result["pictures"] = draw_own_data(tmp_path, result, seen)
    assert sorted(result["pictures"]) == sorted(f"evaluation_{name}.png" for name in CAPTIONS)
    page = "".join(own_data_parts(tmp_path, result))
    assert page.count("<img") == len(CAPTIONS)
    for text in ("0.125", "0.0625", "climatology", "CRPS (fair)", "30 of 31 held-out rows", "because &lt;b&gt;"):
        assert text in page, text
    (tmp_path / "evaluation_ranks.png").unlink()
    stale = {**result, "pictures": ["evaluation_ensemble.png", "evaluation_ranks.png", "../other.png"]}
    assert "".join(own_data_parts(tmp_path, stale)).count("<img") == 1
    assert own_data_parts(tmp_path, {"samplers": {}}) == []
    # As read from the file, numbers that are not finite are null.
    lines = [{**line, "value": None, "floor": None, "baseline": None, "spread": None} for line in entry["figures"]]
    assert "–" in "".join(own_data_parts(tmp_path, {"ensemble": {**entry, "figures": lines}}))
