"""The names of sets of sizes, against masks written out by hand."""

import pytest

from thp_env.machine import layout
from thp_env.machine.sizes import orders_of, sizes_of

MASKS = {"never": 1, "16K": 0b100, "64K": 0b10000, "2M": 1 << 9, "16K+32K+64K": 0b11100, "128K+2M": 1 << 5 | 1 << 9,
         "all": 0b1111111100}  # fmt: skip


@pytest.mark.parametrize(("sizes", "orders"), MASKS.items())
def test_a_name_and_its_mask(sizes: str, orders: int) -> None:
    assert orders_of(sizes) == orders
    assert sizes_of(orders) == sizes


def test_every_mask_has_a_name_of_its_own() -> None:
    masks = [mask << 2 for mask in range(1, 1 << len(layout.ORDERS))]
    names = [sizes_of(mask) for mask in masks]
    assert len(set(names)) == len(names)
    assert [orders_of(name) for name in names] == masks


def test_4k_is_never_and_order_0_adds_nothing() -> None:
    assert orders_of("4K") == orders_of("never") == 1
    assert sizes_of(0b10001) == "64K"


@pytest.mark.parametrize(
    "sizes", ["", "8K", "64k", "64K+", "64K+64K", "all+64K", "never+64K", "64K 128K", 4, None, ["64K"]]
)
def test_what_is_no_name_is_refused(sizes: object) -> None:
    with pytest.raises(ValueError, match=r"unknown sizes .*never, all, or of 16K, 32K"):
        orders_of(sizes)  # type: ignore[arg-type]
