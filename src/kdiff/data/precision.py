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


def _warn_of_loss(name: str, raw: Tensor, fitted: Normalisation, double: bool) -> None:
    """Warn if normalised float32 values of an entry are coarse in units of the standard deviation of this entry."""
    shift, scale = fitted.shift.double(), fitted.scale.double()

    def kept(raw: Tensor) -> Tensor:
        """The raw values that are left once normalised values are float32."""
        x = (raw if double else raw.float().double()) - shift
        return (x / scale).float().double() * scale + shift

    errors = torch.stack([(kept(chunk) - chunk).abs().amax(0) for chunk in raw.split(_rows(raw.numpy()))]).amax(0).flatten()
    flat = raw.flatten(1)
    spread, mean = torch.std_mean(flat, 0, correction=0)
    share = torch.where(same(flat, [0])[0], 0.0, errors / spread)
    worst = int(share.argmax())
    if share[worst] <= LOST:
        return
    before, after = (values.flatten(1)[:, worst].unique().numel() for values in (raw, kept(raw)))
    if after == before:
        return
    others = int((share > LOST).sum()) - 1
    more = f" (and of {others} more like it)" if others else ""
    warnings.warn(
        f"{name}: float32 keeps {after} of the {before} different values of entry {worst}{more}, which varies by "
        f"{float(spread[worst]):.3g} around {float(mean[worst]):.10g}, with normalise={fitted.kind!r}; normalise='features' "
        "shifts and scales every entry in float64",
        stacklevel=5,
    )


def _warn_of_whole_numbers(name: str, values: np.ndarray, wide: np.ndarray) -> None:
    """Warn if float64 cannot hold whole numbers of 64 bits."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8:
        return
    large = np.abs(wide) >= WHOLE
    if not large.any():
        return
    with np.errstate(invalid="ignore"):
        changed = int((wide[large].astype(values.dtype) != values[large]).sum())
    if changed:
        warnings.warn(
            f"{name}: float64 cannot hold {changed} of the {values.size} whole numbers, which lie beyond 2^53, and rounds them "
            f"to multiples of up to {int(np.spacing(np.abs(wide).max()))}; subtract an offset from the numbers first",
            stacklevel=5,
        )
