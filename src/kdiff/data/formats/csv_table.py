"""CSV and TSV as a table: what the file cannot say itself is asked for, and numbers that look like text are refused.

A file without a header, with other separators, decimal commas, separators of thousands or its own marks of missing values
is refused with the option that reads it. Numbers are never left out in silence because one of them is written oddly.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiff.data.formats import needed
from kdiff.data.formats.arrow_values import arrow

NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
THOUSANDS = re.compile(r"\s*[-+]?\d{1,3}(,\d{3})+(\.\d*)?\s*")
DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+\s*")
SHARE = 0.5  # of the different entries of a column that are numbers, from which it is a column of numbers
SHOWN = 5
MOST = 2**31 - 2  # bytes of a file in which the types of columns are found from all rows


@dataclass(frozen=True)
class CsvOptions:
    """How a CSV file is written.

    - `delimiter`: between the columns; by default a comma, in .tsv files a tab.
    - `decimal`: "." or ",".
    - `thousands`: the separator of thousands, if numbers have one.
    - `header`: whether the first line has the names of the columns; without it they are c0, c1, …
    - `skip`: lines before that.
    - `na`: further texts that mean "missing", besides an empty cell, NA, N/A, NaN and null.
    - `encoding`: such as latin-1 or utf-16.
    """

    delimiter: str | None = None
    decimal: str = "."
    thousands: str | None = None
    header: bool | None = None
    skip: int = 0
    na: Sequence[str] = ()
    encoding: str = "utf8"


def read_csv(path: Path, options: CsvOptions) -> Any:
    """The table of Arrow in a CSV file, which is read as a whole.

    Raises ValueError for a file that is empty or damaged, and for one that needs options that are not given.
    """
    csv = needed("pyarrow.csv", f"{path} (CSV)")
    delimiter = options.delimiter or ("\t" if ".tsv" in path.name.lower() else ",")
    lines = _first_lines(path, options)
    first = lines[0] if lines else ""
    _check_delimiter(path, first, delimiter)
    header = _has_header(path, first, delimiter, options)
    try:
        with arrow().input_stream(str(path), compression="detect") as stream:
            table = csv.read_csv(
                stream,
                csv.ReadOptions(
                    block_size=min(MOST, max(2**20, 8 * path.stat().st_size)),  # types are found from the first block
                    encoding=options.encoding,
                    skip_rows=options.skip,
                    autogenerate_column_names=not header,
                ),
                csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                csv.ConvertOptions(
                    decimal_point=options.decimal,
                    null_values=[*csv.ConvertOptions().null_values, *_texts(options.na)],
                    check_utf8=True,
                ),
            )
    except (OSError, arrow().ArrowException, UnicodeError, LookupError) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({_line(error)}); {_advice(error)}") from error
    if not header:
        table = table.rename_columns([f"c{i}" for i in range(table.num_columns)])
    for index, name in enumerate(table.column_names):
        table = table.set_column(index, name, _as_numbers(path, name, table.column(index), options))
    return table


def _texts(values: Sequence[str]) -> list[str]:
    return [values] if isinstance(values, str) else [str(value) for value in values]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _advice(error: Exception) -> str:
    text = str(error)
    if "UTF8" in text or "utf" in text or isinstance(error, UnicodeError):
        return "give its encoding, such as encoding='latin-1' or encoding='utf-16'"
    if "Expected" in text and "columns" in text:
        return (
            "every row must have as many cells as the header: give skip=NUMBER for lines before the header, or delimiter=… if "
            "the cells are separated otherwise"
        )
    if "conversion" in text:
        return "give na=['…'] for texts that mean a missing value, or write numbers in one way"
    return "expected lines of cells, the first with the names of the columns"


def _first_lines(path: Path, options: CsvOptions) -> list[str]:
    """The first two lines after those that are skipped. Raises ValueError for an encoding that needs to be given."""
    try:
        with arrow().input_stream(str(path), compression="detect") as stream:
            start = stream.read(2**20)
    except (OSError, arrow().ArrowException) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({_line(error)})") from error
    utf8 = options.encoding.lower().replace("-", "") == "utf8"
    if utf8 and start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path}: the file begins like UTF-16, and CSV is read as UTF-8; give encoding='utf-16'")
    try:
        text = codecs.getincrementaldecoder("utf-8-sig" if utf8 else options.encoding)().decode(start)
    except (UnicodeError, LookupError) as error:
        raise ValueError(f"{path}: is no text in {options.encoding} ({error}); {_advice(UnicodeError())}") from None
    return io.StringIO(text).read().splitlines()[options.skip : options.skip + 2]


def _check_delimiter(path: Path, first: str, delimiter: str) -> None:
    if delimiter in first:
        return
    for other, name in ((";", "';'"), ("\t", "'\\t'"), ("|", "'|'"), (",", "','")):
        if other in first:
            comma = " and decimal=',' if numbers have a decimal comma" if other == ";" else ""
            raise ValueError(
                f"{path}: the first line has no {delimiter!r} between cells, but {first.count(other)} times {name}: "
                f"{first[:60]!r}; give delimiter={name}{comma}"
            )


def _has_header(path: Path, first: str, delimiter: str, options: CsvOptions) -> bool:
    """Whether the first line has names, as the option says or as it looks. Raises ValueError for names that are numbers."""
    if options.header is not None:
        return options.header
    cells = [cell.strip().strip('"') for cell in first.split(delimiter)]
    if first.startswith("#"):
        raise ValueError(
            f"{path}: the first line begins with '#': {first[:60]!r}; give skip=1 to leave it out, or header=True if it "
            "holds the names of the columns"
        )
    if cells and any(NUMBER.fullmatch(cell) for cell in cells):
        raise ValueError(
            f"{path}: the first line holds numbers where names of columns are expected: {first[:60]!r}; give header=False if "
            "the file has no names, or header=True if these are names"
        )
    return True


def _as_numbers(path: Path, name: str, column: Any, options: CsvOptions) -> Any:
    """The column; as numbers if it holds numbers with separators of thousands. Raises ValueError for numbers among texts."""
    if column.type != arrow().string():
        return column
    distinct = [text for text in column.unique().to_pylist() if text is not None]
    if options.thousands:
        plain = [text.replace(options.thousands, "").replace(options.decimal, ".") for text in distinct]
        if distinct and all(NUMBER.fullmatch(text) for text in plain):
            value = dict(zip(distinct, map(float, plain)))
            return arrow().array([None if one is None else value[one] for one in column.to_pylist()], arrow().float64())
    for form, kind, advice in (
        (THOUSANDS, "with separators of thousands", "thousands=','"),
        (DECIMAL_COMMA, "with decimal commas", "decimal=','"),
    ):
        odd = [text for text in distinct if form.fullmatch(text)]
        if odd and all(form.fullmatch(text) or NUMBER.fullmatch(text) for text in distinct):
            raise ValueError(f"{path}: the column {name!r} holds numbers {kind}, such as {odd[0]!r}; give {advice}")
    others = [text for text in distinct if not NUMBER.fullmatch(text)]
    if others and len(others) < SHARE * len(distinct):
        listed = ", ".join(map(repr, others[:SHOWN])) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
        raise ValueError(
            f"{path}: the column {name!r} holds numbers and texts: {listed}; give na={others[:SHOWN]!r} if they mean that a "
            "value is missing, or correct them"
        )
    return column
