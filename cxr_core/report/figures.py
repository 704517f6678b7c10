"""Charts as SVG whose colours are the page's CSS variables, so that they follow its light and dark theme.

Figures are explicit objects (no pyplot, no global state); salts are fixed, so equal data give equal bytes.
"""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from cxr_core.report.blocks import Chart

_THEME = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--real)",
    "#050505": "var(--synthetic)",
    "#060606": "var(--held-out)",
}
INK, MUTED, LINE, REAL, SYNTHETIC, HELD_OUT = _THEME
"""Colours as figures use them; `_svg` replaces each by the variable of its theme."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 12,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.solid_capstyle": "round",
}


def share_bars(
    key: str, names: Sequence[str], groups: Sequence[tuple[str, str, Sequence[int], int]], alt: str
) -> Chart:
    """Horizontal bars of shares, one row a name and one bar a group, each labelled with its count.

    `groups` are (label, colour, counts per name, whole of which they are shares). Shares are percentages.
    """
    height = 46 + len(names) * (11 * len(groups) + 10)
    with rc_context(_STYLE | {"svg.hashsalt": key}):
        figure, axes = _axes(880, height)
        thick = 0.8 / max(len(groups), 1)
        for i, (label, colour, counts, whole) in enumerate(groups):
            shares = [100 * number / whole if whole else 0.0 for number in counts]
            places = np.arange(len(names)) - 0.4 + (i + 0.5) * thick
            axes.barh(places, shares, height=thick * 0.86, color=colour, label=label)
            for place, share, number in zip(places, shares, counts, strict=True):
                axes.annotate(
                    f"{number:,}", (share, place), (4, 0), textcoords="offset points", va="center",
                    fontsize=10, color=MUTED,
                )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.grid(axis="x")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.spines["left"].set_visible(False)
        axes.legend(loc="lower right")
        return Chart(_svg(figure, key), alt)


def curve(
    key: str,
    title: str,
    raw: tuple[np.ndarray, np.ndarray],
    smooth: np.ndarray | None,
    alt: str,
    *,
    colour: str = REAL,
    marks: bool = False,
    log: bool = False,
) -> Chart:
    """One quantity over training steps: the values faint with their smoothing on top, or the values alone.

    `raw` is (steps, values), `smooth` has a value per step; `marks` draws a dot a value.
    """
    steps, values = raw
    with rc_context(_STYLE | {"svg.hashsalt": key}):
        figure, axes = _axes(440, 250)
        faint = 0.3 if smooth is not None else 1.0
        axes.plot(
            steps, values, color=colour, alpha=faint, lw=1.0 if smooth is not None else 1.6, marker="o" if marks else ""
        )
        if smooth is not None:
            axes.plot(steps, smooth, color=colour, lw=1.8)
        axes.set_title(title)
        axes.set_xlim(left=0)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        if log:
            _log_scale(axes, values)
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y")
        return Chart(_svg(figure, key), alt)


def curves(
    key: str,
    title: str,
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]],
    floor: float | None,
    alt: str,
) -> Chart:
    """Lines of (step, value, low, high) by name, dots with bars for intervals; dashed: `floor`."""
    with rc_context(_STYLE | {"svg.hashsalt": key}):
        figure, axes = _axes(440, 300)
        styles = zip(lines.items(), cycle((SYNTHETIC, REAL, HELD_OUT, INK)), cycle("osD^"), strict=False)
        for (name, points), colour, mark in styles:
            steps, values, low, high = np.array(points, float).reshape(-1, 4).T
            axes.errorbar(steps, values, [values - low, high - values], color=colour, marker=mark, lw=1.6, label=name)
        if floor is not None:
            axes.axhline(floor, color=MUTED, lw=1, ls=(0, (4, 3)))
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=2)
        return Chart(_svg(figure, key), alt)


def intervals(
    key: str, rows: Sequence[tuple[str, float, float, float, str]], marks: Sequence[tuple[str, float]], alt: str, *,
    axis: str
) -> Chart:  # fmt: skip
    """A dot with its interval per row (name, value, low, high, colour); dashed lines at `marks` (name, value).

    A value without an interval (low == high) is an open circle.
    """
    with rc_context(_STYLE | {"svg.hashsalt": key}):
        figure, axes = _axes(880, 70 + 34 * len(rows))
        for i, (_, value, low, high, colour) in enumerate(rows):
            if low < high:
                axes.plot([low, high], [i, i], color=colour, lw=2)
            axes.plot([value], [i], "o", color=colour, ms=6, mfc=colour if low < high else "none")
            axes.annotate(
                f"{value:.2f}", (value, i), (0, 7), textcoords="offset points", ha="center", fontsize=10, color=INK
            )
        for name, value in marks:
            axes.axvline(value, color=MUTED, lw=1, ls=(0, (4, 3)))
            axes.annotate(
                name, (value, -0.75), (4, 0), textcoords="offset points", fontsize=10, color=MUTED, va="center"
            )
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -1)
        axes.set_xlabel(axis)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        return Chart(_svg(figure, key), alt)


def score_histogram(key: str, title: str, groups: Sequence[tuple[str, str, bool, Sequence[int]]], alt: str) -> Chart:
    """Distributions of scores in 0..1 as stairs: groups of (label, colour, full line or dashed, counts per bin).

    Each group is drawn as shares of its own images in percent; an empty one is left out.
    """
    with rc_context(_STYLE | {"svg.hashsalt": key}):
        figure, axes = _axes(440, 300)
        for label, colour, full, counts in groups:
            if sum(counts):
                shares = 100 * np.asarray(counts) / sum(counts)
                style = "-" if full else (0, (3, 2))
                axes.stairs(shares, np.linspace(0, 1, len(counts) + 1), color=colour, lw=1.8, ls=style, label=label)
        axes.set_title(title)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("the judge’s score")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=2)
        return Chart(_svg(figure, key), alt)


def similarity_histogram(
    key: str,
    title: str,
    groups: Sequence[tuple[str, str, Sequence[int]]],
    lowest: float,
    threshold: float | None,
    alt: str,
) -> Chart:
    """Distributions of similarities in `lowest`..1 as stairs: groups of (label, colour, counts per equal bin).

    Each group is drawn as shares of its own images in percent; an empty one is left out. A dashed line at `threshold`.
    """
    with rc_context(_STYLE | {"svg.hashsalt": key}):
        figure, axes = _axes(440, 300)
        for label, colour, counts in groups:
            if sum(counts):
                shares = 100 * np.asarray(counts) / sum(counts)
                axes.stairs(shares, np.linspace(lowest, 1, len(counts) + 1), color=colour, lw=1.8, label=label)
        if threshold is not None:
            axes.axvline(threshold, color=MUTED, lw=1, ls=(0, (4, 3)))
        axes.set_title(title)
        axes.set_xlim(lowest, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("similarity to the nearest training image")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=3)
        return Chart(_svg(figure, key), alt)


def learning_curve(
    key: str, curve: Sequence[tuple[float, float, float, float]], arms: Sequence[tuple[str, float, float]], alt: str
) -> Chart:
    """AUROC against the number of real images, on a logarithmic axis: (number, value, low, high) of the curve, rising,
    and (name, number, value) of arms that have synthetic images besides."""
    with rc_context(_STYLE | {"svg.hashsalt": key}):
        figure, axes = _axes(440, 330)
        num, value, low, high = np.array(curve).T
        axes.fill_between(num, low, high, color=REAL, alpha=0.15, lw=0)
        axes.plot(num, value, color=REAL, lw=1.8, marker="o", ms=4)
        for name, at, height in arms:
            axes.plot([at], [height], "D", color=SYNTHETIC, ms=5)
            axes.annotate(name, (at, height), (-6, 6), textcoords="offset points", ha="right", fontsize=10, color=INK)
        axes.set_xscale("log")
        axes.set_xticks(num, [f"{n:,.0f}" for n in num])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.12)
        axes.set_xlabel("real training images")
        axes.set_ylabel("AUROC")
        axes.grid(axis="y")
        return Chart(_svg(figure, key), alt)


def reliability(
    key: str, title: str, lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], alt: str
) -> Chart:
    """Share of images with a finding against their mean score, both in 0..1: (label, colour, points) a line."""
    with rc_context(_STYLE | {"svg.hashsalt": key}):
        figure, axes = _axes(440, 330)
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (4, 3)))
        for label, colour, points in lines:
            axes.plot(*np.array(points).T, color=colour, lw=1.6, marker="o", ms=4, label=label)
        axes.set_title(title)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("the judge’s score")
        axes.set_ylabel("share with the finding")
        axes.grid()
        figure.legend(loc="outside lower center", ncols=2)
        return Chart(_svg(figure, key), alt)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure whose user units are CSS pixels: matplotlib writes SVG at 72 units an inch."""
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    return figure, axes


def _log_scale(axes: Axes, values: np.ndarray) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    spread = np.nanmax(values) / np.nanmin(values)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if spread > 100 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _svg(figure: Figure, key: str) -> str:
    """The <svg> element alone: no declaration, no metadata, no own style; names prefixed by `key`, themed colours."""
    key, buffer = re.sub(r"[^\w-]", "-", key), io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', r'\1 style="max-width:\2px"', text, count=1)
    text = re.sub(r'xlink:href="#', 'href="#', text)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{key}-", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"<svg ", '<svg aria-hidden="true" focusable="false" ', text, count=1)
    for marker, variable in _THEME.items():
        text = text.replace(marker, variable)
    return text.strip()
