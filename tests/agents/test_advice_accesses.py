"""Advice from two recordings of a program: perf's has its faults, valgrind's its accesses."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from thp_agents.advice import recordings as module
from thp_agents.advice.outcomes import TRANSLATION, Simulator, covered
from thp_agents.advice.recordings import recorder_for, recordings
from thp_agents.advice.settings import NEVER, Setting
from thp_agents.advice.trial import Request
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.listener import BY_SIGNAL, TIME_IS_UP
from thp_workloads.recording.record import record

from thp_env.traces import Program, parse_program

needs_recorders = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("valgrind", "gcc", "perf")), reason="a recorder is not installed"
)
FAULTS = parse_program("mmap m1 64M at=slot\n" + "".join(f"write m1 {i}M 1M\ncompute 1ms\n" for i in range(64)))
RANDOM = "mmap m1 64M at=slot\nwrite m1 0 {mib}M\naccess m1 0 {mib}M uniform count=200000 ns=0 weight=10\n"
LARGE = Setting().with_sizes(1 << 9, "always")


def accesses(mib: int = 64, *, stopped: bool = False) -> Program:
    program = parse_program(RANDOM.format(mib=mib))
    return replace(program, meta={**program.meta, **({"stopped": TIME_IS_UP} if stopped else {})})


def translation(simulator: Simulator, setting: Setting, **of: float) -> float:
    [figures] = simulator.figures([setting])
    return float(figures.outcomes[0].times(**of)[TRANSLATION])


def test_walks_come_from_the_accesses_and_all_else_from_the_faults() -> None:
    both = Simulator({(): FAULTS}, {(): accesses()}, layouts=1)
    faults, walks = Simulator({(): FAULTS}, layouts=1), Simulator({(): accesses()}, layouts=1)
    for setting in (NEVER, LARGE):
        assert translation(both, setting) == translation(walks, setting)
        [mixed], [plain] = both.figures([setting]), faults.figures([setting])
        others = np.arange(len(mixed.outcomes[0].times())) != TRANSLATION
        assert np.array_equal(mixed.outcomes[0].times()[others], plain.outcomes[0].times()[others])
        assert (mixed.faults, mixed.peak_mib, mixed.p99_us) == (plain.faults, plain.peak_mib, plain.p99_us)
    assert translation(both, NEVER) > 2 * translation(both, LARGE)


def test_a_longer_run_has_the_walks_of_the_second_half_again() -> None:
    both = Simulator({(): FAULTS}, {(): accesses()}, layouts=1)
    once, ten_times = translation(both, NEVER), translation(both, NEVER, longer=10)
    assert ten_times == pytest.approx(once * (1 + 10 * 0.5), rel=0.1)


def test_the_beginning_of_a_run_stands_for_all_of_it() -> None:
    """Accesses until a quarter of the memory has been touched, which was so after a quarter of the time."""
    assert covered(FAULTS, 16 << 8) == pytest.approx(0.25, abs=1 / 64)
    assert covered(FAULTS, 1 << 20) == 1.0
    whole = Simulator({(): FAULTS}, {(): accesses(16)}, layouts=1)
    part = Simulator({(): FAULTS}, {(): accesses(16, stopped=True)}, layouts=1)
    assert translation(part, NEVER) == pytest.approx(4 * translation(whole, NEVER), rel=1 / 15)


def test_which_recorder_is_used() -> None:
    assert [recorder_for(cpu, "auto") for cpu in (0.5, 5.0)] == ["valgrind", "both"]
    assert recorder_for(5.0, "perf") == "perf"


@needs_recorders
def test_a_program_is_recorded_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(["perl", "-e", "my %h; $h{$_} = $_ for 1 .. 30000;"])
    recorded = recordings(request, recorder="both", progress=False)
    assert [*recorded.accesses] == [*recorded.programs]
    assert len(recorded.programs) == 2  # with glibc's tunable
    for pairs, program in recorded.programs.items():
        part = recorded.accesses[pairs]
        assert program.meta["native"]
        assert "native" not in part.meta
        assert part.work.sum() > 10 * program.work.sum()
    monkeypatch.setattr(module, "record", _refuses)
    recorded = recordings(request, recorder="both", progress=False)
    assert not recorded.accesses
    assert recorded.notes == ["page walks are not in these figures: it does not run under valgrind"]


def test_ctrl_c_while_valgrind_records_ends_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = replace(accesses(), meta={"stopped": BY_SIGNAL, "exit_status": -2})
    monkeypatch.setattr(module, "record", lambda *args, **options: cut)
    with pytest.raises(KeyboardInterrupt):
        recordings(Request(["true"]), recorder="valgrind", progress=False)


def _refuses(*args: object, **options: object) -> Program:
    raise RecordingError("it does not run under valgrind")


@needs_recorders
def test_a_recording_ends_after_its_limit() -> None:
    recorded = record(["perl", "-e", "my $x = 0; $x += $_ % 7 while ++$_ < 1e12;"], limit=3.0, progress=False)
    assert recorded.meta["stopped"] == TIME_IS_UP
    assert recorded.meta["exit_status"] == 0
    assert 2.5 < recorded.meta["seconds"] < 60
