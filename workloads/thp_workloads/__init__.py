"""Workloads for thp_env: generators of trace programs, recordings of real programs, and the tools that make them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thp_env.workload import Workload
    from thp_workloads.generator import Generator


def generators() -> dict[str, type[Generator]]:
    """Return the generators by name."""
    from thp_workloads.alloc_purge import AllocPurge
    from thp_workloads.android_switch import AndroidSwitch
    from thp_workloads.canneal import Canneal
    from thp_workloads.colocate import Colocate
    from thp_workloads.graph_bfs import GraphBfs
    from thp_workloads.gups import Gups
    from thp_workloads.hot_island import HotIsland
    from thp_workloads.js_heap import JsHeap
    from thp_workloads.kernel_build import KernelBuild
    from thp_workloads.memcached import Memcached
    from thp_workloads.mixture import Mixture
    from thp_workloads.redis_delete import RedisDelete
    from thp_workloads.xsbench import XsBench

    kinds: tuple[type[Generator], ...] = (
        RedisDelete, Memcached, Gups, GraphBfs, XsBench, HotIsland, Canneal, JsHeap, KernelBuild, AndroidSwitch,
        AllocPurge, Colocate, Mixture,
    )  # fmt: skip
    return {kind.name: kind for kind in kinds}


def catalogue(size: str = "small") -> list[Workload]:
    """Return all workloads of this package; the entry point `thp_env.workloads` calls this.

    Args:
        size: of the generators' episodes: "tiny", "short", "small" or "full".
    """
    from thp_workloads.recordings import recordings

    return [kind.workload(size) for kind in generators().values()] + recordings()


def split(side: str, size: str = "small") -> list[Workload]:
    """Return the workloads of one side: "train", "validation" or "test".

    Args:
        side: which; `thp_workloads.splits` assigns families, cores and seeds.
        size: of the generators' episodes.

    Raises:
        WorkloadError: when there is no such side.
    """
    from thp_workloads.splits import check_side

    return [w for w in catalogue(size) if w.split == check_side(side)]
