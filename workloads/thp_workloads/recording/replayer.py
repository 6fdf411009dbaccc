"""Replays the recorded system calls: from client addresses to operations on regions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_env.machine import layout
from thp_env.machine.layout import PAGE_SIZE, PMD_SIZE, TASK_SIZE
from thp_env.traces.intervals import Intervals
from thp_workloads.recording.address_space import HIDDEN, AddressSpace, Piece
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.process_layout import MAPPED_FROM, ClientLayout, NativeLayout
from thp_workloads.recording.unmapped_area import aligns_files, get_unmapped_area, mmap_base

CALL_DTYPE = np.dtype(
    [("instruction", "<u8"), ("result", "<u8"), ("args", "<u8", 6), ("number", "<u4"), ("name", "<i4")]
)
"""A system call on memory, as the log reader keeps it."""

PROT_READ, PROT_WRITE = 1, 2
MAP_SHARED, MAP_FIXED, MAP_ANONYMOUS, MAP_STACK = 0x1, 0x10, 0x20, 0x20000
MAP_HUGETLB, MAP_FIXED_NOREPLACE = 0x40000, 0x100000
MREMAP_FIXED, MREMAP_DONTUNMAP = 2, 4
MADV_FREE = 8
MAX_REGIONS = 1 << 16
FORKS = (56, 57, 58)
"""clone, fork and vfork: `ProcessWriter` sees to them."""

Operation = tuple[str, tuple[Any, ...], dict[str, Any]]
"""A method of `ProgramBuilder` and its arguments."""


def _up(length: int) -> int:
    return -(-length // PAGE_SIZE) * PAGE_SIZE


def _prot(bits: int) -> str:
    return "rw" if bits & PROT_WRITE else "r" if bits & PROT_READ else "none"


class TooManyRegionsError(RecordingError):
    """A program has no number left for a region."""


@dataclass
class Regions:
    """How many regions a program has so far, in all of its processes."""

    used: int = 0


class Replayer:
    """Follows the address space of the recorded process, call by call.

    Attributes:
        space: the pieces by client address.
        occupied: the mapped native addresses.
        names: the regions' names; a region's number is its place here.
        stack: the stack's name.
        notes: how the program will differ from the run, one sentence each.
    """

    def __init__(
        self,
        native: NativeLayout,
        client: ClientLayout,
        stack_low: int,
        prefix: str = "",
        *,
        placed_by: int | None = None,
        copies: bool = False,
        regions: Regions | None = None,
    ) -> None:
        """Map what the program starts with.

        Args:
            native: the native layout at the first instruction.
            client: where valgrind put it.
            stack_low: the lowest client address of the stack that the run touched.
            prefix: what the regions' names begin with.
            placed_by: mappings lie where Linux puts them, moved down by so much; None: they do not.
            copies: the log shows writes to private mappings of files, which make anonymous copies, and touches of
                shared anonymous memory.
            regions: counts the regions of all processes of the program.
        """
        self._regions = regions or Regions()
        self._placed_by, self._copies = placed_by, copies
        self.space = AddressSpace()
        self.occupied = Intervals()
        self.names: list[str] = []
        self.notes: set[str] = set()
        self.mmap_base = native.mmap_base or mmap_base()
        self.brk_start = native.brk_start
        self.initial: list[Operation] = []
        self._mmaps = 0
        self._prefix = prefix
        self.stack = prefix + "stack"
        self._names: set[str] = set()
        self._last: dict[str, int] = {}
        self._heap = HIDDEN
        self._brk = 0
        self._client_brk = 0
        for line in native.mappings:
            if line.path == "[stack]":
                self._map_stack(line.end, line.end - line.start, client.stack_top, stack_low)
                continue
            # The executable's .bss has no path; ld.so has not mapped anything yet.
            file = not line.anonymous
            name = os.path.basename(line.path).strip("[]") or "bss"
            region = self._name(name if not file or not line.path.startswith("/") else f"{name}:0")
            self.occupied.add(line.start, line.end)
            is_copy = self._copies and file and line.private and line.prot == "rw"
            call = {"at": line.start, "prot": line.prot, "file": file and not is_copy, "nohugepage": is_copy}
            self.initial.append(("mmap", (self.names[region], line.end - line.start), call))
            shift = client.moved.get(line.path if file else native.executable)
            if shift is not None:
                piece = Piece(line.start + shift, line.end + shift, region, 0, line.start, not file or is_copy)
                self.space.add(piece)

    def child(self, prefix: str) -> Replayer:
        """Return the address space of a child after fork; what it maps anew has names that begin with `prefix`."""
        other = deepcopy(self)
        other._regions = self._regions
        other._prefix = prefix
        other.initial = []
        return other

    def _map_stack(self, native_top: int, length: int, client_top: int, stack_low: int) -> None:
        length = max(length, client_top - stack_low // PAGE_SIZE * PAGE_SIZE)
        region = self._name("stack")
        self.occupied.add(native_top - length, native_top)
        self.initial.append(("mmap", (self.stack, length), {"at": native_top - length}))
        self.space.add(Piece(client_top - length, client_top, region, 0, native_top - length, True))

    def _name(self, name: str) -> int:
        name = self._prefix + name
        base, _, number = name.rpartition(":")
        while name in self._names:
            number = str(int(number) + 1) if base and number.isdigit() else "1"
            base = base or name
            number = str(max(int(number), self._last.get(base, 0) + 1))
            self._last[base] = int(number)
            name = f"{base}:{number}"
        if self._regions.used >= MAX_REGIONS:
            raise TooManyRegionsError(f"the program maps more than {MAX_REGIONS:,} regions")
        self._regions.used += 1
        self._names.add(name)
        self.names.append(name)
        return len(self.names) - 1

    def call(self, call: np.void, file: str) -> Iterable[Operation]:
        """Apply one system call and return its operations.

        Args:
            call: a `CALL_DTYPE` record.
            file: path of the file that an mmap maps, if any.
        """
        args = [int(a) for a in call["args"]]
        number, result = int(call["number"]), int(call["result"])
        handlers = {
            9: self._mmap,
            10: self._mprotect,
            11: self._munmap,
            12: self._call_brk,
            25: self._mremap,
            28: self._madvise,
            149: self._mlock,
            150: self._munlock,
            325: self._mlock,
        }
        return handlers[number](args, result, file)

    # -- mapping -----------------------------------------------------------------------------------

    def _unmap(self, start: int, end: int) -> list[Operation]:
        pieces = [p for p in self.space.remove(start, end) if p.region != HIDDEN]
        for piece in pieces:
            self.occupied.remove(piece.native, piece.native + piece.length)
        return [("munmap", (self.names[p.region], p.offset, p.length), {}) for p in pieces]

    def _mmap(self, args: list[int], result: int, file: str) -> Iterable[Operation]:
        hint, length, prot, flags, _, file_offset = args
        length = _up(length)
        start, end = result, result + length
        anonymous = bool(flags & MAP_ANONYMOUS) and not flags & (MAP_SHARED | MAP_HUGETLB)
        under = self.space.parts(start, end)
        if os.path.basename(file).startswith("vgpreload_") or any(p.region == HIDDEN for p in under):
            self.space.remove(start, end)
            self.space.add(Piece(start, end, HIDDEN, 0, 0, False))
            return []
        at, native, before = self._place(hint, start, length, flags, file, file_offset, anonymous)
        self._mmaps += 1
        basename = os.path.basename(file)
        region = self._name(f"m{self._mmaps}" if anonymous or not basename else f"{basename}:1")
        # A page that a write copies from a file is a single one (do_cow_fault).
        is_copy = self._copies and not anonymous and not flags & MAP_SHARED and bool(prot & PROT_WRITE)
        shared = self._copies and bool(flags & MAP_SHARED) and bool(flags & MAP_ANONYMOUS)
        self.space.add(Piece(start, end, region, 0, native, anonymous or is_copy or shared, shared))
        self.occupied.add(native, native + length)
        call = {
            "at": at, "prot": _prot(prot), "file": not anonymous and not is_copy,
            "nohugepage": is_copy or bool(flags & MAP_STACK),
        }  # fmt: skip
        if shared:
            call["shared"] = True
        return [*before, ("mmap", (self.names[region], length), call)]

    def _native(self, address: int) -> int:
        """Return the native address that a client address stands for."""
        if (by := self._placed_by) is not None and MAPPED_FROM <= address + by < TASK_SIZE:
            return address + by
        return self.space.native_of(address)

    def _place(
        self, hint: int, start: int, length: int, flags: int, file: str, file_offset: int, anonymous: bool
    ) -> tuple[str | int | tuple[str, int], int, list[Operation]]:
        """Return where the program maps, the native address, and what must be unmapped before."""
        if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
            under = self.space.parts(start, start + length)
            native = under[0].native - (under[0].start - start) if under else self._native(start)
            if len(under) == 1 and under[0].length == length:
                self.space.remove(start, start + length)
                return (self.names[under[0].region], under[0].offset), native, []
            return native, native, self._unmap(start, start + length)
        if hint:
            native = self._native(hint)
            if self._free(native, native + length):
                return native, native, []
        if anonymous:
            wants_huge, file_offset = length % PMD_SIZE == 0 and not hint, 0
        else:
            # The file system, not the length, decides for files.
            past = file_offset + length - -(-file_offset // PMD_SIZE) * PMD_SIZE
            wants_huge = past >= PMD_SIZE and bool(file) and aligns_files(file)
        native = get_unmapped_area(self.occupied, length, self.mmap_base, aligned=wants_huge, offset=file_offset)
        if (by := self._placed_by) is not None and MAPPED_FROM <= start + by < TASK_SIZE and native != start + by:
            native = start + by  # the program has seen this address, and may align by it
            return native, native, []
        return ("auto" if anonymous else native), native, []

    def _free(self, start: int, end: int) -> bool:
        return all(e <= start or s >= end for s, e in self.occupied)

    def _munmap(self, args: list[int], result: int, file: str) -> Iterable[Operation]:
        return self._unmap(args[0], args[0] + _up(args[1]))

    def _call_brk(self, args: list[int], result: int, file: str) -> Iterable[Operation]:
        if not self._client_brk:
            self._client_brk = result
        if args[0] > result and self._placed_by is None:
            self.notes.add(
                "valgrind refused to grow the heap beyond 8 MB: the C library went on with mmap, as it would "
                "not natively"
            )
        length = _up(result - self._client_brk)
        if length == self._brk:
            return []
        if self._heap == HIDDEN:
            self._heap = self._name("heap")
        start = self._client_brk
        for piece in self.space.remove(start + length, start + max(length, self._brk)):
            self.occupied.remove(piece.native, piece.native + piece.length)
        if length > self._brk:
            native = self.brk_start + self._brk
            self.space.add(Piece(start + self._brk, start + length, self._heap, self._brk, native, True))
            self.occupied.add(native, self.brk_start + length)
        self._brk = length
        return [("brk", (self.names[self._heap], length), {})]

    def _mremap(self, args: list[int], result: int, file: str) -> Iterable[Operation]:
        old, new = _up(args[1]), _up(args[2])
        flags = args[3]
        if (old == new and result == args[0]) or old == 0:
            return []
        parts = self.space.parts(args[0], args[0] + old)
        if not parts or any(p.region == HIDDEN for p in parts):
            return []
        if flags & MREMAP_DONTUNMAP or not parts[0].anonymous or parts[0].shared or len({p.region for p in parts}) > 1:
            return self._remap_anew(args[0], old, result, new, parts[0].anonymous)
        before = self._unmap(result, result + new) if flags & MREMAP_FIXED else []
        part, native = parts[0], parts[0].native
        at: str | int = "auto"
        self.space.remove(args[0], args[0] + old)
        if flags & MREMAP_FIXED:
            at = native = self._native(result)
        elif new > old and not self._free(native + old, native + new):
            native = get_unmapped_area(self.occupied, new, self.mmap_base, aligned=new % PMD_SIZE == 0)
            if self._placed_by is not None and native != self._native(result):
                at = native = self._native(result)
        self.occupied.remove(part.native, part.native + old)
        self.occupied.add(native, native + new)
        self._mmaps += 1
        region = self._name(f"m{self._mmaps}")
        self.space.add(Piece(result, result + new, region, 0, native, True))
        arguments = (self.names[part.region], part.offset, old, self.names[region], new)
        return [*before, ("mremap", arguments, {"at": at})]

    def _remap_anew(self, start: int, old: int, result: int, new: int, anonymous: bool) -> Iterable[Operation]:
        """Stand in for a move that a program cannot express: unmap and map, the content is lost."""
        if anonymous:
            self.notes.add("an mremap over several mappings was recorded as munmap and mmap")
        operations = self._unmap(start, start + old)
        flags = MAP_ANONYMOUS if anonymous else 0
        return [*operations, *self._mmap([0, new, PROT_READ | PROT_WRITE, flags, 0, 0], result, "")]

    # -- ranges ------------------------------------------------------------------------------------

    def _ranges(self, start: int, length: int, anonymous: bool) -> list[tuple[str, int, int]]:
        return [
            (self.names[p.region], p.offset, p.length)
            for p in self.space.parts(start, start + _up(length))
            if p.region != HIDDEN and ((p.anonymous and not p.shared) or not anonymous)
        ]

    def _mprotect(self, args: list[int], result: int, file: str) -> Iterable[Operation]:
        return [("mprotect", (*r, _prot(args[2])), {}) for r in self._ranges(args[0], args[1], False)]

    def _madvise(self, args: list[int], result: int, file: str) -> Iterable[Operation]:
        names = {number: name for name, number in layout.ADVICE.items()}
        names[MADV_FREE] = "dontneed"
        if args[2] == MADV_FREE:
            self.notes.add("MADV_FREE was recorded as MADV_DONTNEED")
        if args[2] not in names:
            return []
        return [("advise", (*r, names[args[2]]), {}) for r in self._ranges(args[0], args[1], True)]

    def _mlock(self, args: list[int], result: int, file: str) -> Iterable[Operation]:
        return [("mlock", r, {}) for r in self._ranges(args[0], args[1], True)]

    def _munlock(self, args: list[int], result: int, file: str) -> Iterable[Operation]:
        return [("munlock", r, {}) for r in self._ranges(args[0], args[1], True)]
