"""mremap: what Linux 6.18 refuses, and with which errno (mm/mremap.c: check_mremap_params, check_prep_vma)."""

from __future__ import annotations

import errno

import pytest
from support.machines import machine_of, program_of, with_op

from thp_env.machine import Status, layout

pytestmark = pytest.mark.sanitize

K4, M4, M8, M16 = 4096, 4 << 20, 8 << 20, 16 << 20
AT, ELSEWHERE = 1 << 40, 1 << 41
END = layout.TASK_SIZE
PROGRAM = program_of(f"mmap a 4M at={AT:#x}\nwrite a 0 4M\nmremap a 0 4K b at={ELSEWHERE:#x}\nwrite b 0 4K\n")


@pytest.mark.parametrize(
    ("offset", "length", "new_length", "to", "error"),
    [
        (0, K4, (1 << 64) - K4, None, errno.EINVAL),  # longer than the address space
        (0, K4, END + K4, None, errno.EINVAL),
        (0, K4, END, None, errno.ENOMEM),  # no room
        (0, K4, 0, None, errno.EINVAL),
        (M8, K4, 0, AT, errno.EINVAL),  # what is asked for comes before what is mapped
        (0, M4, M4, AT + K4, errno.EINVAL),  # overlaps
        (0, M4, M4, AT, errno.EINVAL),
        (K4, K4, 2 * K4, AT, errno.EINVAL),
        (0, K4, K4, AT + K4, 0),  # touches, and takes the place of the next page
        (0, M4, M4, END, errno.EINVAL),  # ends beyond the address space
        (0, M4, M4, (1 << 64) - K4, errno.EINVAL),
        (0, M4, M4, END - M4, 0),
        (0, M4, M8, ELSEWHERE, 0),
        (0, M8, M16, None, errno.EFAULT),  # more than the VMA
        (0, M8, M16, ELSEWHERE, errno.EFAULT),
        (0, M16, M8, ELSEWHERE, errno.EFAULT),
        (0, M16, M8, None, 0),  # but it may shrink in place, and stay as it is
        (0, M16, M16, None, 0),
        (0, 0, K4, None, errno.EINVAL),  # would double a private mapping
        (M8, K4, 2 * K4, None, errno.EFAULT),  # nothing is mapped there
        (M8, K4, K4, ELSEWHERE, errno.EFAULT),
    ],
)
def test_errnos(offset, length, new_length, to, error):
    place = {"c": layout.AT_UNMAPPED_AREA} if to is None else {"c": layout.AT_ADDRESS, "d": to}
    machine = machine_of(with_op(PROGRAM, 2, offset=offset, length=length, a=new_length, **place))
    machine.run(ops=2)
    before = machine.vmas()
    machine.run(ops=1, go_on=True)
    assert machine.error == error
    if error:
        assert machine.vmas() == before
    machine.validate()
    machine.run(go_on=True)
    machine.validate()


@pytest.mark.parametrize(
    "fields",
    [
        {"c": layout.AT_ADDRESS, "a": (1 << 64) - K4},
        {"c": layout.AT_ADDRESS, "a": END - K4},
        {"c": layout.AT_ADDRESS, "a": 1 << 63},
        {"c": layout.AT_REGION, "a": (1 << 64) - K4, "aux": 0},
        {"c": layout.AT_UNMAPPED_AREA, "length": END},
        {"c": layout.AT_SLOT, "a": 1 << 46, "b": 1 << 46},
    ],
)
def test_a_mapping_beyond_the_address_space(fields):
    machine = machine_of(with_op(program_of("mmap a 8K\nwrite a 0 8K\n"), 0, **fields))
    assert machine.run() == Status.ERROR
    assert machine.error == errno.ENOMEM
    assert machine.region("a") == (0, 0)
    machine.run(go_on=True)
    machine.validate()
