"""`ProgramBuilder`: writes a trace program, one method per operation, and refuses impossible operations.

The builder keeps track of the mapped addresses of each region. So a program that touches unmapped memory is refused
while it is written, with the line.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thp_env.machine import layout
from thp_env.machine.arrays import Records
from thp_env.machine.operations import ACCESS_DTYPE
from thp_env.machine.program_check import ProgramError, UnknownOperationError
from thp_env.traces.distributions import alias_table
from thp_env.traces.groups import GroupWriter
from thp_env.traces.hints import HintWriter
from thp_env.traces.intervals import Intervals

WEIGHT_MAX = (1 << 32) - 1


class ProgramBuilder(HintWriter, GroupWriter):
    """Writes a `Program`.

    All lengths and offsets are bytes. `content` is what a write leaves in a page: 0 = all zero, 1-99 = it
    compresses to that percentage of its size, 100 = random.

    Args:
        name: the program's name.
        seed: seeds every random choice of the program.
        checked: refuse operations on unmapped memory. Recordings of a kernel's errors need False.
        meta: further facts to keep with the program.

    Raises:
        ProgramError: from any method, for an operation that cannot run.
    """

    # -- mappings ----------------------------------------------------------------------------------

    def mmap(
        self,
        region: str,
        length: int,
        *,
        at: str | int | tuple[str, int] = "slot",
        align: int = 0,
        offset: int = 0,
        prot: str = "rw",
        file: bool = False,
        shared: bool = False,
        nohugepage: bool = False,
    ) -> None:
        """Map `length` bytes as a new region.

        Args:
            region: its name; a name can be mapped once.
            length: bytes, rounded up to pages.
            at: "slot" (its own 2 GiB slot, 2M aligned plus `offset`: conformance), "auto"
                (get_unmapped_area, as mmap without a hint), an absolute address, or (region, offset) to
                map over a part of another region (MAP_FIXED).
            align: alignment inside the slot, at least 2M.
            offset: bytes after that alignment.
            prot: "none", "r" or "rw".
            file: a mapping of a file of that length, private unless `shared`: its pages are single and stay in memory
                once they are there; no action chooses their folios.
            shared: processes that fork share it, written pages too.
            nohugepage: VM_NOHUGEPAGE from the start (MAP_STACK since Linux 6.7).
        """
        if region in self._regions:
            raise ProgramError(f"region {region} exists already")
        if at == "slot" and length > 2 << 30:
            raise ProgramError("a slot holds 2 GiB at most; map with at=auto")
        length = self._pages(length)
        flags = self._prot(prot) | (layout.VM_FILE if file else 0) | (layout.VM_NOHUGEPAGE if nohugepage else 0)
        flags |= layout.VM_FILE | layout.VM_SHARED if shared else 0
        place = self._place(at, align, offset)
        number = self._new_region(region, length)
        if isinstance(at, tuple):
            self._forget(place["at"], at[1], length)
        self._emit("mmap", number, 0, length, **place, flags=flags)
        self._intervals(number).add(0, length)

    def munmap(self, region: str, offset: int, length: int) -> None:
        """Unmap a range of a region."""
        number, offset, length = self._range(region, offset, length)
        self._emit("munmap", number, offset, length)
        self._forget(number, offset, length)

    def mprotect(self, region: str, offset: int, length: int, prot: str) -> None:
        """Change the protection of a range to "none", "r" or "rw"."""
        number, offset, length = self._range(region, offset, length)
        self._emit("mprotect", number, offset, length, prot=self._prot(prot))

    def mremap(
        self,
        region: str,
        offset: int,
        length: int,
        name: str,
        new_length: int | None = None,
        *,
        at: str | int | tuple[str, int] = "slot",
        align: int = 0,
        slot_offset: int = 0,
    ) -> None:
        """Move a range to a new region called `name`; `at="auto"` grows or shrinks in place if it can."""
        number, offset, length = self._range(region, offset, length)
        new_length = length if new_length is None else self._pages(new_length)
        place = self._place(at, align, slot_offset)
        if place["placement"] == layout.AT_REGION:
            raise ProgramError("mremap onto a part of another region is not supported: use at=auto")
        target = self._new_region(name, new_length)
        if place["placement"] != layout.AT_SLOT:
            place["new_length"] = new_length
        elif new_length != length:
            raise ProgramError("mremap into a slot keeps the length")
        self._emit("mremap", number, offset, length, to=target, **place)
        self._forget(number, offset, length)
        self._intervals(target).add(0, new_length)

    def brk(self, region: str, length: int) -> None:
        """Grow or shrink the heap, region `region`, to `length` bytes."""
        number = self._regions.get(region)
        if number is None:
            number = self._new_region(region, 0)
        length = self._pages(length) if length else 0
        self._emit("brk", number, 0, length)
        self._mapped[self._key(number)] = Intervals()
        if length:
            self._intervals(number).add(0, length)
        self._size[number] = max(self._size[number], length)

    def mlock(self, region: str, offset: int, length: int) -> None:
        """Lock a range into memory."""
        self._emit("mlock", *self._range(region, offset, length))

    def munlock(self, region: str, offset: int, length: int) -> None:
        """Undo `mlock`."""
        self._emit("munlock", *self._range(region, offset, length))

    # -- accesses and time -------------------------------------------------------------------------

    def touch(
        self, region: str, offset: int, length: int, kind: str = "write", stride: int = 4096, content: int = 1
    ) -> None:
        """Access one byte per `stride` bytes, each exactly once.

        Args:
            region: the region.
            offset: first byte.
            length: bytes.
            kind: "read", "write" (a byte that is not zero), "writez" (a zero byte), "fill" (random data).
            stride: bytes between two accesses.
            content: what a "write" leaves in a page.
        """
        if kind not in layout.TOUCH:
            raise ProgramError(f"unknown kind of touch {kind}")
        if stride <= 0:
            raise ProgramError("stride must be positive")
        number = self._region(region)
        self._in_bounds(number, offset, length)
        content = {"writez": 0, "fill": 100}.get(kind, self._content(content))
        self._emit("touch", number, offset, length, stride=stride, kind=layout.TOUCH.index(kind), content=content)

    def access(
        self,
        region: str,
        offset: int,
        length: int,
        pattern: str,
        count: int,
        *,
        ns: float = 1.0,
        write: float = 0.0,
        stride: int = 64,
        weight: int = 1,
        content: int = 50,
        zipf: float | None = None,
        center: float = 0.5,
        sigma: float = 0.1,
        scatter: bool = True,
    ) -> None:
        """Access a range `count` times by a pattern that the machine expands.

        Args:
            region: the region.
            offset: first byte of the range.
            length: bytes of the range.
            pattern: "stride" (wraps at the end), "uniform", "zipf", "gauss", "chase" (a fixed permutation
                of the pages, each visited once a round).
            count: simulated accesses.
            ns: nanoseconds an access takes besides translation and faults.
            write: share of accesses that write, 0 to 1.
            stride: bytes between two accesses ("stride" only).
            weight: real accesses that one simulated access stands for.
            content: what a write leaves in a page.
            zipf: exponent ("zipf" only; 0.99 if not given).
            center: middle of the hot island as a share of the range ("gauss" only).
            sigma: its standard deviation as a share of the range ("gauss" only).
            scatter: spread the ranks over the range's pages ("zipf" only).
        """
        number = self._region(region)
        self._in_bounds(number, offset, length)
        if not 0 <= write <= 1:
            raise ProgramError("the share of writes must lie between 0 and 1")
        if count < 0 or ns < 0:
            raise ProgramError("count and ns must not be negative")
        if length < 64:
            raise ProgramError("accesses need a range of at least 64 bytes")
        if not 1 <= weight <= WEIGHT_MAX:
            raise ProgramError("weight must be at least 1")
        other = {}
        if pattern in ("zipf", "gauss"):
            pages = -(-length // layout.PAGE_SIZE)
            exponent = 0.99 if zipf is None else zipf
            other["table"] = self._table(alias_table(pattern, pages, exponent, center, sigma, scatter))
            pattern = "bins"
        elif pattern == "stride":
            if not 0 < stride < 1 << 32:
                raise ProgramError("stride must be positive")
            other["stride"] = stride
        if pattern not in layout.PATTERNS:
            raise ProgramError(f"unknown access pattern {pattern}")
        code, share = layout.PATTERNS.index(pattern), round(write * 65536)
        self._emit(
            "access", number, offset, length, pattern=code, count=count, ps=round(ns * 1000), write_share=share,
            content=self._content(content), weight=weight, **other,
        )  # fmt: skip

    def replay(
        self, accesses: Records | Sequence[tuple[int, int, int, int, int]], *, ns: float = 0.3, weight: int = 1,
        content: int = 50,
    ) -> None:  # fmt: skip
        """Replay recorded accesses.

        Args:
            accesses: `ACCESS_DTYPE` array; `region` is `region_number(name)`.
            ns: nanoseconds an instruction takes.
            weight: real accesses that one recorded access represents; 0: it has its effects, but is not counted.
            content: what a write leaves in a page.
        """
        data = np.asarray(accesses, dtype=ACCESS_DTYPE)
        if not 0 <= weight <= WEIGHT_MAX:
            raise ProgramError("weight must not be negative")
        ps, payload = round(ns * 1000), self._content(content)
        self._emit("replay", first=self._n_accesses, count=len(data), ps=ps, content=payload, weight=weight)
        self._accesses.append(data)
        self._n_accesses += len(data)

    def compute(self, ns: float) -> None:
        """Let `ns` nanoseconds pass."""
        if ns < 0:
            raise ProgramError("time cannot run backwards")
        self._emit("compute", ps=round(ns * 1000))

    def slice(self, process: str) -> None:
        """Give the CPU to a process."""
        if process not in self._processes:
            raise ProgramError(f"unknown process {process}")
        self.process = process
        self._emit("slice")

    # -- the system --------------------------------------------------------------------------------

    def thp(self, kilobytes: int, mode: str) -> None:
        """Set hugepages-<kilobytes>kB/enabled to never, madvise, always or inherit."""
        order = (kilobytes // 4).bit_length() - 1
        if kilobytes not in layout.THP_KILOBYTES:
            raise ProgramError(f"no such folio size: {kilobytes}K")
        if mode not in layout.THP_MODES:
            raise ProgramError(f"unknown mode {mode}")
        self._emit("thp", order=order, mode=layout.THP_MODES.index(mode))

    def set(self, path: str, value: int | str, *, group: int = 0) -> None:
        """Change one of `layout.SETTINGS`, most of them files below /sys/kernel/mm/transparent_hugepage.

        Args:
            path: the setting.
            value: a name or a number.
            group: the control group, for swappiness.
        """
        if path not in layout.SETTINGS:
            raise UnknownOperationError(f"unknown setting {path}")
        values = layout.SETTINGS[path]
        number, code = list(layout.SETTINGS).index(path), str(value)
        if isinstance(values, tuple) and code in values:
            code = str(values.index(code))
        if not code.isdecimal() or int(code) >= layout.SETTING_VALUES[number]:
            choices = f"0 to {values - 1}" if isinstance(values, int) else ", ".join(values)
            raise ProgramError(f"{path} takes {choices}, not {value}")
        if group and path != "swappiness":
            raise ProgramError(f"{path} is the whole system's: only swappiness is a control group's")
        self._emit("set", path=number, value=int(code), group=self._group(group))

    def swappiness(self, value: int, *, group: int = 0) -> None:
        """Set how willingly anonymous memory of a control group is swapped out, 0 to 200 (memory.swappiness)."""
        self.set("swappiness", value, group=group)

    def autodrain(self, on: str) -> None:
        """`off`: small folios wait in batches of 31 before they are on an LRU list (x04)."""
        if on not in ("on", "off"):
            raise ProgramError(f"autodrain takes on or off, not {on}")
        self.set("lru_batches", int(on == "off"))

    def drain(self) -> None:
        """Put the folios of the batches on their LRU lists."""
        self._emit("drain")

    def shrink(self) -> None:
        """Run the deferred-split shrinker."""
        self._emit("shrink")

    def swap(self, length: int) -> None:
        """Add a swap device of `length` bytes that behaves as zram."""
        self._emit("swap", length=self._pages(length))

    def swapoff(self) -> None:
        """Bring everything back from swap, as single pages, and remove the device."""
        self._emit("swapoff")

    def khugepaged(self, rounds: int = 2) -> None:
        """Let khugepaged scan every process on its list `rounds` times."""
        self._emit("khugepaged", rounds=rounds)

    def pollute(self, share: float) -> None:
        """Put an unmovable page into a share of all 2M blocks of memory, at random places.

        Blocks without a free page are skipped. The blocks depend on the program's seed alone.
        """
        if not 0 <= share <= 1:
            raise ProgramError(f"the share of 2M blocks must lie between 0 and 1, not {share}")
        self._emit("pollute", share=round(share * 65536))

    def fragment(self, order: int, index: float) -> None:
        """Fragment free memory until its unusable free space index reaches a value, as after hours of use.

        Movable pages, as of a page cache, go into random free blocks, one each; compaction can move them.

        Args:
            order: the order that the index is about, 1 to 10.
            index: share of free memory, 0 to 1, that an allocation of this order cannot use.
        """
        if not 1 <= order <= layout.MAX_PAGE_ORDER:
            raise ProgramError(f"memory can be fragmented for orders 1 to {layout.MAX_PAGE_ORDER}, not {order}")
        if not 0 <= index <= 1:
            raise ProgramError(f"the index must lie between 0 and 1, not {index}")
        self._emit("fragment", order=order, index=round(index * 1000))

    def compact(self) -> None:
        """Compact all memory (/proc/sys/vm/compact_memory)."""
        self._emit("compact")

    def fork(self, child: str) -> None:
        """Fork the current process; the child has the same regions."""
        if child in self._processes:
            raise ProgramError(f"process {child} exists already")
        parent = self._processes[self.process]
        number = self._processes[child] = len(self._processes)
        self._emit("fork", child=number)
        for (process, region), mapped in list(self._mapped.items()):
            if process == parent:
                self._mapped[number, region] = mapped.copy()

    def pin(self, region: str, offset: int, length: int) -> None:
        """Pin a range for I/O (FOLL_LONGTERM)."""
        self._emit("pin", *self._range(region, offset, length))

    def unpin(self) -> None:
        """Let go of everything that the current process has pinned."""
        self._emit("unpin")

    def exit(self, process: str) -> None:
        """End a process."""
        if process not in self._processes:
            raise ProgramError(f"unknown process {process}")
        self._emit("exit", ending=self._processes[process])
