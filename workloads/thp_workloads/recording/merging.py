"""From recorded images to one trace program.

One image becomes the program's only process. Several are laid side by side by the real time at which they ran: those
that wait for each other come one after another, others take turns from system call to system call. An image that was
executed begins as a child of an empty process, P; one that was forked has the memory of its parent.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from thp_env.machine.program import Program
from thp_env.machine.program_check import ProgramError
from thp_env.traces.builder import ProgramBuilder
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.image import Image
from thp_workloads.recording.program_writer import ProcessWriter
from thp_workloads.recording.replayer import Operation, Regions, Replayer, TooManyRegionsError
from thp_workloads.recording.windows import sampling_error

NAMES = ("accesses", "l1_misses", "walks")


class _Process:
    """An image on its way into the program."""

    def __init__(self, merger: _Merger, number: int, image: Image, name: str, replayer: Replayer) -> None:
        self.image, self.name, self.replayer = image, name, replayer
        windows = image.windows(merger.window)
        exact = image.log.touches[windows.outside(image.log.touches["instruction"])]
        self.error = sampling_error(windows, image.log.runs, exact, image.misses)
        merger.processes[number] = self

        def forked(pid: int, parent: Replayer) -> list[Operation]:
            return merger.fork(number, pid, parent)

        self.writer = ProcessWriter(image.log, windows, replayer, image.samples, image.stack_touched, forked)
        self.steps: Iterator[int] | None = None


class _Merger:
    """Lays images side by side."""

    def __init__(self, images: list[Image], window: int) -> None:
        self.images, self.window = images, window
        self.alone = len(images) == 1
        self.processes: dict[int, _Process] = {}
        self.notes: set[str] = set()
        regions = Regions()
        for number, image in enumerate(images):
            if not image.forked:
                name = "P" if self.alone else f"{image.name}{number}"
                prefix = "" if self.alone else f"{name}."
                try:
                    replayer = image.replayer(prefix, self._lowest_stack(number), regions)
                except TooManyRegionsError as error:
                    self.notes.add(f"{error}: later processes are left out")
                    break
                _Process(self, number, image, name, replayer)

    def _children(self, number: int) -> list[int]:
        pid = self.images[number].pid
        later = range(number + 1, len(self.images))
        return [n for n in later if self.images[n].forked and self.images[n].parent == pid]

    def _lowest_stack(self, number: int) -> int:
        return min([self.images[number].lowest_stack, *(self._lowest_stack(n) for n in self._children(number))])

    def fork(self, number: int, pid: int, parent: Replayer) -> list[Operation]:
        """Return the operation that makes the child `pid`, if its image was recorded."""
        for n in self._children(number):
            if self.images[n].pid == pid and n not in self.processes:
                name = f"{self.images[n].name}{n}"
                _Process(self, n, self.images[n], name, parent.child(f"{name}."))
                return [("fork", (name,), {})]
        return []

    def error(self) -> dict[str, float]:
        """Return the sampling error of all processes together."""
        true = np.array([p.image.misses for p in self.processes.values()], dtype=np.float64)
        errors = np.array([[p.error[n] for n in NAMES] for p in self.processes.values()])
        total = (true * errors).sum(axis=0) / np.maximum(true.sum(axis=0), 1)
        return {n: round(float(e), 4) for n, e in zip(NAMES, total, strict=True)}

    def write(self, builder: ProgramBuilder, ns: float) -> None:
        """Write all processes, in the order of real time."""
        queue = []
        for number, p in self.processes.items():
            if not p.image.forked:
                queue.append((float(p.image.marks["real"][0]), number))
        heapq.heapify(queue)
        while queue:
            _, number = heapq.heappop(queue)
            p = self.processes[number]
            if p.steps is None:
                if p.name not in builder.processes:
                    builder.slice("P")
                    builder.fork(p.name)
                p.steps = p.writer.write(builder, ns)
            if builder.process != p.name:
                builder.slice(p.name)
            names = set(builder.processes)
            instruction = next(p.steps, None)
            for n in self._children(number):
                child = self.processes.get(n)
                if child and child.steps is None and child.name in builder.processes and child.name not in names:
                    heapq.heappush(queue, (float(child.image.marks["real"][0]), n))
            if instruction is not None:
                heapq.heappush(queue, (p.image.when(instruction), number))
            elif not self.alone:
                builder.slice("P")
                builder.exit(p.name)


def write_images(images: list[Image], window: int, ns: float, meta: Mapping[str, Any]) -> Program:
    """Write the program of one or more images.

    Args:
        images: in the order in which they began.
        window: instructions in a window.
        ns: nanoseconds an instruction takes.
        meta: for `Program.meta`.

    Returns:
        The program; `meta["distortions"]` holds what its regions cannot express.

    Raises:
        RecordingError: when the images are not those of one run.
    """
    merger = _Merger(images, window)
    processes = list(merger.processes.values())
    builder = ProgramBuilder(
        **meta,
        sampling_error=merger.error(),
        brk_start=max(p.replayer.brk_start for p in processes),
        mmap_base=processes[0].replayer.mmap_base,
    )
    try:
        merger.write(builder, ns)
        program = builder.build()
    except ProgramError as error:
        raise RecordingError(f"the run is not a trace program: {error}") from error
    program.meta["distortions"] = sorted({note for p in processes for note in p.replayer.notes} | merger.notes)
    return program
