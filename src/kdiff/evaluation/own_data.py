"""What `kdiff evaluate RUN` measures besides the distances of `kdiff.evaluation.judge`: fields, tables and ensembles.

    fields      samples (C, *grid): power spectrum and one-point distribution of every channel
    table       samples (D,): columns, pairs of columns, and a classifier
    ensemble    runs with conditions: ensembles for held-out conditions, judged by their truth

All are measured in the data's own units, against held-out data. The floor of fields and tables is the same figure of training
data in the place of samples, with the same number of rows. So a figure that equals its floor cannot be improved. An entry of
the result has its figures as lines of a table under `figures`. Beside them it has the numbers of rows, the seed, the window,
and whatever a picture needs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kdiff.config.evaluation import EvaluateConfig
from kdiff.evaluation.ensemble import EnsembleFigures, channel_scale, judge_ensemble
from kdiff.evaluation.judge import Judge
from kdiff.evaluation.judged_samplers import samplers_for
from kdiff.evaluation.one_point import LEVELS, histograms, one_point_distance, quantiles
from kdiff.evaluation.spectrum import PowerSpectrum, edge_steps, power_spectrum, spectrum_distance, window_for
from kdiff.evaluation.subsets import drawn
from kdiff.evaluation.tabular import TableFigures, TableJudge, column_distance, correlations
from kdiff.run.given import Given
from kdiff.run.run import Run

ENTRIES = 2**25  # of all rows of a set; of larger samples, fewer rows than `heldout_rows` are used
MEMBERS = 2**27  # entries of all members; of larger samples, fewer conditions than `truths` are used
CLIMATE = 200  # members of the climatology: more change its fair CRPS little
LEAST_ROWS = 50
SHOWN = 4  # held-out conditions of a picture
SHOWN_COLUMNS = 12  # of a table in a picture, the worst ones
TABLE = {
    "wasserstein": "columns: Wasserstein / deviation",
    "ks": "columns: Kolmogorov–Smirnov",
    "categories": "columns of categories: variation",
    "correlation": "pairs: difference of correlations",
    "pair": "pairs: joint distribution",
    "worst": "columns: the worst",
    "worst_joint": "pairs: the worst joint distribution",
    "auc": "classifier: AUC",
}


@dataclass
class Seen:
    """What only a picture of ensembles needs: some truths, their members and conditions, in the data's own units."""

    truth: Tensor
    members: Tensor
    scores: list[float]
    conditions: list[str] = field(default_factory=list)


class OwnData:
    """Measures the samples of one run against its data.

    Args:
        run: the run.
        judge: the judge of its data, which holds the rows to compare with.
        config: the number of rows, the window, and the size and number of the ensembles.
        sampler: the sampler of the ensembles, as `kdiff.evaluation.judged_samplers.samplers_for` says.
    """

    def __init__(
        self, run: Run, judge: Judge, config: EvaluateConfig, sampler: Literal["paper", "default"] = "default"
    ) -> None:
        self.sampler: Literal["paper", "default"] = sampler
        self.run, self.judged, self.config, self.dataset = run, judge, config, judge.dataset
        self.most = min(config.heldout_rows, max(LEAST_ROWS, ENTRIES // self.dataset.dimension))
        self.heldout = self._own(judge.heldout[drawn(len(judge.heldout), self.most)])
        self.seen: Seen | None = None

    def judge(self, samples: dict[str, Tensor]) -> dict[str, Any]:
        """The entries of evaluation.json, for normalised samples (N, *shape) by the name of their sampler."""
        found: dict[str, Any] = {}
        count = min(len(self.judged.train), self.most, *map(len, samples.values()))
        own = {name: self._own(x[:count]) for name, x in samples.items()}
        self.train = self._own(self.judged.train[drawn(len(self.judged.train), count)])
        facts = {
            "samples": count,
            "train": count,
            "heldout": len(self.heldout),
            "heldout_of": int((self.dataset.split == 2).sum()),
            "seed": self.config.seed,
        }
        if len(self.run.shape) > 1:
            found["fields"] = {**facts, **self._fields(own)}
        else:
            try:
                found["table"] = {**facts, **self._table(own)}
            except ValueError as error:  # too few rows
                found["table"] = {**facts, "figures": [], "left_out": {"table": str(error)}}
        if self.dataset.conditions and self.config.members:
            found["ensemble"] = self._ensemble()
        return found

    def _own(self, x: Tensor) -> Tensor:
        """Normalised samples in the data's own units; entries that no sample has are 0."""
        return self._whole(self.run.normalisation.undo(x))

    def _whole(self, raw: Tensor) -> Tensor:
        """Samples with 0 for entries that no sample of the data has."""
        absent = self.run.normalisation.absent
        return raw if absent is None else raw.masked_fill(absent.to(raw.device), 0.0)

    def _names(self, count: int) -> list[str]:
        """The names of the channels or columns, if the data have as many; else their numbers."""
        for key in ("channels", "columns", "variables"):
            names = self.dataset.about.get(key)
            if isinstance(names, list | tuple) and len(names) == count:
                return [str(name) for name in names]
        return [str(number) for number in range(count)]

    def _fields(self, samples: dict[str, Tensor]) -> dict[str, Any]:
        channels = self._names(self.run.shape[0])
        sets = {**samples, "train": self.train, "heldout": self.heldout}
        found: dict[str, Any] = {"channels": channels, "figures": [], "left_out": {}}
        try:
            found |= self._spectra(sets)
        except ValueError as error:
            found["left_out"]["spectrum"] = str(error)
        else:
            distances = found["spectrum"]["distances"]
            for name in samples:
                found["figures"] += _by_channel("spectrum", name, distances[name], distances["train"], channels)
        distances = {name: _with_mean(one_point_distance(x, self.heldout)) for name, x in sets.items() if name != "heldout"}
        for name in samples:
            found["figures"] += _by_channel("one-point distribution", name, distances[name], distances["train"], channels)
        found["one_point"] = {
            "levels": list(LEVELS),
            "quantiles": {name: quantiles(x) for name, x in sets.items()},
            "histograms": histograms(sets),
        }
        return found

    def _spectra(self, sets: dict[str, Tensor]) -> dict[str, Any]:
        chosen = self.config.window
        window = window_for(self.heldout) if chosen == "auto" else chosen
        spectra = {name: power_spectrum(x, window) for name, x in sets.items()}
        one = spectra["heldout"]
        distances = {name: spectrum_distance(each, one) for name, each in spectra.items() if name != "heldout"}
        return {
            "window": window,
            "window_chosen": chosen,
            "edges": edge_steps(self.heldout),
            "spectrum": {
                "frequency": one.frequency.tolist(),
                "modes": one.modes.tolist(),
                "density": {name: each.density.tolist() for name, each in spectra.items()},
                "counts": {name: each.count for name, each in spectra.items()},
                "used": _used(spectra).tolist(),
                "distances": {name: [each.value, *each.channels] for name, each in distances.items()},
                "bins_used": distances["train"].used,
                "bins": distances["train"].bins,
            },
        }

    def _table(self, samples: dict[str, Tensor]) -> dict[str, Any]:
        train, heldout = self.train.cpu().numpy(), self.heldout.cpu().numpy()
        judge, names = TableJudge(train, heldout), self._names(train.shape[1])
        rows = {name: x.cpu().numpy() for name, x in samples.items()}
        measured = {name: judge.measure(each, self.config.seed) for name, each in {**rows, "train": train}.items()}
        lines = []
        for name in samples:
            for measure, said in TABLE.items():
                value, floor = (getattr(measured[each], measure) for each in (name, "train"))
                if not math.isnan(floor):
                    line: dict[str, Any] = {"sampler": name, "measure": said, "value": value, "floor": floor}
                    lines.append(line if measure != "auc" else {**line, "floor_spread": measured["train"].standard_error})
        clean = list(samples)[-1]
        worst = _worst(measured[clean])
        chosen = [column["column"] for column in measured[clean].columns]
        sets = {name: torch.as_tensor(each[:, worst]) for name, each in {**rows, "train": train, "heldout": heldout}.items()}
        return {
            "columns": names,
            "figures": lines,
            "distances": {name: figures.plain() for name, figures in measured.items()},
            "histograms": {"columns": worst, "sets": histograms(sets, bins=40)},
            "correlations": {
                "columns": chosen,
                "heldout": correlations(heldout[:, chosen]).tolist(),
                "samples": correlations(rows[clean][:, chosen]).tolist(),
            },
        }

    def _ensemble(self) -> dict[str, Any]:
        """Ensembles for the first held-out conditions, with the sampler "clean" (the order of the data is kept, or drawn)."""
        run, config, dataset = self.run, self.config, self.dataset
        x = dataset.part("heldout")[0]
        rows = drawn(len(x), min(config.truths, max(SHOWN, MEMBERS // (config.members * dataset.dimension))))
        truth = self._own(x[rows])
        conditions = {name: values[rows] for name, values in dataset.conditions_of("heldout").items()}
        options = {**samplers_for(run.model, run.shape, self.sampler)["clean"], "guidance": config.guidance}
        how: dict[str, Any] = {**options, "progress": "ensembles"}
        given = Given(run.class_counts, conditions, config.members)
        samples, _ = run.sample(len(rows) * config.members, config.seed, conditions=given, **how)
        members = self._whole(samples).reshape(len(rows), config.members, *run.shape)
        scale = channel_scale(self.heldout)
        found = judge_ensemble(members, truth, scale, config.seed)
        climate = self._own(dataset.samples()[drawn(len(dataset.samples()), CLIMATE)])
        baseline = judge_ensemble(climate.expand(len(truth), *climate.shape), truth, scale, config.seed)
        own = judge_ensemble(members[:, 1:], members[:, 0], scale, config.seed) if config.members > 2 else None
        shown = members[:SHOWN], truth[:SHOWN]
        scores = [judge_ensemble(one[None], y[None], scale).crps for one, y in zip(*shown)]
        self.seen = Seen(shown[1], shown[0], scores, [self._described(conditions, row) for row in range(len(shown[1]))])
        return {
            "members": config.members,
            "conditions": len(rows),
            "heldout_of": len(x),
            "names": list(conditions),
            "seed": config.seed,
            "sampler": options,
            "climatology_members": len(climate),
            "channels": self._names(run.shape[0]),
            "scale": scale.tolist(),
            "figures": ensemble_lines(found, baseline, own),
            "details": {"model": asdict(found), "climatology": asdict(baseline), **({"own": asdict(own)} if own else {})},
        }

    def _described(self, conditions: dict[str, Tensor], row: int) -> str:
        """The small conditions of one truth in the data's own units, such as "wind = 0.3, −1.2"."""
        said = []
        for name, values in conditions.items():
            known = self.dataset.conditions.get(name)
            value = values[row]
            if value.numel() <= 4:
                own = known.normalisation.undo(value) if known and known.spec.kind != "class" else value
                said.append(f"{name} = {', '.join(f'{each:.3g}' for each in own.flatten().tolist())}")
        return "; ".join(said)


def ensemble_lines(found: EnsembleFigures, climate: EnsembleFigures, own: EnsembleFigures | None) -> list[dict[str, Any]]:
    """The lines of the table of an ensemble: value, floor and climatology of every figure."""
    inflation = math.sqrt((found.members + 1) / found.members)
    return [
        {
            "sampler": "clean",
            "measure": measure,
            "value": value,
            "floor": math.nan if floor is None else floor,
            "baseline": baseline,
            "spread": spread,
        }
        for measure, value, floor, baseline, spread in (
            ("CRPS (fair)", found.crps, found.own_floor, climate.crps, found.standard_error),
            ("error of the mean", found.error, inflation * found.spread, climate.error, math.nan),
            ("spread / skill", found.ratio, 1.0, climate.ratio, math.nan),
            ("unevenness of ranks", found.unevenness, own.unevenness if own else None, climate.unevenness, math.nan),
        )
    ]


def _by_channel(
    measure: str, sampler: str, values: list[float], floors: list[float], channels: list[str]
) -> list[dict[str, Any]]:
    """A line for the mean over channels, and one for each channel if there are two to four of them."""
    lines = [{"sampler": sampler, "measure": measure, "value": values[0], "floor": floors[0]}]
    if 1 < len(channels) <= 4:
        each = zip(channels, values[1:], floors[1:])
        lines += [{"sampler": sampler, "measure": f"{measure}: {name}", "value": v, "floor": f} for name, v, f in each]
    return lines


def _with_mean(values: list[float]) -> list[float]:
    return [float(np.mean(values)), *values]


def _used(spectra: dict[str, PowerSpectrum]) -> Tensor:
    """The bins of each channel that the distance of every set uses."""
    least = min(spectra.values(), key=lambda each: each.count)
    return spectra["heldout"].usable() & least.usable()


def _worst(figures: TableFigures) -> list[int]:
    """The numbers of the columns that differ most, in order of the table."""
    return sorted(each["column"] for each in sorted(figures.columns, key=column_distance, reverse=True)[:SHOWN_COLUMNS])
