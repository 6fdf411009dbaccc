"""zRAM: the memory and the time that swapped pages take, by their content (R47)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from support.machines import free_clock, machine_of

from thp_env.machine import Machine
from thp_env.machine.clock import COSTS

pytestmark = pytest.mark.sanitize

PAGES = 4096
TEXT = f"swap 64M\nmmap a {PAGES}p\n{{}}\nadvise a 0 {PAGES}p pageout\n"
MEASURED = re.compile(r"(\d+) % random; (\d+) bytes of zram a page")


def run(text: str, **config) -> Machine:
    machine = machine_of(text, **config)
    machine.run(go_on=True)
    machine.validate()
    return machine


def live() -> dict[str, dict[int, tuple[float, int]]]:
    """Return {operation: {content: (median ns of 64K, bytes a page)}} as Linux 6.18.44 took them."""
    found: dict[str, dict[int, tuple[float, int]]] = {}
    with (Path(__file__).parents[1] / "data/costs.csv").open() as file:
        for row in csv.DictReader(file):
            if match := MEASURED.fullmatch(row["note"]):
                content, size = map(int, match.groups())
                found.setdefault(row["op"], {})[content] = float(row["median_ns"]), size
    return found


LIVE = live()


def written(content: int) -> str:
    return f"write a 0 {PAGES}p content={content}"


@pytest.mark.parametrize(
    ("content", "pages"),
    [
        (0, 0),
        (1, PAGES // 64),  # 41 bytes and 8: class 64
        (25, -(-PAGES // 31) * 8),  # class 1056: 31 in 8 pages
        (50, -(-PAGES // 15) * 8),
        (88, -(-PAGES // 9) * 8),
        (89, PAGES),  # no class of less than a page
        (100, PAGES),
    ],
)
def test_swapped_memory_takes_memory_by_its_content(content, pages):
    machine = run(TEXT.format(written(content)))
    before = run(TEXT.format(written(content)).rsplit("advise", 1)[0])
    assert machine.counters["nr_zspages"] == machine.counters["nr_resident"] == pages
    assert machine.free_pages == before.free_pages + PAGES - pages


@pytest.mark.parametrize("content", LIVE["zram_swapout_content"])
def test_it_takes_about_what_linux_took(content):
    """What is random for c % of a page compresses to a little more than that."""
    _, size = LIVE["zram_swapout_content"][content]
    pages = run(TEXT.format(written(content))).counters["nr_zspages"]
    assert pages * 4096 / PAGES == pytest.approx(size, rel=0.13)


def test_64_mib_of_random_data_free_nothing():
    machine = run("swap 128M\nmmap a 64M\nfill a 0 64M\nadvise a 0 64M pageout\n", memory=256 << 20)
    taken = machine.counters["nr_zspages"] * 4096
    assert taken == 64 << 20  # live: 67,112,960 with the swap header
    assert machine.counters["pswpout"] == 16384


def test_a_page_of_zeros_among_others_takes_none():
    machine = run("thp 64 always\nswap 8M\nmmap a 64K\nwrite a 0 4K content=100\nadvise a 0 64K pageout\n")
    assert machine.counters.stat("swpout", 4) == 1
    assert machine.counters["nr_zspages"] == 1


@pytest.mark.parametrize(
    "end",
    ["read a 0 16M", "munmap a 0 16M", "advise a 0 16M free", "swapoff", "fork C\nread a 0 16M\nin C read a 0 16M"],
)
def test_memory_comes_back_with_the_slots(end):
    text = f"swap 64M\nmmap a 16M\nwrite a 0 16M content=30\nadvise a 0 16M pageout\n{end}\n"
    machine = run(text)
    if "fork" in end:  # both have read what stays in the swap cache, until swap is short
        assert machine.counters["nr_zspages"] > 0
        machine = run(text + "munmap a 0 16M\nin C munmap a 0 16M\n")
    assert machine.counters["nr_zspages"] == 0


def test_zspages_can_be_moved():
    """Compaction finds them in the way of 2M blocks (zs_page_migrate)."""
    text = "swap 32M\nmmap a 16M\nwrite a 0 16M content=50\nadvise a 0 16M pageout\n"
    text += "".join(f"read a {at}p 1p\n" for at in range(0, 4096, 3)) + "compact\n"
    machine = run(text)
    assert machine.counters["pgmigrate_success"] > 0
    machine = run(text + "munmap a 0 16M\n")
    assert machine.counters["nr_zspages"] == 0


def test_what_finds_no_memory_stays():
    """A whole 2M of random data needs 512 frames before it frees its own, and there are fewer."""
    text = "thp 2048 always\nswap 32M\nmmap a 14M\nfill a 0 14M\nadvise a 0 2M pageout\n"
    machine = run(text, memory=16 << 20)
    assert machine.counters["nr_zspages"] == machine.counters["pswpout"] == 0
    assert machine.counters.stat("nr_anon", 9) == 7


def test_time_by_content():
    def cost(content: int, **entries: int) -> int:
        text = TEXT.format(written(content)) + f"read a 0 {PAGES}p\n"
        return run(text, clock=free_clock(**entries)).counters.time_ps("swapping") // PAGES

    assert cost(40, swap_out_page=100, swap_out_percent=2) == 180
    assert cost(40, swap_in_page=100, swap_in_percent=2) == 180
    assert cost(100, swap_out_incompressible=7, swap_in_incompressible=5) == 12
    assert cost(100, swap_out_page=100, swap_in_page=100) == 0


@pytest.mark.parametrize("way", ["out", "in"])
def test_time_grows_with_content_as_linux_s_does(way):
    """Relative to 50 %, since the clock's figures are from another host."""
    took = {content: ns for content, (ns, _) in LIVE[f"zram_swap{way}_content"].items()}
    page, percent = COSTS[f"swap_{way}_page"].ps, COSTS[f"swap_{way}_percent"].ps
    for content in (10, 25, 75):
        expected = (page + percent * content) / (page + percent * 50)
        assert expected == pytest.approx(took[content] / took[50], rel=0.2)
    assert COSTS[f"swap_{way}_incompressible"].ps < page + percent * 80
