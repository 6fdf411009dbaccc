"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the place of `path` when the block ends without an exception.

    No part of a file is ever left behind, and an existing file stays until then. On file systems that have files
    without names (O_TMPFILE), this holds for SIGKILL, too. The data are on the disk before the file takes its place. A
    symbolic link keeps its target. A character device, a FIFO with a reader, and the targets of /dev/stdout and the
    like are written to, never replaced.

    Raises:
        OSError: when it cannot be written; its `filename` is `path`.
    """
    path = Path(path)
    try:
        if _stream(path):
            memory = io.BytesIO()
            yield memory
            _pour(memory.getbuffer(), path)
        else:
            with _part(Path(os.path.realpath(path))) as file:
                yield file
    except OSError as error:
        if isinstance(error.filename, str | os.PathLike) and not str(error.filename).endswith(PART):
            raise  # it is about another file, or names this one already
        raise type(error)(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


PART = ".part"


@contextmanager
def _part(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside a path, which it replaces in the end."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
    part = path.with_name(f"tmp{secrets.token_hex(8)}{PART}")
    try:
        with open(_new_file(part), "w+b") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            _name(file.fileno(), part)
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):  # it may have had no name yet
            os.unlink(part)
        # A full disk in the middle of a .npz: zipfile says that the file cannot be closed, and why in the context.
        if isinstance(error, ValueError) and isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    with suppress(OSError):  # some file systems cannot sync folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _new_file(part: Path) -> int:
    """Open a file without a name, which is gone with its process, or by its name where the file system needs one."""
    if os.path.isdir("/proc/self/fd"):
        with suppress(OSError):
            return os.open(part.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    return os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _name(number: int, part: Path) -> None:
    """Give an open file a name, where it has none (open(2) on O_TMPFILE)."""
    if os.fstat(number).st_nlink == 0:
        try:  # Python follows the link in /proc only by linkat, which it calls for a `src_dir_fd`
            os.link(f"/proc/self/fd/{number}", part, src_dir_fd=number, follow_symlinks=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(part)) from None


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path before any work, if `whole_file` could not write it afterwards.

    Raises:
        OSError: naming the path.
    """
    path = Path(path)
    if _stream(path):
        target = path
    else:
        target = Path(os.path.realpath(path)).parent
        if not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"there is no folder {target}", str(path))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, f"no permission to write to {target}", str(path))


def _stream(path: Path) -> bool:
    """Whether a path is something to write to as it comes: not a file, which would be replaced.

    Raises:
        OSError: when it can be neither replaced nor written to.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISREG(mode):
        return _is_open(path)
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        return True
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFBLK: "a block device", stat.S_IFSOCK: "a socket"}
    raise OSError(errno.EINVAL, f"it is there and {kinds.get(stat.S_IFMT(mode), 'no file')}", str(path))


def _is_open(path: Path) -> bool:
    """Whether a path, such as /dev/stdout, leads through /proc to a file that a process has open."""
    while path.is_symlink():
        if path.parent.resolve().is_relative_to("/proc"):
            return True
        path = path.parent / os.readlink(path)
    return False


def _pour(data: memoryview, path: Path) -> None:
    try:
        number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        reason = "nobody reads from it" if error.errno == errno.ENXIO else error.strerror
        raise OSError(error.errno, reason, str(path)) from None
    os.set_blocking(number, True)
    with open(number, "wb", buffering=0) as file:
        while data:
            data = data[file.write(data) :]
