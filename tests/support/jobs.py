"""Jobs for workers, which import them from here."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Task(NamedTuple):
    """What a worker is to do.

    Attributes:
        number: the result is its double.
        deaths: how often its worker is killed first; counted by files in `folder`.
        folder: where it leaves a file for each time it is begun.
    """

    number: int
    deaths: int
    folder: str


def double(task: Task) -> int:
    """Return the double of a task's number, or die."""
    begun = len(list(Path(task.folder).glob(f"{task.number} *")))
    (Path(task.folder) / f"{task.number} {begun} {os.getpid()}").touch()
    if begun < task.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * task.number


def leave(code: int) -> None:
    """End the process."""
    os._exit(code)


def fail(what: str) -> None:
    """Raise something."""
    if what == "exit":
        sys.exit(3)
    raise {"value": ValueError, "strange": Strange}[what]("no luck")


class Strange(Exception):  # noqa: N818
    """Cannot be read back from a pickle."""

    def __init__(self, text: str, *, more: int = 1) -> None:
        """Take more than pickle knows of."""
        super().__init__(text, more, more)


def wait_in(folder: str) -> None:
    """Leave a file with the process's number, and never end."""
    part = Path(folder) / f"{os.getpid()}"
    part.touch()
    while True:
        time.sleep(0.1)
