"""Advice: the settings, the rule that chooses, the lines, and what native runs refuse."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from thp_agents.advice import reasons, trial
from thp_agents.advice.choice import choose, pareto, saving
from thp_agents.advice.environment import join_variables, tunables
from thp_agents.advice.host import differing, files, present
from thp_agents.advice.lines import apply_and_undo
from thp_agents.advice.outcomes import Simulator, half_way
from thp_agents.advice.settings import (
    NEVER,
    Setting,
    apply_setting,
    around,
    boot_setting,
    groups,
    mappings,
    touched_pages,
)
from thp_agents.advice.verify import Measured, difference, needs_root, predicted, verdict, verifiable, verify
from thp_agents.cli import main

from thp_env.live.errors import LiveError
from thp_env.machine import Machine, MachineConfig, Status, layout
from thp_env.machine.operations import rows
from thp_env.processes import children
from thp_env.traces import parse_program
from thp_env.workload import Instance

MADVISE_2M = Setting().with_sizes(1 << 9, "madvise")
ARENA = "mmap m1 64M at=slot\n" + "".join(f"write m1 {i}M 1M\ncompute 100us\n" for i in range(64))


def machine_of(text: str, setting: Setting) -> Machine:
    machine = boot_setting(Instance(parse_program(text), MachineConfig(memory=512 << 20)), setting)
    assert machine.run(go_on=True) == Status.DONE
    return machine


# -- settings --------------------------------------------------------------------------------------


def test_a_size_at_always_is_used_and_at_madvise_only_where_it_is_asked_for() -> None:
    always = machine_of(ARENA, Setting().with_sizes(1 << 4, "always"))
    assert always.counters["pgfault"] == 64 * 16
    assert machine_of(ARENA, Setting().with_sizes(1 << 4, "madvise")).counters["pgfault"] == 64 * 256
    group = groups(parse_program(ARENA))[0]
    asked = Setting(((4, "madvise"),), advice=((group, "hugepage"),))
    assert machine_of(ARENA, asked).counters["pgfault"] == 64 * 16
    refused = Setting(((4, "always"),), advice=((group, "nohugepage"),))
    assert machine_of(ARENA, refused).counters["pgfault"] == 64 * 256


def test_prctl_turns_large_folios_off_but_not_where_madvise_asks() -> None:
    always = Setting().with_sizes(1 << 9, "always")
    assert machine_of(ARENA, replace(always, prctl="disable")).counters["thp_fault_alloc"] == 0
    assert machine_of(ARENA, replace(always, prctl="except_advised")).counters["thp_fault_alloc"] == 0
    asks = ARENA.replace("at=slot\n", "at=slot\nadvise m1 0 64M hugepage\n", 1)
    assert machine_of(asks, replace(always, prctl="disable")).counters["thp_fault_alloc"] == 0
    assert machine_of(asks, replace(always, prctl="except_advised")).counters["thp_fault_alloc"] == 32


def test_advice_stands_right_behind_each_mapping_of_its_group() -> None:
    maps = "mmap m1 1M\nmmap m2 1M\nmmap m3 8K\nmmap f 1M file=1\nmmap stack 1M\n"
    program = parse_program(maps + "write m1 0 1M\nwrite m2 0 64K\n")
    assert [at for at, _ in mappings(program)] == [0, 1]  # 8K is too small for a folio of 64K
    group = "mappings of up to 1 MiB"
    assert groups(program) == [group]
    ops = apply_setting(program, replace(NEVER, advice=((group, "hugepage"),))).ops
    assert [layout.OPS[op] for op in ops["op"][:5]] == ["mmap", "advise", "mmap", "advise", "mmap"]
    assert ops["length"][1] == 1 << 20
    assert rows(ops, "advise")["advice"][1] == layout.ADVICE["hugepage"]


def test_pages_of_a_region_count_once() -> None:
    program = parse_program("mmap a 1M\nmmap b 1M\nwrite a 0 1M\nwrite a 0 512K\nread b 0 64K\n")
    assert touched_pages(program).tolist() == [256, 16]


def test_collapse_from_outside_is_a_setting_of_root_with_a_line_of_its_own(tmp_path: Path) -> None:
    outside = replace(NEVER, collapse=1.0)
    assert outside.name == "never, collapse every 1 s"
    assert outside.of_system != NEVER.of_system
    assert outside in around(NEVER, parse_program(ARENA))
    assert needs_root(outside)
    lines = apply_and_undo(outside, NEVER, ["redis-server", "--port", "1"], parse_program(ARENA), tmp_path)
    assert lines[-1] == "thp-env collapse --every 1 -- redis-server --port 1"
    slow = "mmap m1 64M at=slot\nwrite m1 0 64M\n" + 20 * "compute 100ms\n"
    [figures] = Simulator({(): parse_program(slow)}, layouts=1).figures([outside])
    assert figures.outcomes[0].counters["thp_collapse_alloc"] == 32
    assert figures.faults == 64 * 256


# -- the rule --------------------------------------------------------------------------------------


def test_memory_that_stays_is_advised_to_be_large() -> None:
    choice = choose(Simulator({(): parse_program(ARENA)}), MADVISE_2M, 0.1)
    assert not choice.leave
    assert choice.advised.faults < choice.present.faults / 10
    assert choice.advised.peak_mib <= 1.1 * choice.present.peak_mib
    low, high = choice.saved[1:]
    assert 0 < low <= choice.saved[0] <= high < 1
    said = reasons.sentence(choice, parse_program(ARENA), "the recorded run")
    assert "16,384" in said  # faults of 64 MiB by 4K
    assert "100% of the 64.0 MiB" in said
    assert "nothing is given back" in said


def test_sparse_memory_is_left_as_it_is() -> None:
    """One page in 2M is touched: every size takes more memory than is allowed, or saves nothing."""
    sparse = "mmap m1 512M at=slot\n" + "".join(f"write m1 {2 * i}M 4K\ncompute 10ms\n" for i in range(256))
    choice = choose(Simulator({(): parse_program(sparse)}), MADVISE_2M, 0.1)
    assert choice.leave
    assert reasons.sentence(choice, parse_program(sparse), "the run").startswith("Leave it as it is (2M madvise)")


def test_memory_beyond_the_limit_is_told_and_not_advised() -> None:
    """Half of each 64K is touched; time is short, so that faults are all that counts."""
    half = "mmap m1 64M at=slot\nwrite m1 0 64M 8K\n"
    none = choose(Simulator({(): parse_program(half)}), MADVISE_2M, 0.0)
    assert none.advised.peak_mib <= none.present.peak_mib
    assert none.larger is not None
    assert none.larger.peak_mib > none.present.peak_mib
    assert any("more than is allowed" in line for line in reasons.certainty(none, 1, False))
    more = choose(Simulator({(): parse_program(half)}), MADVISE_2M, 1.5)
    assert more.advised.cost_ms < none.advised.cost_ms
    assert not more.leave


def test_no_setting_of_the_front_is_beaten_by_another() -> None:
    settings = [MADVISE_2M, *(Setting().with_sizes(1 << o, "always") for o in (2, 4, 9))]
    front = pareto(Simulator({(): parse_program(ARENA)}).figures(settings))
    points = np.array([(f.cpu_ms, f.usage_mib, f.p99_us) for f in front])
    for p in points:
        assert not ((points <= p).all(1) & (points < p).any(1)).any()


def test_a_longer_run_repeats_the_second_half() -> None:
    """The arena is filled in the first half and held in the second, which has no faults."""
    text = ARENA + "compute 6400us\naccess m1 0 64M stride count=1\n"
    program = parse_program(text)
    assert half_way(program) == pytest.approx(64 * 256, abs=512)
    short, long = (Simulator({(): program}, longer=n).figures([NEVER])[0] for n in (0.0, 1000.0))
    assert long.cpu_ms - short.cpu_ms == pytest.approx(1000 * 6.4, rel=0.1)
    assert long.usage_mib == pytest.approx(64, rel=0.01)
    assert short.usage_mib < 60


def test_what_is_left_is_freed_in_the_end_page_by_page_or_folio_by_folio() -> None:
    """64 MiB: 16,384 pages or 32 mappings of 2M, at what unmapping one costs (R17)."""
    settings = [NEVER, Setting().with_sizes(1 << 9, "always")]
    small, large = (f.outcomes[0].exit_ns for f in Simulator({(): parse_program(ARENA)}).figures(settings))
    assert small == pytest.approx(16384 * (256 + 25), rel=0.01)
    assert large == pytest.approx(32 * 6700, rel=0.03)


def test_memory_that_is_touched_once_is_not_touched_again_in_a_longer_run() -> None:
    fills = parse_program(ARENA)
    short, long = (Simulator({(): fills}, longer=n).figures([NEVER])[0] for n in (0.0, 1000.0))
    assert long.cpu_ms - short.cpu_ms == pytest.approx(1000 * 3.2, rel=0.1)  # the second half's own time
    assert long.usage_mib <= long.peak_mib
    comes = ARENA.replace("compute", "advise m1 0 64M dontneed\ncompute")
    short, long = (Simulator({(): parse_program(comes)}, longer=n).figures([NEVER])[0] for n in (0.0, 1000.0))
    assert long.cpu_ms - short.cpu_ms > 1000 * (3.2 + 32 * 256 * 1.78e-3)  # and its faults


def test_the_same_layouts_and_draws_every_time() -> None:
    first, second = (Simulator({(): parse_program(ARENA)}).figures([MADVISE_2M])[0] for _ in range(2))
    assert np.array_equal(first.cost_draws, second.cost_draws)
    assert saving(first, second) == (0.0, 0.0, 0.0)


# -- the host --------------------------------------------------------------------------------------


def controls(folder: Path, enabled: str, sizes: dict[int, str]) -> Path:
    (folder / "khugepaged").mkdir(parents=True)
    (folder / "enabled").write_text("always madvise never\n".replace(enabled, f"[{enabled}]"))
    (folder / "defrag").write_text("always defer defer+madvise [madvise] never\n")
    (folder / "khugepaged/max_ptes_none").write_text("511\n")
    for kilobytes, mode in sizes.items():
        (folder / f"hugepages-{kilobytes}kB").mkdir()
        text = "always inherit madvise never\n".replace(mode, f"[{mode}]")
        (folder / f"hugepages-{kilobytes}kB/enabled").write_text(text)
    return folder


def test_the_present_setting_is_read_with_what_is_inherited(tmp_path: Path) -> None:
    kernel = controls(tmp_path / "a", "madvise", {64: "always", 128: "never", 2048: "inherit"})
    assert present(kernel) == (Setting(((4, "always"), (9, "madvise"))), [])
    assert differing(Setting(((9, "madvise"),)), kernel) == {"hugepages-64kB/enabled": "never"}
    old, notes = present(controls(tmp_path / "b", "always", {}))
    assert old == Setting(((9, "always"),))
    assert "no sizes but 2M" in notes[0]
    assert files(NEVER, tmp_path / "b")["enabled"] == "never"
    none, notes = present(tmp_path / "nothing")
    assert none == MADVISE_2M
    assert "no transparent huge pages" in notes[0]


def test_lines_apply_what_differs_and_undo_it_word_for_word(tmp_path: Path) -> None:
    kernel = controls(tmp_path / "a", "madvise", {64: "never", 2048: "inherit"})
    now, _ = present(kernel)
    wanted = Setting(((4, "madvise"),), prctl="except_advised", environment=(("MALLOC_CONF", "thp:always"),))
    lines = apply_and_undo(wanted, now, ["./server", "a b"], parse_program(ARENA), kernel)
    apply, undo = lines.index("# apply, as root:"), lines.index("# undo:")
    assert f"echo madvise > {kernel}/hugepages-64kB/enabled" in lines[apply:undo]
    assert f"echo inherit > {kernel}/hugepages-2048kB/enabled" in lines[undo:]
    assert "MALLOC_CONF=thp:always ./server 'a b'" in lines
    wrapper = next(line for line in lines if line.startswith("python3 -c"))
    assert "prctl(41, 1, 2, 0, 0)" in wrapper


def test_a_tunable_is_found_by_the_library_that_is_mapped_and_joined_to_what_is_set() -> None:
    def names(region: str) -> list[str]:
        return [t.name for t in tunables(parse_program(f"mmap {region} 1M\n"))]

    assert names("libc.so.6:0") == names("cc12.libc.so.6:1") == ["GLIBC_TUNABLES"]
    assert names("libjemalloc.so.2:0") == ["MALLOC_CONF"]
    assert names("libjvm.so:3") == ["JAVA_TOOL_OPTIONS"]
    assert names("musl:0") == []
    (glibc,) = tunables(parse_program("mmap libc.so.6:0 1M\n"))
    assert join_variables(glibc, {"GLIBC_TUNABLES": "glibc.malloc.check=1"}) == {
        "GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.hugetlb=1"
    }


# -- native runs -----------------------------------------------------------------------------------


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_run_is_measured() -> None:
    touching = "b = bytearray(64 << 20); b[::4096] = b'1' * (64 << 8); import time; time.sleep(.2)"
    got = trial.run(python(touching), os.environ)
    assert got.faults > (64 << 20) // (2 << 20)
    assert 64 << 20 <= got.peak < 128 << 20
    assert 0 < got.cpu < got.seconds + 5
    assert not got.switched_off


def test_another_status_than_the_expected_one_is_a_failure() -> None:
    assert trial.run(["sh", "-c", "exit 10"], os.environ, status=10).cpu >= 0
    with pytest.raises(trial.AdviceError, match="failed with status 0"):
        trial.run(["true"], os.environ, status=10)


def test_a_command_whose_memory_cannot_be_collapsed_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    before = children(os.getpid())
    with pytest.raises(LiveError, match="only root"):
        trial.run(python("import time; time.sleep(1000)"), os.environ, collapse=1.0)
    assert children(os.getpid()) == before


def test_a_program_that_turns_large_folios_off_is_noticed() -> None:
    off = "import ctypes, time; ctypes.CDLL(None).prctl(41, 1, 0, 0, 0); time.sleep(.3)"
    assert trial.run(python(off), os.environ).switched_off


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["no-such-command"], "command not found: no-such-command"),
        (["sh", "-c", "echo oops >&2; exit 3"], "sh failed with status 3: oops"),
        (["sh", "-c", "kill -SEGV $$"], "sh was ended by SIGSEGV"),
        (["sh", "-c", "sleep 60 &"], "went on in the background"),
        (["setsid", "-f", "sleep", "60"], "went on in the background"),
        (["sh", "-c", "echo 'not a tty' >&2; exit 1"], "needs a terminal"),
        (["sleep", "60"], "did not end within 1 s"),
    ],
)
def test_what_cannot_be_advised_about_is_told_in_a_line(command: list[str], said: str) -> None:
    with pytest.raises(trial.AdviceError, match=said.replace("$", r"\$")):
        trial.run(command, os.environ, limit=1 if command == ["sleep", "60"] else 600)
    assert not [pid for pid in trial._children(os.getpid()) if "sleep" in Path(f"/proc/{pid}/comm").read_text()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name one of -- COMMAND, --recording FILE and --recipe NAME"),
        (["--recording", "a.npz", "--", "true"], "not -- COMMAND and --recording"),
        (["--recipe", "redis"], "unknown recipe 'redis'"),
        (["--more-memory", "-1", "--recording", "a.npz"], "0 or more"),
        (["--recording", "gone.npz"], "gone.npz"),
        (["--verify", "--recording", "hot_island"], "--verify runs a command"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--quiet", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_recording_is_advised_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "arena.txt").write_text(ARENA)
    page = tmp_path / "page.html"
    arguments = ["--recording", str(tmp_path / "arena.txt"), "--horizon", "1h", "--report", str(page)]
    assert main(["recommend", "--quiet", *arguments]) == 0
    said = capsys.readouterr().out
    assert "over a run of 1h" in said or "Leave it" in said
    assert "<img" in page.read_text()


# -- proof -----------------------------------------------------------------------------------------


def measured(cpu: dict[str, list[float]]) -> dict[str, Measured]:
    figures = Simulator({(): parse_program(ARENA)}).figures([MADVISE_2M, Setting().with_sizes(1 << 4, "always")])
    found = {}
    for label, f in zip(("present", "advice"), figures, strict=True):
        runs = [trial.Run(1.0, seconds, 1000, 1 << 20) for seconds in cpu[label]]
        found[label] = Measured(f.setting, f, runs, [64 << 20] * len(runs))
    return found


def test_what_is_predicted_is_the_present_measurement_and_the_simulated_difference() -> None:
    m = measured({"present": [1.0, 1.0, 1.0], "advice": [0.9, 0.9, 0.9]})
    cpu, faults, peak = predicted(m["advice"], m["present"])
    assert faults == 1000 + 64 * 16 - 64 * 256
    assert 0.9 < cpu < 1.0
    assert peak == 64 << 20
    assert difference(m["advice"], m["present"]) == (pytest.approx(0.1), pytest.approx(0, abs=1e-9))


def test_without_root_what_needs_none_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    choice = choose(Simulator({(): parse_program(ARENA)}), present()[0], 0.1)
    found, notes = verify(trial.Request(python("bytearray(8 << 20)")), choice, repeats=1)
    assert {"never", "present"} <= set(found)
    assert all(len(m.runs) == len(m.usage) == 1 for m in found.values())
    assert any("want of a control group" in note for note in notes)


def test_what_cannot_be_run_here_is_told() -> None:
    other = Setting().with_sizes(1 << 3, "always")
    asked = replace(other, advice=(("m", "hugepage"),))
    now = Simulator({(): parse_program(ARENA)}).figures([MADVISE_2M, other, asked])
    choice = choose(Simulator({(): parse_program(ARENA)}), MADVISE_2M, 0.1)
    for best, said in ((now[1], "only root can set 32K always"), (now[2], "needs a change of the program's source")):
        wanted, notes = verifiable(replace(choice, best=best, advised=best), root=False)
        assert set(wanted) == {"never", "present"}
        assert said in notes[0]
    assert set(verifiable(replace(choice, best=now[1], advised=now[1]), root=True)[0]) == {"never", "present", "advice"}


def test_one_slow_round_does_not_decide() -> None:
    m = measured({"present": [1.0, 1.01, 0.99, 1.0, 1.0, 1.0, 9.0], "advice": [0.9, 0.91, 0.89, 0.9, 0.9, 0.9, 0.9]})
    share, half = difference(m["advice"], m["present"])
    assert share == pytest.approx(0.1)
    assert half < 0.01


@pytest.mark.parametrize(
    ("present_cpu", "advice_cpu", "said"),
    [
        ([1.0, 1.01, 0.99], [0.9799, 0.9899, 0.9699], "Yes"),
        ([1.0, 1.01, 0.99], [0.5, 0.51, 0.49], "In part"),
        ([1.0, 1.01, 0.99], [1.01, 1.0, 0.99], "No: no gain stands out"),
        ([1.0, 1.01, 0.99], [1.2, 1.21, 1.19], "No: it costs CPU time"),
        ([1.0, 1.5, 0.5], [0.6, 1.4, 0.9], "Nothing can be said"),
    ],
)
def test_measurement_has_the_last_word(present_cpu: list[float], advice_cpu: list[float], said: str) -> None:
    assert verdict(measured({"present": present_cpu, "advice": advice_cpu}), leave=False).startswith(said)
