"""Columns of Arrow as NumPy arrays (n, *shape), with NaN for what is missing.

    numbers                       (n,)             with missing entries float64, or the float type of the column
    booleans                      (n,)             0 and 1 as uint8
    lists of one length           (n, length)      also nested, and the tensors of `arrow.fixed_shape_tensor`
    decimals, times, durations    (n,)             float64, only if asked: times in seconds since 1970, durations in seconds

Lists of different lengths are no array, and they are refused when they are read.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from kdiff.data.formats import needed

WHOLE = 2**53  # float64 holds all whole numbers up to here
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def arrow() -> Any:
    """The package pyarrow."""
    return needed("pyarrow", "A table (Parquet, Arrow or CSV)")


def kind_of(type_: Any) -> str:
    """What a column of this type can be: number, array, text, time (also a decimal: a number if asked), or other."""
    types = arrow().types
    if isinstance(type_, arrow().BaseExtensionType):
        return kind_of(type_.storage_type)
    if types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if types.is_boolean(type_) or types.is_integer(type_) or types.is_floating(type_):
        return "number"
    if types.is_string(type_) or types.is_large_string(type_) or type_ == arrow().string_view():
        return "text"
    if types.is_decimal(type_) or (types.is_temporal(type_) and not types.is_interval(type_)):
        return "time"
    if is_list(type_):
        return "array" if kind_of(type_.value_type) in ("number", "array") else "other"
    return "other"


def is_list(type_: Any) -> bool:
    """Whether the type is a list of fixed or free length."""
    types = arrow().types
    return bool(types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_))


def leaves(type_: Any) -> int:
    """How many columns Parquet stores for this type."""
    types = arrow().types
    if isinstance(type_, arrow().BaseExtensionType):
        return leaves(type_.storage_type)
    if is_list(type_):
        return leaves(type_.value_type)
    if types.is_map(type_):
        return leaves(type_.key_type) + leaves(type_.item_type)
    if types.is_struct(type_):
        return sum(leaves(type_.field(i).type) for i in range(type_.num_fields))
    return 1


def innermost(type_: Any) -> Any:
    """The type of the entries of nested lists and tensors."""
    if isinstance(type_, arrow().BaseExtensionType):
        return innermost(type_.storage_type)
    if arrow().types.is_dictionary(type_) or is_list(type_):
        return innermost(type_.value_type)
    return type_


def dtype_of(type_: Any, missing: bool) -> np.dtype[Any]:
    """The type of the NumPy array of a column, which is a float type if entries may be missing."""
    types, inner = arrow().types, innermost(type_)
    if types.is_boolean(inner):
        return np.dtype("float32" if missing else "uint8")
    if kind_of(inner) == "time":
        return np.dtype("float64")
    plain = np.dtype(inner.to_pandas_dtype())
    if not missing or plain.kind == "f":
        return plain
    return np.dtype("float32" if plain.itemsize <= 2 else "float64")


def values_of(name: str, column: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """A column (an array or a chunked array) as an array (n, *shape) of this type. `name` is for messages.

    Raises ValueError for lists of different lengths.
    """
    array = column.combine_chunks() if isinstance(column, arrow().ChunkedArray) else column
    if isinstance(array, arrow().ChunkedArray):  # extension types of several chunks in older versions
        array = arrow().concat_arrays(array.chunks)
    return _values(name, array, dtype)


def _values(name: str, array: Any, dtype: np.dtype[Any]) -> np.ndarray:
    type_, types = array.type, arrow().types
    if isinstance(type_, arrow().BaseExtensionType):
        flat = _values(name, array.storage, dtype)
        return _tensor(type_, flat) if type_.extension_name == "arrow.fixed_shape_tensor" else flat
    if types.is_dictionary(type_):
        return _values(name, array.dictionary_decode(), dtype)
    if is_list(type_):
        return _lists(name, array, dtype)
    if kind_of(type_) == "time":
        return _seconds(array)
    if types.is_boolean(type_):
        array = array.cast("uint8")
    present = array.is_valid().to_numpy(zero_copy_only=False)
    kept = array.drop_null().to_numpy(zero_copy_only=False)
    _warn_of_rounding(name, kept, dtype)
    if present.all():
        return kept.astype(dtype, copy=False)
    values = np.full(len(array), np.nan, dtype)
    values[present] = kept
    return values


def _warn_of_rounding(name: str, values: np.ndarray, dtype: np.dtype[Any]) -> None:
    """Warn if whole numbers of 64 bits become floats that cannot hold them."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8 or dtype.kind != "f" or not len(values):
        return
    if max(abs(int(values.min())), abs(int(values.max()))) > WHOLE:
        warnings.warn(
            f"{name}: float64 cannot hold whole numbers beyond 2^53, and rounds them; subtract an offset first",
            stacklevel=2,
        )


def _tensor(type_: Any, flat: np.ndarray) -> np.ndarray:
    """The tensors (n, *shape) in the order of their axes; `shape` is that in memory, and `permutation` says the true order."""
    values = flat.reshape(len(flat), *type_.shape)
    if type_.permutation is None:
        return values
    return values.transpose(0, *(1 + axis for axis in type_.permutation))


def _lists(name: str, array: Any, dtype: np.dtype[Any]) -> np.ndarray:
    compute = needed("pyarrow.compute", "A table (Parquet, Arrow or CSV)")
    present = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.unique(compute.list_value_length(array).drop_null().to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise ValueError(
            f"{name}: the lists have {len(lengths)} different lengths, {lengths[0]} … {lengths[-1]}, and samples have "
            "one shape; pad or cut the lists, and save them again"
        )
    length = int(lengths[0]) if len(lengths) else int(getattr(array.type, "list_size", 0))
    inner = _values(name, array.flatten(), dtype)  # without the entries of missing lists
    inner = inner.reshape(int(present.sum()), length, *inner.shape[1:])
    if present.all():
        return inner
    values = np.full((len(array), *inner.shape[1:]), np.nan, dtype)
    values[present] = inner
    return values


def _seconds(array: Any) -> np.ndarray:
    """Decimals as float64; times in seconds since 1970, times of day in seconds since midnight, durations in seconds."""
    types, type_ = arrow().types, array.type
    if types.is_decimal(type_):
        return np.asarray(array.cast("float64").to_numpy(zero_copy_only=False), np.float64)
    if types.is_date(type_):
        array = array.cast(arrow().timestamp("s"))
    unit = UNITS[array.type.unit]
    if not types.is_time32(type_):
        whole = array.cast("int64")
    else:
        whole = array.cast("int32").cast("int64")
    present = whole.is_valid().to_numpy(zero_copy_only=False)
    values = np.full(len(whole), np.nan)
    kept = whole.drop_null().to_numpy(zero_copy_only=False)
    values[present] = kept // unit + (kept % unit) / unit
    return values
