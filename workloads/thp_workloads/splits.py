"""The split: families, TLB cores and seeds are divided between training, validation and test.

Workloads of one family are never on two sides, so no agent is trained on a relative of a test program.
"""

from __future__ import annotations

from thp_env.machine.cores import CORES
from thp_env.workload import WorkloadError

FAMILIES = {
    "train": ("allocators", "SPEC-like", "key-value store", "fork-heavy", "mixture"),
    "validation": ("HPC", "interpreter", "compression", "PARSEC", "phone"),
    "test": ("graph", "browser", "data centre", "database"),
}
"""The families of each side. Those of the test side are relatives of programs that are tested (split.toml of
thp-env-corpus); policies were run on them before, so no suite does."""

HELD_OUT_CORE = "cortex-a55"
"""The core on which nothing but test workloads runs."""

TRAIN_CORES = ("skylake", "zen2", "zen4", "cortex-a76", "neoverse-n1")
"""The cores on which every generator's episodes run."""

SEEDS = {"train": range(0, 1_000_000), "validation": range(1_000_000, 2_000_000), "test": range(2_000_000, 3_000_000)}
"""The seeds of each side."""


def side_of(family: str) -> str:
    """Return the side of a family.

    Raises:
        WorkloadError: when `FAMILIES` does not name it.
    """
    for side, families in FAMILIES.items():
        if family in families:
            return side
    raise WorkloadError(f"family {family!r} stands on no side: add it to one in splits.py")


def cores_of(side: str) -> tuple[str, ...]:
    """Return the cores on which the workloads of a side run; every second test episode is on the held-out core."""
    check_side(side)
    if side == "test":
        return TRAIN_CORES + (HELD_OUT_CORE,) * len(TRAIN_CORES)
    return TRAIN_CORES


def check_side(side: str) -> str:
    """Return the side.

    Raises:
        WorkloadError: when there is no such side.
    """
    if side not in FAMILIES:
        raise WorkloadError(f"there is no split {side!r}: {', '.join(FAMILIES)}")
    return side


assert HELD_OUT_CORE in CORES
assert HELD_OUT_CORE not in TRAIN_CORES
