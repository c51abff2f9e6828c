"""Samples of a table as CSV: names, all digits, classes by name; other samples have none."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from kdiff.report.sample_table import columns_of, write_table


def test_every_value_comes_back_under_its_name(tmp_path: Path) -> None:
    x = torch.tensor([[1 / 3, -2e-7], [5.0, 1e20]])
    data = {"columns": ["a, b", "c"], "label_column": "species", "class_names": ["cat", "dog"]}
    others = {"params": torch.tensor([[1.5, 2], [3, 4]]), "z": torch.tensor([7, 8])}
    write_table(tmp_path / "a.csv", data, x, torch.tensor([1, 0]), others)
    with (tmp_path / "a.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["a, b", "c", "params_0", "params_1", "z", "species"]
    assert torch.equal(torch.tensor([[float(value) for value in row[:2]] for row in rows]), x)
    assert [row[2:] for row in rows] == [["1.5", "2.0", "7", "dog"], ["3.0", "4.0", "8", "cat"]]


def test_only_tables_have_columns() -> None:
    data = {"columns": ["a", "b"]}
    assert columns_of(data, torch.zeros(3, 2)) == ["a", "b"]
    assert (
        columns_of(data, torch.zeros(3, 2, 2)) == columns_of(data, torch.zeros(3, 5)) == columns_of({}, torch.zeros(3, 2)) == []
    )
