"""Trace programs as text, and operations as lines for people; `text.py` reads the text back."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np

from thp_env.machine import layout
from thp_env.machine.operations import OPERATIONS, Field, fields
from thp_env.machine.program import Program
from thp_env.machine.program_check import ProgramError
from thp_env.traces.builder import ProgramBuilder
from thp_env.traces.text import FORMS
from thp_env.traces.writer import PROTECTION


def format_program(program: Program) -> str:
    """Write a program as text that `parse_program` reads back to an equal one.

    Raises:
        ProgramError: for a distribution table, which has no text form: build such programs with `access ... zipf` or
            `gauss` and save them as .npz.
    """
    lines = [f"seed {program.seed}"]
    for op in program.ops:
        prefix = f"in {program.processes[op['process']]} " if op["process"] else ""
        lines.append(prefix + _format(program, op))
    return "\n".join(lines) + "\n"


def describe(program: Program, op: np.void) -> str:
    """Return an operation as a line for people: as `format_program` writes it, but accesses are only counted."""
    prefix = f"in {program.processes[op['process']]} " if op["process"] else ""
    of = fields(op)
    match layout.OPS[op["op"]]:
        case "replay":
            return f"{prefix}replay of {of['count']} accesses"
        case "access" if layout.PATTERNS[of["pattern"]] == "bins":
            region = program.regions[of["region"]]
            return f"{prefix}access {region} {of['offset']} {of['length']} bins count={of['count']}"
    return prefix + _format(program, op)


def _format(program: Program, op: np.void) -> str:
    name, of = layout.OPS[op["op"]], fields(op)
    if name in FORMATS:
        return FORMATS[name](program, of)
    form, words = FORMS[name], [name]
    order = list(inspect.signature(getattr(ProgramBuilder, form.method)).parameters.values())
    keyword_only = {p.name for p in order if p.kind is p.KEYWORD_ONLY}
    unread = {p.name for p in order} - set(form.named)
    for field in OPERATIONS[name]:
        if field.either or field.name in unread:
            continue
        text = _value(program, of, field)
        if field.name not in keyword_only:
            words.append(text)
        elif of[field.name]:
            words.append(f"{field.name}={text}")
    return " ".join(words)


def _value(program: Program, of: np.void, field: Field) -> str:
    """Write the value of a field as `_form` reads it."""
    value = int(of[field.name])
    match field.kind:
        case "region":
            return program.regions[value]
        case "process":
            return program.processes[value]
        case "order":
            return str(4 << value)
        case "orders":
            return f"{value:#x}"
        case "mode":
            return layout.THP_MODES[value]
        case "setting":
            return list(layout.SETTINGS)[value]
        case "value":
            values = list(layout.SETTINGS.values())[of["path"]]
            return str(value if isinstance(values, int) else values[value])
        case "protection":
            return _protection(value)
        case "advice":
            return next(name for name, code in layout.ADVICE.items() if code == value)
        case "ps" | "index":
            return str(value / 1000)
        case "share":
            return str(value / 65536)
        case "limit" if value == layout.NO_LIMIT:
            return "max"
    return str(value)


def _protection(flags: int) -> str:
    return next(text for text, bits in PROTECTION.items() if bits == flags)


def _range_text(program: Program, of: np.void) -> str:
    return f"{program.regions[of['region']]} {of['offset']} {of['length']}"


def _mmap(program: Program, of: np.void) -> str:
    flags, bits = int(of["flags"]), {"file": layout.VM_FILE, "shared": layout.VM_SHARED}
    bits["nohugepage"] = layout.VM_NOHUGEPAGE
    flag_text = "".join(f" {name}=1" for name, bit in bits.items() if flags & bit)
    region, prot = program.regions[of["region"]], _protection(flags & PROTECTION["rw"])
    return f"mmap {region} {of['length']} {_format_place(program, of)} prot={prot}{flag_text}"


def _mremap(program: Program, of: np.void) -> str:
    begin = f"mremap {_range_text(program, of)} {program.regions[of['to']]}"
    if of["placement"] == layout.AT_SLOT:
        return f"{begin} {of['align']} {of['slot_offset']}"
    return f"{begin} new_length={of['new_length']} {_format_place(program, of)}"


def _format_place(program: Program, of: np.void) -> str:
    match of["placement"]:
        case layout.AT_SLOT:
            return f"align={of['align']} offset={of['slot_offset']}"
        case layout.AT_UNMAPPED_AREA:
            return "at=auto"
        case layout.AT_ADDRESS:
            return f"at={int(of['address']):#x}"
    return f"at={program.regions[of['at']]}+{of['at_offset']}"


def _touch(program: Program, of: np.void) -> str:
    kind = layout.TOUCH[of["kind"]]
    content = f" content={of['content']}" if kind in ("write", "read") else ""
    return f"{kind} {_range_text(program, of)} {of['stride']}{content}"


def _access(program: Program, of: np.void) -> str:
    pattern = layout.PATTERNS[of["pattern"]]
    if pattern == "bins":
        raise ProgramError("a distribution table has no text form: save the program as .npz")
    stride = f" stride={of['stride']}" if pattern == "stride" else ""
    return (
        f"access {_range_text(program, of)} {pattern} count={of['count']} ns={int(of['ps']) / 1000}"
        f" write={int(of['write_share']) / 65536} weight={of['weight']} content={of['content']}{stride}"
    )


def _replay(program: Program, of: np.void) -> str:
    runs = " ".join(
        f"{program.regions[r['region']]}:{r['page']}:{'w' if r['written'] else 'r'}:{r['count']}:{r['instructions']}"
        for r in program.accesses[of["first"] : of["first"] + of["count"]]
    )
    return f"replay ns={int(of['ps']) / 1000} weight={of['weight']} content={of['content']} {runs}"


FORMATS: dict[str, Callable[[Program, np.void], str]] = {
    "mmap": _mmap, "mremap": _mremap, "touch": _touch, "access": _access, "replay": _replay,
    "capdrop": lambda program, of: "capdrop sys_nice",
}  # fmt: skip
"""Operations whose text is not their fields one after the other."""
