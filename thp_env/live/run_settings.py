"""What a live run is set to: folio sizes and controls, as words of a command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from thp_env.live.errors import LiveError
from thp_env.machine import Machine, layout
from thp_env.machine.sizes import orders_of, sizes_of
from thp_env.names import did_you_mean

MADVISE = "madvise"
UNADVISED = {"madvise": "never", "defer+madvise": "defer"}
"""What the setting of defrag means for memory that is not advised (vma_thp_gfp_mask)."""


@dataclass(frozen=True)
class RunSettings:
    """Sizes and controls of one run.

    Attributes:
        orders: of the folios that memory may have besides single pages.
        advised: every mapping may, as under `always`: on the host the sizes are set to `madvise` and each mapping of
            the program is advised, so that nobody else's memory changes. Else only what the program advises.
        controls: other settings (`layout.SETTINGS`) and their values.
    """

    orders: frozenset[int] = frozenset()
    advised: bool = False
    controls: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, words: Iterable[str]) -> RunSettings:
        """Read words such as `16K+64K`, `2M`, `all`, `never`, `madvise` and `khugepaged/max_ptes_none=0`.

        Raises:
            LiveError: naming the word and what there is.
        """
        orders = 0
        controls: dict[str, str] = {}
        advised = True
        for word in words:
            name, sign, value = word.partition("=")
            if sign:
                controls[name] = _check_value(name, value)
            elif word == MADVISE:
                advised = False
            else:
                orders |= _orders(word)
        large = frozenset(order for order in layout.ORDERS if orders >> order & 1)
        return cls(large, advised and bool(large), controls)

    def __str__(self) -> str:
        """Say it in a few words."""
        words = [sizes_of(sum(1 << order for order in self.orders))]
        words += [MADVISE] if self.orders and not self.advised else []
        return " ".join([*words, *(f"{name}={value}" for name, value in self.controls.items())])

    def of_host(self) -> dict[str, str]:
        """Return what to write, by setting: no size is on before."""
        sizes = {f"hugepages-{4 << order}kB/enabled": "madvise" for order in sorted(self.orders)}
        defrag = self.controls.get("defrag", "madvise")
        return {**sizes, **self.controls, "defrag": UNADVISED.get(defrag, defrag) if self.advised else defrag}

    def of_machine(self, machine: Machine) -> None:
        """Set a simulated machine."""
        for order in layout.ORDERS:
            machine.set_thp(order, ("always" if self.advised else "madvise") if order in self.orders else "never")
        for name, value in self.controls.items():
            values = layout.SETTINGS[name]
            machine.set(name, int(value) if isinstance(values, int) else values.index(value))


def _orders(word: str) -> int:
    try:
        return orders_of(word, "setting")
    except ValueError as error:
        raise LiveError(f"{error}; or {MADVISE}, or a control such as khugepaged/max_ptes_none=0") from None


def _check_value(name: str, value: str) -> str:
    if name not in layout.SETTINGS:
        names = ", ".join(layout.SETTINGS)
        raise LiveError(f"unknown setting {name!r}{did_you_mean(name, layout.SETTINGS)}: one of {names}")
    values = layout.SETTINGS[name]
    if name == "enabled" and value == "always":
        raise LiveError("enabled=always would change every process of this host: the sizes alone do the same here")
    is_valid = value.isdecimal() and int(value) < values if isinstance(values, int) else value in values
    if not is_valid:
        names = f"0 to {values - 1}" if isinstance(values, int) else ", ".join(values)
        raise LiveError(f"{name} takes {names}, not {value!r}")
    return value
