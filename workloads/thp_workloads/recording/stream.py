"""What the valgrind tool in `pagetrace/` sends of one process, taken apart.

A stream is blocks of (kind, bytes, payload), little-endian, each payload an array of records or a head with one:

| kind | payload |
| --- | --- |
| HELLO | version, pid, parent's pid, stack pointer; whether it began with a fork; whether its address space is wide |
| TOUCHES | (instruction, page with the highest bit set if it wrote): first touches, `TOUCH_DTYPE` |
| RUNS | window, highest level at which it is kept, level so far; then its accesses merged by page, `RUN_DTYPE` |
| CALL | a system call, `CALL_DTYPE` with the length of a file name, and that name |
| WINDOWS | what was counted when each window began: accesses, first-level misses, walks |
| SAMPLE | instruction, page; then what that page holds |
| MARKS | instruction, CLOCK_MONOTONIC, the program's own time, how much of it was waiting (ns) |
| END | totals, `TOTALS`; a process that is killed sends none |
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field

import numpy as np

from thp_workloads.recording.content import compressed_percentage
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.image import MARK_DTYPE
from thp_workloads.recording.program_writer import TOUCH_DTYPE, Log, unpacked_touches
from thp_workloads.recording.replayer import CALL_DTYPE
from thp_workloads.recording.windows import RUN_DTYPE, without_needless_warmth

VERSION = 1
HELLO, TOUCHES, RUNS, CALL, WINDOWS, SAMPLE, MARKS, END = range(1, 9)
HEADER = struct.Struct("<II")
TOTALS = (
    "instructions", "anonymous", "other", "first_misses", "walks", "other_pages", "shared_pages", "level", "timers",
    "misplaced",
)  # fmt: skip
LONGEST_BLOCK = 1 << 30


@dataclass
class Stream:
    """What a process has sent so far.

    Attributes:
        window: instructions in a window.
        hello: see the module; None until it has come.
        ended: whether the process came to its end.
        totals: `TOTALS` of a process that has ended.
    """

    window: int
    hello: dict[str, int] | None = None
    ended: bool = False
    totals: dict[str, int] = field(default_factory=dict)
    level: int = 0
    samples: list[tuple[int, int, int]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    _rest: bytearray = field(default_factory=bytearray)
    _touches: list[bytes] = field(default_factory=list)
    _calls: list[bytes] = field(default_factory=list)
    _runs: list[tuple[int, bytes]] = field(default_factory=list)
    _windows: list[bytes] = field(default_factory=list)
    _marks: list[np.ndarray] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def feed(self, data: bytes) -> None:
        """Take bytes from the socket.

        Raises:
            RecordingError: for what is not a stream of this version.
        """
        self._rest += data
        at = 0
        while len(self._rest) - at >= HEADER.size:
            kind, length = HEADER.unpack_from(self._rest, at)
            if not HELLO <= kind <= END or length > LONGEST_BLOCK:
                raise RecordingError("what valgrind sends is not a stream of the recorder's tool")
            if len(self._rest) - at - HEADER.size < length:
                break
            at += HEADER.size
            self._block(kind, bytes(self._rest[at : at + length]))
            at += length
        del self._rest[:at]

    def _block(self, kind: int, data: bytes) -> None:
        if kind == HELLO:
            names = ("version", "pid", "parent", "stack_pointer", "forked", "wide")
            self.hello = dict(zip(names, struct.unpack("<6Q", data), strict=True))
            if self.hello["version"] != VERSION:
                raise RecordingError("the recorder's tool is of another version: remove it from the cache")
        elif kind == TOUCHES:
            self._touches.append(data)
        elif kind == RUNS:
            _, rank, self.level = struct.unpack_from("<3Q", data)
            self._runs.append((rank, data[24:]))
            self._thin()
        elif kind == CALL:
            self._call(data)
        elif kind == WINDOWS:
            self._windows.append(data)
        elif kind == SAMPLE:
            instruction, page = struct.unpack_from("<2Q", data)
            self.samples.append((instruction, page, compressed_percentage(data[16:])))
        elif kind == MARKS:
            self._marks.append(np.frombuffer(data, MARK_DTYPE))
        else:
            self.totals = dict(zip(TOTALS, struct.unpack(f"<{len(TOTALS)}Q", data), strict=True))
            self.level = self.totals["level"]
            self._thin()
            self.ended = True

    def _call(self, data: bytes) -> None:
        record = bytearray(data[: CALL_DTYPE.itemsize])
        name = data[CALL_DTYPE.itemsize :].decode(errors="surrogateescape")
        if name and name not in self._numbers:
            self._numbers[name] = len(self.files)
            self.files.append(name)
        struct.pack_into("<i", record, CALL_DTYPE.itemsize - 4, self._numbers.get(name, -1))
        self._calls.append(bytes(record))

    def thin(self, level: int) -> None:
        """Let go of the windows that are not kept at a level."""
        self.level = max(self.level, level)
        self._thin()

    def size(self, level: int) -> tuple[int, int]:
        """Return how many first touches there are, and how many runs in the windows kept at a level."""
        touches = sum(map(len, self._touches)) // TOUCH_DTYPE.itemsize
        return touches, sum(len(runs) for rank, runs in self._runs if rank >= level) // RUN_DTYPE.itemsize

    def _thin(self) -> None:
        """Let go of the windows that are not kept at this level."""
        if self._runs and any(rank < self.level for rank, _ in self._runs):
            self._runs = [(rank, runs) for rank, runs in self._runs if rank >= self.level]

    @property
    def marks(self) -> np.ndarray:
        """`MARK_DTYPE`, ascending."""
        return np.concatenate(self._marks) if self._marks else np.zeros(1, MARK_DTYPE)

    @property
    def own_ns(self) -> int:
        """The program's own time when it last told it, in nanoseconds."""
        return int(self._marks[-1]["own"][-1]) if self._marks else 0

    @property
    def silent_ns(self) -> int:
        """How long ago that was, in nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns() - int(self._marks[-1]["real"][-1]) if self._marks else 0

    def begun(self) -> np.ndarray:
        """Return what the model TLB had counted when each window began, shape (windows, 3)."""
        return np.frombuffer(b"".join(self._windows), np.uint64).reshape(-1, 3).astype(np.float64)

    def misses(self) -> tuple[float, float, float]:
        """Return accesses, first-level misses and walks of the whole run."""
        if self.totals:
            return tuple(float(self.totals[n]) for n in ("anonymous", "first_misses", "walks"))  # type: ignore[return-value]
        first_misses = self.begun()
        return tuple(first_misses[-1]) if len(first_misses) else (0.0, 0.0, 0.0)

    def log(self) -> Log:
        """Return the arrays that a program is written from."""
        touches = unpacked_touches(b"".join(self._touches))
        calls = np.frombuffer(b"".join(self._calls), CALL_DTYPE)
        runs = np.frombuffer(b"".join(runs for _, runs in self._runs), RUN_DTYPE)
        if not self.ended:  # the last window was not counted
            runs = runs[runs["instruction"] // np.uint64(self.window) < len(self.begun())]
        last = [int(part["instruction"][-1]) for part in (self.marks, touches, calls, runs) if len(part)]
        instructions = self.totals.get("instructions", max(last, default=0))
        return Log(calls, self.files, touches, without_needless_warmth(self.window, runs), instructions)
