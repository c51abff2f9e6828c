"""Tables: the same numbers from Parquet, Arrow and CSV; what is missing, text or ambiguous is said or refused."""

from __future__ import annotations

import datetime
import decimal
import warnings
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
csv = pytest.importorskip("pyarrow.csv")
feather = pytest.importorskip("pyarrow.feather")

from kdiff.data import load  # noqa: E402
from kdiff.data.formats.arrow_tables import ParquetTable  # noqa: E402
from kdiff.data.formats.columns import open_columns  # noqa: E402

RNG = np.random.default_rng(0)
N = 40
A, B = RNG.normal(size=N), RNG.integers(-9, 9, N).astype(np.int32)
SPECIES = RNG.choice(["setosa", "versicolor", "virginica"], N)
TABLE = pa.table({"a": A, "b": B, "species": pa.array(SPECIES.tolist()), "t": RNG.normal(size=N)})


def write(path: Path, table: pa.Table = TABLE, **options: object) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path, **options)
    elif path.suffix == ".feather":
        feather.write_feather(table, path, **options)
    elif path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, **options)
    elif path.suffix == ".ipc":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    else:
        csv.write_csv(table, path)
    return path


def everything(source) -> np.ndarray:
    return source.read(np.arange(len(source)))


def text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


FORMATS = {
    "plain.parquet": {},
    "groups.parquet": {"row_group_size": 7, "compression": "zstd"},
    "old.parquet": {"version": "1.0", "use_dictionary": False, "data_page_version": "1.0", "store_schema": False},
    "a.feather": {"compression": "lz4", "chunksize": 9},
    "b.feather": {"compression": "uncompressed"},
    "c.arrow": {"max_chunksize": 11},
    "d.ipc": {},
    "e.csv": {},
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_numbers(tmp_path: Path, name: str) -> None:
    opened = open_columns(write(tmp_path / name, **FORMATS[name]), label_key="species", condition="t")
    x, y = opened.x, opened.y
    assert (x.shape, x.dtype, opened.classes) == ((N, 2), np.float64, ["setosa", "versicolor", "virginica"])
    rows = np.array([5, 39, 0, 5, 20, 6])
    assert np.array_equal(x.read(rows), np.stack([A, B], 1)[rows])
    assert np.array_equal(everything(x), np.stack([A, B], 1))
    assert np.array_equal(np.concatenate(list(x.chunks())), np.stack([A, B], 1))
    assert [opened.classes[i] for i in everything(y)] == SPECIES.tolist()
    assert opened.conditions["t"].shape == (N, 1)
    assert np.array_equal(everything(opened.conditions["t"])[:, 0], TABLE["t"].to_numpy())
    assert opened.about == {"columns": ["a", "b"], "label_column": "species"}
    assert opened.remarks == [
        f"{tmp_path / name}: the classes of species are numbered by name: 0 setosa, 1 versicolor, 2 virginica"
    ]


def test_text_that_is_no_label_is_named(tmp_path: Path) -> None:
    opened = open_columns(write(tmp_path / "a.parquet"))
    assert opened.about["columns"] == ["a", "b", "t"]
    assert opened.y is None
    assert opened.remarks == [
        f"{tmp_path}/a.parquet: the columns species (string) are not used; give label_key='species' if it holds classes"
    ]
    assert "label_key" not in open_columns(tmp_path / "a.parquet", labels=False).remarks[0]


def test_parquet_reads_only_the_groups_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = open_columns(write(tmp_path / "a.parquet", row_group_size=10), columns=["a"]).x
    assert x.block == 10
    read, original = [], ParquetTable._group
    monkeypatch.setattr(ParquetTable, "_group", lambda self, i, c: (read.append(i), original(self, i, c))[1])
    assert np.array_equal(x.read(np.array([31, 12, 35, 11])), A[[31, 12, 35, 11], None])
    assert read == [1, 3]


def test_dictionary_columns_are_classes_by_name_and_not_by_code(tmp_path: Path) -> None:
    codes = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2] * 10), pa.array(["z", "10", "9"]))
    numbers = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2] * 10), pa.array(["2", "10", "9"]))
    path = write(tmp_path / "a.parquet", pa.table({"x": np.arange(30.0), "c": codes, "n": numbers}))
    opened = open_columns(path, label_key="c", condition="n")
    assert opened.classes == ["10", "9", "z"]
    assert everything(opened.y)[:3].tolist() == [2, 0, 1]
    assert opened.kinds == {"n": "class"}
    assert opened.about["condition_classes"] == {"n": ["2", "9", "10"]}
    assert everything(opened.conditions["n"])[:3].tolist() == [0, 2, 1]


class TestTypes:
    def test_missing_entries_are_nan_and_others_exact(self, tmp_path: Path) -> None:
        table = pa.table(
            {
                "i": pa.array([1, None, 3] * 5, pa.int64()),
                "s": pa.array([1, None, -3] * 5, pa.int8()),
                "f": pa.array([None, 0.5, 2] * 5, pa.float32()),
                "o": pa.array([True, None, False] * 5),
            }
        )
        for name in ("a.parquet", "a.arrow"):
            path = write(tmp_path / name, table)
            opened = open_columns(path)
            expected = [[1, 1, np.nan, 1], [np.nan, np.nan, 0.5, np.nan], [3, -3, 2, 0]]
            assert np.array_equal(everything(opened.x)[:3], expected, equal_nan=True)
            assert any("true or false, and become 1 and 0" in remark for remark in opened.remarks)
            assert open_columns(path, columns=["s", "f"]).x.dtype == np.float32

    def test_large_whole_numbers_stay_whole(self, tmp_path: Path) -> None:
        large = 2**60 + np.arange(N)
        path = write(tmp_path / "a.parquet", pa.table({"a": large, "b": large[::-1], "c": A}))
        x = open_columns(path, columns=["a", "b"]).x
        assert x.dtype == np.int64
        assert np.array_equal(everything(x)[:, 0], large)
        with pytest.warns(UserWarning, match=r"beyond 2\^53"):
            open_columns(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            open_columns(write(tmp_path / "b.parquet", pa.table({"a": np.arange(N), "c": A})))

    def test_times_and_decimals_are_numbers_only_if_asked(self, tmp_path: Path) -> None:
        zero = datetime.datetime(1970, 1, 1)
        seconds = [0.25, 86400.0, -1.5]
        table = pa.table(
            {
                "x": np.arange(15.0),
                "t": pa.array([zero + datetime.timedelta(seconds=s) for s in seconds] * 5, pa.timestamp("us")),
                "d": pa.array([datetime.date(1970, 1, 2), None, datetime.date(1969, 12, 31)] * 5),
                "p": pa.array([datetime.timedelta(milliseconds=1500)] * 15, pa.duration("ms")),
                "c": pa.array([datetime.time(0, 1)] * 15, pa.time32("s")),
                "n": pa.array([decimal.Decimal("1.25")] * 15, pa.decimal128(10, 2)),
            }
        )
        path = write(tmp_path / "a.arrow", table)
        opened = open_columns(path)
        assert opened.about["columns"] == ["x"]
        assert "as_number=['t'] to take it as a number" in opened.remarks[0]
        with pytest.raises(ValueError, match=r"'n' is decimal128\(10, 2\), no plain number; give as_number=\['n'\]"):
            open_columns(path, columns=["x", "n"])
        x = everything(open_columns(path, as_number=["t", "d", "p", "c", "n"]).x)
        assert x[:3, 1].tolist() == seconds
        assert np.array_equal(x[:3, 2], [86400, np.nan, -86400], equal_nan=True)
        assert x[0, 3:].tolist() == [1.5, 60, 1.25]

    def test_lists_and_tensors_are_arrays(self, tmp_path: Path) -> None:
        grid = RNG.normal(size=(N, 2, 3)).astype(np.float32)
        fixed = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(pa.array(grid.ravel()), 3), 2)
        tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(grid)
        turned = pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [2, 3], permutation=[1, 0]), pa.FixedSizeListArray.from_arrays(grid.ravel(), 6)
        )
        free = pa.array(grid.tolist(), pa.list_(pa.list_(pa.float32())))
        table = pa.table({"fixed": fixed, "tensor": tensor, "turned": turned, "free": free, "label": B % 3})
        for name in ("a.parquet", "a.feather"):
            path = write(tmp_path / name, table)
            for key in ("fixed", "tensor", "free"):
                opened = open_columns(path, key=key, labels="label")
                assert (opened.x.shape, opened.x.dtype) == ((N, 2, 3), np.float32)
                assert np.array_equal(opened.x.read(np.array([7, 3])), grid[[7, 3]])
                assert opened.classes is None
                assert np.array_equal(everything(opened.y), B % 3)
            assert np.array_equal(everything(open_columns(path, key="turned").x), grid.transpose(0, 2, 1))
            assert open_columns(path, key=["fixed", "free"]).x.shape == (N, 2, 2, 3)
            with pytest.raises(
                ValueError, match=r"numbers \(label\) and arrays \(fixed, tensor, turned, free\); give key='fixed'"
            ):
                open_columns(path)
            with pytest.raises(ValueError, match="different shapes"):
                open_columns(path, key=["fixed", "turned"])

    def test_a_missing_list_is_missing_in_every_entry(self, tmp_path: Path) -> None:
        free = pa.array([[1.0, 2], None, [3, None]] * 5)
        fixed = pa.array([[1.0, 2], None, [3, None]] * 5, pa.list_(pa.float64(), 2))
        path = write(tmp_path / "a.parquet", pa.table({"free": free, "fixed": fixed}))
        for key in ("free", "fixed"):
            rows = everything(open_columns(path, key=key).x)[:3]
            assert np.array_equal(rows, [[1, 2], [np.nan, np.nan], [3, np.nan]], equal_nan=True)

    def test_ragged_lists_are_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", pa.table({"x": [[1.0, 2]] * 9 + [[1.0], [2.0, 3]]}), row_group_size=9)
        x = open_columns(path).x
        with pytest.raises(ValueError, match=r"different lengths, 1 … 2, and samples have one shape; pad or cut"):
            x.read(np.array([9, 10]))
        with pytest.raises(ValueError, match=r"shape \(1,\) in row 9, \(2,\) in the first one"):
            x.read(np.array([9]))


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"columns": ["a", "nope"]}, r"no column 'nope'; the table has 'a' \(double\), 'b' \(int32\)"),
            ({"columns": "species"}, r"'species' is string, and samples are numbers; give label_key='species'"),
            ({"label_key": "a"}, "a is double; labels are text or whole numbers"),
            ({"columns": ["a", "a"]}, "expected different names"),
            ({"columns": "a", "key": "b"}, "columns and key mean the same"),
            ({"delimiter": ";"}, "delimiter is for CSV files; leave it out"),
            ({"columns": ["a"], "condition": "nope"}, "no column 'nope'"),
        ],
    )
    def test_options(self, tmp_path: Path, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            open_columns(write(tmp_path / "a.parquet"), **options)

    @pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow", "a.csv"])
    def test_empty_and_truncated_files(self, tmp_path: Path, name: str) -> None:
        path = write(tmp_path / name, TABLE.slice(0, 0))
        with pytest.raises(ValueError, match="no rows; expected a sample in each row"):
            open_columns(path)
        if name != "a.csv":
            content = write(path).read_bytes()
            path.write_bytes(content[: len(content) // 2])
            with pytest.raises(ValueError, match="the file is damaged, cut off or of another format"):
                open_columns(path)
        path.write_bytes(b"")
        with pytest.raises(ValueError, match="cannot be read as"):
            open_columns(path)

    def test_rows_without_a_label(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.parquet", pa.table({"x": A, "y": [None, "a"] * 20}))
        with pytest.raises(ValueError, match="20 of 40 rows have no label in 'y'; remove these rows"):
            open_columns(path, label_key="y")

    def test_files_that_are_no_tables(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no table at"):
            open_columns(tmp_path / "none.csv")
        with pytest.raises(ValueError, match="expected an ending of"):
            open_columns(text(tmp_path / "a.xlsx", "a"))
        with pytest.raises(ValueError, match="holds no Parquet files"):
            open_columns(tmp_path)


class TestFolder:
    def test_partitions_are_one_table_with_a_column_of_their_folders(self, tmp_path: Path) -> None:
        for i, kind in enumerate(("b", "a")):
            folder = tmp_path / f"kind={kind}"
            folder.mkdir()
            pq.write_table(TABLE.slice(20 * i, 20), folder / "part.parquet", row_group_size=6)
        (tmp_path / "_SUCCESS").write_bytes(b"")
        opened = open_columns(tmp_path, columns=["a"], label_key="kind")
        assert np.array_equal(everything(opened.x)[:, 0], np.r_[A[20:], A[:20]])  # by the names of the files
        assert everything(opened.y).tolist() == [0] * 20 + [1] * 20
        with pytest.warns(UserWarning, match="numbered by name: 0 a, 1 b"):
            assert load(tmp_path, columns="a", label_key="kind").describe()["class_names"] == ["a", "b"]

    def test_files_of_different_columns_are_refused(self, tmp_path: Path) -> None:
        pq.write_table(TABLE, tmp_path / "0.parquet")
        pq.write_table(TABLE.drop_columns(["b"]), tmp_path / "1.parquet")
        with pytest.raises(ValueError, match=r"have different columns: b \(int32\); a folder holds one table"):
            open_columns(tmp_path)


class TestCsv:
    @pytest.mark.parametrize(
        ("content", "options"),
        [
            ("a,b\n1,2.5\n,-3\n", {}),
            ("\ufeffa,b\n1,2.5\nNA,-3\n", {}),
            ("a;b\n1;2,5\n;-3\n", {"delimiter": ";", "decimal": ","}),
            ("1,2.5\n,-3\n", {"header": False}),
            ("# made by hand\na,b\n1,2.5\n?,-3\n", {"skip": 1, "na": ["?"]}),
            ("a\tb\n1\t2.5\n\t-3\n", {"delimiter": "\t"}),
            ("a,b\r\n1,2.5\r\n,-3", {}),
            ("a,b\n1,2.5\n,-3\n".encode("utf-16"), {"encoding": "utf-16"}),
            ('"a","b"\n"1","2.5"\n"",-3\n', {}),
        ],
    )
    def test_ways_of_writing_the_same_table(self, tmp_path: Path, content: str | bytes, options: dict) -> None:
        opened = open_columns(text(tmp_path / "a.csv", content), **options)
        assert np.array_equal(everything(opened.x), [[1, 2.5], [np.nan, -3]], equal_nan=True)
        assert opened.about["columns"] == (["c0", "c1"] if "header" in options else ["a", "b"])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a;b\n1;2,5\n", "but 1 times ';': 'a;b'; give delimiter=';' and decimal=','"),
            ("1,2\n3,4\n", "holds numbers where names of columns are expected: '1,2'; give header=False"),
            ("# a,b\n3,4\n", "give skip=1 to leave it out"),
            ('a,b\n"1,234",5\n"1,000",2\n', "numbers with separators of thousands, such as '1,234'; give thousands=','"),
            ('a,b\n"1,25",5\n"10,5",2\n', "numbers with decimal commas, such as '1,25'; give decimal=','"),
            ("a,b\n1,5\n?,2\n3,1\n", r"'a' holds numbers and texts: '\?'; give na=\['\?'\]"),
            ("a,b\n1,2\n3\n", "every row must have as many cells as the header"),
            ("a,b\n1,2\n".encode("utf-16"), "give encoding='utf-16'"),
            ("a,é\n1,2\n".encode("latin-1"), "give its encoding, such as encoding='latin-1'"),
            ("a,a\n1,2\n", "the column 'a' is there twice"),
        ],
    )
    def test_refused_with_what_to_type(self, tmp_path: Path, content: str | bytes, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            open_columns(text(tmp_path / "a.csv", content))

    def test_types_are_found_from_all_rows(self, tmp_path: Path) -> None:
        """pyarrow finds them from the first block, 1 MB, and then fails at the first other value."""
        content = "a,b\n" + "1,2\n" * 400_000 + "1.5,2\n"
        x = open_columns(text(tmp_path / "a.csv", content)).x
        assert x.read(np.array([400_000])).tolist() == [[1.5, 2]]

    def test_thousands_and_the_index_of_pandas(self, tmp_path: Path) -> None:
        path = text(tmp_path / "a.csv", ',a\n0,"1,234.5"\n1,"12"\n')
        opened = open_columns(path, thousands=",")
        assert everything(opened.x).tolist() == [[1234.5], [12]]
        assert opened.remarks == [f"{path}: the columns '' (int64) are not used"]

    def test_tsv_and_gzip(self, tmp_path: Path) -> None:
        import gzip

        (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"a\tb\n1\t2\n"))
        assert everything(open_columns(tmp_path / "a.tsv.gz").x).tolist() == [[1, 2]]
