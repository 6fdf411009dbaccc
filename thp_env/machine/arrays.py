"""Types of arrays, by their elements; docstrings say the shapes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

Bools: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Bytes: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
SmallInts: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int8]]
Masks: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint32]]
Ints: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Addresses: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]
Floats: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Observed: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Records: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.void]]
"""Of a structured dtype: its fields by name."""
