"""Records that point outside their tables are refused before anything runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from thp_env.machine import layout
from thp_env.traces import ProgramError, parse_program

PROGRAM = parse_program(
    "mmap a 4M\naccess a 0 4M zipf count=10\nreplay a:4:w:3:100\nwrite a 0 4K\nthp 64 always\nmremap a 0 4K b\n"
    "mprotect b 0 4K r\nset use_zero_page 0\norders b 0 4K 4\nexit P\n"
)
MMAP, ACCESS, REPLAY, TOUCH, THP, MREMAP, MPROTECT, SET, ORDERS, EXIT = range(10)


@pytest.mark.parametrize(
    ("operation", "field", "value", "reason"),
    [
        (MMAP, "op", len(layout.OPS), "unknown operation code"),
        (MMAP, "process", 1, "unknown process"),
        (MMAP, "region", 2, "unknown region"),
        (MMAP, "length", 1 << 63, "beyond the end"),
        (ACCESS, "offset", (1 << 64) - 4096, "beyond the end"),
        (ACCESS, "a", 9, "unknown access pattern"),
        (ACCESS, "aux", 1, "unknown distribution table"),
        (ACCESS, "length", 8, "at least 64 bytes"),
        (ACCESS, "weight", 0, "weight"),
        (REPLAY, "length", 2, "outside the recording"),
        (REPLAY, "offset", (1 << 64) - 1, "outside the recording"),
        (TOUCH, "a", 0, "stride"),
        (THP, "a", 10, "order|size"),
        (THP, "b", 4, "mode"),
        (EXIT, "aux", 7, "unknown process"),
        (MMAP, "length", 100, "whole pages"),
        (MMAP, "a", 3 << 20, "power of two"),
        (MMAP, "b", 100, "page"),
        (MMAP, "c", 4, "placement"),
        (MMAP, "d", 64, "flag"),
        (MREMAP, "aux", 2, "unknown region"),
        (MREMAP, "offset", 1, "whole pages"),
        (MPROTECT, "a", 4, "protection"),
        (SET, "a", len(layout.SETTINGS), "setting"),
        (SET, "b", 2, "value"),
        (ORDERS, "a", 1 << 10, "order"),
        (TOUCH, "b", 4, "touch"),
        (TOUCH, "c", 101, "content"),
        (ACCESS, "d", 101 << 32, "content"),
        (REPLAY, "d", 101, "content"),
    ],
)
def test_a_bad_field_is_refused_with_its_operation(operation, field, value, reason):
    ops = PROGRAM.ops.copy()
    ops[field][operation] = value
    with pytest.raises(ProgramError, match=rf"operation {operation}: .*({reason})"):
        replace(PROGRAM, ops=ops).check()


@pytest.mark.parametrize(
    ("table", "field", "value"),
    [("bins", "alias", 10**6), ("bins", "count", 0), ("accesses", "region", 4)],
)
def test_a_bad_record_of_a_table_is_refused(table, field, value):
    data = getattr(PROGRAM, table).copy()
    data[field][0] = value
    with pytest.raises(ProgramError):
        replace(PROGRAM, **{table: data}).check()


def test_tables_must_lie_inside_the_bins():
    for first, count in ((0, 10**6), (10**6, 1), (0, 0)):
        tables = PROGRAM.alias_tables.copy()
        tables[0] = first, count
        with pytest.raises(ProgramError, match="distribution table"):
            replace(PROGRAM, alias_tables=tables).check()


def test_a_program_needs_a_process():
    with pytest.raises(ProgramError, match="at least one process"):
        replace(PROGRAM, processes=()).check()


def test_equal_programs_do_the_same():
    assert replace(PROGRAM, meta={"name": "x"}) == PROGRAM
    assert replace(PROGRAM, seed=1) != PROGRAM
    assert PROGRAM != "a program"
    assert len(PROGRAM) == 10
