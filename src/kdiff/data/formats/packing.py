"""How a NetCDF variable stores numbers: packed, unsigned, with missing values. The rules are those of the NetCDF User's Guide.

    missing     raw equals _FillValue or a missing_value, or lies outside valid_range, valid_min and valid_max; without
                _FillValue, also the default fill value of NetCDF, for floats and packed numbers of 2 bytes or more
    _Unsigned   "true": the bytes of signed integers are unsigned ones
    type        float32 if the scale and offset are float32 and raw has at most 2 bytes or is float32; else float64

xarray does not apply the valid range and the default fill values; netCDF4 does. Integers without any of these attributes stay
integers, and nothing among them is missing (netCDF4 masks their default fill value). The valid range is in raw numbers, unless
raw numbers are packed integers and the range is not: then it is in unpacked values (netCDF4 warns and leaves the range out).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DEFAULT_FILL = {
    "i2": -32767,
    "u2": 65535,
    "i4": -2147483647,
    "u4": 4294967295,
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}
DEFAULT_FILL |= {"i8": -9223372036854775806, "u8": 18446744073709551614}


@dataclass
class Packing:
    """How one variable is unpacked. `raw` is the type of the numbers that are compared, and `dtype` that of the values."""

    raw: np.dtype[Any]
    dtype: np.dtype[Any]
    missing: np.ndarray
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    unpacked_range: bool = False
    remarks: list[str] = field(default_factory=list)

    @staticmethod
    def of(name: str, stored: np.dtype[Any], attributes: Mapping[str, Any]) -> Packing:
        """The packing that these attributes describe. Raises ValueError for attributes that are no numbers."""
        given = {}
        for key in ("scale_factor", "add_offset", "_FillValue", "missing_value", "valid_min", "valid_max", "valid_range"):
            if key in attributes:
                given[key] = _numbers(name, key, attributes[key])
        raw = stored.newbyteorder("=")
        if raw.kind in "iu" and "_Unsigned" in attributes:
            unsigned = str(attributes["_Unsigned"]).lower() == "true"
            raw = np.dtype(f"{'u' if unsigned else 'i'}{raw.itemsize}")
        packed = "scale_factor" in given or "add_offset" in given
        missing = [_as_raw(given[key], stored, raw) for key in ("_FillValue", "missing_value") if key in given]
        if "_FillValue" not in given and (raw.kind == "f" or packed) and raw.str[1:] in DEFAULT_FILL:
            missing.append(np.array([DEFAULT_FILL[raw.str[1:]]], raw))
        values = np.concatenate(missing) if missing else np.zeros(0, raw)
        low, high = given.get("valid_min"), given.get("valid_max")
        if "valid_range" in given:
            low, high = given["valid_range"][:1], given["valid_range"][1:2]
        floats = any(bound is not None and bound.dtype.kind == "f" for bound in (low, high)) and packed and raw.kind in "iu"
        result = Packing(raw, raw, values, unpacked_range=floats)
        result.low = low if low is None or floats else _as_raw(low, stored, raw)
        result.high = high if high is None or floats else _as_raw(high, stored, raw)
        result.scale, result.offset = given.get("scale_factor"), given.get("add_offset")
        result.dtype = result._type(packed)
        if result.low is not None or result.high is not None:
            result.remarks.append(
                f"{name}: values outside the valid range of the file ({_text(result.low)} … {_text(result.high)}) count as "
                "missing, as in netCDF4; xarray keeps them"
            )
        return result

    def _type(self, packed: bool) -> np.dtype[Any]:
        """The type of the values."""
        limited = self.low is not None or self.high is not None
        small = self.raw.itemsize <= 2 or self.raw == np.float32
        if not packed:
            if self.raw.kind == "f" or not (len(self.missing) or limited):
                return self.raw
            return np.dtype("f4" if small else "f8")
        factors = np.result_type(*(one.dtype for one in (self.scale, self.offset) if one is not None))
        return np.dtype("f4" if factors == np.float32 and small else "f8")

    def unpack(self, stored: np.ndarray) -> np.ndarray:
        """The values of stored numbers, with NaN for what is missing."""
        raw = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        if raw.dtype != self.raw:
            raw = np.ascontiguousarray(raw).view(self.raw)
        absent = np.zeros(raw.shape, bool)
        for value in self.missing:
            absent |= raw == value
        values = raw.astype(self.dtype)
        if self.scale is not None:
            values *= self.scale[0]
        if self.offset is not None:
            values += self.offset[0]
        compared = values if self.unpacked_range else raw
        if self.low is not None:
            absent |= compared < self.low[0]
        if self.high is not None:
            absent |= compared > self.high[0]
        if absent.any():
            values[absent] = np.nan
        return values


def _numbers(name: str, key: str, value: Any) -> np.ndarray:
    found = np.atleast_1d(np.asarray(value))
    if found.dtype.kind not in "iuf" or not found.size:
        raise ValueError(f"{name}: the attribute {key} is {value!r}; expected a number")
    return found.astype(found.dtype.newbyteorder("="))


def _as_raw(values: np.ndarray, stored: np.dtype[Any], raw: np.dtype[Any]) -> np.ndarray:
    """An attribute in the type of the raw numbers, if this keeps it; bits are kept where signed numbers mean unsigned ones."""
    if raw.kind == "f":
        return values.astype(raw)
    if stored.kind != raw.kind and values.dtype.kind == stored.kind and values.itemsize == raw.itemsize:
        return values.view(raw)
    return values


def _text(bound: np.ndarray | None) -> str:
    return "" if bound is None else f"{bound[0]:g}"
