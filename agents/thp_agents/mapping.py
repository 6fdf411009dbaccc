"""One loop over many jobs: here, on several processes, or on a Ray cluster, with the same results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def mapped(
    work: Callable[[Job], Result], jobs: Sequence[Job], processes: int = 1, ray: str | None = None
) -> Iterator[tuple[Job, Result]]:
    """Yield each job with its result, in the order in which they are done.

    Args:
        work: a function of a module, for a process of its own to find.
        jobs: what to do; hashable.
        processes: to work in; 1: this one.
        ray: address of a Ray cluster, "" for a new local one; None: no Ray. A task whose worker is lost is repeated.

    Raises:
        ValueError: when Ray is asked for and not installed.
    """
    if ray is not None:
        yield from _on_ray(work, jobs, ray)
    elif processes <= 1 or len(jobs) < 2:
        for job in jobs:
            yield job, work(job)
    else:
        with get_context("spawn").Pool(min(processes, len(jobs))) as pool:
            yield from pool.imap_unordered(partial(_call, work), jobs)


def _on_ray(work: Callable[[Job], Result], jobs: Sequence[Job], address: str) -> Iterator[tuple[Job, Result]]:
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray: pip install 'thp-env[ray]'") from None
    if not ray.is_initialized():
        ray.init(address=address or "local", log_to_driver=False)
    task = ray.remote(_call).options(max_retries=5)
    waiting = [task.remote(work, job) for job in jobs]
    while waiting:
        done, waiting = ray.wait(waiting)
        yield from ray.get(done)


def _call(work: Callable[[Job], Result], job: Job) -> tuple[Job, Result]:
    return job, work(job)
