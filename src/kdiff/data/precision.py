"""Whether float32 holds raw data, or they need float64 until they are normalised, like time stamps and large whole numbers.

    e = |raw − float32(raw)| / scale          the error, in normalised units, of reading raw values as float32
    float32 will do if e ≤ 2⁻¹⁶ · max(1, |x|) for every value

Where float32 will do, data of type float64 are read exactly like the same data of type float32. `normalise="none"` has no shift
that would help, so there float32 must do.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kdiff.data.normalisation import Normalisation, same

TOLERANCE = 2.0**-16
LOST = 1e-4  # a rounding error of this many standard deviations of an entry is worth a warning
ROWS = 2**22  # values in a chunk
WHOLE = 2.0**53  # float64 holds all whole numbers up to here


def double_values(name: str, values: np.ndarray, kind: str, value_range: tuple[float, float] | None) -> np.ndarray | None:
    """The values as contiguous float64 without −0.0, if normalising needs them so; None if float32 will do.

    A warning says which entries lose values in float32 all the same, and which whole numbers float64 cannot hold.
    """
    if np.can_cast(values.dtype, np.float32):
        return None
    wide = np.array(values, np.float64, order="C")
    wide += 0.0
    _warn_of_whole_numbers(name, values, wide)
    with np.errstate(over="ignore"):
        if all(np.array_equal(chunk.astype(np.float32), chunk) for chunk in _chunks(wide)):
            return None
    if not (np.abs(wide) <= np.finfo(np.float32).max).all():  # refused later, with the first place
        return None
    raw = torch.from_numpy(wide)
    try:
        fitted = Normalisation.fit(kind, raw, value_range)
    except ValueError:  # data that do not vary, or the wrong kind for them: refused later, by what the training part holds
        return None
    needed = not all(fits_float32(fitted, chunk) for chunk in raw.split(_rows(wide)))
    _warn_of_loss(name, raw, fitted, needed)
    return wide if needed else None


def _rows(values: np.ndarray) -> int:
    return max(1, ROWS // max(1, values[0].size))


def _chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    size = _rows(values)
    return (values[start : start + size] for start in range(0, len(values), size))


def fits_float32(fitted: Normalisation, raw: Tensor) -> bool:
    """Whether the normalised values differ little if raw values are float32."""
    if fitted.kind == "none":
        return True
    error = (raw - raw.float().double()).abs() / fitted.scale
    limit = TOLERANCE * ((raw - fitted.shift) / fitted.scale).abs().clamp_min(1)
    return bool((error <= limit).all())


def kept_values(fitted: Normalisation, raw: Tensor, double: bool) -> Tensor:
    """The raw values that are left once normalised values are float32; `double` if they are normalised in float64."""
    shift, scale = fitted.shift.double(), fitted.scale.double()
    x = (raw if double else raw.float().double()) - shift
    return (x / scale).float().double() * scale + shift


def _warn_of_loss(name: str, raw: Tensor, fitted: Normalisation, double: bool) -> None:
    """Warn if normalised float32 values of an entry are coarse in units of the standard deviation of this entry."""
    chunks = raw.split(_rows(raw.numpy()))
    errors = torch.stack([(kept_values(fitted, chunk, double) - chunk).abs().amax(0) for chunk in chunks]).amax(0).flatten()
    flat = raw.flatten(1)
    spread, mean = torch.std_mean(flat, 0, correction=0)
    share = torch.where(same(flat, [0])[0], 0.0, errors / spread)
    worst = int(share.argmax())
    if share[worst] <= LOST:
        return
    columns = (values.flatten(1)[:, worst] for values in (raw, kept_values(fitted, raw, double)))
    before, after = (values.unique().numel() for values in columns)
    if after == before:
        return
    others = int((share > LOST).sum()) - 1
    text = loss_text(after, before, worst, others, float(spread[worst]), float(mean[worst]), fitted.kind)
    warnings.warn(f"{name}: {text}", stacklevel=5)


def loss_text(left: int, there: int, entry: int, others: int, spread: float, mean: float, kind: str) -> str:
    """The remark on an entry of which float32 keeps `left` of `there` different values, and on `others` like it."""
    more = f" (and of {others} more like it)" if others else ""
    return (
        f"float32 keeps {left} of the {there} different values of entry {entry}{more}, which varies by {spread:.3g} around "
        f"{mean:.10g}, with normalise={kind!r}; normalise='features' shifts and scales every entry in float64"
    )


def _warn_of_whole_numbers(name: str, values: np.ndarray, wide: np.ndarray) -> None:
    """Warn if float64 cannot hold whole numbers of 64 bits."""
    if changed := changed_by_float64(values, wide):
        warnings.warn(f"{name}: {whole_numbers_text(changed, values.size, float(np.abs(wide).max()))}", stacklevel=5)


def changed_by_float64(values: np.ndarray, wide: np.ndarray) -> int:
    """How many whole numbers of 64 bits are others as float64, which `wide` is."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8:
        return 0
    large = np.abs(wide) >= WHOLE
    with np.errstate(invalid="ignore"):
        return int((wide[large].astype(values.dtype) != values[large]).sum()) if large.any() else 0


def whole_numbers_text(changed: int, size: int, largest: float) -> str:
    """The remark on `changed` of `size` whole numbers that float64 cannot hold."""
    return (
        f"float64 cannot hold {changed} of the {size} whole numbers, which lie beyond 2^53, and rounds them to multiples of up "
        f"to {int(np.spacing(largest))}; subtract an offset from the numbers first"
    )
