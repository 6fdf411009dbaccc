"""The operations of a trace program that advise: hints of a process about itself and about others."""

from __future__ import annotations

from collections.abc import Iterable

from thp_env.machine import layout
from thp_env.machine.operations import CODES
from thp_env.machine.program_check import ProgramError, UnknownOperationError
from thp_env.traces.writer import ProgramWriter

CAPABILITIES = ("sys_nice",)
"""What a process can give up: without CAP_SYS_NICE it may not advise others."""


class HintWriter(ProgramWriter):
    """A part of `ProgramBuilder`."""

    def advise(self, region: str, offset: int, length: int, advice: str) -> None:
        """Call madvise: "hugepage", "nohugepage", "dontneed", "populate_write", ... (`layout.ADVICE`)."""
        number, offset, length = self._range(region, offset, length)
        self._emit("advise", number, offset, length, advice=self._advice(advice))

    def prctl(self, disable: int, flags: int = 0) -> None:
        """prctl(PR_SET_THP_DISABLE, disable, flags)."""
        self._emit("prctl", disable=disable, flags=flags)

    def iovec(self, region: str, offset: int, length: int) -> None:
        """Name a range for the `process_madvise` that follows; several in a row are one vector."""
        number = self._region(region)
        if offset % layout.PAGE_SIZE or offset < 0:
            raise ProgramError(f"offset {offset} is not a multiple of the page size")
        self._emit("iovec", number, offset, self._pages(length))

    def process_madvise(
        self, process: str, advice: str, ranges: Iterable[tuple[str, int, int]] = (), *, orders: int = 0
    ) -> None:
        """Advise memory of another process, range after range, up to the first that fails (process_madvise(2)).

        The call fails only if its first range does. Of another process Linux takes "cold", "pageout", "willneed" and
        "collapse"; the kernel's switch `remote_hints` adds "hugepage" and "nohugepage".

        Args:
            process: whose memory; its name. One that has ended is no error of the program, but of the call (ESRCH).
            advice: as `advise` takes it.
            ranges: (region, offset, length) of each, after those that `iovec` has named.
            orders: with "hugepage" and the switch `remote_hints`: the set of sizes, bit o for order o.
        """
        if process not in self._processes:
            raise ProgramError(f"unknown process {process}")
        if orders & ~layout.ORDERS_ALL:
            raise ProgramError(f"mask {orders:#x} names orders that do not exist")
        for region, offset, length in ranges:
            self.iovec(region, offset, length)
        vector, code = 0, CODES["iovec"]
        while vector < len(self._ops) and self._ops[-1 - vector][0] == code:
            vector += 1
        if vector == 0:
            raise ProgramError("process_madvise needs a range: name it with iovec REGION OFFSET LENGTH before")
        target = self._processes[process]
        self._emit("process_madvise", target=target, advice=self._advice(advice), ranges=vector, orders=orders)

    def capdrop(self, capability: str) -> None:
        """Drop a capability, "sys_nice"; children will not have it either."""
        if capability not in CAPABILITIES:
            raise ProgramError(f"unknown capability {capability}: one of {', '.join(CAPABILITIES)}")
        self._emit("capdrop")

    def collapse(self, region: str, offset: int, length: int, kilobytes: int) -> None:
        """Collapse blocks of a size that are not empty into one folio each, as DAMON's action may."""
        if kilobytes not in layout.THP_KILOBYTES:
            raise ProgramError(f"no such folio size: {kilobytes}K")
        order = (kilobytes // 4).bit_length() - 1
        self._emit("collapse", *self._range(region, offset, length), order=order)

    def orders(self, region: str, offset: int, length: int, mask: int) -> None:
        """Set the folio orders that the range may use (extension E1); 0 = no mask of its own."""
        if mask & ~layout.ORDERS_ALL:
            raise ProgramError(f"mask {mask:#x} names orders that do not exist")
        self._emit("orders", *self._range(region, offset, length), mask=mask)

    def split(self, region: str, offset: int, length: int) -> None:
        """Split the range's large folios as the deferred-split shrinker does (extension E2)."""
        self._emit("split", *self._range(region, offset, length))

    def _advice(self, advice: str) -> int:
        if advice not in layout.ADVICE:
            raise UnknownOperationError(f"unknown advice {advice}")
        return layout.ADVICE[advice]
