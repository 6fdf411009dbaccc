"""How far advice is from the best setting that was measured, and how predictions agree with measurements."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from scipy.stats import kendalltau
from thp_agents import recommend_command
from thp_agents.advice.outcomes import Simulator
from thp_agents.advice.rivals import RIVALS, agreement, kendall_tau, regret, rivals
from thp_agents.advice.settings import NEVER, Setting
from thp_agents.advice.trial import AdviceError, Request, Run
from thp_agents.advice.verify import SUMMARY, Measured
from thp_agents.cli import main

from thp_env.machine.sizes import orders_of
from thp_env.traces import parse_program

TEXT = "mmap m1 8M at=slot\nwrite m1 0 8M\ncompute 1ms\n"
MIB = 1 << 20


def measured(of: dict[str, tuple[float, int]]) -> dict[str, Measured]:
    """Return measurements: CPU seconds and MiB by label; the labels name sizes, "present" is 4K as "never" is."""
    simulator = Simulator({(): parse_program(TEXT)}, layouts=1)
    found = {}
    for label, (cpu, mib) in of.items():
        setting = Setting().with_sizes(orders_of(label), "always") if label in RIVALS else NEVER
        [figures] = simulator.figures([setting])
        found[label] = Measured(setting, figures, [Run(cpu, cpu, 2048, mib * MIB)] * 5, [mib * MIB] * 5)
    return found


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ({"never": (1.0, 8), "present": (1.0, 8), "advice": (0.9, 8), "64K": (0.8, 8)}, 0.125),
        ({"never": (1.0, 8), "present": (1.0, 8), "advice": (0.9, 8), "64K": (0.95, 8)}, 0.0),
        ({"never": (1.0, 8), "present": (1.0, 8), "advice": (0.9, 8), "64K": (0.8, 80)}, 0.0),  # more memory
        ({"never": (1.0, 8), "present": (1.1, 8), "64K": (1.2, 8)}, 0.1),  # advised to leave it
    ],
)
def test_regret(of: dict[str, tuple[float, int]], expected: float) -> None:
    assert regret(measured(of)) == pytest.approx(expected)


def test_kendall_tau_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, (2, 9)).tolist()
        assert kendall_tau(a, b) == pytest.approx(kendalltau(a, b).statistic)
    assert kendall_tau([1, 1], [1, 2]) == 0


def test_agreement_is_about_what_settings_save_against_4k() -> None:
    exact = measured({"never": (1.0, 8), "64K": (1.0, 8), "2M": (1.0, 8)})
    base = exact["never"]
    for label in ("64K", "2M"):
        m = exact[label]
        saved = (base.figures.cpu_ms - m.figures.cpu_ms) / 1e3
        m.runs = [Run(1 - 2 * saved, 1 - 2 * saved, 2048 - int(base.figures.faults - m.figures.faults), 8 * MIB)] * 5
    base.runs = [Run(1.0, 1.0, 2048, 8 * MIB)] * 5
    lines = agreement([exact])
    assert lines[0] == "2 settings of 1 programs beside 4K: faults are off by 0.0% in the median, peak memory by 0.0%"
    assert lines[-1].startswith("order of the settings by CPU time: Kendall's tau 1.00")
    for m in exact.values():
        m.runs = [Run(r.seconds / 10, r.cpu - 0.99, r.faults, r.peak) for r in m.runs]
    assert "(2 settings): off by 50% of it in the median" in agreement([exact])[1]


def test_rivals_are_six_settings_with_the_hosts_other_knobs() -> None:
    simulator = Simulator({(): parse_program(TEXT)}, layouts=1)
    found = rivals(simulator, Setting(defrag="defer", max_ptes_none=0))
    assert len({f.setting for f in found}) == 6
    assert {(f.setting.defrag, f.setting.max_ptes_none) for f in found} == {("defer", 0)}
    assert all(f.faults < 2048 for f in found)


def test_rivals_need_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--rivals", "--", "true"]) == 2
    assert "add --verify, as root" in capsys.readouterr().err


def test_a_program_that_fails_and_ctrl_c_lose_none_of_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def advise(args: object, request: Request) -> tuple[list[str], dict[str, Measured]]:
        outcome = next(outcomes)
        if isinstance(outcome, BaseException):
            raise outcome
        return [outcome] * len(SUMMARY), {}

    outcomes = iter(["64K", AdviceError("cc ended with 1"), "2M", KeyboardInterrupt()])
    monkeypatch.setattr(recommend_command, "_advise", advise)
    monkeypatch.setattr(recommend_command, "_requests", lambda *_: nullcontext(Request([], {}, [])))
    recipes = ["sort_threads", "gcc_functions", "lua_tables", "xz_window"]
    assert main(["recommend", "--small", "--markdown", "--recipe", *recipes]) == 130
    printed = capsys.readouterr()
    assert "cc ended with 1" in printed.err
    assert [line.split(" | ")[:2] for line in printed.out.splitlines() if line.startswith("| ")][1:] == [
        ["| sort_threads", "64K"], ["| lua_tables", "2M"],
    ]  # fmt: skip


RECIPE = """
import argparse
from thp_agents import recommend_command as r
from thp_workloads.recording.recipes import Recipe, recipes

by_name = {"one": next(iter(recipes().values()))}
Recipe._check_packages = Recipe._prepare = Recipe._find = lambda *_: None
r.recipes = lambda: by_name
with r._requests(argparse.Namespace(small=True, report=None, save_recording=None), "one"):
    print("advice")
print("more")
"""


def test_advice_about_a_recipe_is_shown() -> None:
    """While a recipe's programs have /dev/null as their output, what is printed has not."""
    shown = subprocess.run([sys.executable, "-c", RECIPE], capture_output=True, text=True, check=True).stdout
    assert shown == "advice\nmore\n"
