"""Builds a dictionary of strings of 2 to 4 KB, sorts it, thins it out, refills it and looks entries up."""

import random
from array import array
from collections import deque
from operator import add, itemgetter

ENTRIES = 32_000
DELETED = 12_000
ADDED = 6_000
LOOKUPS = 16_000

rng = random.Random(1)
words = [bytes(rng.choices(b"etaoinshrdlu", k=2 + i % 7)) + b" " for i in range(256)]
text = b"".join(map(words.__getitem__, rng.randbytes(28_000)))


def numbers(count: int, bits: int) -> list[int]:
    """Draw `count` numbers of at most 16 bits."""
    return [n & bits for n in array("H", rng.randbytes(2 * count))]


def entries(count: int, shortest: int, bits: int) -> dict[int, bytes]:
    """Make `count` entries of `shortest` to `shortest + bits` bytes."""
    keys = array("I", rng.randbytes(4 * count))
    starts = numbers(count, 0xFFFF)
    ends = map(add, starts, map(shortest.__add__, numbers(count, bits)))
    return dict(zip(keys, map(text.__getitem__, map(slice, starts, ends)), strict=True))


def main() -> None:
    """Run all phases."""
    table = entries(ENTRIES, 2048, 2047)
    order = sorted(table)
    scattered = [order[i * 48271 % len(order)] for i in range(DELETED)]
    deque(map(table.pop, scattered), maxlen=0)
    table.update(entries(ADDED, 1024, 4095))

    names = list(table)
    picked = map(names.__getitem__, numbers(LOOKUPS, 0x3FFF))
    total = sum(map(itemgetter(-1), map(table.__getitem__, picked)))
    by_value = sorted(names[::4], key=table.__getitem__)
    index = dict(zip(by_value, map(itemgetter(slice(0, 64)), map(table.__getitem__, by_value)), strict=True))
    picked = map(names.__getitem__, numbers(LOOKUPS, 0x3FFF))
    total += sum(map(itemgetter(1000), map(table.__getitem__, picked)))
    print(len(table), len(index), total)


main()
