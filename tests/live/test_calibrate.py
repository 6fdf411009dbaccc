"""Costs of a host: how measurements become entries, and which files are refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from thp_agents.calibrate_command import cost_lines
from thp_agents.cli import main

from thp_env.live.calibrate import Sample, entries, parse
from thp_env.live.errors import LiveError
from thp_env.live.workers import helper
from thp_env.machine import Machine, MachineConfig
from thp_env.machine.clock import COSTS, clock_table
from thp_env.machine.costs_file import CostsError, HostCosts, costs_in_force, format_costs, read_costs
from thp_env.traces import parse_program

# What a machine with the clock table's own costs would measure, from what each measurement consists of.
NS = {name: cost.ps / 1000 for name, cost in COSTS.items()}
SECOND = NS["syscall"] + NS["zap_pte"] + NS["zap_folio"] + NS["flush_one"]
TIGHT = 800.0
"""The fixed part of a fault among faults, which spoils nothing for anybody."""
EXACT = {
    "cycle": NS["cycle"],
    "write_fault_4K": TIGHT + NS["zero_page"],
    "write_fault_2M": TIGHT + 512 * NS["zero_page"],
    "fault_at_work": NS["fault"] + NS["zero_page"],
    "read_fault": NS["fault_zero_page"],
    "reuse_fault": NS["fault_reuse"],
    "copy_fault": TIGHT + NS["copy_page"],
    "fork_empty": NS["fork"],
    "fork_ptes": NS["fork"] + 32 * 511 * NS["fork_pte"],
    "fork_pages": NS["fork"] + 32 * 512 * (NS["fork_pte"] + NS["fork_folio"]),
    "fork_pmds": NS["fork"] + 32 * NS["fork_pmd"],
    "zap_small": SECOND + 511 * (NS["zap_pte"] + NS["zap_folio"]),
    "zap_whole": NS["syscall"] + NS["zap_pmd"] + NS["flush_one"],
    "zap_first": NS["split_pmd"] + SECOND,
    "zap_second": SECOND,
    "zap_rest": SECOND + 509 * NS["zap_pte"],
    "protect_cut": 5000 + 2 * NS["split_vma"],
    "protect_whole": 5000,
    "protect_ptes": 5000 + 510 * NS["change_pte"],
    "collapse_fault": TIGHT + 512 * NS["zero_page"],
    "collapse_one": NS["collapse"] + TIGHT + 512 * NS["zero_page"],
    "collapse_all": NS["collapse"] + 512 * (NS["collapse_folio"] + NS["copy_page"] + NS["zap_pte"] + NS["zap_folio"]),
}


def samples(**changes: Sample) -> dict[str, Sample]:
    return {**{name: Sample(ns, ns * 0.9, ns * 1.1) for name, ns in EXACT.items()}, **changes}


def test_measurements_are_taken_apart_as_the_machine_puts_them_together() -> None:
    found = entries(samples())
    assert len(found.ns) == 19
    for name, ns in found.ns.items():
        assert ns == pytest.approx(NS[name], rel=1e-6), name
    assert found.spread["fault"] == pytest.approx(0.2)


def test_noise_is_told_and_the_table_stays() -> None:
    found = entries(samples(collapse_one=Sample(1e5, 1e4, 1e6)))
    assert "collapse" not in found.ns
    assert found.missing["collapse"].startswith("too noisy")
    assert found.costs().ns["collapse"] == NS["collapse"]
    assert any("collapse (too noisy" in line for line in cost_lines(found))


def test_without_2m_what_needs_them_is_missing() -> None:
    small = {name: s for name, s in samples().items()
             if name in ("cycle", "write_fault_4K", "fault_at_work", "read_fault", "reuse_fault", "copy_fault",
                         "fork_empty", "protect_cut", "protect_whole")}  # fmt: skip
    found = entries(small)
    assert found.ns["fault"] == pytest.approx(NS["fault"])
    assert not {"zero_page", "zap_pmd", "fork_pmd", "collapse"} & set(found.ns)


def test_what_the_helper_says_is_read() -> None:
    read, missing = parse("cycle 0.25 0.20 0.30 200\ncollapse_one - MADV_COLLAPSE: Invalid argument\n")
    assert read == {"cycle": Sample(0.25, 0.20, 0.30)}
    assert missing == {"collapse_one": "MADV_COLLAPSE: Invalid argument"}


def test_the_helper_measures_on_this_kernel() -> None:
    """Whatever the host, a write fault takes longer than a cycle, and a fault of 2M longer than one of 4K."""
    try:
        path = helper("calibrate")
    except LiveError as error:
        pytest.skip(str(error))
    done = subprocess.run([path, "0"], capture_output=True, text=True, timeout=300, check=True)
    read, missing = parse(done.stdout)
    assert read["write_fault_4K"].median > 10 * read["cycle"].median
    if "write_fault_2M" not in missing:
        assert read["write_fault_2M"].median > read["write_fault_4K"].median


# -- files -----------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "costs.toml"
    path.write_text(text)
    return path


def table(**changes: float) -> str:
    return format_costs(HostCosts({**NS, **changes}, {"fault": 0.3}, {"fault": 2000.0}, {"host": "Linux 6.18"}))


def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    costs = read_costs(written(tmp_path, table(fault=900.5)))
    assert costs.clock() == {**clock_table(), "fault": 900_500}
    assert (costs.spread, costs.after_idle, costs.texts) == ({"fault": 0.3}, {"fault": 2000.0}, {"host": "Linux 6.18"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (table(fault=-1), r"fault = -1 in \[ns\] is negative: write a time in ns, 0 or more \(the clock table has 1"),
        (table().replace("fork = ", "frok = "), r"frok in \[ns\] is no cost; did you mean 'fork'\?"),
        (table().replace("fork = 56000", ""), r"fork is missing in \[ns\]: add it \(the clock table has fork = 5"),
        (table().replace("cycle = 0.333", 'cycle = "fast"'), r"cycle = 'fast' in \[ns\] is no number: write a time"),
        (table().replace("cycle = 0.333", "cycle = nan"), "is no number"),
        (table().replace("cycle = 0.333", "cycle = true"), "is no number"),
        (table(fork=2e9), "is too much"),
        (table().replace("fault = 0.3\n", "fault = -0.3\n"), "write a share, such as 0.3"),
        ("[other]\nx = 1\n", "'other' is unknown"),
        ("ns = 3\n", "ns is a table"),
        ("[ns", "malformed TOML"),
        ("ns = " + "[" * 5000 + "]" * 5000, "nested too deep"),
        ("#" * 70_000, "longer than 64 KiB"),
    ],
)
def test_a_file_that_cannot_be_used_names_the_entry_and_what_would_be_right(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(CostsError, match=said):
        read_costs(written(tmp_path, text))


def test_machines_take_the_costs_in_force_and_only_then(tmp_path: Path) -> None:
    program = parse_program("mmap a 1M\nwrite a 0 1M\n")

    def took() -> int:
        machine = Machine(program, MachineConfig(memory=64 << 20))
        machine.run()
        return machine.clock_ps

    before = took()
    with costs_in_force(written(tmp_path, table(fault=NS["fault"] + 1000))):
        assert took() - before == 256 * 1_000_000
        assert os.environ["THP_ENV_COSTS"].endswith("costs.toml")
    assert took() == before
    assert "THP_ENV_COSTS" not in os.environ


def test_commands_refuse_a_file_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, table(fault=-1))
    assert main(["workloads", "--profile", "gups", "--costs", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"thp-env: {path}: fault = -1")


def test_calibrate_writes_a_file_that_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        helper("calibrate")
    except LiveError as error:
        pytest.skip(str(error))
    path = tmp_path / "costs.toml"
    assert main(["calibrate", "--idle", "0", "--no-swap", "--out", str(path)]) == 0
    said = capsys.readouterr().out
    assert set(read_costs(path).ns) == set(COSTS)
    assert "swapping needs root and zram" in said
