"""A TLB alone, for people who have addresses and want misses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from thp_env.machine import _core
from thp_env.machine.arrays import Addresses, Bytes, Ints
from thp_env.machine.cores import Geometry, Tlb
from thp_env.machine.cores import core as preset

_NO_SIZES = np.zeros(0, np.uint8)


class TlbMisses(NamedTuple):
    """Misses of each level; without a second level both are the same."""

    l1: int
    l2: int


def tlb_misses(
    addresses: Addresses,
    l1: Geometry = (16, 4),
    l2: Geometry | None = (128, 12),
    page_shift: int | Ints = 12,
    *,
    core: str | Tlb | None = None,
    replacement: str = "lru",
) -> TlbMisses:
    """Return the misses of each level of a TLB that sees `addresses`.

    The count is exact: both levels replace by the same rule, the second level sees the first level's misses, a
    walk fills both, and nothing is exclusive. The TLB is empty at first.

    Args:
        addresses: virtual addresses, uint64, one dimension.
        l1: (sets, ways) of the first level; one set is full associativity. The default is Skylake's.
        l2: the same of the second level; None: there is none.
        page_shift: log2 of the page size, from 12 to 30. With `core`, also an array of one for each address.
        core: a preset of `thp_env.machine.cores`, or a `Tlb`, instead of `l1` and `l2`.
        replacement: "lru", or "plru" for a binary tree.

    Raises:
        TypeError: when addresses are not integers.
        ValueError: for an address that is not canonical, a geometry that makes no sense, or a page size that the
            core lacks.
    """
    array = np.asarray(addresses)
    if array.dtype.kind not in "ui":
        raise TypeError(f"addresses must be unsigned integers of 64 bits, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"addresses must have one dimension, not {array.ndim}")
    array = np.ascontiguousarray(array, np.uint64)
    _check_canonical(array)
    sizes: Bytes = _NO_SIZES
    if core is None:
        if not isinstance(page_shift, int | np.integer) or not 12 <= page_shift <= 30:
            raise ValueError("page_shift must be one number from 12 to 30; an array of them needs a core")
        config = Tlb("tlb_misses", l1, None, l2, replacement=(replacement, replacement, "lru")).config()
    else:
        tlb = preset(core) if isinstance(core, str) else core
        config = tlb.config()
        page_shift, sizes = _sizes_of(tlb, page_shift, len(array))
    if reason := _core.check_tlb(config):
        raise ValueError(reason)
    return TlbMisses(*_core.tlb_misses(config, array, sizes, int(page_shift)))


def _check_canonical(addresses: Addresses) -> None:
    high = addresses >> np.uint64(47)
    noncanonical = (high != 0) & (high != (1 << 17) - 1)
    if noncanonical.any():
        first = int(np.argmax(noncanonical))
        raise ValueError(
            f"address {int(addresses[first]):#x} at index {first} is not canonical: bits 47 to 63 must be equal"
        )


def _sizes_of(tlb: Tlb, page_shift: int | Ints, n: int) -> tuple[int, Bytes]:
    """Return the smallest page's shift and, for each address, which of the core's five sizes maps it."""
    shifts = {tlb.base_shift: 0}
    if tlb.base_shift == 12:
        order = tlb.coalesce.bit_length() - 1
        has_array = [any(level[size] != 0xFFFFFFFF for level in tlb.arrays_of_sizes()) for size in range(5)]
        for shift, size in ((12 + order, 1), (16, 2), (21, 3), (30, 4)):
            if has_array[size]:
                shifts.setdefault(shift, size)
    page_shifts = np.asarray(page_shift)
    if unknown := set(np.unique(page_shifts).tolist()) - set(shifts):
        raise ValueError(f"{tlb.name} lacks pages of 2^{min(unknown)} bytes; it has {sorted(shifts)}")
    if page_shifts.shape not in ((), (n,)):
        raise ValueError(f"page_shift must be one number or one for each of {n} addresses, not {page_shifts.shape}")
    if tlb.base_shift != 12:
        return tlb.base_shift, _NO_SIZES
    table = np.zeros(64, np.uint8)
    table[list(shifts)] = list(shifts.values())
    return 12, np.ascontiguousarray(np.broadcast_to(table[page_shifts], n))
