"""Files of costs: the measurements of `thp-env calibrate` on a host, in TOML, which replace the clock table."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from thp_env.machine.clock import COSTS, COSTS_VARIABLE
from thp_env.machine.cores import Tlb
from thp_env.machine.host_walks import with_walks
from thp_env.names import did_you_mean
from thp_env.reading import TOML_MAX, parse_toml, read_text, reading

MOST_NS = 1e9
"""No cost of the clock is longer than a second."""
PARTS = ("ns", "spread", "after_idle")
WALK = "walk"
LEAST_WALKED, MOST_WALKED, MOST_WALK_NS = 32, 1 << 20, 1e4
"""MiB whose walks can be told, more than TLBs hold; and ns that they take at most."""
TEXTS = ("measured", "host")


class CostsError(ValueError):
    """A file of costs that cannot be used; the message names the entry and a valid value."""


@dataclass(frozen=True)
class HostCosts:
    """The costs of a host.

    Attributes:
        ns: every cost of the clock, in nanoseconds.
        spread: of measured costs, the range of the middle eight tenths of the samples, as a share of the median.
        after_idle: ns of costs that differ after memory was idle, because a hypervisor has to provide it again.
        texts: `measured`, when; `host`, on which kernel.
        walk: ns that page walks add to an access (`host_walks.py`), by MiB of memory; empty: not measured.
    """

    ns: Mapping[str, float]
    spread: Mapping[str, float]
    after_idle: Mapping[str, float]
    texts: Mapping[str, str]
    walk: Mapping[int, float] = field(default_factory=dict)

    def clock(self) -> dict[str, int]:
        """Return them in picoseconds, as a machine takes them."""
        return {name: round(ns * 1000) for name, ns in self.ns.items()}

    def core(self, tlb: Tlb) -> Tlb:
        """Return a core with this host's page walks; itself where they were not measured."""
        cycle = self.ns["cycle"]
        return with_walks(tlb, {mib: ns / cycle for mib, ns in self.walk.items()}) if cycle else tlb


def read_costs(path: str | os.PathLike[str]) -> HostCosts:
    """Read a file of costs.

    Raises:
        CostsError: naming the file, the entry and a valid value.
    """
    with reading(path, CostsError, "a file of costs"):
        tables = parse_toml(read_text(path, TOML_MAX))
    for name in tables:
        if name not in (*PARTS, WALK, *TEXTS):
            parts_text = "], [".join((*PARTS, WALK))
            raise CostsError(f"{path}: {name!r} is unknown: there are [{parts_text}] and {', '.join(TEXTS)}")
    parts = {name: _part(path, name, tables.get(name, {})) for name in PARTS}
    for name, cost in COSTS.items():
        if name not in parts["ns"]:
            raise CostsError(
                f"{path}: {name} is missing in [ns]: add it (the clock table has {name} = {cost.ps / 1000:g}), "
                "or measure anew with thp-env calibrate"
            )
    texts = {name: str(tables[name])[:200] for name in TEXTS if name in tables}
    return HostCosts(**parts, texts=texts, walk=_walk(path, tables.get(WALK, {})))


def _table(path: str | os.PathLike[str], part: str, entries: Any) -> dict[str, Any]:
    if not isinstance(entries, dict):
        raise CostsError(f"{path}: {part} is a table: [{part}], and a line for each cost")
    return entries


def _walk(path: str | os.PathLike[str], entries: Any) -> dict[int, float]:
    walk = {}
    for name, value in _table(path, WALK, entries).items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not name.isdecimal() or not LEAST_WALKED <= int(name[:9]) <= MOST_WALKED:
            raise CostsError(f"{path}: {name:.40} in [{WALK}] is no memory in MiB from {LEAST_WALKED} to {MOST_WALKED}")
        if not is_number or not 0 <= value <= MOST_WALK_NS:
            entry = f"{path}: {name} = {value!r:.40} in [{WALK}]"
            raise CostsError(f"{entry}: write ns from 0 to {MOST_WALK_NS:g}, or no line")
        walk[int(name)] = float(value)
    return walk


def _part(path: str | os.PathLike[str], part: str, entries: Any) -> dict[str, float]:
    for name, value in _table(path, part, entries).items():
        if name not in COSTS:
            hint = did_you_mean(name, COSTS, ".")
            raise CostsError(f"{path}: {name} in [{part}] is no cost{hint} There are {', '.join(COSTS)}")
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
        what = "a share, such as 0.3" if part == "spread" else "a time in ns"
        entry = f"{path}: {name} = {value!r:.40} in [{part}]"
        example = "" if part == "spread" else f" (the clock table has {COSTS[name].ps / 1000:g})"
        if not number:
            raise CostsError(f"{entry} is no number: write {what}{example}")
        if value < 0:
            raise CostsError(f"{entry} is negative: write {what}, 0 or more{example}")
        if value > MOST_NS:
            raise CostsError(f"{entry} is too much: write {what}, at most {MOST_NS:g}{example}")
    return {name: float(value) for name, value in entries.items()}


def format_costs(costs: HostCosts) -> str:
    """Return the text of a file for `read_costs`."""
    lines = [f'{name} = "{text}"' for name, text in costs.texts.items()]
    for part in PARTS:
        lines += ["", f"[{part}]"]
        for name, value in getattr(costs, part).items():
            is_default = part == "ns" and name not in costs.spread
            lines.append(f"{name} = {value:g}" + ("  # not measured: as in the clock table" if is_default else ""))
    if costs.walk:
        lines += ["", f"[{WALK}]  # ns that page walks add to an access, by MiB of memory that is accessed at random"]
        lines += [f"{mib} = {ns:g}" for mib, ns in costs.walk.items()]
    return "\n".join(lines) + "\n"


@cache
def _read(path: str, mtime_ns: int) -> HostCosts:
    return read_costs(path)


@cache
def _core_of(path: str, mtime_ns: int, tlb: Tlb) -> Tlb:
    return _read(path, mtime_ns).core(tlb)


def _changed(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError as error:
        raise CostsError(f"{path}: {error.strerror}") from None


def clock_of(path: str) -> Mapping[str, int]:
    """Return the clock of a file of costs; a changed file is read again.

    Raises:
        CostsError: as `read_costs`.
    """
    return _read(path, _changed(path)).clock()


def core_of(path: str, tlb: Tlb) -> Tlb:
    """Return a core with the page walks of a file of costs; a changed file is read again.

    Raises:
        CostsError: as `read_costs`.
    """
    return _core_of(path, _changed(path), tlb)


@contextmanager
def costs_in_force(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Let machines that are made meanwhile, here and in processes started here, have the costs of a file.

    Args:
        path: the file; None: nothing changes.

    Raises:
        CostsError: as `read_costs`.
    """
    if path is None:
        yield
        return
    read_costs(path)
    before = os.environ.get(COSTS_VARIABLE)
    os.environ[COSTS_VARIABLE] = os.path.abspath(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ[COSTS_VARIABLE]
        else:
            os.environ[COSTS_VARIABLE] = before
