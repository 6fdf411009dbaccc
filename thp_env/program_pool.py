"""Pools of programs: instances of workloads that threads draw ahead, and that episodes draw from again and again."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from thp_env.workload import Instance, Workload


class ProgramPool:
    """Draws some instances of each workload once. Each episode chooses one by its own generator alone.

    Args:
        workloads: to draw from; one that is the same for every seed has one instance.
        each: number of instances of each.
        first: seed of the first; the others follow.
        threads: that draw ahead.
    """

    def __init__(self, workloads: Sequence[Workload], each: int, first: int = 0, threads: int = 1) -> None:
        """Begin to draw."""
        self._threads = ThreadPoolExecutor(threads, "program pool")
        self._futures: list[list[Future[Instance]]] = [[] for _ in workloads]
        self._numbers = [each if w.varies else 1 for w in workloads]
        self._of = list(workloads)
        self._first = first
        for k in range(each):  # of every workload the first ones first
            for futures, workload, n in zip(self._futures, workloads, self._numbers, strict=True):
                if k < n:
                    futures.append(self._threads.submit(self._draw, workload, k))
        self.workloads = [replace(w, sample=_Draw(self, i), variants={}) for i, w in enumerate(workloads)]
        """The workloads, drawing from the pool."""

    def _draw(self, workload: Workload, k: int) -> Instance:
        return workload.draw(np.random.default_rng(self._first + k))

    def instance(self, i: int, k: int) -> Instance:
        """Return instance `k` of workload `i`; one that no thread has begun to draw is drawn here."""
        future = self._futures[i][k]
        if future.cancel():
            future = self._futures[i][k] = Future()
            future.set_result(self._draw(self._of[i], k))
        return future.result()

    def __len__(self) -> int:
        """Return the number of instances."""
        return sum(self._numbers)

    def instances(self) -> list[tuple[str, Instance]]:
        """Return all instances, each with its workload's name."""
        return [(w.name, self.instance(i, k)) for i, w in enumerate(self._of) for k in range(self._numbers[i])]

    def close(self) -> None:
        """End the threads; other instances are drawn when they are needed."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def draw(self, i: int, rng: np.random.Generator) -> Instance:
        """Draw one of a workload's instances."""
        return self.instance(i, int(rng.integers(self._numbers[i])))


class _Draw:
    def __init__(self, pool: ProgramPool, i: int) -> None:
        self.pool, self.i = pool, i

    def __call__(self, rng: np.random.Generator) -> Instance:
        return self.pool.draw(self.i, rng)
