"""The picture of a workload: VMAs over time, footprint, where it is hot, and in which pieces it gives memory back."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from thp_env.files import whole_file
from thp_env.workload import Instance, Workload, WorkloadError
from thp_workloads.trail import CELLS, Trail, trail

PALETTE = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#bab0ac")
SIZES = ("4K", "8K", "16K", "32K", "64K", "128K", "256K", "512K", "1M", "2M+")


def draw(instance: Instance, title: str) -> Figure:
    """Draw one instance of a workload."""
    trail_of = trail(instance)
    figure = Figure(figsize=(13, 8.5), layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    axes = figure.subplots(2, 2, width_ratios=(1.4, 1))
    _vmas(axes[0, 0], trail_of)
    _heat(figure, axes[1, 0], trail_of)
    _footprint(axes[0, 1], trail_of)
    _releases(axes[1, 1], trail_of)
    return figure


def _places(ax: Axes, seen: Trail) -> None:
    """Write names on the address axis, not over one another."""
    places: list[tuple[str, float]] = []
    for role, cell in sorted(seen.roles, key=lambda r: r[1]):
        if not places or cell - places[-1][1] >= CELLS / 28:
            places.append((role, cell))
        else:
            places[-1] = (f"{places[-1][0]}, {role}", places[-1][1])
    ax.set_yticks([cell for _, cell in places], [role for role, _ in places], fontsize=8)
    ax.set_ylim(0, CELLS)
    ax.set_xlabel("simulated seconds")


def _vmas(ax: Axes, seen: Trail) -> None:
    shown = np.ma.masked_less(seen.vmas, 0)
    _, numbers = np.unique(seen.vmas, return_inverse=True)
    colours = np.ma.masked_array(numbers.reshape(seen.vmas.shape) % len(PALETTE), shown.mask)
    ax.pcolormesh(seen.seconds, np.arange(CELLS + 1), colours, cmap=ListedColormap(PALETTE), vmin=0,
                  vmax=len(PALETTE), rasterized=True)  # fmt: skip
    most = max(len(np.unique(column[column >= 0])) for column in seen.vmas.T)
    ax.set_title(f"VMAs by process and address, a colour each; up to {most} at a time", fontsize=10, loc="left")
    _places(ax, seen)


def _heat(figure: Figure, ax: Axes, seen: Trail) -> None:
    heat = np.ma.masked_less_equal(seen.heat, 0)
    top = float(seen.heat.max()) or 1.0
    mesh = ax.pcolormesh(seen.seconds, np.arange(CELLS + 1), heat, cmap="inferno_r", rasterized=True,
                         norm=LogNorm(top / 1e5, top))  # fmt: skip
    figure.colorbar(mesh, ax=ax, label="accesses", pad=0.01)
    ax.set_title("Accesses by process and address", fontsize=10, loc="left")
    _places(ax, seen)


def _footprint(ax: Axes, seen: Trail) -> None:
    middle = (seen.seconds[:-1] + seen.seconds[1:]) / 2
    ax.fill_between(middle, seen.mapped, color="#dddddd", label="mapped and writable")
    ax.plot(middle, seen.resident_2m, color="#4575b4", label="resident with 2M")
    ax.plot(middle, seen.resident, color="#d73027", label="resident with 4K")
    if not np.isnan(seen.limit).all():
        ax.step(middle, seen.limit, color="black", linestyle="--", label="limit", where="mid")
    ax.set_ylim(0)
    ax.set_ylabel("MiB")
    ax.set_xlabel("simulated seconds")
    ax.set_title("Footprint", fontsize=10, loc="left")
    ax.legend(fontsize=8, framealpha=0.7)


def _releases(ax: Axes, seen: Trail) -> None:
    ax.bar(SIZES, seen.freed / (1 << 20), color="#59a14f")
    ax.set_ylabel("MiB given back")
    ax.set_xlabel("size of the piece (this or up to twice)")
    ax.set_title("Free granularity (madvise, munmap, brk; not exits)", fontsize=10, loc="left")
    if not seen.freed.any():
        ax.text(0.5, 0.5, "gives nothing back", ha="center", transform=ax.transAxes, color="#888888")


def show(workload: Workload, seed: int, path: Path) -> None:
    """Draw one instance to a .png or .html file.

    Raises:
        WorkloadError: for another suffix, or when the file cannot be written.
    """
    if path.suffix not in (".png", ".html"):
        raise WorkloadError(f"cannot draw to {path}: give a file that ends in .png or .html")
    instance = workload.draw(np.random.default_rng(seed))
    core = instance.config.core if isinstance(instance.config.core, str) else instance.config.core.name
    facts = f"{workload.description} (seed {seed}, machine of {instance.config.memory >> 20} MiB, {core})"
    out = io.BytesIO()
    figure = draw(instance, f"{workload.name}: {facts}")
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    data = out.getvalue()
    if path.suffix == ".html":
        image = base64.b64encode(data).decode()
        name = html.escape(workload.name)
        data = (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>"
            f'<style>body {{ font: 15px system-ui; margin: 2em }} img {{ max-width: 100% }}</style><h1>{name}</h1>'
            f'<p>{html.escape(facts)}</p><img alt="{html.escape(facts)}" src="data:image/png;base64,{image}"></html>\n'
        ).encode()
    try:
        with whole_file(path) as file:
            file.write(data)
    except OSError as error:
        raise WorkloadError(f"cannot write {path}: {error.strerror or error}") from None
