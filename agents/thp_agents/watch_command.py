"""`thp-env watch`: the memory of a running program, in the terminal and as a page."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from thp_env.files import check_writable, whole_file
from thp_env.live.errors import LiveError
from thp_env.live.watch_picture import draw, facts, fill_of, page, rows, text
from thp_env.live.watched import EndedError, Look, Watched, check_host
from thp_env.processes import ended_with

MOST = 720
"""Looks that are kept; of more every other one goes."""
SHARE = 10
"""A look may take the 10th part of a CPU."""


def run(args: argparse.Namespace) -> int:
    """Watch until the process ends; return the command's exit status, 0 for a process that was there before."""
    if not args.target:
        raise LiveError("name a process by its PID, or a command after --")
    pid = int(args.target[0]) if len(args.target) == 1 and args.target[0].isdecimal() else None
    if args.html:
        check_writable(args.html)
    check_host()
    view = not args.quiet and sys.stdout.isatty()
    if view:
        import_module("rich")  # before the command starts
    if pid is not None:
        with Watched(pid) as watched:
            _watch(watched, args, view, None)
        return 0
    process = _start(args.target, view)
    with ended_with(process):
        with Watched(process.pid) as watched:
            _watch(watched, args, view, process.stdout)
        status = process.wait()
    if status < 0:
        print(f"the command was ended by {signal.Signals(-status).name}", file=sys.stderr)
    elif status and view:
        print(f"the command ended with status {status}; one that needs a terminal is watched by its PID, or with "
              "--quiet", file=sys.stderr)  # fmt: skip
    return 128 - status if status < 0 else status


def _start(command: list[str], view: bool) -> subprocess.Popen:
    """Start the command; under a view what it prints comes through a pipe, and stands above the view."""
    try:
        if view:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return subprocess.Popen(command)
    except OSError as error:
        raise LiveError(f"{command[0]} cannot be run: {error.strerror}") from None


def _watch(watched: Watched, args: argparse.Namespace, view: bool, output: Any) -> None:
    title = watched.title
    looks: list[Look] = []
    with _screen(view) as screen:
        try:
            while True:
                try:
                    look = watched.look()
                except EndedError:
                    break
                looks.append(look)
                if len(looks) > MOST:
                    del looks[1:-1:2]
                title = watched.title
                screen.show(title, looks)
                _write(args.html, title, looks, True)
                _wait(watched, max(args.every, SHARE * look.took), output, screen)
                if watched.ended:
                    break
        finally:
            _write(args.html, title, looks, False)
            if output is not None:
                screen.above(output.read())
    if looks and not args.quiet:
        print(text(title, looks) if not view else f"{title}: watched for {looks[-1].seconds:.1f} s", end="\n" * view)
    if not looks:
        print(f"{title} ended before it was looked at", file=sys.stderr)


def _wait(watched: Watched, seconds: float, output: Any, screen: _Screen) -> None:
    import time

    end = time.monotonic() + seconds
    open_pipe = [output.fileno()] if output is not None else []
    while (remaining := end - time.monotonic()) > 0 and not watched.ended:
        if watched.wait(remaining, *open_pipe):
            data = os.read(open_pipe[0], 1 << 16)
            screen.above(data)
            open_pipe = open_pipe if data else []


def _write(path: Path | None, title: str, looks: list[Look], refresh: bool) -> None:
    if path is None or not looks:
        return
    with whole_file(path) as file:
        file.write(draw(title, looks).png() if path.suffix == ".png" else page(title, looks, refresh).encode())


class _Screen:
    """Shows nothing."""

    def show(self, title: str, looks: list[Look]) -> None:
        """Show the last look."""

    def above(self, data: bytes) -> None:
        """Show what the command has printed."""


class _Terminal(_Screen):
    """A view that rich keeps at its place in the terminal."""

    def __init__(self, live: Any) -> None:
        self.live = live

    def show(self, title: str, looks: list[Look]) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now, width = looks[-1], max(20, self.live.console.width - 2)
        lines = [Text(f"{title}   {now.seconds:.1f} s", style="bold")]
        for row in rows(now, width, 8):
            line = Text(" ")
            for order in row.tolist():
                line.append("█", style=fill_of(order))
            lines.append(line)
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        for column in ("size", "mapped MiB", "new folios", "", "", ""):
            table.add_column(column, justify="right")
        sizes = [order for order, mib in now.mapped.items() if mib or now.appeared[order]]
        fact_lines: list[Any] = list(facts(looks))
        for i in range(max(len(sizes), len(fact_lines))):
            cells: list[Any] = ["", "", ""]
            if i < len(sizes):
                order = sizes[i]
                label = Text(f"{4 << order}K ", style="") + Text("█", style=fill_of(order))
                cells = [label, f"{now.mapped[order]:.1f}", str(now.appeared[order])]
            table.add_row(*cells, "", *(fact_lines[i] if i < len(fact_lines) else ("", "")))
        self.live.update(Group(*lines, table), refresh=True)

    def above(self, data: bytes) -> None:
        from rich.text import Text

        if data:
            self.live.console.print(Text(data.decode(errors="replace").rstrip("\n")))


@contextmanager
def _screen(view: bool) -> Iterator[_Screen]:
    if not view:
        yield _Screen()
        return
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        yield _Terminal(live)
