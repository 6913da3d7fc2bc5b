"""Draw the labs' figures, with one color and marker for each system and with 95% intervals."""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, safe for color-blind readers. Markers tell systems apart in grayscale.
BLACK, GRAY, DARK, BLUE, SKY = "#000000", "#7f7f7f", "#555555", "#0072B2", "#56B4E9"
RED, YELLOW, GREEN, PINK = "#D55E00", "#E69F00", "#009E73", "#CC79A7"
STYLES: dict[str, tuple[str, str]] = {
    "human": (BLACK, "*"), "oracle": (GRAY, "P"), "longest": (GRAY, "X"), "lead": (GRAY, "s"),
    "no_instruction": (PINK, "v"), "zero_shot": (SKY, "o"), "flan_template": (SKY, "d"),
    "one_shot": (BLUE, "^"), "few_shot": (YELLOW, "D"), "nearest_copy": (GRAY, "<"),
    "chosen": (RED, "p"), "full": (GREEN, "o"), "lora": (RED, "s"), "before": (SKY, "o"),
    "after": (RED, "s"), "polite prompt": (PINK, "v"), "best of 8": (BLACK, "P"),
    "best of n": (BLACK, "p"), "filter": (GRAY, "X"), "supervised, 1": (YELLOW, "p"),
    "supervised, 8": (YELLOW, "h"), "supervised, 32": (YELLOW, "d"),
    "supervised, 128": (YELLOW, "*"), "gae": (RED, "s"), "rloo": (BLUE, "^"), "grpo": (GREEN, "D"),
}  # fmt: skip
OTHER = (DARK, "o")
OTHERS = list(zip(itertools.cycle((BLUE, RED, DARK)), "o^Dv*PX<>phd8H", strict=False))
NAMES = {
    "human": "humans", "lead": "lead-2", "longest": "longest-3", "full": "full fine-tuning",
    "flan_template": "FLAN's template", "nearest_copy": "nearest summary", "lora": "LoRA",
    "zero_shot": "zero-shot", "one_shot": "one-shot", "few_shot": "few-shot", "gae": "PPO",
    "rloo": "RLOO", "grpo": "GRPO", "before": "initial policy", "after": "PPO",
    "best of n": "best of n (PPO's KL)", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum",
}  # fmt: skip


def readable(name: str) -> str:
    """Return the name that figures show for a system or a measure."""
    return NAMES.get(name, str(name).replace("_", " "))


def show() -> None:
    """Show the current figure with alt text (see `describe`)."""
    figure = plt.gcf()
    display(figure, metadata={"image/png": {"alt": describe(figure)}})
    plt.close(figure)


def describe(figure: Figure) -> str:
    """Return alt text for a figure: titles, axis labels, and the ends of each curve."""
    parts = [figure.get_suptitle()]
    for axes in (one for one in figure.axes if one.get_visible()):
        rows = [label.get_text() for label in axes.get_yticklabels()]
        notes = [note.get_text().strip() for note in axes.texts]
        notes = notes or [f"{bar.get_width():.3g}" for bar in axes.patches]
        labels = f"{axes.get_xlabel()} (x) and {axes.get_ylabel()} (y)"
        parts += [axes.get_title(), labels if axes.get_ylabel() else axes.get_xlabel()]
        if len(notes) == len(rows):  # the means of `plot_intervals`, or bars
            parts += [f"{row} {note}" for row, note in zip(rows, notes, strict=True)]
        for line in axes.get_lines():
            points = [f"{y:.3g} at {x:.3g}" for x, y in line.get_xydata()]
            unnamed, dots = line.get_label().startswith("_"), line.get_linestyle() == "None"
            if points and not (unnamed and (dots or len(points) < 3)):
                name = "" if unnamed else f"{line.get_label()}: "
                parts.append(name + " to ".join(dict.fromkeys((points[0], points[-1]))))
    return "; ".join(filter(None, parts)).replace("\n", " ") + "."


def plot_intervals(table: pd.DataFrame, measure: str, title: str) -> Figure:
    """Plot the F1 of one measure with 95% intervals, one row per system, the first on top.

    `table` is indexed by system and measure, with columns mean, low, high (0 to 1) and n.
    """
    rows = table.xs(measure, level="measure")
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.36 * len(rows)), layout="constrained")
    for position, (system, row) in enumerate(rows.iterrows()):
        color, marker = STYLES.get(system, OTHER)
        mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
        bar = [[mean - low], [high - mean]]
        axes.errorbar(mean, -position, xerr=bar, fmt=marker, color=color, capsize=3)
        beside = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
        axes.annotate(f"{mean:.1f}", (mean, -position), (0, 6), **beside)
        if system in ("lead", "human"):  # the baseline and human agreement
            axes.axvline(mean, color=color, linestyle=":", linewidth=1)
    axes.set_yticks(range(0, -len(rows), -1), [readable(name) for name in rows.index])
    axes.set_ylim(-len(rows) + 0.4, 0.7)
    interval = f"bars: 95% interval over {int(rows['n'].max())} dialogues"
    axes.set(title=title, xlabel=f"{readable(measure)} F1, points; {interval}")
    axes.grid(axis="x", alpha=0.3)
    return figure


def plot_curves(
    curves: Mapping[str, pd.Series], title: str, xlabel: str, ylabel: str, axes: Axes | None = None
) -> Axes:
    """Plot one line per series, with the index of the series along x."""
    axes = axes or plt.subplots(figsize=(5, 3), layout="constrained")[1]
    for name, series in curves.items():
        color, marker = STYLES.get(name, (None, "."))
        axes.plot(series, color=color, marker=marker, markersize=4, label=readable(name))
    if len(curves) > 1:
        axes.legend(frameon=False)
    return _label(axes, title, xlabel, ylabel)


def plot_panels(panels: Sequence[tuple[str, pd.Series]], xlabel: str, columns: int = 3) -> Figure:
    """Plot small curves side by side, one for each pair of a y-axis label and a series."""
    lines = -(-len(panels) // columns)
    size = (3.2 * columns, 2.3 * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    for axes, (ylabel, series) in zip(grid.flat, panels, strict=False):
        plot_curves({ylabel: series}, "", xlabel, ylabel, axes)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    return figure


def plot_interval_width(table: pd.DataFrame, title: str, xlabel: str = "dialogues") -> Figure:
    """Plot a mean ROUGE-1 and its interval against a count, on a logarithmic axis.

    `table` is indexed by the count, with columns mean, low and high between 0 and 1.
    """
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    low, high = 100 * table["low"], 100 * table["high"]
    axes.fill_between(table.index, low, high, alpha=0.25, color=BLUE)
    axes.plot(100 * table["mean"], color=BLUE, marker="o", markersize=4)
    axes.set_xscale("log")
    axes.set_xticks(table.index, [str(n) for n in table.index])
    axes.minorticks_off()
    _label(axes, title, xlabel, "ROUGE-1 F1, points")
    return figure


def plot_tradeoff(
    points: pd.DataFrame, x: str, y: str, xlabel: str, ylabel: str, title: str
) -> Axes:
    """Plot one named point per row, with its column `x` on the x-axis and `y` on the y-axis.

    If there are columns low and high, they are drawn as the interval of `y`.
    """
    _, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (name, row), other in zip(points.iterrows(), itertools.cycle(OTHERS), strict=False):
        color, marker = STYLES.get(name, other)
        if "low" in points:
            axes.vlines(row[x], row["low"], row["high"], color=color, alpha=0.4)
        axes.plot(row[x], row[y], marker, color=color, label=readable(name))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _label(axes, title, xlabel, ylabel)


def mark(axes: Axes, x: float, text: str) -> None:
    """Draw a dotted vertical line with text beside it."""
    axes.axvline(x, color="k", linestyle=":", linewidth=1)
    axes.text(x, 0.03, f" {text}", fontsize=8, transform=axes.get_xaxis_transform())


def plot_frontier(
    runs: pd.DataFrame, measures: Mapping[str, tuple[str, float]], start: pd.Series, title: str
) -> Figure:
    """Plot measures against the KL to the reference model: dots for runs, a line for the means.

    The KL coefficients β are written above the means, in one row per estimator, if there is room.
    `runs` has columns estimator, kl_coef, kl (nats per summary) and the measures; `measures` maps
    a column to its label and scale; `start` holds the measures before training.
    """
    size = (4.6 * len(measures), 3.4)
    figure, grid = plt.subplots(1, len(measures), figsize=size, layout="constrained", squeeze=False)
    for axes, (measure, (label, scale)) in zip(grid.flat, measures.items(), strict=True):
        axes.set_xscale("symlog", linthresh=1, linscale=1.5)
        ticks = [tick for tick in (0, 0.5, 1, 3, 10, 30, 100) if tick <= 1.5 * runs["kl"].max()]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlim(min(-0.1, runs["kl"].min()), 1.5 * runs["kl"].max())
        scaled = runs.assign(**{measure: scale * runs[measure]})
        for number, (estimator, own) in enumerate(scaled.groupby("estimator")):
            _plot_estimator(axes, estimator, own, measure, 1.03 + 0.055 * number)
        axes.axhline(scale * start[measure], color="k", linestyle=":", linewidth=1)
        _label(axes, "", "KL to reference, nats", label)
    grid[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def _plot_estimator(
    axes: Axes, estimator: str, runs: pd.DataFrame, measure: str, height: float
) -> None:
    """Plot one estimator's runs and means, and write its β at `height` (1 is the axes' top)."""
    color, marker = STYLES.get(estimator, OTHER)
    axes.plot(runs["kl"], runs[measure], marker, color=color, markersize=3, alpha=0.4)
    means = runs.groupby("kl_coef")[["kl", measure]].mean().sort_values("kl")
    axes.plot(means["kl"], means[measure], marker=marker, color=color, label=readable(estimator))
    text = {"transform": axes.get_xaxis_transform(), "fontsize": 7, "color": color}
    axes.text(axes.get_xlim()[0], height, "β ", ha="right", **text)
    last = -1.0
    for coefficient, kl in means["kl"].items():
        place = axes.transLimits.transform(axes.transScale.transform((kl, 1)))[0]
        if place > last + 0.05:  # else it would overlap the one before
            axes.text(kl, height, f"{coefficient:g}", ha="center", **text)
            last = place


def _label(axes: Axes, title: str, xlabel: str, ylabel: str) -> Axes:
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return axes
