"""One loop over many jobs: in this process, in several, or on a Ray cluster, with the same results.

A worker that dies (the kernel runs out of memory, a library crashes) is reported with the name of its job. The job
is repeated once when all others have been started, and left out if it kills its worker again. The others complete.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, TypeVar

from tqdm import tqdm

from thp_agents.evaluation.workers import Worker, WorkerDied
from thp_env.machine import MachineError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Lost:
    """The result of a job that is left out.

    Attributes:
        reason: in words.
    """

    reason: str


def map_jobs(
    work: Callable[[Job], Result], jobs: Sequence[Job], processes: int = 1, ray: str | None = None,
    named: Callable[[Job], str] = str,
) -> Generator[tuple[Job, Result | Lost], None, None]:  # fmt: skip
    """Yield each job with its result, in the order in which the jobs end.

    Args:
        work: a function at the top level of a module, so that another process finds it.
        jobs: hashable.
        processes: to work in; 1: this one.
        ray: address of a Ray cluster, "" for a new local one; None: no Ray. A task whose worker is lost is repeated.
        named: returns the name of a job in messages.

    Raises:
        MachineError: when the program of a job cannot be run to its end, naming the job.
        ValueError: when Ray is requested but not installed.
    """
    if ray is not None:
        yield from _on_ray(work, jobs, ray, named)
    elif processes <= 1 or len(jobs) < 2:
        for job in jobs:
            with _named_in_errors(named(job)):
                result = work(job)
            yield job, result
    else:
        yield from _on_processes(work, jobs, min(processes, len(jobs)), named)


@contextmanager
def _named_in_errors(name: str) -> Iterator[None]:
    """Say of an error of the machine which job it is about."""
    try:
        yield
    except MachineError as error:
        raise MachineError(f"{name}: {error}") from error


def without_lost(results: Iterator[tuple[Job, Result | Lost]]) -> Iterator[tuple[Job, Result]]:
    """Leave out lost jobs, which have been reported."""
    return ((job, result) for job, result in results if not isinstance(result, Lost))


# -- on processes ----------------------------------------------------------------------------------


def _on_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], processes: int, named: Callable[[Job], str]
) -> Iterator[tuple[Job, Result | Lost]]:
    waiting, retries = deque(jobs), set[Job]()
    busy: dict[Any, tuple[Worker, Job]] = {}  # by the worker's connection
    workers = list[Worker]()
    try:
        workers += (Worker() for _ in range(processes))
        idle = list(workers)
        while waiting or busy:
            while waiting and idle:
                worker, job = idle.pop(), waiting.popleft()
                busy[worker.connection] = worker, job
                with suppress(WorkerDied):  # its connection says so, too
                    worker.start(work, job)
            for connection in wait(list(busy)):
                worker, job = busy.pop(connection)
                try:
                    with _named_in_errors(named(job)):
                        result: Result | Lost = worker.result()
                except WorkerDied as died:
                    workers.remove(worker)
                    worker.end()
                    workers.append(worker := Worker())
                    if job not in retries:
                        _tell(f"a worker was {died} while it did {named(job)}, which is done once more")
                        retries.add(job)
                        waiting.append(job)
                        idle.append(worker)
                        continue
                    _tell(f"a worker was {died} again while it did {named(job)}, which is left out")
                    result = Lost(f"its worker was {died}, twice")
                idle.append(worker)
                yield job, result
    finally:
        for worker in workers:
            worker.end()


def _tell(line: str) -> None:
    tqdm.write(f"thp-env: {line}", file=sys.stderr)


# -- on a Ray cluster ------------------------------------------------------------------------------


def _on_ray(
    work: Callable[[Job], Result], jobs: Sequence[Job], address: str, named: Callable[[Job], str]
) -> Iterator[tuple[Job, Result | Lost]]:
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray: pip install 'thp-env[ray]'") from None
    death_errors = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
    if not ray.is_initialized():
        ray.init(address=address or "local", log_to_driver=False)
    task = ray.remote(_call).options(max_retries=5)
    job_of: dict[Any, Job] = {task.remote(work, job): job for job in jobs}
    waiting = list(job_of)
    while waiting:
        done, waiting = ray.wait(waiting)
        for reference in done:
            try:
                with _named_in_errors(named(job_of[reference])):
                    answer = ray.get(reference)
                yield answer
            except death_errors as error:
                _tell(f"workers died while they did {named(job_of[reference])}; it is left out")
                yield job_of[reference], Lost(f"its workers died: {type(error).__name__}")


def _call(work: Callable[[Job], Result], job: Job) -> tuple[Job, Result]:
    return job, work(job)
