"""Large folios of recordings beside native runs."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from thp_agents.advice.outcomes import Simulator
from thp_agents.advice.settings import NEVER, Setting
from thp_agents.advice.verify import Measured, folio_table, folio_text
from thp_agents.cli import main
from thp_agents.corpus_folios import off_by

from thp_env.live.given import folios_given
from thp_env.live.settings import THP
from thp_env.traces import parse_program


def test_folios_are_counted_by_size(tmp_path: Path) -> None:
    for kilobytes, given in ((16, 7), (2048, 3)):
        folder = tmp_path / f"hugepages-{kilobytes}kB/stats"
        folder.mkdir(parents=True)
        (folder / "anon_fault_alloc").write_text(f"{given}\n")
    assert folios_given(tmp_path) == Counter({2: 7, 9: 3})
    assert folios_given(tmp_path / "nothing") == Counter()
    if (THP / "hugepages-2048kB/stats").exists():
        assert 9 in folios_given()


def test_memory_in_folios_counts_by_size() -> None:
    assert off_by({9: 10}, {9: 10.0}) == 0
    assert off_by({9: 10}, {9: 9.0}) == pytest.approx(0.1)
    assert off_by({9: 1}, {4: 32.0}) == 2  # the same memory in other folios is wrong twice
    assert off_by({}, {2: 5.0}) == 20


def test_the_table_has_predicted_beside_measured() -> None:
    simulator = Simulator({(): parse_program("mmap a 8M at=slot\nwrite a 0 8M\n")}, layouts=1)
    large = Setting().with_sizes(1 << 9, "always")
    figures = simulator.figures([NEVER, large])
    measured = {f.setting.name: Measured(f.setting, f, folios=[Counter({9: n}) for n in given])
                for f, given in zip(figures, ([0, 0, 0], [4, 4, 40]), strict=True)}  # fmt: skip
    assert folio_table(measured)[1] == [[NEVER.name, "-", "-"], ["2M always", "2M 4", "2M 4"]]
    assert folio_text({2: 1234.0, 9: 0.2}) == "16K 1,234"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_cannot_be_compared_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus", "folios", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("thp-env: unknown recipe nonsense: there are ")
    assert main(["corpus", "folios", "lua_tables", "--out", str(tmp_path)]) == 2
    assert "lua_tables" in capsys.readouterr().err
    assert main(["corpus", "folios", "--out", str(tmp_path)]) == 2
    assert "there is no recording in" in capsys.readouterr().err
