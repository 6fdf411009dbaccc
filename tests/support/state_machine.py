"""A machine that hypothesis drives: a drawn operation a rule, what must hold after each, nothing lost in the end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.machines import check_nothing_lost, check_seen_from_outside, machine_of
from support.programs import MAX_PROCESSES, MAX_REGIONS, RandomProgram
from thp_env.machine import Status, layout
from thp_env.machine.features import FEATURES
from thp_env.traces import ProgramBuilder

KERNELS = st.one_of(
    st.just({}),
    st.just({"arch": "arm64"}),
    st.just({"arch": "arm64", "features": "oppo-5.15"}),
    st.builds(lambda names: {"arch": "arm64", "features": names}, st.frozensets(st.sampled_from(FEATURES))),
)
"""Architectures and switches of the kernel."""
LIMITS = st.sampled_from([{}] * 3 + [{"memory": 16 << 20}, {"max_page_tables": 24}, {"max_vmas": 8}])
"""Machines that run out of nothing, of frames, of page tables, of VMAs."""
SWAP = 32 << 20


def _largest_program(seed):
    """Return a program that needs as many tables as a drawn one can."""
    b = ProgramBuilder("largest", seed=seed)
    for i in range(MAX_REGIONS):
        b.mmap(f"r{i}", 8 << 20, file=i < 4)
    for i in range(1, MAX_PROCESSES):
        b.fork(f"C{i}")
    b.swap(SWAP)
    return b.build()


class RandomMachine(RuleBasedStateMachine):
    """Each rule adds an operation to the machine's program and runs it."""

    @initialize(
        seed=st.integers(0, 9), kernel=KERNELS, limits=LIMITS, shadow=st.booleans(), data=st.data(),
        sizes=st.sets(st.sampled_from(layout.THP_KILOBYTES)), swap=st.sampled_from([0, 1 << 20, SWAP]),
    )  # fmt: skip
    def boot(self, seed, kernel, limits, shadow, data, sizes, swap):
        self.machine = machine_of(_largest_program(seed), shadow_tlb=shadow, **kernel, **limits)
        self.twin = None
        self.program, self.killed = RandomProgram(seed), []
        # What is mapped is all there is: no other process, swap, pin or reserve holds a page.
        self.alone = not swap and "features" not in kernel
        for kilobytes in sizes:
            self.program.thp(kilobytes, "always")
        if swap:
            self.program.swap(swap)
        for _ in range(2):
            self.program.random(data.draw, "mmap")
        self.run()

    def run(self):
        """Run what is new, on the machine and on its twin."""
        written = self.program.build()
        written = replace(written, ops=np.delete(written.ops, self.killed))
        self.machine.extend(written)
        status = self.machine.run(go_on=True)
        if self.twin is not None:
            self.twin.extend(written)
            assert self.twin.run(go_on=True) == status
        if status == Status.OOM:  # out_of_memory(): the process is killed in the middle of its operation
            self.killed.append(len(self.program) - 1)
            self.program.exit(self.program.process)
            return self.run()
        assert status == Status.DONE
        if self.program.process not in self.living() and self.living():
            self.program.process = self.living()[0]

    def living(self):
        return [name for name in self.program.processes if self.machine.process(name)]

    def operation(self, data, *kinds):
        self.program.random(data.draw, data.draw(st.sampled_from(kinds)))
        self.run()

    # -- one address space -------------------------------------------------------------------------

    @rule(data=st.data())
    def mmap(self, data):
        self.operation(data, "mmap", "map_over", "brk", "mremap")

    @rule(data=st.data())
    def munmap(self, data):
        self.operation(data, "munmap")

    @rule(data=st.data())
    def mprotect(self, data):
        self.operation(data, "mprotect", "mlock", "munlock")

    @rule(data=st.data())
    def madvise(self, data):
        self.operation(data, "advise")

    @rule(data=st.data())
    def touch(self, data):
        self.operation(data, "touch")

    @rule(data=st.data())
    def touch_more(self, data):
        """As `touch`: hypothesis chooses evenly among rules, and what nobody touches tests little."""
        self.operation(data, "touch")

    @rule(data=st.data())
    def access(self, data):
        self.operation(data, "access", "compute")

    # -- the system --------------------------------------------------------------------------------

    @rule(data=st.data())
    def settings(self, data):
        self.operation(data, "thp", "set", "prctl", "orders", "defrag", "batches")

    @rule(data=st.data())
    def split(self, data):
        self.operation(data, "split", "shrink")

    @rule(data=st.data())
    def collapse(self, data):
        self.operation(data, "collapse", "khugepaged")

    @rule(data=st.data())
    def compaction(self, data):
        self.operation(data, "pollute", "fragment", "compact", "compact")

    @rule(data=st.data())
    def limit(self, data):
        self.operation(data, "limit")

    @rule(data=st.data())
    def reclaim(self, data):
        self.operation(data, "reclaim")

    @rule(data=st.data())
    def swapoff(self, data):
        self.alone = False
        self.operation(data, "swapoff")

    @rule(data=st.data())
    def pin(self, data):
        self.alone = False
        self.operation(data, "pin", "unpin")

    # -- processes ---------------------------------------------------------------------------------

    @precondition(lambda self: len(self.program.processes) < MAX_PROCESSES)
    @rule(data=st.data())
    def fork(self, data):
        self.alone = False
        self.operation(data, "fork")

    @precondition(lambda self: len(self.living()) > 1)
    @rule(data=st.data())
    def exit(self, data):
        self.operation(data, "exit")

    @precondition(lambda self: len(self.living()) > 1)
    @rule(data=st.data())
    def switch(self, data):
        self.program.process = data.draw(st.sampled_from(self.living()))

    # -- the machine -------------------------------------------------------------------------------

    @rule()
    def clone(self):
        """Go on with a copy; the operations that follow, until the next copy, are done twice."""
        self.check_twin()
        self.twin, self.machine = self.machine, self.machine.clone()

    def check_twin(self):
        assert self.twin is None or self.twin == self.machine

    @invariant()
    def counts_agree(self):
        self.machine.validate()

    @precondition(lambda self: self.alone)
    @invariant()
    def counts_agree_seen_from_outside(self):
        check_seen_from_outside(self.machine)

    def teardown(self):
        if not hasattr(self, "program"):  # not booted
            return
        for name in self.living():
            self.program.process = name
            self.program.exit(name)
        self.run()
        self.check_twin()
        self.machine.validate()
        check_nothing_lost(self.machine)
