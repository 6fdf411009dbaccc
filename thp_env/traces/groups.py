"""The operations of a trace program on memory control groups."""

from __future__ import annotations

from thp_env.machine import layout
from thp_env.machine.program_check import ProgramError
from thp_env.traces.writer import ProgramWriter


class GroupWriter(ProgramWriter):
    """A part of `ProgramBuilder`. Group 0 is the group of all processes that were not moved to another one."""

    def cgroup(self, group: int) -> None:
        """Move the current process into a control group; a new number makes a group.

        Later charges of the process and of its children count for the group.
        """
        if not 0 <= group < layout.MAX_MEMCGS:
            raise ProgramError(f"control groups are numbered 0 to {layout.MAX_MEMCGS - 1}, not {group}")
        self._groups.add(group)
        self._emit("cgroup", group=group)

    def limit(self, length: int, *, group: int = 0) -> None:
        """Limit a group's memory in folios to `length` bytes (memory.max), reclaiming any excess; EBUSY if that
        fails."""
        self._emit("limit", length=self._pages(length), group=self._group(group))

    def reclaim(self, *, group: int = 0) -> None:
        """Reclaim as much as possible in a group (memory.force_empty)."""
        self._emit("reclaim", group=self._group(group))

    def _group(self, group: int) -> int:
        if group not in self._groups:
            raise ProgramError(f"control group {group} does not exist: `cgroup {group}` makes it")
        return group
