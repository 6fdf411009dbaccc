"""Workloads for thp_env: generators of trace programs, recordings of real programs, and the tools that make them."""

from __future__ import annotations

from thp_env.workload import Workload


def catalogue() -> list[Workload]:
    """Return all workloads of this package; the entry point `thp_env.workloads` calls this."""
    from thp_workloads import alloc_purge, hot_island
    from thp_workloads.recordings import recordings

    return [hot_island.WORKLOAD, alloc_purge.WORKLOAD, *recordings()]
