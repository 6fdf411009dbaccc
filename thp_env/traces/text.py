"""The text form of trace programs: one operation a line, for people.

    # a comment
    seed 7
    mmap heap 64M at=auto
    advise heap 0 64M hugepage
    write heap 0 1M
    access heap 0 64M zipf count=1000000 ns=2 write=0.3 weight=10
    compute 5ms

Numbers are 4096, 0x1000, 64K, 2M, 1G, 3p (pages), and sums such as 2M+4K. `in PROCESS` before an operation says
who runs it. Named values (`at=auto`) may stand in any order after the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from thp_env.machine import layout
from thp_env.traces.builder import ProgramBuilder
from thp_env.traces.program import ACCESS_DTYPE, Program, ProgramError, UnknownOperationError
from thp_env.traces.writer import PROTECTION

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "p": layout.PAGE_SIZE}
TIMES = {"": 1.0, "ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
ACCESS_MAX, SEED_MAX = (1 << 32) - 1, (1 << 64) - 1
NUMBER = re.compile(r"(0x[0-9a-fA-F]+|\d+)([KMGp]?)")
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s)?")


def number(text: str) -> int:
    """Read a number of bytes such as 64K or 2M+4K."""
    total, sign = 0, 1
    for part in re.split(r"([+-])", text):
        if part in "+-" and part:
            sign = 1 if part == "+" else -1
            continue
        match = NUMBER.fullmatch(part)
        if not match:
            raise ProgramError(f"{text!r} is no number: write 4096, 0x1000, 64K, 2M or 3p")
        total += sign * int(match[1], 0) * UNITS[match[2]]
    if total < 0:
        raise ProgramError(f"{text!r} is negative")
    return total


def duration(text: str) -> float:
    """Read a time such as 500, 5us or 10ms, in nanoseconds."""
    match = DURATION.fullmatch(text)
    if not match:
        raise ProgramError(f"{text!r} is no time: write 500, 5us or 10ms")
    return float(match[1]) * TIMES[match[2] or ""]


def _place(text: str) -> str | int | tuple[str, int]:
    if text in ("slot", "auto"):
        return text
    if text[:1].isdigit():
        return number(text)
    region, _, offset = text.partition("+")
    return region, number(offset or "0")


def _recorded(b: ProgramBuilder, words: list[str]) -> np.ndarray:
    rows = []
    for word in words:
        part = word.split(":")
        if len(part) != 5 or part[2] not in ("r", "w"):
            raise ProgramError(f"{word!r} is no recorded access: write region:page:r|w:count:instructions")
        page, count, instructions = (_within(part[i], ACCESS_MAX) for i in (1, 3, 4))
        rows.append((page, b.region_number(part[0]), part[2] == "w", count, instructions))
    return np.array(rows, ACCESS_DTYPE)


def _within(text: str, most: int) -> int:
    value = int(text, 0)
    if not 0 <= value <= most:
        raise ProgramError(f"{text} is not from 0 to {most}")
    return value


# How named values are read.
NAMED: dict[str, Callable[[str], Any]] = {
    "at": _place,
    "prot": str,
    "file": lambda t: bool(int(t)),
    "shared": lambda t: bool(int(t)),
    "nohugepage": lambda t: bool(int(t)),
    "align": number,
    "offset": number,
    "slot_offset": number,
    "new_length": number,
    "stride": number,
    "count": number,
    "weight": number,
    "content": int,
    "write": float,
    "ns": duration,
    "zipf": float,
    "center": float,
    "sigma": float,
    "scatter": lambda t: bool(int(t)),
    "orders": lambda t: int(t, 0),
    "group": int,
}

# Operation: (builder method, how its positional words are read, how many of them must be there).
FORMS: dict[str, tuple[str, tuple[Callable[[str], Any], ...], int]] = {
    "thp": ("thp", (int, str), 2),
    "set": ("set", (str, str), 2),
    "munmap": ("munmap", (str, number, number), 3),
    "mprotect": ("mprotect", (str, number, number, str), 4),
    "brk": ("brk", (str, number), 2),
    "advise": ("advise", (str, number, number, str), 4),
    "mlock": ("mlock", (str, number, number), 3),
    "munlock": ("munlock", (str, number, number), 3),
    "access": ("access", (str, number, number, str), 4),
    "compute": ("compute", (duration,), 1),
    "sleep": ("compute", (lambda t: float(t) * 1e6,), 1),
    "slice": ("slice", (str,), 1),
    "prctl": ("prctl", (int, int), 1),
    "shrink": ("shrink", (), 0),
    "swap": ("swap", (number,), 1),
    "swapoff": ("swapoff", (), 0),
    "limit": ("limit", (lambda t: layout.NO_LIMIT if t == "max" else number(t),), 1),
    "swappiness": ("swappiness", (int,), 1),
    "drain": ("drain", (), 0),
    "autodrain": ("autodrain", (str,), 1),
    "reclaim": ("reclaim", (), 0),
    "khugepaged": ("khugepaged", (int,), 0),
    "pollute": ("pollute", (float,), 1),
    "fragment": ("fragment", (int, float), 2),
    "compact": ("compact", (), 0),
    "fork": ("fork", (str,), 1),
    "exit": ("exit", (str,), 1),
    "pin": ("pin", (str, number, number), 3),
    "unpin": ("unpin", (), 0),
    "orders": ("orders", (str, number, number, lambda t: int(t, 0)), 4),
    "split": ("split", (str, number, number), 3),
    "iovec": ("iovec", (str, number, number), 3),
    "process_madvise": ("process_madvise", (str, str), 2),
    "capdrop": ("capdrop", (str,), 1),
    "collapse": ("collapse", (str, number, number, int), 4),
    "cgroup": ("cgroup", (int,), 1),
}


def _line(b: ProgramBuilder, words: list[str]) -> None:
    op, *rest = words
    named = {}
    values = []
    for word in rest:
        key, equals, value = word.partition("=")
        if equals and key in NAMED:
            named[key] = NAMED[key](value)
        elif equals:
            raise ProgramError(f"unknown value {key}=")
        else:
            values.append(word)
    if op in layout.TOUCH:
        values = [*values, "4096"][:4]
        if len(values) != 4:
            raise ProgramError(f"{op} takes a region, an offset and a length")
        stride = named.pop("stride", number(values[3]))
        b.touch(values[0], number(values[1]), number(values[2]), op, stride, **named)
    elif op == "mmap":
        _arity(op, values, 2, 4)
        extra = [number(v) for v in values[2:]]
        named.update(zip(("align", "offset"), extra, strict=False))
        b.mmap(values[0], number(values[1]), **named)
    elif op == "mremap":
        _arity(op, values, 4, 6)
        extra = [number(v) for v in values[4:]]
        named.update(zip(("align", "slot_offset"), extra, strict=False))
        b.mremap(values[0], number(values[1]), number(values[2]), values[3], **named)
    elif op == "replay":
        b.replay(_recorded(b, values), **named)
    elif op in FORMS:
        method, readers, least = FORMS[op]
        _arity(op, values, least, len(readers))
        getattr(b, method)(*(read(v) for read, v in zip(readers, values, strict=False)), **named)
    else:
        raise UnknownOperationError(f"unknown operation {op!r}")


def _arity(op: str, values: list[str], least: int, most: int) -> None:
    if not least <= len(values) <= most:
        raise ProgramError(f"{op} takes {least} to {most} values, not {len(values)}")


def add_line(b: ProgramBuilder, line: str) -> bool:
    """Add one line of text to a program; False when it holds no operation.

    Raises:
        ProgramError: when the line is malformed.
        UnknownOperationError: when its operation is not known.
    """
    words = line.split("#")[0].split()
    if not words:
        return False
    before = b.process
    if words[0] == "in":
        if len(words) < 3:
            raise ProgramError("`in PROCESS` must be followed by an operation")
        if words[1] not in b.processes:
            raise ProgramError(f"unknown process {words[1]}")
        b.process, words = words[1], words[2:]
    try:
        _line(b, words)
    except TypeError as error:
        raise ProgramError(f"{words[0]}: {error}".split("ProgramBuilder.")[-1]) from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, ProgramError):
            raise
        raise ProgramError(str(error)) from None
    finally:
        if words[0] != "slice":
            b.process = before
    return True


def parse_program(text: str | Iterable[str], name: str = "program", **meta: Any) -> Program:
    """Read a program from text.

    Args:
        text: the lines.
        name: for messages and reports.
        meta: facts to keep with the program.

    Raises:
        ProgramError: naming the file, the line and the reason.
    """
    lines = text.splitlines() if isinstance(text, str) else list(text)
    b = ProgramBuilder(name, **meta)
    numbers: list[int] = []
    for i, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        try:
            if words[:1] == ["seed"] and len(words) == 2:
                b.seed = _within(words[1], SEED_MAX)
            else:
                add_line(b, line)
        except ProgramError as error:
            raise ProgramError(f"{name}: line {i}: {error}") from None
        except ValueError as error:
            raise ProgramError(f"{name}: line {i}: {error}") from None
        numbers += [i] * (len(b) - len(numbers))
    return b.build(numbers, name)


def format_program(program: Program) -> str:
    """Write a program as text that `parse_program` reads back to an equal one.

    Raises:
        ProgramError: for a distribution table, which has no text form of its own: build such programs with
            `access ... zipf` or `gauss` and keep them as .npz.
    """
    lines = [f"seed {program.seed}"]
    for op in program.ops:
        prefix = f"in {program.processes[op['process']]} " if op["process"] else ""
        lines.append(prefix + _format(program, op))
    return "\n".join(lines) + "\n"


def describe(program: Program, op: np.void) -> str:
    """Return an operation as a line for people: as `format_program` writes it, but accesses are only counted."""
    prefix = f"in {program.processes[op['process']]} " if op["process"] else ""
    match layout.OPS[op["op"]]:
        case "replay":
            return f"{prefix}replay of {op['length']} accesses"
        case "access" if layout.PATTERNS[op["a"]] == "bins":
            region = program.regions[op["region"]]
            return f"{prefix}access {region} {op['offset']} {op['length']} bins count={op['b']}"
    return prefix + _format(program, op)


def _format(program: Program, op: np.void) -> str:
    name = layout.OPS[op["op"]]
    region = program.regions[op["region"]] if name in layout.REGION_OPS else ""
    where = f"{region} {op['offset']} {op['length']}"
    a, b, c, d = (int(op[k]) for k in "abcd")
    group = f" group={op['aux']}" if op["aux"] else ""
    prot = {flags: text for text, flags in PROTECTION.items()}
    match name:
        case "thp":
            return f"thp {4 << a} {layout.THP_MODES[b]}"
        case "set":
            path = list(layout.SETTINGS)[a]
            values = layout.SETTINGS[path]
            return f"set {path} {b if isinstance(values, int) else values[b]}{group}"
        case "mmap":
            place = _format_place(program, c, a, b, int(op["aux"]))
            bits = {"file": layout.VM_FILE, "shared": layout.VM_SHARED, "nohugepage": layout.VM_NOHUGEPAGE}
            flags = "".join(f" {k}=1" for k, bit in bits.items() if d & bit)
            return f"mmap {region} {op['length']} {place} prot={prot[d & PROTECTION['rw']]}{flags}"
        case "mremap":
            target = program.regions[op["aux"]]
            if c == layout.AT_SLOT:
                return f"mremap {where} {target} {a} {b}"
            return f"mremap {where} {target} new_length={a} {_format_place(program, c, d, 0, 0)}"
        case "brk":
            return f"brk {region} {op['length']}"
        case "mprotect":
            return f"mprotect {where} {prot[a]}"
        case "advise":
            return f"advise {where} {_advice(a)}"
        case "touch":
            content = f" content={c}" if layout.TOUCH[b] in ("write", "read") else ""
            return f"{layout.TOUCH[b]} {where} {a}{content}"
        case "access":
            pattern = layout.PATTERNS[a]
            if pattern == "bins":
                raise ProgramError("a distribution table has no text form: save the program as .npz")
            stride = f" stride={op['aux']}" if pattern == "stride" else ""
            return (
                f"access {where} {pattern} count={b} ns={c / 1000} write={(d & 0xFFFFFFFF) / 65536}"
                f" weight={op['weight']} content={d >> 32}{stride}"
            )
        case "replay":
            rows = program.accesses[op["offset"] : op["offset"] + op["length"]]
            runs = " ".join(
                f"{program.regions[r['region']]}:{r['page']}:{'w' if r['written'] else 'r'}:{r['count']}"
                f":{r['instructions']}"
                for r in rows
            )
            return f"replay ns={c / 1000} weight={op['weight']} content={d} {runs}"
        case "compute":
            return f"compute {a / 1000}"
        case "slice":
            return f"slice {program.processes[op['process']]}"
        case "prctl":
            return f"prctl {a} {b}"
        case "fork":
            return f"fork {program.processes[op['aux']]}"
        case "exit":
            return f"exit {program.processes[op['aux']]}"
        case "orders":
            return f"orders {where} {a:#x}"
        case "process_madvise":
            mask = f" orders={c:#x}" if c else ""
            return f"process_madvise {program.processes[op['aux']]} {_advice(a)}{mask}"
        case "capdrop":
            return "capdrop sys_nice"
        case "collapse":
            return f"collapse {where} {4 << a}"
        case "khugepaged":
            return f"khugepaged {a}"
        case "pollute":
            return f"pollute {a / 65536}"
        case "fragment":
            return f"fragment {a} {b / 1000}"
        case "swap":
            return f"swap {op['length']}"
        case "limit":
            return f"limit {'max' if op['length'] == layout.NO_LIMIT else op['length']}{group}"
        case "cgroup":
            return f"cgroup {op['aux']}"
        case "reclaim":
            return f"reclaim{group}"
        case "shrink" | "unpin" | "swapoff" | "drain" | "compact":
            return name
    return f"{name} {where}"


def _advice(code: int) -> str:
    return next(name for name, value in layout.ADVICE.items() if value == code)


def _format_place(program: Program, place: int, a: int, b: int, aux: int) -> str:
    if place == layout.AT_SLOT:
        return f"align={a} offset={b}"
    if place == layout.AT_UNMAPPED_AREA:
        return "at=auto"
    return f"at={a:#x}" if place == layout.AT_ADDRESS else f"at={program.regions[aux]}+{a}"
