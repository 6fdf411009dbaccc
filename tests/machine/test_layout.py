"""Constants and records that Python repeats equal those of the C++ headers and the kernel's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import thp_env.machine as machine
from thp_env.machine import _core, clock, cores, layout, operations
from thp_env.machine.counters import MTHP_STATS, TIMES, VM_EVENTS, Counters
from thp_env.machine.operations import ACCESS_DTYPE, BIN_DTYPE, OP_DTYPE
from thp_env.traces import parse_program

CORE = Path(machine.__file__).parent


def header(name: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", (CORE / name).read_text(), flags=re.S)


def evaluate(text: str) -> int:
    return int(eval(re.sub(r"(?<=[0-9a-fA-F])(ULL|U)\b", "", text), {"__builtins__": {}}))


def constants(name: str) -> dict[str, int]:
    """Return the values of all constexpr integers of a header whose value is a literal or a shift of one."""
    out = {}
    for line in re.findall(r"constexpr u\d+ ([^;{(]*(?:=[^;{]*));", header(name)):
        for part in line.split(","):
            key, _, value = part.partition("=")
            if re.fullmatch(r"[0-9a-fA-FxUL<>\s]+", value):
                out[key.strip()] = evaluate(value)
    return out


def enumerators(name: str, enum: str) -> dict[str, int]:
    body = re.search(rf"enum {enum} : \w+ \{{(.*?)\}}", header(name), re.S)[1]
    out, following = {}, 0
    for item in filter(None, (part.strip() for part in body.split(","))):
        key, _, value = item.partition("=")
        out[key.strip()] = evaluate(value) if value else following
        following = out[key.strip()] + 1
    return out


def struct(name: str, record: str) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return (field, NumPy type, shape) of a struct of plain integers."""
    body = re.search(rf"struct {record} \{{(.*?)\n\}}", header(name), re.S)[1]
    out = []
    for kind, fields in re.findall(r"^\s*([ui]\d+) ([^;]*);", body, re.M):
        for field in fields.split(","):
            match = re.fullmatch(r"\s*(\w+)(?:\[(.+)\])?\s*", field)
            shape = {None: (), "PMD_ORDER + 1": (layout.PMD_ORDER + 1,), "NR_TIMES": (len(TIMES),)}[match[2]]
            out.append((match[1], f"{kind[0]}{int(kind[1:]) // 8}", shape))
    return out


def test_types_hpp():
    found = constants("types.hpp")
    assert layout.PAGE_SIZE == 1 << found["PAGE_SHIFT"] == 4096
    assert 1 << found["PMD_SHIFT"] == layout.PMD_SIZE
    assert found["PMD_ORDER"] == layout.PMD_ORDER
    assert layout.TASK_SIZE == found["TASK_SIZE"] == (1 << 47) - 4096


def test_fields_of_operations_lie_in_the_record():
    """ops.hpp says where by numbers, which C++ compares with its struct; here with the dtype."""
    for name, fields in operations.OPERATIONS.items():
        at = 0
        for field in fields:
            assert 2 <= field.at < field.at + field.size <= OP_DTYPE.itemsize, (name, field)
            assert field.kind in _core.FIELD_KINDS
        taken = sorted((field.at, field.at + field.size) for field in fields if not field.either)
        for begin, end in taken:
            assert begin >= at, f"{name}: two fields overlap"
            at = end


def test_a_record_has_the_fields_of_its_operation():
    text = "mmap a 4M at=0x10000000\nmmap b 1M at=a+1M\naccess a 0 1M stride count=7 stride=128 content=3"
    program = parse_program(text)
    first, second, third = map(operations.fields, program.ops)
    assert (first["placement"], first["address"]) == (layout.AT_ADDRESS, 0x10000000)
    assert (second["placement"], second["at"], second["at_offset"]) == (layout.AT_REGION, 0, 1 << 20)
    assert (third["pattern"], third["count"], third["stride"], third["content"]) == (0, 7, 128, 3)
    assert operations.select(program.ops, "mmap")["length"].tolist() == [4 << 20, 1 << 20]


@pytest.mark.parametrize(
    ("name", "record", "dtype"),
    [
        ("ops.hpp", "op_record", OP_DTYPE),
        ("ops.hpp", "access_record", ACCESS_DTYPE),
        ("ops.hpp", "bin_record", BIN_DTYPE),
        ("kernel/task_mmu.hpp", "page_layout", machine.PAGE_DTYPE),
        ("kernel/task_mmu.hpp", "vma_smaps", machine.SMAPS_DTYPE),
    ],
)
def test_records(name, record, dtype):
    fields = [(n, np.dtype(t), s) for n, t, s in struct(name, record)]
    assert [(n, dtype[n].base, dtype[n].shape) for n in dtype.names] == fields


def test_flags():
    for name, bit in _core.VM_FLAGS.items():
        assert getattr(layout, name) == bit
    for name, bit in enumerators("kernel/task_mmu.hpp", "layout_flags").items():
        assert getattr(machine, name) == bit
    for name, n in enumerators("kernel/task_mmu.hpp", "page_kind").items():
        assert getattr(machine, name) == n
    statuses = {f"RUN_{s.name}": s.value for s in machine.Status}
    assert enumerators("run.hpp", "run_status") == statuses | {"RUN_OVERFLOW": len(statuses)}  # is raised


def test_orders():
    assert layout.ORDERS == (2, 3, 4, 5, 6, 7, 8, 9)
    assert layout.ORDERS_ALL == 0b1111111101
    assert layout.THP_KILOBYTES == (16, 32, 64, 128, 256, 512, 1024, 2048)


def test_madvise_numbers_are_linux():
    """include/uapi/asm-generic/mman-common.h."""
    assert layout.ADVICE["dontneed"] == 4
    assert (layout.ADVICE["hugepage"], layout.ADVICE["nohugepage"]) == (14, 15)
    assert (layout.ADVICE["populate_read"], layout.ADVICE["populate_write"]) == (22, 23)
    assert (layout.ADVICE["guard_install"], layout.ADVICE["guard_remove"]) == (102, 103)


def test_names_come_from_the_core():
    assert VM_EVENTS == _core.VM_EVENTS
    assert "anon_fault_alloc" in MTHP_STATS
    assert "thp_split_page" in VM_EVENTS
    assert set(clock.COSTS) == set(_core.CLOCK)
    assert len(set(TIMES)) == len(TIMES)


def test_counters_differ_and_keep_gauges():
    def counters(k: int) -> Counters:
        return Counters.of(np.full(len(VM_EVENTS), k), np.full((10, len(MTHP_STATS)), k), np.full(len(TIMES), k), k)

    difference = counters(7) - counters(3)
    assert difference["pgfault"] == 4
    assert difference["nr_resident"] == 7
    assert difference["nr_anon"] == 40
    assert difference.stat("split", 4) == difference.time_ps("fault") == difference.clock_ps == 4
    assert difference.walk_cycles_per_access == 1.0


def test_costs_and_cores_are_checked():
    assert clock.clock_table(fault=5)["fault"] == 5
    with pytest.raises(ValueError, match="no such cost: speed"):
        clock.clock_table(speed=5)
    with pytest.raises(ValueError, match="negative"):
        clock.clock_table(fault=-5)
    with pytest.raises(ValueError, match="did you mean 'skylake'"):
        cores.core("skylak")
    for name, core in cores.CORES.items():
        assert core.name == name
        assert {"l1_4k", "l2", "pwc", "walk_cycles", "l2_hit_cycles"} <= set(core.sources)


@pytest.mark.parametrize(
    "bad", [{"memory": 1 << 20}, {"max_vmas": 1}, {"max_mms": 0}, {"nr_cpus": 0}, {"memory": 1 << 60}]
)
def test_a_machine_that_makes_no_sense_is_refused(bad):
    from support.machines import machine_of

    with pytest.raises(machine.MachineError, match="cannot build the machine"):
        machine_of("compute 1", **bad)
