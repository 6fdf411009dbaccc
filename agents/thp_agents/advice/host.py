"""What this host is set to now, and how its files are written for a setting."""

from __future__ import annotations

from pathlib import Path

from thp_agents.advice.settings import NEVER, Setting
from thp_env.live.settings import THP, read
from thp_env.machine import layout

KNOBS = {"defrag": "defrag", "khugepaged/max_ptes_none": "max_ptes_none"}


def present(folder: Path = THP) -> tuple[Setting, list[str]]:
    """Return the setting that this host has, and what has to be said about it.

    Args:
        folder: of the kernel's controls.
    """
    if not (folder / "enabled").exists():
        notes = ["this kernel has no transparent huge pages: advice is for one that has them, with 2M at madvise"]
        return NEVER.with_sizes(1 << layout.PMD_ORDER, "madvise"), notes
    whole, notes = read(folder / "enabled"), []
    sizes = []
    for order in layout.ORDERS:
        path = _size(folder, order) / "enabled"
        mode = read(path) if path.exists() else "inherit" if order == layout.PMD_ORDER else "never"
        mode = whole if mode == "inherit" else mode
        if mode in ("always", "madvise"):
            sizes.append((order, mode))
    if not has_mthp(folder):
        notes.append("this kernel has no sizes but 2M (multi-size THP came with Linux 6.8): others are left out")
    none = folder / "khugepaged/max_ptes_none"
    defrag = read(folder / "defrag") if (folder / "defrag").exists() else "madvise"
    return Setting(tuple(sizes), defrag, int(read(none)) if none.exists() else 511), notes


def has_mthp(folder: Path = THP) -> bool:
    """Whether the kernel has more sizes than 2M."""
    return _size(folder, 4).is_dir()


def _size(folder: Path, order: int) -> Path:
    return folder / f"hugepages-{4 << order}kB"


def files(setting: Setting, folder: Path = THP) -> dict[str, str]:
    """Return the files of the kernel, below its folder of controls, that a setting writes, with what.

    Only `madvise` and `always` of the whole are told apart: a size's own file decides, where there is one.
    """
    sizes = dict(setting.sizes)
    contents = {}
    if has_mthp(folder) or not folder.exists():
        for order in layout.ORDERS:
            contents[f"hugepages-{4 << order}kB/enabled"] = sizes.get(order, "never")
    else:
        contents["enabled"] = sizes.get(layout.PMD_ORDER, "never")
    contents["defrag"] = setting.defrag
    contents["khugepaged/max_ptes_none"] = str(setting.max_ptes_none)
    return contents


def differing(setting: Setting, folder: Path = THP) -> dict[str, str]:
    """Return those of `files` that this host does not have as they are."""
    target = files(setting, folder)
    now = files(present(folder)[0], folder)
    return {name: value for name, value in target.items() if now.get(name) != value}


def as_they_are(names: dict[str, str], folder: Path = THP) -> dict[str, str]:
    """Return what files hold now, word for word, to undo what is written to them."""
    return {name: read(folder / name) if (folder / name).exists() else "?" for name in names}
