"""Looking at a running program: what is seen, how it is drawn, and what is said where nothing can be seen."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from thp_agents import watch_command
from thp_agents.cli import main

from thp_env.envs.canvas import Canvas
from thp_env.envs.panels import FOLIO_COLORS, NOTHING, Space
from thp_env.live import watched
from thp_env.live.errors import LiveError
from thp_env.live.watch_picture import draw, facts, page, text
from thp_env.live.watched import EndedError, Look, Watched

sees_folios = pytest.mark.skipif(
    os.geteuid() != 0 or not watched.KPAGEFLAGS.exists() or not watched.MTHP.exists(),
    reason="lacks root, /proc/kpageflags or multi-size THP",
)
PROGRAM = """
import mmap, sys
MIB = 1 << 20
m = mmap.mmap(-1, 16 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(mmap.MADV_NOHUGEPAGE)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


@pytest.fixture
def program():
    """A program that does what it is told, a line at a time."""
    run = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(line):
        run.stdin.write(line + "\n")
        run.stdin.flush()
        assert run.stdout.readline() == "done\n"

    tell("pass")
    yield run.pid, tell
    run.kill()
    run.communicate()


def _look(seconds, **changes):
    part = np.full(64, NOTHING, np.int8)
    part[:32], part[32:48] = 4, 0
    about = {
        "seconds": seconds, "space": Space([part], 0.25, 0.1875), "mapped": dict.fromkeys(watched.ORDERS, 0.0),
        "appeared": dict.fromkeys(watched.ORDERS, 0), "split": 0, "rss": 0.1875, "usage": 0.25, "swap": 0.0,
        "minor": 18, "major": 0, "took": 0.01,
    }  # fmt: skip
    return Look(**about | changes)


@sees_folios
def test_what_a_program_touches_is_seen(program):
    pid, tell = program
    with Watched(pid) as process:
        before = process.look()
        tell("m[:4 * MIB] = bytes([1]) * (4 * MIB)")
        after = process.look()
        assert after.minor - before.minor >= 1024
        assert 4 <= after.mapped[0] - before.mapped[0] < 8
        assert 4 <= after.rss - before.rss < 8
        assert 1024 <= after.appeared[0] < 2048
        assert after.usage == pytest.approx(after.rss)
        assert after.split == 0
        tell("m.madvise(mmap.MADV_DONTNEED)")
        assert process.look().rss < before.rss + 1


@sees_folios
def test_huge_pages_and_what_a_partial_unmap_holds_are_seen(program):
    pid, tell = program
    tell("h = mmap.mmap(-1, 8 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); h.madvise(mmap.MADV_HUGEPAGE)")
    with Watched(pid) as process:
        before = process.look()
        tell("h[:8 * MIB] = bytes([1]) * (8 * MIB)")
        after = process.look()
        if not after.mapped[9]:
            pytest.skip("this host gives no huge pages to advised memory now")
        count = after.appeared[9]
        assert after.mapped[9] - before.mapped[9] == 2 * count
        assert sum((part == 9).sum() for part in after.space.parts) >= 512 * count
        tell("h.madvise(mmap.MADV_DONTNEED, 2 * MIB, 2 * MIB + 65536)")
        unmapped = process.look()
        assert 2 <= after.rss - unmapped.rss < 3
        assert unmapped.appeared[9] == 0


@sees_folios
def test_what_a_program_has_started_is_seen_too(program):
    pid, tell = program
    with Watched(pid) as process:
        alone = process.look()
        assert process.others == 0
        tell("import subprocess; p = subprocess.Popen(['sleep', '60'])")
        both = process.look()
        assert process.others == 1
        assert process.title.endswith("and 1 it has started")
        assert len(both.space.parts) > len(alone.space.parts)
        tell("p.kill(); p.wait()")


@sees_folios
def test_the_end_of_a_process_is_told(program):
    pid, _ = program
    with Watched(pid) as process:
        process.look()
        os.kill(pid, signal.SIGKILL)
        assert process.wait(10) == []
        assert process.ended
        with pytest.raises(EndedError, match=f"process {pid} has ended"):
            process.look()


def test_what_cannot_be_watched_is_one_line(capsys, monkeypatch, tmp_path):
    if watched.KPAGEFLAGS.exists() and watched.MTHP.exists():
        assert main(["watch", "999999999"]) == 2
        assert capsys.readouterr().err == "thp-env: there is no process 999999999\n"
        monkeypatch.setattr("thp_env.live.watched.os.geteuid", lambda: 1000)
        assert main(["watch", str(os.getpid())]) == 2
        assert "only root sees the folio sizes" in capsys.readouterr().err
        monkeypatch.undo()
    monkeypatch.setattr(watched, "MTHP", tmp_path / "none")
    assert main(["watch", str(os.getpid())]) == 2
    assert "this kernel does not show folio sizes" in capsys.readouterr().err
    assert main(["watch"]) == 2
    assert "name a process by its PID, or a command" in capsys.readouterr().err
    assert main(["watch", "--html", str(tmp_path / "no/x.html"), "1"]) == 2
    assert "there is no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["watch", "--every", "0", "1"])
    assert "no number of seconds" in capsys.readouterr().err


@sees_folios
def test_a_thread_of_the_kernel_has_nothing_to_see():
    with pytest.raises(LiveError, match="no memory of its own"):
        Watched(2)


@sees_folios
@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["sleep", "0.3"], 0, ""),
        (["sh", "-c", "sleep 0.3; exit 5"], 5, ""),
        (["sh", "-c", "kill -9 $$"], 137, "SIGKILL"),
        (["/no/such"], 2, "/no/such cannot be run: No such file"),
    ],
)
def test_a_commands_end_is_passed_on(command, status, said, capfd, tmp_path):
    assert main(["watch", "--every", "0.1", "--html", str(tmp_path / "x.html"), "--", *command]) == status
    assert said in capfd.readouterr().err
    if command[0] == "sleep":
        written = (tmp_path / "x.html").read_text()
        assert "sleep" in written
        assert 'http-equiv="refresh"' not in written


@sees_folios
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_watched_command_too(number, tmp_path):
    words = [sys.executable, "-m", "thp_agents", "watch", "--every", "0.1", "--html", str(tmp_path / "x.html"), "--",
             "sleep", "60"]  # fmt: skip
    run = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "x.html").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    children = subprocess.run(["cat", f"/proc/{run.pid}/task/{run.pid}/children"], capture_output=True, text=True)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert said.decode().startswith("stopped")
    assert not any(os.path.exists(f"/proc/{pid}") for pid in children.stdout.split())


def test_a_look_is_drawn_in_the_colours_of_simulated_machines():
    looks = [_look(1.0), _look(2.0, minor=118, split=2, appeared={**dict.fromkeys(watched.ORDERS, 0), 4: 3})]
    pixels = draw("x", looks).pixels
    assert pixels.shape == (600, 800, 3)
    strip = pixels[51:170, 12:788].reshape(-1, 3)
    for order, share in ((4, 1 / 2), (0, 1 / 4), (NOTHING, 1 / 4)):
        ink = [int(FOLIO_COLORS[order][1][i : i + 2], 16) for i in (1, 3, 5)]
        assert (strip == ink).all(axis=1).sum() / 119 / 776 == pytest.approx(share, abs=0.13)
    assert ("minor faults", "118 (100/s)") in facts(looks)
    assert ("folios split", "2") in facts(looks)
    assert ("held, not mapped", "0.1 MiB") in facts(looks)
    assert "444444440000...." in text("x", looks, width=16, count=1)
    assert "<h1>a &lt; b</h1>" in page("a < b", looks, True)
    assert 'content="1"' in page("a", looks, True)


def test_a_png_holds_the_pixels():
    image = pytest.importorskip("matplotlib.image")
    canvas = Canvas(7, 5)
    canvas.box(1, 2, 3, 2, (10, 200, 30))
    read = image.imread(io.BytesIO(canvas.png()))
    assert (np.round(read * 255).astype(np.uint8) == canvas.pixels).all()


def test_the_view_shows_what_the_command_prints():
    console = pytest.importorskip("rich.console")
    live = pytest.importorskip("rich.live")
    out = io.StringIO()
    terminal = console.Console(file=out, force_terminal=True, width=80)
    with live.Live(auto_refresh=False, console=terminal) as view:
        screen = watch_command._Terminal(view)
        screen.above(b"hello\n")
        screen.show("program (pid 1)", [_look(1.0)])
    assert "hello" in out.getvalue()
    assert "program (pid 1)" in out.getvalue()
    assert "minor faults" in out.getvalue()
