"""Machines with switches of the kernel turned on."""

from __future__ import annotations

from support.machines import KIND_FOLIO, pages_of, run
from thp_env.machine import LAYOUT_CONT
from thp_env.machine.features import PRESETS

MAINLINE = PRESETS["mainline-6.18"]
ONE = "mmap a 64K\nfill a 0 64K\n"
"""One 64K folio full of data."""


def having(program, *features, sizes="64", **config):
    """Run on arm64 with mainline's switches and these."""
    return run(program, sizes, features=MAINLINE | set(features), **{"arch": "arm64", **config})


def orders_in(machine, process, region="a"):
    return [int(p["order"]) if p["kind"] == KIND_FOLIO else None for p in pages_of(machine, region, process)]


def mapcounts(machine, region="a", process="P"):
    return pages_of(machine, region, process)["mapcount"].tolist()


def folded(machine, region="a", process="P"):
    return (pages_of(machine, region, process)["flags"] & LAYOUT_CONT != 0).tolist()
