"""The simulated machine: Linux anonymous memory and a TLB, executing a trace program.

`Machine` is the public interface; `MachineConfig` sets its size, its core and its costs. Nothing here depends on
Gymnasium.
"""

from __future__ import annotations

import errno
import warnings
from enum import IntEnum
from typing import TYPE_CHECKING, Self

import numpy as np

from thp_env.machine import _core, layout
from thp_env.machine.access import Access
from thp_env.machine.arguments import NEVER, one_of, order_mask, up_to, whole
from thp_env.machine.arrays import Addresses, Bytes, Masks, Records
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.machine.config import ARCHITECTURES, MachineConfig, MachineError  # noqa: F401
from thp_env.machine.counters import Counters
from thp_env.machine.reading import Reading, vma_id
from thp_env.machine.records import (  # noqa: F401 -- what is read of a machine belongs to its face
    BLOCK_DTYPE,
    HOLE_DTYPE,
    KIND_FILE,
    KIND_FOLIO,
    KIND_GUARD,
    KIND_HUGE_ZERO,
    KIND_NONE,
    KIND_SWAP,
    KIND_ZERO,
    LAYOUT_CONT,
    LAYOUT_DIRTY,
    LAYOUT_EXCLUSIVE,
    LAYOUT_NOT_LRU,
    LAYOUT_NOT_SWAPBACKED,
    LAYOUT_PMD,
    LAYOUT_SWAPCACHE,
    LAYOUT_TOUCHED,
    LAYOUT_YOUNG,
    MAPS_NOTHING,
    MAPS_ZEROS,
    PAGE_DTYPE,
    SIZE_DTYPE,
    SMAPS_DTYPE,
    WALK_DTYPE,
    YOUNG_ACCESSED,
    YOUNG_CONT,
    YOUNG_DIRTY,
    YOUNG_MAPPED,
    YOUNG_PMD,
    YOUNG_ZERO_PAGE,
    ControlGroup,
    OrderQuestion,
    Pressure,
    Verb,
    Vma,
)  # fmt: skip
from thp_env.machine.saving import SavedMachine, check_behaviour

if TYPE_CHECKING:
    from thp_env.machine.program import Program

__all__ = ["PAGE_DTYPE", "SMAPS_DTYPE", "WALK_DTYPE", "ControlGroup", "Counters", "KernelWarning", "Machine",
           "MachineConfig", "MachineError", "OrderQuestion", "Pressure", "Status", "Vma"]  # fmt: skip

KERNEL_WARNINGS = ("mTHP collapse only supports max_ptes_none values of 0 or 511: it counts as 0",)
"""What the kernel may warn of, once in a run; the position is the bit."""


class KernelWarning(UserWarning):
    """A warning that a kernel would write to its log (pr_warn_once)."""


class Status(IntEnum):
    """Why `Machine.run` returned."""

    DONE = 0
    """The program has ended."""
    WINDOW = 1
    """The budget is used up."""
    OOM = 2
    """The simulated machine ran out of memory."""
    ERROR = 3
    """An operation failed: see `Machine.error`."""
    NEED_ORDER = 4
    """A fault waits for an order: see `Machine.question`, and answer with `Machine.resolve`."""


def _records(program: Program) -> tuple[Bytes, Bytes, Bytes, Bytes, int]:
    """Return the arrays of a program as the core reads them, and its seed."""

    def words(array: Records | Masks) -> Bytes:
        return np.ascontiguousarray(array).view(np.uint8).reshape(-1)

    tables = words(program.bins), words(program.alias_tables)
    return words(program.ops), words(program.accesses), *tables, program.seed & NEVER


class Machine(Reading, Access):
    """A simulated machine that executes one trace program.

    Args:
        program: what it executes.
        config: how it is built.

    A machine does one thing at a time: a call from another thread, or from a signal's handler, while it runs is
    refused. It checks its program when it is built.

    Raises:
        MachineError: when the configuration makes no sense; from any method, while the machine is running.
        ProgramError: when the program cannot be run.
    """

    def __init__(self, program: Program, config: MachineConfig | None = None) -> None:
        """Build the machine; nothing has run yet."""
        self.program = program.check()
        self.config = config or MachineConfig()
        brk, base = (int(program.meta.get(key, 0)) for key in ("brk_start", "mmap_base"))
        try:
            self._core = _core.CoreMachine.create(
                self.config.as_dict(), max(1, len(program.regions)), len(program.processes),
                program.swap_slots, program.file_pages, brk, base, *_records(program),
            )  # fmt: skip
        except (ValueError, TypeError, MemoryError, RuntimeError) as error:
            raise MachineError(f"cannot build the machine: {error}") from None

    # -- running -----------------------------------------------------------------------------------

    def run(
        self,
        *,
        until_ps: int = NEVER,
        choices: int = NEVER,
        ops: int = NEVER,
        accesses: int = NEVER,
        new_vma: bool = False,
        go_on: bool = False,
    ) -> Status:
        """Run until the program ends or the first limit is reached.

        Cutting a run in pieces does not change its result. The GIL is released during the run. Ctrl-C, or any other
        signal whose handler raises, stops the run at a place where it can continue: between two accesses, two rounds
        of khugepaged or two calls. A long call is stopped in the middle; after that the machine can only `load` a
        state.

        Args:
            until_ps: the machine's clock, in picoseconds.
            choices: faults with a choice, that is, faults that could get a large folio.
            ops: whole operations.
            accesses: simulated accesses.
            new_vma: pause after an operation that makes a new anonymous VMA of 64K or more.
            go_on: note a failing system call in `error` and continue, as a kernel does.

        Raises:
            MachineError: when the clock or a counter would overflow; then nothing can run any more.
        """
        before, until, faults = self._core.warned, up_to("until_ps", until_ps), up_to("choices", choices)
        most = up_to("ops", ops), up_to("accesses", accesses)
        status = Status(self._core.run(until, faults, *most, bool(new_vma), bool(go_on)))
        if fresh := self._core.warned & ~before:
            for bit, text in enumerate(KERNEL_WARNINGS):
                if fresh >> bit & 1:
                    warnings.warn(text, KernelWarning, stacklevel=2)
        return status

    def extend(self, program: Program) -> None:
        """Continue with a program that begins with the executed operations. So a program can be written step by step.

        The machine keeps the size that it was built with. If it has no room for a larger swap device, adding the
        device fails (ENOMEM); if it has no room for more files, mapping them fails (ENFILE).

        Raises:
            MachineError: when the program has another beginning, or has more regions or processes than the first one.
            ProgramError: when it cannot be run.
        """
        program.check()
        done, goes_on = self.position[0], self._core.under_way()
        if not program.begins_as(self.program, done, goes_on):
            executed = f"the {done} operations that have run" + (" and the one that is under way" if goes_on else "")
            raise MachineError(f"the program does not begin with {executed}")
        self._core.extend(len(program.regions), len(program.processes), *_records(program), goes_on)
        self.program = program

    @property
    def clock_ps(self) -> int:
        """Simulated time in picoseconds."""
        return self._core.clock

    @property
    def position(self) -> tuple[int, int]:
        """The operation that runs next, and how many of its steps are done."""
        return self._core.position()

    @property
    def error(self) -> int:
        """The result of the last system call: 0 or an errno."""
        return -self._core.error

    @property
    def counters(self) -> Counters[int]:
        """A snapshot of all counters."""
        return Counters.of(*self._core.counters())

    @property
    def fault_latencies(self) -> tuple[Addresses, Addresses]:
        """Upper ends of ranges of nanoseconds, four in an octave, and the number of page faults in each; uint64."""
        counts = np.array(self._core.fault_latency, np.uint64)
        first = np.arange(len(counts), dtype=np.uint64) + np.uint64(1)
        octave, quarter = first // np.uint64(4), first % np.uint64(4)
        return (np.uint64(4) + quarter << octave) // np.uint64(4) - np.uint64(1), counts

    # -- state -------------------------------------------------------------------------------------

    def clone(self) -> Self:
        """Return an independent copy in the same state.

        Machines with 64 MiB of state or more share unchanged pages with their clones: the host copies a page when
        one of them writes to it. A shared state needs a file descriptor; without one, everything is copied.
        """
        other = object.__new__(type(self))
        other.program, other.config, other._core = self.program, self.config, self._core.clone()
        return other

    def save(self) -> bytes:
        """Return the state as bytes, without the program and the configuration.

        A checksum of the program is included, so the state is valid for this program only.
        """
        return self._core.save(self.program.fingerprint)

    def load(self, data: bytes) -> None:
        """Load a state that `save` returned, of a machine with the same configuration and program.

        It is always checked as by `validate`.

        Raises:
            MachineError: when it is not such a state; the machine stays unchanged.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise MachineError(f"a saved machine is bytes, not {type(data).__name__}")
        self._core.load(bytes(data), self.program.fingerprint)

    def __getstate__(self) -> SavedMachine:
        """Return the state for pickle."""
        return {"behaviour": BEHAVIOUR, "program": self.program, "config": self.config, "state": self.save()}

    def __setstate__(self, state: SavedMachine) -> None:
        """Build the machine again in its former state.

        Raises:
            MachineError: for a state of another behaviour, or one that is damaged.
        """
        check_behaviour(state["behaviour"])
        Machine.__init__(self, state["program"], state["config"])
        self.load(state["state"])

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return a clone; the program is shared, since nothing changes it."""
        return self.clone()

    def __eq__(self, other: object) -> bool:
        """Two machines are equal when their states are, byte for byte."""
        return self._core.equals(other._core) if isinstance(other, Machine) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @property
    def state_bytes(self) -> int:
        """Bytes of state in use."""
        return self._core.state_bytes

    def validate(self) -> None:
        """Count all numbers of the machine anew from its page tables, for tests.

        Raises:
            MachineError: naming the first number that does not agree.
        """
        if broken := self._core.validate():
            raise MachineError(f"inconsistent state: {broken}")

    # -- deciding ----------------------------------------------------------------------------------

    def set_orders(self, vma: int, mask: int) -> int:
        """Set the orders that a VMA may use (bit o: order o; bit 0 alone: no large folios; 0: the default).

        Returns the errno, 0 on success.

        Raises:
            KeyError: when there is no such VMA.
            MachineError: for a mask with other orders.
        """
        return -self._core.set_orders(vma_id(vma), order_mask(mask))

    def split(self, vma: int) -> None:
        """Split the large folios that a VMA maps, as the deferred-split shrinker does (extension E2).

        Raises:
            KeyError: when there is no such VMA.
        """
        self._core.split(vma_id(vma))

    def madvise(self, vma: int, advice: str) -> int:
        """Call madvise for a whole VMA: "hugepage", "nohugepage", "collapse", ... (`layout.ADVICE`).

        Returns the errno, 0 on success; EAGAIN where a fault of it would have to ask for an order.

        Raises:
            KeyError: when there is no such VMA.
            MachineError: for unknown advice.
        """
        return -self._core.madvise(vma_id(vma), layout.ADVICE[one_of("advice", advice, layout.ADVICE)])

    def set_default_orders(self, mask: int) -> None:
        """Set the orders of VMAs that have no mask of their own.

        Raises:
            MachineError: for a mask with other orders than `set_orders` takes.
        """
        self._core.set_default_orders(order_mask(mask))

    def set_thp(self, order: int, mode: str) -> None:
        """Set a size's sysfs control to never, madvise, always or inherit.

        Raises:
            MachineError: for another order or mode.
        """
        number = layout.THP_MODES.index(one_of("mode", mode, layout.THP_MODES))
        self._core.set_thp(whole("order", order, layout.ORDERS[0], layout.ORDERS[-1]), number)

    def ask_orders(self, hook: str) -> None:
        """From now on let `run` return `Status.NEED_ORDER` at every fault that has a choice.

        Each 2M block of a VMA is asked about once for its faults, once for khugepaged and once for swapping in, until
        it is unmapped. The answer is remembered in the state and masks the allowed orders.

        Args:
            hook: "bpf": as the proposed thp_get_order (Y. Shao, linux-mm, September 2025): a fault that the
                chosen order does not fit gets order 0. "address": it falls back to smaller orders. "none": do not
                ask (the default); earlier answers no longer count. A fault that waits for an answer is tried again.

        Raises:
            MachineError: for another hook.
        """
        one_of("hook", hook, layout.ORDER_HOOKS)
        self._core.set_order_hook(layout.ORDER_HOOKS.index(hook))

    @property
    def question(self) -> OrderQuestion | None:
        """The question that the machine waits with; None when it does not wait."""
        if (core_question := self._core.question) is None:
            return None
        vma, mm, address, kind, orders = core_question
        return OrderQuestion(vma, mm, address, layout.TVA_TYPES[kind], orders)

    def resolve(self, order: int) -> None:
        """Answer the question; `run` continues with the answer.

        Args:
            order: 0, or one that `OrderQuestion.orders` offers.

        Raises:
            MachineError: when there is no question, or the order is not among its orders.
        """
        question = self.question
        is_order = isinstance(order, int | np.integer) and 0 <= order <= layout.PMD_ORDER
        error = self._core.resolve(int(order)) if is_order else -errno.EINVAL
        if error and question is None:
            raise MachineError("nothing was asked: resolve() answers after run() returned NEED_ORDER")
        if error == -errno.ENOMEM:
            raise MachineError("no room for another answer: raise max_page_tables or max_vmas")
        if error:
            choices = [0, *(o for o in layout.ORDERS if question and question.orders >> o & 1)]
            raise MachineError(f"order {order!r} was not offered: one of {choices}")
