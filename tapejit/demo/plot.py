"""The demonstration's picture: pelts, fitted curves, and the cycle that they run around."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tapejit.demo.model import Pelts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HARE, LYNX, INK, PAPER = "#c8702a", "#2d5f8b", "#333333", "#fcfbf8"
#: Standard deviations of a normal distribution that hold 90 % of it.
NINETY_PERCENT = 1.645


class Curves(NamedTuple):
    """Fitted populations (thousands of pelts), with the errors of their logarithms."""

    year: np.ndarray
    hare: np.ndarray
    lynx: np.ndarray
    hare_error: np.ndarray
    lynx_error: np.ndarray


def save_plot(path: Path, pelts: Pelts, curves: Curves, caption: str) -> None:
    """Draw data and curves, and write them to ``path`` (format by its suffix)."""
    # The object-oriented interface needs no display, and leaves pyplot's global state alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.6), dpi=130, facecolor=PAPER, layout="constrained")
    series, cycle = figure.subplots(1, 2, width_ratios=(2.1, 1.0))
    _draw_series(series, pelts, curves)
    _draw_cycle(cycle, pelts, curves)
    figure.suptitle(
        "Canadian hares and lynxes, 1900–1920: Lotka–Volterra fitted with compiled gradients",
        color=INK,
        fontsize=13,
        fontweight="bold",
    )
    figure.supxlabel(caption, color=INK, fontsize=9)
    figure.savefig(path)


def _draw_series(axes: Axes, pelts: Pelts, curves: Curves) -> None:
    species = (
        ("hare", HARE, pelts.hare, curves.hare, curves.hare_error),
        ("lynx", LYNX, pelts.lynx, curves.lynx, curves.lynx_error),
    )
    for name, colour, counts, curve, error in species:
        spread = np.exp(NINETY_PERCENT * error)
        axes.fill_between(
            curves.year, curve / spread, curve * spread, color=colour, alpha=0.16, linewidth=0
        )
        axes.plot(curves.year, curve, color=colour, linewidth=2.0, label=f"{name}, fitted")
        axes.plot(pelts.year, counts, "o", **_dots(colour), label=f"{name}, pelts collected")
    # An entry of its own: the bands mean the same for both species.
    axes.fill_between(
        [], [], [], color=INK, alpha=0.16, linewidth=0, label="90 % band of the curve"
    )
    axes.set(xlabel="year", ylabel="pelts [thousands a year]", xlim=(1899.5, 1920.5))
    axes.set_xticks(range(1900, 1921, 4))
    axes.set_ylim(bottom=0.0, top=1.2 * axes.get_ylim()[1])
    axes.legend(ncols=3, loc="upper center", frameon=False, fontsize=8.5)
    _plain(axes)


def _draw_cycle(axes: Axes, pelts: Pelts, curves: Curves) -> None:
    axes.plot(curves.hare, curves.lynx, color=INK, linewidth=1.6, label="fitted cycle")
    axes.plot(pelts.hare, pelts.lynx, color=INK, linewidth=0.6, alpha=0.3)
    axes.plot(pelts.hare, pelts.lynx, "o", **_dots("#7a7a7a"), label="pelts collected")
    for index, offset in ((0, (6, -9)), (-1, (4, 8))):
        axes.annotate(
            f"{pelts.year[index]:.0f}",
            (pelts.hare[index], pelts.lynx[index]),
            xytext=offset,
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
    axes.set(xlabel="hare [thousands a year]", ylabel="lynx [thousands a year]")
    axes.set_xlim(left=0.0)
    axes.set_ylim(bottom=0.0)
    axes.legend(loc="upper right", frameon=False, fontsize=8.5)
    _plain(axes)


def _dots(colour: str) -> dict[str, object]:
    return {
        "markersize": 6.5,
        "markerfacecolor": colour,
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.9,
    }


def _plain(axes: Axes) -> None:
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=INK, alpha=0.08)
    axes.tick_params(colors=INK)
