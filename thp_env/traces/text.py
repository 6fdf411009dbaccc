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

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_env.machine import layout
from thp_env.machine.operations import ACCESS_DTYPE
from thp_env.machine.program import Program
from thp_env.machine.program_check import ProgramError, UnknownOperationError
from thp_env.traces.builder import ProgramBuilder

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


def _replay_records(b: ProgramBuilder, words: list[str]) -> np.ndarray:
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


def _switch(text: str) -> bool:
    return bool(int(text))


def _mask(text: str) -> int:
    return int(text, 0)


# How a value is read: by the name of the builder's parameter, else by its type.
BY_NAME: dict[str, Callable[[str], Any]] = {
    "at": _place,
    "ns": duration,
    "orders": _mask,
    "mask": _mask,
    "limit.length": lambda text: layout.NO_LIMIT if text == "max" else number(text),
}
BY_TYPE: dict[str, Callable[[str], Any]] = {
    "str": str, "int": number, "float": float, "bool": _switch, "int | None": number, "float | None": float,
    "int | str": str,
}  # fmt: skip
WORDS = {name: name for name in (*layout.OPS, "swappiness", "autodrain")} | {"sleep": "compute"}
"""The first words of lines, with the builder's methods; `touch` is written as its kind."""


@dataclass(frozen=True)
class Form:
    """How to read a line of an operation: the values in order, the required ones, and the named ones."""

    method: str
    readers: tuple[Callable[[str], Any], ...]
    needed: tuple[str, ...]
    named: dict[str, Callable[[str], Any]]


def _form(word: str) -> Form:
    method = WORDS[word]
    readers, required, readers_by_name = [], [], {}
    for name, p in list(inspect.signature(getattr(ProgramBuilder, method)).parameters.items())[1:]:
        reader = BY_NAME.get(f"{word}.{name}") or BY_NAME.get(name) or BY_TYPE.get(p.annotation)
        if reader is None:
            continue  # it has no text
        readers_by_name[name] = reader
        if p.kind is not p.KEYWORD_ONLY:
            readers.append(reader)
            required += [name] if p.default is p.empty else []
    return Form(method, tuple(readers), tuple(required), readers_by_name)


FORMS = {word: _form(word) for word in WORDS}
FORMS["sleep"] = Form("compute", (lambda text: float(text) * 1e6,), ("ms",), {})
NAMED = {name: read for form in FORMS.values() for name, read in form.named.items()}


def _line(b: ProgramBuilder, words: list[str]) -> None:
    op, *arguments = words
    by_name = {}
    values = []
    for word in arguments:
        key, equals, value = word.partition("=")
        if equals and key in NAMED:
            by_name[key] = NAMED[key](value)
        elif equals:
            raise ProgramError(f"unknown value {key}=")
        else:
            values.append(word)
    if op in layout.TOUCH:
        values = [*values, "4096"][:4]
        if len(values) != 4:
            raise ProgramError(f"{op} takes a region, an offset and a length")
        stride = by_name.pop("stride", number(values[3]))
        b.touch(values[0], number(values[1]), number(values[2]), op, stride, **by_name)
    elif op == "mmap":
        _arity(op, values, 2, 4)
        extra = [number(v) for v in values[2:]]
        by_name.update(zip(("align", "offset"), extra, strict=False))
        b.mmap(values[0], number(values[1]), **by_name)
    elif op == "mremap":
        _arity(op, values, 4, 6)
        extra = [number(v) for v in values[4:]]
        by_name.update(zip(("align", "slot_offset"), extra, strict=False))
        b.mremap(values[0], number(values[1]), number(values[2]), values[3], **by_name)
    elif op == "replay":
        b.replay(_replay_records(b, values), **by_name)
    elif op in FORMS and op != "touch":
        form = FORMS[op]
        missing = [name for name in form.needed if name not in by_name]
        _arity(op, values, len(missing), len(form.readers), missing)
        getattr(b, form.method)(*(reader(v) for reader, v in zip(form.readers, values, strict=False)), **by_name)
    else:
        raise UnknownOperationError(f"unknown operation {op!r}")


def _arity(op: str, values: list[str], least: int, most: int, required: Sequence[str] = ()) -> None:
    if not least <= len(values) <= most:
        missing = ", ".join(required[len(values) :])
        hint = f": there is no {missing}" if missing else ""
        raise ProgramError(f"{op} takes {least} to {most} values, not {len(values)}{hint}")


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


def parse_program(text: str | Iterable[str], name: str = "program", **meta: object) -> Program:
    """Read a program from text.

    Args:
        text: the lines.
        name: for messages and reports.
        meta: facts to keep with the program.

    Raises:
        ProgramError: naming the file, the line and the reason.
    """
    lines = text.splitlines() if isinstance(text, str) else list(text)
    facts: dict[str, Any] = meta
    b = ProgramBuilder(name, **facts)
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
