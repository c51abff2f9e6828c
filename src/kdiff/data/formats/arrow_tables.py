"""Tables that are read by rows: in memory, mapped from Arrow files, or in the row groups of Parquet files.

A Parquet file keeps its rows in groups. A row group is the least that can be read, so the last few are kept in memory, and
`block` says how many rows a group holds.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data.formats import needed
from kdiff.data.formats.arrow_values import arrow, dtype_of, leaves, values_of
from kdiff.data.opened import Source

KEPT_BYTES = 2**26  # of row groups that were read


class Table(ABC):
    """Rows of named columns. `schema` is Arrow's, and `block` says how many rows are stored together."""

    schema: Any
    block: int = 1

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, rows: np.ndarray, columns: Sequence[str]) -> Any:
        """These rows (int64 (n,), in any order) of these columns, as a table of Arrow."""

    @abstractmethod
    def missing(self, column: str) -> bool:
        """Whether entries of this column are missing, or may be."""

    def column(self, name: str) -> Any:
        """A whole column, as a chunked array of Arrow."""
        return self.take(np.arange(len(self)), [name])[name]


class WholeTable(Table):
    """A table of Arrow in memory, or mapped from a file."""

    def __init__(self, table: Any) -> None:
        self.table, self.schema = table, table.schema

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> Any:
        """These rows of these columns."""
        chosen = self.table.select(list(columns))
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            return chosen.slice(int(rows[0]), len(rows))  # nothing is copied
        return chosen.take(arrow().array(rows))

    def missing(self, column: str) -> bool:
        """Whether entries are missing, also those inside lists."""
        return any(_has_nulls(chunk) for chunk in self.table[column].chunks)


def _has_nulls(array: Any) -> bool:
    """Whether entries of an array, or of the lists in it, are missing."""
    types = arrow().types
    if isinstance(array.type, arrow().BaseExtensionType):
        return _has_nulls(array.storage)
    if array.null_count:
        return True
    if types.is_dictionary(array.type):
        return bool(array.dictionary.null_count)
    nested = types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type)
    return nested and _has_nulls(array.flatten())


class ParquetTable(Table):
    """The row groups of one or more Parquet files, in the order of the files' names.

    Folders named like year=2024 become a column, as Hive, Spark and pandas write them.
    Raises ValueError for files that are damaged, and for files with different columns.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        parquet = needed("pyarrow.dataset", f"{path} (Parquet)")
        self.path = path
        base = str(path) if path.is_dir() else str(path.parent)
        names = [str(file) for file in files]
        try:
            dataset = parquet.dataset(names, format="parquet", partitioning="hive", partition_base_dir=base)
            self.schema, fragments = dataset.schema, sorted(dataset.get_fragments(), key=lambda one: str(one.path))
            self._check_columns(fragments)
            self.groups = [group for one in fragments for group in one.split_by_row_group()]
        except (OSError, arrow().ArrowException) as error:
            raise ValueError(
                f"{path}: cannot be read as Parquet: the file is damaged, cut off or of another format ({error})"
            ) from error
        self.sizes = np.array([group.row_groups[0].num_rows for group in self.groups], np.int64)
        self.ends = np.cumsum(self.sizes)
        self.block = max(1, int(self.sizes.max(initial=1)))
        self._kept: OrderedDict[tuple[int, tuple[str, ...]], Any] = OrderedDict()
        self._lock = threading.Lock()

    def _check_columns(self, fragments: Sequence[Any]) -> None:
        for one in fragments[1:]:
            first, other = fragments[0].physical_schema, one.physical_schema
            if first.equals(other):
                continue
            differ = Counter([(field.name, str(field.type)) for field in first])
            differ.subtract([(field.name, str(field.type)) for field in other])
            listed = ", ".join(sorted({f"{name} ({type_})" for (name, type_), count in differ.items() if count}))
            raise ValueError(
                f"{self.path}: {one.path} and {fragments[0].path} have different columns: {listed or 'their order'}; a folder "
                "holds one table, so name one of the files, or save them with the same columns"
            )

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> Any:
        """These rows of these columns. Each row group is read once, in order."""
        if not len(rows):
            return self._group(0, tuple(columns)).slice(0, 0)
        groups = np.searchsorted(self.ends, rows, side="right")
        order = np.argsort(groups, kind="stable")
        used, begins = np.unique(groups[order], return_index=True)
        parts = []
        for index, places in zip(used.tolist(), np.split(order, begins[1:])):
            with self._lock:  # threads read ahead, and each would read the group
                group = WholeTable(self._group(index, tuple(columns)))
            parts.append(group.take(rows[places] - (self.ends[index] - self.sizes[index]), columns))
        table = arrow().concat_tables(parts)
        if (np.diff(order) == 1).all():
            return table
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return table.take(arrow().array(back))

    def _group(self, index: int, columns: tuple[str, ...]) -> Any:
        """A row group, from memory if it was read lately."""
        key = (index, columns)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        try:
            found = self.groups[index].to_table(schema=self.schema, columns=list(columns)).combine_chunks()
        except (OSError, arrow().ArrowException) as error:
            raise ValueError(f"{self.groups[index].path}: row group {index} cannot be read: {error}") from error
        self._kept[key] = found
        while len(self._kept) > 1 and sum(table.nbytes for table in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return found

    def missing(self, column: str) -> bool:
        """Whether the statistics of the row groups count missing entries, or do not say."""
        physical = {field.name: leaves(field.type) for field in self.groups[0].physical_schema} if self.groups else {}
        if column not in physical:  # from the name of a folder
            return False
        first = sum(list(physical.values())[: list(physical).index(column)])
        for group in self.groups:
            stored = group.metadata.row_group(group.row_groups[0].id)
            for leaf in range(first, first + physical[column]):
                statistics = stored.column(leaf).statistics
                if statistics is None or not statistics.has_null_count or statistics.null_count:
                    return True
        return False


class ColumnSource(Source):
    """Columns of a table as rows (n, columns) or (n, columns, *shape); one column, if it is not stacked, as (n, *shape)."""

    def __init__(self, name: str, table: Table, columns: Sequence[str], stacked: bool, identity: object) -> None:
        self.name, self.table, self.columns, self.stacked = name, table, list(columns), stacked
        self.identity = (identity, self.columns, stacked)
        self.block = table.block
        types = [dtype_of(table.schema.field(column).type, table.missing(column)) for column in columns]
        self.dtype = np.result_type(*types)
        first = self.read(np.arange(min(1, len(table))))
        self.shape = (len(table), *first.shape[1:])

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows, in a new array."""
        found = self.table.take(rows, self.columns)
        parts = [values_of(f"{self.name}: {column}", found[column], self.dtype) for column in self.columns]
        shapes = sorted({part.shape[1:] for part in parts})
        if len(shapes) > 1:
            raise ValueError(
                f"{self.name}: the columns {', '.join(self.columns)} have different shapes ({', '.join(map(str, shapes))}); "
                "name columns of one shape with key=[…]"
            )
        values = np.stack(parts, 1) if self.stacked else parts[0]
        expected = getattr(self, "shape", None)
        if expected and values.shape[1:] != expected[1:]:
            raise ValueError(
                f"{self.name}: the lists of {', '.join(self.columns)} have different lengths: shape {values.shape[1:]} in row "
                f"{int(rows[0])}, {expected[1:]} in the first one; pad or cut the lists, and save them again"
            )
        return np.array(values, self.dtype, order="C")
