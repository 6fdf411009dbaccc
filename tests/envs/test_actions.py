"""Actions and their masks, against alignments worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import make

from thp_env.envs.actions import ACTION_SETS, ACTIONS, ORDER_MASKS, fitting_blocks, smallest_order
from thp_env.machine import SMAPS_DTYPE

K, M = 1 << 10, 1 << 20
SIZES = ("16K", "32K", "64K", "128K", "256K", "512K", "1M", "2M")


def possible_actions(
    start: int, end: int, mapped: dict[int, int] | None = None, pmd_mapped: int = 0, interface: str = "orders"
) -> set[str]:
    """Return the actions that make sense for a VMA with so many pages mapped in folios of each order."""
    row = np.zeros((), SMAPS_DTYPE)
    row["vm_start"], row["vm_end"], row["scanned"], row["pmd_mapped"] = start, end, (end - start) // 4096, pmd_mapped
    for order, pages in (mapped or {}).items():
        row["by_order"][order] = pages
    actions = ACTION_SETS[interface]
    return {name for name, allow in zip(actions.names, actions.masks(row), strict=True) if allow}


def test_names_and_masks_agree() -> None:
    assert ACTIONS[0] == "keep"
    assert ACTIONS[12:] == ("split", "collapse")
    assert [ORDER_MASKS[size] for size in SIZES] == [1 << order for order in range(2, 10)]
    assert ORDER_MASKS["4K"] == 1
    assert ORDER_MASKS["16K+32K+64K"] == 0b11100
    assert ORDER_MASKS["all"] == 0b1111111100


@pytest.mark.parametrize(("mask", "order"), [(1, 0), (0b11100, 2), (0b1111111100, 2), (1 << 9, 9)])
def test_smallest_order(mask: int, order: int) -> None:
    assert smallest_order(mask) == order


@pytest.mark.parametrize(
    ("start", "end", "largest"),
    [
        (0, 64 * K, "64K"),
        (4 * K, 64 * K, "32K"),  # 32K to 64K is the largest block left
        (0, 2 * M, "2M"),
        (0, 2 * M - 4 * K, "1M"),
        (4 * K, 2 * M + 4 * K, "1M"),  # 1M to 2M
        (M, 3 * M, "1M"),  # two megabytes, but across a boundary
        (M, 4 * M, "2M"),
        (12 * K, 28 * K, None),  # 16K long without an aligned block of 16K
        (12 * K, 32 * K, "16K"),
        (48 * K, 112 * K, "32K"),
    ],
)
def test_sizes_that_fit(start: int, end: int, largest: str | None) -> None:
    fits = fitting_blocks(start, end)
    possible = SIZES[: SIZES.index(largest) + 1] if largest else ()
    assert [size for size in SIZES if fits[ORDER_MASKS[size].bit_length() - 1]] == list(possible)
    names = possible_actions(start, end)
    sets = {"16K+32K+64K", "all"} if "16K" in possible else set()
    assert names == {"keep", "4K", *possible, *sets}


def test_only_large_folios_can_be_split() -> None:
    assert "split" not in possible_actions(0, 2 * M, {0: 512})
    assert "split" in possible_actions(0, 2 * M, {0: 256, 2: 4})


def test_only_what_is_there_and_not_huge_can_be_collapsed() -> None:
    assert "collapse" not in possible_actions(0, 2 * M), "MADV_COLLAPSE of nothing is an error (R44)"
    assert "collapse" in possible_actions(0, 2 * M, {0: 1})
    assert "collapse" in possible_actions(0, 2 * M, {9: 512}), "a 2M folio mapped by PTEs"
    assert "collapse" not in possible_actions(0, 2 * M, {9: 512}, pmd_mapped=512)
    assert "collapse" not in possible_actions(4 * K, 2 * M, {4: 160}), "no whole block"


def test_where_no_vma_is_asked_about_nothing_can_be_done() -> None:
    masks = ACTION_SETS["orders"].masks(np.zeros(2, SMAPS_DTYPE))
    assert masks.tolist() == [[1] + [0] * (len(ACTIONS) - 1)] * 2


def test_collapses_below_2m_need_a_block_and_smaller_folios() -> None:
    def sizes(end: int, mapped: dict[int, int]) -> list[str]:
        found = possible_actions(0, end, mapped, interface="orders+")
        return sorted((name.split("_")[1] for name in found if "_" in name), key=SIZES.index)

    assert sizes(2 * M, {}) == []
    assert sizes(2 * M, {0: 1}) == list(SIZES[:-1])
    assert sizes(256 * K, {0: 1}) == ["16K", "32K", "64K", "128K", "256K"]
    assert sizes(2 * M, {4: 512}) == ["128K", "256K", "512K", "1M"], "64K folios are as large already"
    assert sizes(2 * M, {9: 512}) == []
    unread = np.zeros((), SMAPS_DTYPE)
    unread["id"], unread["vm_end"] = 7, 64 * K
    masks = dict(zip(ACTION_SETS["orders+"].names, ACTION_SETS["orders+"].masks(unread).tolist(), strict=True))
    assert [masks[f"collapse_{size}"] for size in SIZES[:-1]] == [1, 1, 1, 0, 0, 0, 0]
    nobody = ACTION_SETS["orders+"].masks(np.zeros((), SMAPS_DTYPE))
    assert nobody.tolist() == [1] + [0] * 21


def test_walked_blocks_need_a_whole_block_and_sampled_walks() -> None:
    place = ACTION_SETS["orders+"].names.index("collapse_walked")
    for end, walks, may in ((2 * M, 1, 1), (2 * M, 0, 0), (M, 1, 0)):
        smaps = np.zeros((), SMAPS_DTYPE)
        smaps["id"], smaps["vm_end"], smaps["asked_walks"] = 7, end, walks
        assert ACTION_SETS["orders+"].masks(smaps)[place] == may


def test_an_environment_can_have_some_of_the_actions() -> None:
    some = ["keep", "64K", "split"]
    env = make(actions=some)
    assert env.action_space.n == 3
    env.reset(seed=0)
    every = make()
    every.reset(seed=0)
    chosen = [ACTIONS.index(name) for name in some]
    over = False
    while not over:
        assert (env.unwrapped.action_masks() == every.unwrapped.action_masks()[chosen]).all()
        seen, _, over, _, _ = env.step(1)
        same = every.step(ACTIONS.index("64K"))[0]
        assert (seen["vma"] == same["vma"]).all()
    assert make("thp_env/VmaHints-v0", actions=["keep", "2M"], slots=2).action_space.nvec.tolist() == [2, 2]
    assert make(interface="madvise", actions=["normal", "hugepage"]).action_space.n == 2


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (["keep", "5K"], "unknown action '5K': orders has keep, 4K"),
        (["64K", "keep"], "must begin with 'keep'"),
        (["keep", "2M", "2M"], "name each once"),
        ([], "must begin with 'keep'"),
    ],
)
def test_actions_that_there_are_not_are_refused(actions: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(actions=actions)
