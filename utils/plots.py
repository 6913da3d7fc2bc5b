"""Figures of the labs: one color and one marker for a system everywhere, intervals drawn, readable in gray."""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

NAMES = {"gae": "PPO", "rloo": "RLOO", "grpo": "GRPO"}
# Okabe and Ito's palette, safe for color-blind readers; markers tell systems apart in gray.
STYLES: dict[str, tuple[str, str]] = {
    "human": ("#000000", "*"),
    "oracle": ("#7f7f7f", "P"),
    "lead": ("#7f7f7f", "s"),
    "longest": ("#7f7f7f", "X"),
    "no_instruction": ("#CC79A7", "v"),
    "zero_shot": ("#56B4E9", "o"),
    "flan_template": ("#56B4E9", "d"),
    "one_shot": ("#0072B2", "^"),
    "chosen": ("#D55E00", "p"),
    "nearest_copy": ("#7f7f7f", "<"),
    "few_shot": ("#E69F00", "D"),
    "full": ("#009E73", "o"),
    "lora": ("#D55E00", "s"),
    "before": ("#56B4E9", "o"),
    "after": ("#D55E00", "s"),
    "polite_prompt": ("#CC79A7", "v"),
    "best_of_8": ("#000000", "P"),
    "no_kl_price": ("#7f7f7f", "X"),
    "gae": ("#D55E00", "s"),
    "rloo": ("#0072B2", "^"),
    "grpo": ("#009E73", "D"),
}
OTHER = ("#555555", "o")
OTHERS = list(
    zip(itertools.cycle(("#0072B2", "#D55E00", "#555555")), "o^Dv*PX<>phd8H", strict=False)
)  # of points
GRAYS = ("#000000", "#0072B2", "#7f7f7f")


def plot_intervals(
    table: pd.DataFrame, measure: str, title: str, unit: str = "F1 (points)", scale: float = 100
) -> Figure:
    """Mean and 95 % interval of one measure, one line per system; the first system stands on top.

    `table` is indexed by system and measure, with columns mean, low and high.
    """
    rows = table.xs(measure, level="measure")
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.36 * len(rows)), layout="constrained")
    for position, (system, row) in enumerate(rows.iterrows()):
        color, marker = STYLES.get(system, OTHER)
        mean, low, high = (scale * row[name] for name in ("mean", "low", "high"))
        axes.errorbar(
            mean, -position, xerr=[[mean - low], [high - mean]], fmt=marker, color=color, capsize=3
        )
        shown = f"{mean:.1f}" if scale > 1 else f"{mean:.2f}"
        axes.annotate(
            shown, (mean, -position), (0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    for system in ("lead", "human"):
        if system in rows.index:
            axes.axvline(
                scale * rows.loc[system, "mean"],
                color=STYLES[system][0],
                linestyle=":",
                linewidth=1,
            )
    axes.set_yticks(range(0, -len(rows), -1), [name.replace("_", " ") for name in rows.index])
    axes.set_ylim(-len(rows) + 0.4, 0.7)
    axes.set(
        title=title,
        xlabel=f"{measure}, {unit}; bars: 95 % interval over {int(rows['n'].max())} dialogues",
    )
    axes.grid(axis="x", alpha=0.3)
    return figure


def plot_curves(
    curves: Mapping[str, pd.Series], title: str, xlabel: str, ylabel: str, axes: Axes | None = None
) -> Axes:
    """One line per series, its index along x."""
    if axes is None:
        _, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    for name, series in curves.items():
        color, marker = STYLES.get(name, (None, "."))
        axes.plot(
            series.index,
            series,
            color=color,
            marker=marker,
            markersize=4,
            label=name.replace("_", " "),
        )
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(frameon=False)
    return axes


def plot_panels(panels: Sequence[tuple[str, pd.Series]], xlabel: str, columns: int = 3) -> Figure:
    """Small curves side by side, one (label of y, series) each."""
    lines = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(3.2 * columns, 2.3 * lines), layout="constrained", squeeze=False
    )
    for axes, (ylabel, series) in zip(grid.flat, panels, strict=False):
        plot_curves({ylabel: series}, "", xlabel, ylabel, axes)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    return figure


def plot_interval_width(
    table: pd.DataFrame, title: str, xlabel: str = "dialogues judged"
) -> Figure:
    """A mean and its interval along something counted, on a logarithmic axis; columns mean, low, high, in 0 to 1."""
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    axes.fill_between(
        table.index, 100 * table["low"], 100 * table["high"], alpha=0.25, color="#0072B2"
    )
    axes.plot(table.index, 100 * table["mean"], color="#0072B2", marker="o", markersize=4)
    axes.set_xscale("log")
    axes.set_xticks(table.index, [str(n) for n in table.index])
    axes.minorticks_off()
    axes.set(title=title, xlabel=xlabel, ylabel="rouge1, F1 (points)")
    axes.grid(alpha=0.3)
    return figure


def plot_lengths(lengths: Mapping[str, Sequence[int]], limit: int, unit: str = "tokens") -> Figure:
    """How long texts are, one histogram each, on a logarithmic axis, with a limit drawn."""
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    shortest, longest = min(map(min, lengths.values())), max(limit, *map(max, lengths.values()))
    edges = (
        np.unique(np.geomspace(max(1, shortest), 1.1 * longest, 50).round()) - 0.5
    )  # between whole numbers
    for (name, values), line, gray in zip(
        lengths.items(), itertools.cycle(("-", "--", ":")), GRAYS, strict=False
    ):
        density, _ = np.histogram(values, edges, density=True)
        axes.stairs(100 * density, edges, linestyle=line, color=gray, label=name, linewidth=1.4)
    axes.axvline(limit, color="#D55E00", linewidth=1)
    axes.annotate(
        f"limit {limit}",
        (limit, 0.9),
        (-4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right",
    )
    axes.set_xscale("log")
    axes.set(xlabel=f"length, {unit}", ylabel="texts of a length, %")
    axes.legend(frameon=False)
    return figure


def plot_tradeoff(
    points: pd.DataFrame, x: str, y: str, xlabel: str, ylabel: str, title: str
) -> Axes:
    """One named point per row at columns `x` and `y`, with the interval of y in columns low and high if it has them."""
    _, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (name, row), other in zip(points.iterrows(), itertools.cycle(OTHERS), strict=False):
        color, marker = STYLES.get(name, other)
        if "low" in points:
            axes.vlines(row[x], row["low"], row["high"], color=color, alpha=0.4)
        axes.plot(
            row[x],
            row[y],
            marker=marker,
            color=color,
            linestyle="",
            label=str(name).replace("_", " "),
        )
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return axes


def mark(axes: Axes, x: float, text: str) -> None:
    """A dotted vertical line with a word beside it."""
    axes.axvline(x, color="k", linestyle=":", linewidth=1)
    axes.annotate(
        text,
        (x, 0.03),
        (3, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=8,
    )


def plot_frontier(
    runs: pd.DataFrame, measures: Mapping[str, tuple[str, float]], start: pd.Series, title: str
) -> Figure:
    """Measures along the KL to the reference: a dot for every run, a line through the means at each price of KL. The
    prices stand above their means, a row of them for each estimator.

    `runs` has columns estimator, kl_coef, kl and the measures; `measures` maps a column to its label and scale; `start`
    holds the measures before training.
    """
    figure, grid = plt.subplots(
        1, len(measures), figsize=(4.6 * len(measures), 3.4), layout="constrained"
    )
    for axes, (measure, (label, scale)) in zip(np.atleast_1d(grid), measures.items(), strict=True):
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        ticks = [tick for tick in (0, 0.5, 1, 3, 10, 30, 100) if tick <= 1.5 * runs["kl"].max()]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlim(min(-0.1, runs["kl"].min()), 1.5 * runs["kl"].max())
        for number, (estimator, own) in enumerate(runs.groupby("estimator")):
            height = 1.03 + 0.055 * number  # of this estimator's prices, in heights of the axes
            color, marker = STYLES.get(estimator, OTHER)
            axes.plot(own["kl"], scale * own[measure], marker, color=color, markersize=3, alpha=0.4)
            means = own.groupby("kl_coef")[["kl", measure]].mean().sort_values("kl")
            axes.plot(
                means["kl"],
                scale * means[measure],
                color=color,
                marker=marker,
                label=NAMES.get(estimator, estimator),
            )
            text = {"transform": axes.get_xaxis_transform(), "fontsize": 7, "color": color}
            axes.text(axes.get_xlim()[0], height, "β ", ha="right", **text)
            for price, kl in means["kl"].items():
                axes.text(kl, height, f"{price:g}", ha="center", **text)
        axes.axhline(scale * start[measure], color="k", linestyle=":", linewidth=1)
        axes.set(xlabel="KL to reference, nats", ylabel=label)
        axes.grid(alpha=0.3)
    np.atleast_1d(grid)[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure
