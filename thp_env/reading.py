"""Reading files of strangers: how much of them is unpacked and accepted. All limits are here."""

from __future__ import annotations

import io
import json
import lzma
import math
import os
import re
import select
import stat
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

UNPACKED_MAX = 1 << 30
"""Bytes that a file may hold, unpacked."""
TEXT_MAX = 64 << 20
"""Bytes of a text that is read as a whole: a program, a configuration, a JSON document."""
TOML_MAX = 1 << 16
"""Bytes of a TOML document, whose parser is slow."""
VALUES_MAX = 4 << 20
"""Values of a JSON document."""
LINE_MAX = 64 << 20
"""Bytes of a line of a file that is read line by line."""
DEPTH_MAX = 32
"""How deep lists and objects may be nested where a schema says no more."""
MEMBERS_MAX = 4096
"""Arrays of an archive."""
DIRECTORY_MAX = 1 << 20
"""Bytes of an archive's list of members."""
HEADER_MAX = 4096
"""Bytes of the header of an array."""
XZ_MEMORY_MAX = 256 << 20
"""Bytes that unpacking an .xz file may take, which its header asks for; `xz -9` takes 65 MiB."""
BLOCK = 1 << 18
WRITER_SECONDS = 3.0
"""How long a named pipe that nobody has open for writing is waited for."""


class FileError(ValueError):
    """An error in a file, in one line: place and reason. The reader adds the file's name."""


class CutOffError(FileError):
    """JSON that ends too early, or is malformed in another way, as half a line is."""


@contextmanager
def reading(path: str | os.PathLike[str], error: type[ValueError], what: str = "") -> Iterator[None]:
    """Turn any error while a file is read into one error of one line that names the file.

    Args:
        path: the file.
        error: the class to raise; such an error inside the block is not changed.
        what: the kind of file, such as "a policy".
    """
    try:
        yield
    except error:
        raise
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror or reason}") from None
    except FileError as reason:
        raise error(f"{path}: {what and f'not {what}: '}{one_line(str(reason))}") from None


def open_file(path: str | os.PathLike[str], *, regular: bool = False) -> IO[bytes]:
    """Open a file for reading; `regular`: not a pipe or a device, which could last for ever.

    Raises:
        FileError: when it is no such file.
        OSError: when it cannot be opened.
    """
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(number).st_mode
        if regular and not stat.S_ISREG(mode):
            raise FileError("not a regular file")
        if stat.S_ISDIR(mode):
            raise FileError("a folder")
        if stat.S_ISFIFO(mode):
            _await_writer(number)
        os.set_blocking(number, True)
    except BaseException:
        os.close(number)
        raise
    return os.fdopen(number, "rb")


def _await_writer(pipe: int) -> None:
    """Wait until something comes from a pipe; who has it open may take any time."""
    arrival = select.poll()
    arrival.register(pipe, select.POLLIN)
    if arrival.poll(WRITER_SECONDS * 1000):
        return
    try:
        os.read(pipe, 1)
    except BlockingIOError:
        return
    raise FileError("a pipe that nobody writes to")


def read_bytes(path: str | os.PathLike[str], limit: int = TEXT_MAX) -> bytes:
    """Return all that a file holds, which may be packed as .xz.

    Raises:
        FileError: when that is more than `limit` bytes, or for damaged packing.
        OSError: when it cannot be read.
    """
    data = bytearray()
    with open_file(path) as file:
        for block in _blocks(path, file):
            data += block
            if len(data) > limit:
                raise FileError(f"longer than {f'{limit >> 20} MiB' if limit >> 20 else f'{limit >> 10} KiB'}")
    return bytes(data)


def read_text(path: str | os.PathLike[str], limit: int = TEXT_MAX) -> str:
    """Return a file's text: UTF-8, with or without a byte order mark.

    Raises:
        FileError: when it is too long or no text.
        OSError: when it cannot be read.
    """
    return decoded(read_bytes(path, limit))


def decoded(data: bytes) -> str:
    """Return bytes as text: UTF-8, with or without a byte order mark, lines ended as anywhere.

    Raises:
        FileError: when they are no text.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"byte {error.start}: not a text in UTF-8") from None
    return text.replace("\r\n", "\n")


def lines(path: str | os.PathLike[str], *, whole: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line without its end) of a text that may be packed as .xz.

    Args:
        path: the file.
        whole: refuse a last line that has no end: the file was cut off.

    Raises:
        FileError: for a line that is too long or no text, a file that is too long or cut off, or damaged packing.
        OSError: when it cannot be read.
    """
    with open_file(path) as file:
        number, buffer, total = 0, io.BytesIO(), 0
        for block in _blocks(path, file):
            total += len(block)
            if total > UNPACKED_MAX:
                raise FileError(f"line {number + 1}: longer than {UNPACKED_MAX >> 20} MiB in all")
            *whole_lines, tail = block.split(b"\n")
            for part in whole_lines:
                buffer.write(part)
                number += 1
                yield number, _line(buffer.getvalue(), number)
                buffer = io.BytesIO()
            buffer.write(tail)
            if buffer.tell() > LINE_MAX:
                raise FileError(f"line {number + 1}: longer than {LINE_MAX >> 20} MiB")
        if buffer.tell() and whole:
            raise FileError(f"line {number + 1}: the log is truncated: it ends inside a line")
        if buffer.tell():
            yield number + 1, _line(buffer.getvalue(), number + 1)


def _line(data: bytes, number: int) -> str:
    try:
        return data.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
    except UnicodeDecodeError:
        raise FileError(f"line {number}: not a text in UTF-8") from None


def _blocks(path: str | os.PathLike[str], file: IO[bytes]) -> Iterator[bytes]:
    return _unpacked(file) if os.fspath(path).endswith(".xz") else iter(lambda: file.read(BLOCK), b"")


def _unpacked(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what one or more .xz streams hold, in blocks that are not longer than `BLOCK`."""
    unpack, data = None, b""
    try:
        while True:
            if unpack is None or unpack.needs_input:
                data += file.read(BLOCK)
                if not data:
                    break
            unpack = unpack or lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_MAX)
            yield unpack.decompress(data, BLOCK)
            data = b""
            if unpack.eof:
                data, unpack = unpack.unused_data.lstrip(b"\0"), None  # streams may be padded
                data = data or file.read(BLOCK).lstrip(b"\0")
                if not data:
                    return
    except lzma.LZMAError as error:
        raise FileError(f"damaged or not an .xz file ({error})") from None
    raise FileError("the file is truncated: it ends inside an .xz stream")


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Read a JSON document as the standard has it: finite numbers, and no key twice.

    Args:
        text: the document.
        finite: refuse numbers that are not, which Python writes and the standard does not know.

    Raises:
        FileError: with place and reason.
    """
    if isinstance(text, bytes):
        text = decoded(text)
    if sum(map(text.count, ",[{")) > VALUES_MAX:
        raise FileError(f"JSON of more than {VALUES_MAX} values")
    try:
        ways: Any = {"parse_constant": _no_number, "parse_float": _finite} if finite else {}
        value = json.loads(text, object_pairs_hook=_unique, **ways)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise CutOffError(f"line {error.lineno}, column {error.colno}: malformed JSON ({error.msg})") from None
    except RecursionError:
        raise FileError(f"JSON that is nested deeper than {DEPTH_MAX}") from None
    except UnicodeEncodeError:
        raise FileError("JSON with half of a surrogate pair, which is no text") from None
    except FileError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise FileError(f"malformed JSON ({error})") from None
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Read a TOML document.

    Raises:
        FileError: with place and reason.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise FileError("nested too deep") from None
    except ValueError as error:  # also of an integer of thousands of digits
        raise FileError(f"malformed TOML ({error})") from None


def _no_number(text: str) -> float:
    raise FileError(f"{text} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise FileError(f"{text[:20]} is too large a number")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise FileError(f"the key {twice[:40]!r} stands twice in an object")
    return found


def printable(text: str) -> str:
    """Return a text with a space for each line end, control character and half of a character."""
    return "".join(c if c.isprintable() else " " for c in text)


def one_line(text: str) -> str:
    """Return a message without line ends and control characters that a file may have put into it."""
    line = printable(text)
    return line if len(line) <= 500 else f"{line[:500]}..."
