"""Tables: Parquet, Arrow and Feather, CSV and TSV. Columns of numbers are the samples, another column is the label.

    a, b, c: numbers                  →   samples (N, 3), in the order of the columns
    image: lists or tensors           →   samples (N, *shape), with key="image"
    species: text, label_key given    →   labels 0, 1, …, in the order of the names

Times and decimals are numbers only if `as_number` names them. Columns that are not used are named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.formats import needed
from kdiff.data.formats.arrow_tables import ColumnSource, ParquetTable, Table, WholeTable
from kdiff.data.formats.arrow_values import arrow, innermost, kind_of, values_of
from kdiff.data.formats.csv_table import CsvOptions, read_csv
from kdiff.data.opened import Array, Opened, Source
from kdiff.files import cache

PARQUET, ARROW, CSV = (".parquet", ".pq"), (".arrow", ".feather", ".ipc"), (".csv", ".tsv", ".csv.gz", ".tsv.gz")
TABLE_ENDINGS = (*PARQUET, *ARROW, *CSV)
HIDDEN = ("", "__index_level_0__")  # the index that pandas writes
SHOWN = 8

Names = str | Sequence[str]


def open_columns(
    path: str | Path,
    columns: Names | None = None,
    labels: str | bool | None = None,
    condition: Names | Mapping[str, str] | None = None,
    key: Names | None = None,
    label_key: str | None = None,
    as_number: Names = (),
    delimiter: str | None = None,
    decimal: str = ".",
    thousands: str | None = None,
    header: bool | None = None,
    skip: int = 0,
    na: Names = (),
    encoding: str = "utf8",
) -> Opened:
    """The table in a file, or in a folder of Parquet files with the same columns.

    `columns` (also called `key`) names the columns of the samples. By default they are all columns of numbers that are neither
    label nor condition. Columns of numbers make vectors (N, D). One column of lists or tensors makes (N, *shape); a list of
    such columns of one shape makes (N, columns, *shape). `labels` (also called `label_key`) names a column of text or of whole
    numbers; False says that there is none. `condition` names further columns, each a condition; a mapping gives the kinds.
    `as_number` names columns of decimals and times that are taken as numbers (times in seconds). The other options are for CSV
    only, and `CsvOptions` describes them.

    Raises FileNotFoundError for a missing file. Raises ValueError for another ending, a damaged file, columns that are missing,
    ambiguous or no numbers, labels that are missing in rows, and lists of different lengths.
    """
    path = Path(path).expanduser()
    csv = CsvOptions(delimiter, decimal, thousands, header, skip, na, encoding)
    table = _table(path, csv)
    files = _parquet_files(path) if path.is_dir() else [path]
    chosen = _one(path, "columns", columns, "key", key), _one(path, "labels", labels, "label_key", label_key)
    stamps = [cache.stamp(file) for file in files]
    return open_table(str(path), table, *chosen, condition, as_number, ("table", stamps, csv, as_number))


def _one(path: Path, first: str, value: Any, second: str, other: Any) -> Any:
    if value is not None and other is not None and value != other:
        raise ValueError(
            f"{path}: {first} and {second} mean the same, and are given as {value!r} and {other!r}; give one of them"
        )
    return other if value is None else value


def _table(path: Path, csv: CsvOptions) -> Table:
    if not path.exists():
        raise FileNotFoundError(f"no table at {path}; expected a file ending in {', '.join(TABLE_ENDINGS)}")
    name = path.name.lower()
    if csv != CsvOptions() and not name.endswith(CSV):
        given = [field.name for field in fields(csv) if getattr(csv, field.name) != field.default]
        raise ValueError(f"{path}: {', '.join(given)} is for CSV files; leave it out")
    if path.is_dir():
        return ParquetTable(path, _parquet_files(path))
    if not name.endswith(TABLE_ENDINGS):
        raise ValueError(f"{path}: cannot read a table from this file; expected an ending of {', '.join(TABLE_ENDINGS)}")
    if name.endswith(PARQUET):
        return ParquetTable(path, [path])
    return WholeTable(read_csv(path, csv) if name.endswith(CSV) else read_arrow(path))


def _parquet_files(path: Path) -> list[Path]:
    """The Parquet files below a folder by name, without those that Spark hides."""
    files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in PARQUET and file.is_file()]
    files = [file for file in files if not any(part[0] in "._" for part in file.relative_to(path).parts)]
    if not files:
        raise ValueError(f"{path} holds no Parquet files; expected files ending in {', '.join(PARQUET)}")
    return files


def read_arrow(path: Path) -> Any:
    """The table in an Arrow file (Feather too) or stream, mapped into memory where it is not compressed."""
    package = needed("pyarrow.ipc", f"{path} (Arrow)")
    try:
        source = arrow().memory_map(str(path))
        if source.read(6) == b"FEA1":
            raise ValueError("it is Feather of version 1; save it again as version 2 (pyarrow.feather.write_feather)")
        source.seek(0)
        file = source.read(6) == b"ARROW1"
        source.seek(0)
        return (package.open_file(source) if file else package.open_stream(source)).read_all()
    except (OSError, arrow().ArrowException, ValueError) as error:
        raise ValueError(
            f"{path}: cannot be read as Arrow: the file is damaged, cut off or of another format ({str(error).strip()})"
        ) from error


def open_table(
    name: str,
    table: Table,
    columns: Names | None,
    labels: str | bool | None,
    condition: Names | Mapping[str, str] | None,
    as_number: Names,
    identity: object,
    samples: Source | None = None,
) -> Opened:
    """Samples, labels and conditions of a table, as `open_columns` describes; `name` is for messages.

    `samples` is the source of the samples, if they are of a column that is no array of numbers, such as images.
    """
    reader = _Reader(name, table, [as_number] if isinstance(as_number, str) else list(as_number), identity)
    label = None if labels is None or isinstance(labels, bool) else labels
    wanted = {} if condition is None else condition
    kinds = dict(wanted) if isinstance(wanted, Mapping) else {}
    conditions = [wanted] if isinstance(wanted, str) else list(wanted)
    for one in [*conditions, *([label] if label else [])]:
        reader.check(one)
    if samples is None:
        chosen, stacked = reader.choose(columns, [*conditions, *([label] if label else [])])
        samples = ColumnSource(name, table, chosen, stacked, identity)
    else:
        chosen = [str(columns)]
    opened = Opened(samples, about={"columns": chosen, **({"label_column": label} if label else {})})
    if label:
        opened.y, opened.classes = reader.classes(label)
    given: dict[str, Source] = {}
    for one in conditions:
        if kinds.get(one) == "class" or reader.kind(one) == "text":
            given[one], names = reader.classes(one)
            kinds[one] = "class"
            if names:
                opened.about = {**opened.about, "condition_classes": {**opened.about.get("condition_classes", {}), one: names}}
        else:
            given[one] = ColumnSource(name, table, [one], reader.kind(one) != "array", identity)
    opened.conditions, opened.kinds = given, kinds
    reader.remark(opened, [*chosen, *conditions, *([label] if label else [])], chosen, labels)
    return opened


class _Reader:
    """What the columns of a table can be used for."""

    def __init__(self, name: str, table: Table, as_number: Sequence[str], identity: object) -> None:
        self.name, self.table, self.as_number, self.identity = name, table, as_number, identity
        self.names: list[str] = list(table.schema.names)
        if not len(table):
            raise ValueError(f"{name}: the table has the columns {self.listing()} and no rows; expected a sample in each row")
        if twice := sorted({one for one in self.names if self.names.count(one) > 1}):
            raise ValueError(f"{name}: the column {twice[0]!r} is there twice; rename one of the two")
        for one in as_number:
            self.check(one)

    def listing(self) -> str:
        shown = [f"{field.name!r} ({_shown(field.type)})" for field in list(self.table.schema)[: 2 * SHOWN]]
        more = [f"and {len(self.names) - len(shown)} more"] if len(self.names) > len(shown) else []
        return ", ".join([*shown, *more]) or "none"

    def check(self, column: str) -> None:
        """Raise ValueError if there is no such column."""
        if column not in self.names:
            raise ValueError(f"{self.name}: no column {column!r}; the table has {self.listing()}")

    def kind(self, column: str) -> str:
        """`kind_of` the column, after `as_number`."""
        found = kind_of(self.table.schema.field(column).type)
        return "number" if found == "time" and column in self.as_number else found

    def choose(self, columns: Names | None, others: Sequence[str]) -> tuple[list[str], bool]:
        """The columns of the samples, and whether they are stacked."""
        if columns is not None:
            chosen = [columns] if isinstance(columns, str) else list(columns)
            if not chosen or len(set(chosen)) < len(chosen):
                raise ValueError(f"{self.name}: columns is {chosen}; expected different names of columns, at least one")
            for one in chosen:
                self.check(one)
                self._check_numbers(one)
            arrays = [self.kind(one) == "array" for one in chosen]
            if any(arrays) and not all(arrays):
                raise ValueError(
                    f"{self.name}: the columns {', '.join(chosen)} hold numbers and arrays; name only one of the two kinds"
                )
            return chosen, not (arrays[0] and isinstance(columns, str))
        free = [one for one in self.names if one not in others and one not in HIDDEN]
        numbers = [one for one in free if self.kind(one) == "number"]
        arrays_there = [one for one in free if self.kind(one) == "array"]
        if numbers and arrays_there:
            raise ValueError(
                f"{self.name}: the table has numbers ({_few(numbers)}) and arrays ({_few(arrays_there)}); give "
                f"key={arrays_there[0]!r} or columns={numbers[:SHOWN]!r}"
            )
        if len(arrays_there) > 1:
            raise ValueError(f"{self.name}: the table has the arrays {_few(arrays_there)}; give key={arrays_there[0]!r}")
        if not numbers and not arrays_there:
            raise ValueError(f"{self.name}: no column of numbers is left for the samples; the table has {self.listing()}")
        return (numbers, True) if numbers else (arrays_there, False)

    def _check_numbers(self, column: str) -> None:
        kind, type_ = self.kind(column), self.table.schema.field(column).type
        if kind == "time":
            raise ValueError(
                f"{self.name}: the column {column!r} is {type_}, no plain number; give as_number=[{column!r}] to take it as "
                "float64 (times in seconds since 1970)"
            )
        if kind not in ("number", "array"):
            advice = f"; give label_key={column!r} if it holds classes" if kind == "text" else ""
            raise ValueError(f"{self.name}: the column {column!r} is {type_}, and samples are numbers{advice}")

    def classes(self, column: str) -> tuple[Array, list[str] | None]:
        """The labels in a column, and the names of the classes in their order, if they have names."""
        values = self.table.column(column)
        type_ = values.type
        if missing := values.null_count:
            raise ValueError(
                f"{self.name}: {missing} of {len(values)} rows have no label in {column!r}; remove these rows, or label them"
            )
        where = f"{self.name}: {column}"
        if self.kind(column) == "text":
            texts = values.to_pylist()
            names = sorted(set(texts))
            if all(re.fullmatch(r"\d+", one) for one in names):
                names.sort(key=int)  # 1, 2, 10
            number = {one: index for index, one in enumerate(names)}
            return Array(where, np.array([number[one] for one in texts], np.int64), (self.identity, column)), names
        types = arrow().types
        if types.is_boolean(type_):
            return Array(where, values_of(where, values, np.dtype("int64")), (self.identity, column)), ["false", "true"]
        if not types.is_integer(innermost(type_)) or self.kind(column) != "number":
            raise ValueError(f"{where} is {type_}; labels are text or whole numbers, so name another column, or convert it")
        return Array(where, values_of(where, values, np.dtype("int64")), (self.identity, column)), None

    def remark(self, opened: Opened, used: Sequence[str], samples: Sequence[str], labels: str | bool | None) -> None:
        """Say what is cast, numbered or left out."""
        types, schema = arrow().types, self.table.schema
        remarks = opened.remarks
        cast = [one for one in samples if types.is_boolean(innermost(schema.field(one).type))]
        if cast:
            remarks.append(f"{self.name}: the columns {_few(cast)} are true or false, and become 1 and 0")
        if times := [one for one in used if kind_of(schema.field(one).type) == "time" and one in self.as_number]:
            remarks.append(f"{self.name}: the columns {_few(times)} become float64; times are in seconds")
        if opened.classes:
            numbered = _few([f"{index} {name}" for index, name in enumerate(opened.classes)])
            remarks.append(f"{self.name}: the classes of {opened.about['label_column']} are numbered by name: {numbered}")
        left = [one for one in self.names if one not in used]
        if not left:
            return
        texts = [one for one in left if self.kind(one) == "text"] if labels is None else []
        timed = [one for one in left if self.kind(one) == "time"]
        advice = [f"label_key={texts[0]!r} if it holds classes"] if texts else []
        advice += [f"as_number=[{timed[0]!r}] to take it as a number"] if timed else []
        rest = f"; give {', or '.join(advice)}" if advice else ""
        listed = _few([f"{one or repr('')} ({_shown(schema.field(one).type)})" for one in left])
        remarks.append(f"{self.name}: the columns {listed} are not used{rest}")


def _shown(type_: Any) -> str:
    """A type in messages; an extension of another package has no readable name, so it is shown as it is stored."""
    return str(type_.storage_type if isinstance(type_, arrow().ExtensionType) else type_)


def _few(items: Sequence[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")
