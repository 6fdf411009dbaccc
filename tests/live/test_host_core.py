"""The preset of the host's core, by what kernels of different hosts say."""

from __future__ import annotations

from pathlib import Path

import pytest

from thp_env.live.host_core import ARM, CPUINFO, INTEL, ZEN_OF_25, host_core
from thp_env.machine.cores import CORES


def x86(vendor: str, family: int, model: int) -> str:
    one = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: x\n"
    return f"{one}stepping\t: 1\n\n" * 2


@pytest.mark.parametrize(
    ("text", "core"),
    [
        (x86("GenuineIntel", 6, 85), "skylake"),  # Xeon Platinum 8175M
        (x86("GenuineIntel", 6, 143), "golden-cove"),  # Xeon Platinum 8488C
        (x86("GenuineIntel", 6, 63), None),  # Haswell
        (x86("AuthenticAMD", 23, 1), None),  # EPYC 7601, Zen 1
        (x86("AuthenticAMD", 23, 49), "zen2"),  # EPYC 7742
        (x86("AuthenticAMD", 25, 1), "zen3"),  # EPYC 7763
        (x86("AuthenticAMD", 25, 17), "zen4"),  # EPYC 9654
        (x86("AuthenticAMD", 25, 97), "zen4"),  # Ryzen 7950X
        (x86("AuthenticAMD", 26, 2), "zen5"),  # EPYC 9755
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0c\n", "neoverse-n1"),
        ("processor\t: 0\nCPU implementer\t: 0x61\nCPU part\t: 0x022\n", None),  # Apple
        ("processor\t: 0\nisa\t\t: rv64imafdc\nuarch\t\t: sifive,u74-mc\n", "u74"),
        ("model\t: much\nvendor_id\t: AuthenticAMD\ncpu family\t:\n", None),
        ("", None),
    ],
)
def test_presets_by_what_the_kernel_says(tmp_path: Path, text: str, core: str | None) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert host_core(path) == core


def test_every_name_is_a_preset_and_this_host_has_one_or_none(tmp_path: Path) -> None:
    assert {*ARM.values(), *INTEL, *ZEN_OF_25.values(), "zen2", "zen5", "u74"} <= set(CORES)
    assert host_core(tmp_path / "nothing") is None
    assert host_core(CPUINFO) in {None, *CORES}
