"""Tables: samples (N, D) compared with data column by column, pair by pair, and as a whole.

    wasserstein    of a column of numbers: ∫ |Q_a − Q_b| dp / σ_b (`kdiff.evaluation.one_point`)
    ks             of a column of numbers: max |F_a − F_b| (Kolmogorov and Smirnov)
    categories     of a column of categories: total variation ½ Σ_c |p_a(c) − p_b(c)|
    correlation    of two columns: |ρ_a − ρ_b|, Pearson's ρ
    pair           of two columns: total variation of their joint distribution in cells between quantiles of the data
    auc            of the table: a classifier learns to tell samples from data (Lopez-Paz and Oquab, 2017, arXiv:1610.06545);
                   area under its ROC curve on rows that it has not seen: ½ cannot tell, 1 tells every pair

The distances of columns and pairs are means over all columns or pairs; the worst are named. All but `wasserstein` and
`correlation` stay the same if a column is transformed by any increasing map.

A column is one of categories if the training data have at most `CATEGORIES` different values in it. A generated value counts
as the nearest of these values, for the classifier too. Missing values (NaN) are left out of columns, and rows with them out of
pairs; the classifier takes them as they are.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from kdiff.evaluation.one_point import wasserstein

CATEGORIES = 10
COLUMNS = 200  # of more columns, this many are drawn at random, with a fixed seed
PAIRS = 2000  # of more pairs of columns, this many are drawn at random, with a fixed seed
CELL = 30  # rows that a cell of a pair's histogram has on average, at least
MOST_CELLS = 10  # along a column
FOLDS = 5
TREES: dict[str, Any] = {"max_iter": 50, "max_leaf_nodes": 8, "learning_rate": 0.05, "early_stopping": False}


@dataclass(frozen=True)
class TableFigures:
    """Distances of a set of rows from the data: means over columns and pairs, and those of every column.

    A mean is NaN if there is no such column or pair. `worst` is the largest distance of a column (KS or of categories), and
    `worst_joint` that of a pair's joint distribution. `worst_pair` holds two column numbers, or nothing without pairs.
    `columns` has for each column its number, its kind ("number" or "category") and its distances. `standard_error` is
    that of the AUC of two equal laws (`auc_error`); an AUC within twice of it from ½ shows nothing.
    """

    wasserstein: float
    ks: float
    categories: float
    correlation: float
    pair: float
    auc: float
    standard_error: float
    worst: float
    worst_column: int
    worst_joint: float
    worst_pair: list[int]
    columns: list[dict[str, Any]]
    rows: int
    pairs: int

    def plain(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return asdict(self)


class TableJudge:
    """Compares rows with held-out data. What a category is, and the cells of pairs, the training data decide.

    Args:
        train: training rows, (N, D).
        heldout: held-out rows, (M, D).
        classify: whether to train the classifier.

    Raises:
        ValueError: not two tables with as many columns, or fewer than 10 held-out rows.
    """

    def __init__(self, train: np.ndarray, heldout: np.ndarray, classify: bool = True) -> None:
        if train.ndim != 2 or heldout.ndim != 2 or train.shape[1] != heldout.shape[1]:
            raise ValueError(f"the tables have shapes {train.shape} and {heldout.shape}; expected rows of as many columns")
        if len(heldout) < 10:
            raise ValueError(f"{len(heldout)} rows are held out; expected at least 10")
        self.width, self.classify = train.shape[1], classify
        self.chosen = np.sort(np.random.default_rng(0).permutation(self.width)[:COLUMNS])
        self.train, self.heldout = (each[:, self.chosen].astype(np.float64) for each in (train, heldout))
        distinct = [np.unique(column[~np.isnan(column)]) for column in self.train.T]
        self.values = [each if len(each) <= CATEGORIES else None for each in distinct]
        along = int(np.clip(math.sqrt(len(heldout) / CELL), 2, MOST_CELLS))
        inner = np.linspace(0, 1, along + 1)[1:-1]
        self.edges = [
            (values[1:] + values[:-1]) / 2 if values is not None else np.unique(np.nanquantile(column, inner))
            for column, values in zip(self.train.T, self.values)
        ]
        pairs = np.array([(i, j) for i in range(len(self.chosen)) for j in range(i)], dtype=np.int64).reshape(-1, 2)
        if len(pairs) > PAIRS:
            pairs = pairs[np.sort(np.random.default_rng(0).permutation(len(pairs))[:PAIRS])]
        self.pairs = pairs
        self._there = self._binned(self.heldout)
        self._correlation = correlations(self.heldout)

    def measure(self, rows: np.ndarray, seed: int = 0) -> TableFigures:
        """The distances of rows (N, D) from the held-out rows; `seed` is that of the classifier's folds.

        Raises ValueError for another number of columns, or fewer than 10 rows.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width or len(rows) < 10:
            raise ValueError(f"the rows have shape {rows.shape}; expected at least 10 rows of {self.width} columns")
        rows = rows[:, self.chosen].astype(np.float64)
        binned = self._binned(rows)
        columns = [self._column(j, rows[:, j], binned[:, j]) for j in range(rows.shape[1])]
        correlation = np.abs(correlations(rows) - self._correlation)[self.pairs[:, 0], self.pairs[:, 1]]
        joint = np.array([self._joint(binned, i, j) for i, j in self.pairs])
        worst = max(columns, key=column_distance)
        auc = classifier_auc(self._nearest(rows, binned), self.heldout, seed) if self.classify else math.nan
        return TableFigures(
            wasserstein=_mean([column["wasserstein"] for column in columns if column["kind"] == "number"]),
            ks=_mean([column["ks"] for column in columns if column["kind"] == "number"]),
            categories=_mean([column["categories"] for column in columns if column["kind"] == "category"]),
            correlation=_mean(correlation[~np.isnan(correlation)]),
            pair=_mean(joint),
            auc=auc,
            standard_error=auc_error(min(len(rows), len(self.heldout))),
            worst=column_distance(worst),
            worst_column=worst["column"],
            worst_joint=float(joint.max()) if len(joint) else math.nan,
            worst_pair=self.chosen[self.pairs[int(joint.argmax())]].tolist() if len(joint) else [],
            columns=columns,
            rows=len(rows),
            pairs=len(joint),
        )

    def _column(self, j: int, values: np.ndarray, binned: np.ndarray) -> dict[str, Any]:
        if (known := self.values[j]) is not None:
            ours, theirs = (_shares(each[each >= 0], len(known)) for each in (binned, self._there[:, j]))
            return {"column": int(self.chosen[j]), "kind": "category", "categories": float(np.abs(ours - theirs).sum() / 2)}
        values, data = values[~np.isnan(values)], self.heldout[:, j][~np.isnan(self.heldout[:, j])]
        distances = {"wasserstein": math.nan, "ks": math.nan}
        if len(values) and len(data):
            # The p-value is not used; the exact one would take long.
            distances = {
                "wasserstein": wasserstein(values, data),
                "ks": float(ks_2samp(values, data, method="asymp").statistic),
            }
        return {"column": int(self.chosen[j]), "kind": "number", **distances}

    def _nearest(self, rows: np.ndarray, binned: np.ndarray) -> np.ndarray:
        """The rows with the nearest known value in columns of categories."""
        nearest = [
            column if values is None else np.where(cells >= 0, values[cells], np.nan)
            for column, values, cells in zip(rows.T, self.values, binned.T)
        ]
        return np.stack(nearest, axis=1)

    def _binned(self, rows: np.ndarray) -> np.ndarray:
        """The cell of every entry along its column, −1 where it is missing."""
        cells = [np.searchsorted(edges, column, side="right") for edges, column in zip(self.edges, rows.T)]
        return np.where(np.isnan(rows), -1, np.stack(cells, axis=1))

    def _joint(self, binned: np.ndarray, i: int, j: int) -> float:
        """Total variation of the joint distribution of two columns."""
        across = len(self.edges[j]) + 1
        found = []
        for cells in (binned, self._there):
            pair = cells[(cells[:, i] >= 0) & (cells[:, j] >= 0)]
            found.append(_shares(pair[:, i] * across + pair[:, j], (len(self.edges[i]) + 1) * across))
        return float(np.abs(found[0] - found[1]).sum() / 2)


def column_distance(column: dict[str, Any]) -> float:
    """The distance of a column's distribution, from 0 to 1: KS or that of categories; −1 if all its values are missing."""
    distance = float(column["ks"] if "ks" in column else column["categories"])
    return -1.0 if math.isnan(distance) else distance


def correlations(rows: np.ndarray) -> np.ndarray:
    """Pearson's correlation of every pair of columns, (D, D), over the rows where both are present; NaN if one is constant."""
    there = (~np.isnan(rows)).astype(np.float64)
    count = there.sum(axis=0)
    x = np.nan_to_num(rows - np.nan_to_num(rows).sum(axis=0) / np.maximum(count, 1))
    both = there.T @ there
    with np.errstate(invalid="ignore", divide="ignore"):
        means, squares = x.T @ there / both, (x**2).T @ there / both  # of one column, over the rows where the other is present
        variance = squares - means**2
        deviation = np.sqrt(np.where(variance > 1e-12 * squares, variance, np.nan))
        return (x.T @ x / both - means * means.T) / (deviation * deviation.T)


def classifier_auc(rows: np.ndarray, data: np.ndarray, seed: int = 0) -> float:
    """The mean area under the ROC curve of classifiers that tell rows from data: each fifth is judged by the other four.

    Rows of both sets count equally often: of the larger set, as many as of the smaller one are drawn. Rows that are in both
    sets lower the figure, even below ½: the twin of a row that is judged has the other label.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    size = min(len(rows), len(data))
    generator = np.random.default_rng(seed)
    ours, theirs = (each[generator.permutation(len(each))[:size]] for each in (rows, data))
    x, y = np.concatenate([ours, theirs]), np.repeat([1, 0], size)
    found = []
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y):
        classifier = HistGradientBoostingClassifier(**TREES, random_state=seed)
        found.append(roc_auc_score(y[test], classifier.fit(x[train], y[train]).predict_proba(x[test])[:, 1]))
    return float(np.mean(found))


def auc_error(rows: int) -> float:
    """The standard deviation of `classifier_auc` for two sets of this many rows of the same law.

    The AUC of s random scores of each kind has the variance (2s + 1) / (12 s²) (Mann and Whitney, 1947). The folds share their
    training rows, so the variance of their mean is not a fifth of this, but 1/5 + 1/4 of it (Nadeau and Bengio, 2003).
    """
    size = rows / FOLDS
    return math.sqrt((1 / FOLDS + 1 / (FOLDS - 1)) * (2 * size + 1) / 12) / size


def _shares(cells: np.ndarray, count: int) -> np.ndarray:
    """The share of each of `count` cells."""
    return np.bincount(cells, minlength=count) / max(1, len(cells))


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else math.nan
