"""Figures have labeled axes with units and draw each system in its own color and marker."""

import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from utils import plots
from utils.results import interval_table

SCORES = pd.DataFrame({"rouge1": [0.2, 0.4, 0.6]})


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_intervals_are_drawn_for_every_system_in_order():
    table = interval_table({"human": SCORES + 0.1, "full": SCORES, "lead": SCORES - 0.1})
    (axes,) = plots.plot_intervals(table, "rouge1", "title").axes
    names = ["humans", "full fine-tuning", "lead-2"]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    means = [container.lines[0].get_xdata()[0] for container in axes.containers]
    assert means == pytest.approx([50, 40, 30])
    assert axes.get_xlabel() == "ROUGE-1 F1, points; bars: 95% interval over 3 dialogues"
    low, high = (100 * table.loc[("full", "rouge1"), name] for name in ("low", "high"))
    segment = axes.containers[1].lines[2][0].get_segments()[0]
    assert segment[:, 0] == pytest.approx([low, high])


@pytest.mark.parametrize(
    "systems",
    [
        "human oracle few_shot one_shot zero_shot no_instruction longest lead",
        "human chosen few_shot one_shot zero_shot no_instruction oracle nearest_copy longest lead",
        "human full lora zero_shot lead",
        "before_polite prompt_filter_best of 8_supervised, 1_supervised, 8_supervised, 32"
        "_supervised, 128_gae_rloo_grpo",
    ],
)
def test_systems_in_one_figure_differ_in_color_or_marker(systems):
    names = systems.split("_" if "," in systems else None)
    styles = [plots.STYLES[name] for name in names]
    assert len(set(styles)) == len(styles)


def test_a_system_has_the_same_color_in_every_figure():
    table = interval_table({"lora": SCORES})
    bar = plots.plot_intervals(table, "rouge1", "title").axes[0].containers[0].lines[0]
    line = plots.plot_curves({"lora": SCORES["rouge1"]}, "title", "epoch", "points").lines[0]
    assert bar.get_color() == line.get_color() == plots.STYLES["lora"][0]


def test_curves_share_axes_and_have_a_legend():
    curve = pd.Series([3.0, 2.0], index=[1, 2])
    axes = plots.plot_curves({"full": curve, "lora": curve}, "loss", "epoch", "nats")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "nats")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "full fine-tuning",
        "LoRA",
    ]
    assert axes.lines[0].get_xydata().tolist() == [[1, 3], [2, 2]]


def test_unused_panels_are_hidden():
    figure = plots.plot_panels([("KL, nats", pd.Series([0.0, 1.0]))] * 4, "step")
    assert [axes.get_visible() for axes in figure.axes] == [True] * 4 + [False] * 2


def test_interval_width_is_drawn_against_the_number_of_dialogues():
    table = pd.DataFrame(
        {"mean": [0.3, 0.3], "low": [0.2, 0.28], "high": [0.4, 0.32]}, index=[10, 500]
    )
    (axes,) = plots.plot_interval_width(table, "title").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "500"]
    assert axes.lines[0].get_xydata().tolist() == [[10, 30], [500, 30]]
    assert axes.get_ylabel() == "ROUGE-1 F1, points"


def test_lead_and_human_are_drawn_as_lines_across_all_systems():
    table = interval_table({"human": SCORES + 0.1, "full": SCORES, "lead": SCORES - 0.1})
    (axes,) = plots.plot_intervals(table, "rouge1", "title").axes
    lines = [
        line.get_xdata()[0]
        for line in axes.lines
        if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert sorted(lines) == pytest.approx([30, 50])


def test_points_of_a_tradeoff_differ_in_color_or_marker_and_have_intervals():
    points = pd.DataFrame(
        {"words": [10, 20], "mean": [30, 40], "low": [28, 37], "high": [33, 44]},
        index=["greedy", "beam_4"],
    )
    axes = plots.plot_tradeoff(points, "words", "mean", "words", "ROUGE-1 (points)", "title")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["greedy", "beam 4"]
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 2
    assert [c.get_segments()[0][:, 1].tolist() for c in axes.collections] == [[28, 33], [37, 44]]


def test_frontier_shows_every_run_the_means_and_the_score_before_training():
    rows = [
        (e, b, s, b + s, 0.1 * s) for e in ("gae", "grpo") for b in (0.1, 1.0) for s in (1, 2, 3)
    ]
    runs = pd.DataFrame(rows, columns=["estimator", "kl_coef", "seed", "kl", "toxicity"])
    figure = plots.plot_frontier(
        runs, {"toxicity": ("p(hate)", 1)}, pd.Series({"toxicity": 0.9}), "title"
    )
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["PPO", "GRPO"]
    dots, means = axes.lines[0], axes.lines[1]
    assert len(dots.get_xdata()) == 6
    assert list(means.get_xdata()) == pytest.approx([2.1, 3.0]) and list(
        means.get_ydata()
    ) == pytest.approx([0.2, 0.2])
    prices = [text for text in axes.texts if "β" not in text.get_text()]
    assert [(text.get_text(), text.get_position()[0]) for text in prices] == [
        ("0.1", 2.1),
        ("1", 3.0),
    ] * 2
    assert len({text.get_position()[1] for text in axes.texts}) == 2  # one row for each estimator
    assert axes.lines[-1].get_ydata()[0] == 0.9


def test_a_figure_is_described_by_its_title_axes_and_values():
    rows = {"mean": [0.3, 0.6], "low": [0.2, 0.5], "high": [0.4, 0.7], "n": [50, 50]}
    index = pd.MultiIndex.from_product(
        [["zero_shot", "human"], ["rouge1"]], names=["system", "measure"]
    )
    figure = plots.plot_intervals(pd.DataFrame(rows, index), "rouge1", "Prompts")
    axis = "ROUGE-1 F1, points; bars: 95% interval over 50 dialogues"
    assert plots.describe(figure) == f"Prompts; {axis}; zero-shot 30.0; humans 60.0."
    curves = [("reward", pd.Series([1.0, 3.0, 2.0], [1, 2, 3]))]
    figure = plots.plot_panels(curves, "PPO step")
    assert plots.describe(figure) == "PPO step (x) and reward (y); reward: 1 at 1 to 2 at 3."


def test_a_figure_is_shown_once_with_its_text(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda figure, metadata: shown.append(metadata))
    plots.plot_panels([("reward", pd.Series([1.0, 2.0]))], "PPO step")
    number = plt.gcf().number
    plots.show()
    (metadata,) = shown
    assert metadata["image/png"]["alt"].endswith("reward: 1 at 0 to 2 at 1.")
    assert number not in plt.get_fignums()


def _lightness_and_hue(color: str, lacking: str) -> np.ndarray:
    """A color as someone sees it who lacks one kind of cone (Viénot, Brettel and Mollon 1999)."""
    linear = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]) ** 2.2
    seen = {
        "red": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "green": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
        "none": np.eye(3),
    }[lacking]
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(xyz @ seen @ linear, 1e-4, None) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])  # CIELAB


TOGETHER = [
    ("gae", "rloo", "grpo"),
    ("zero_shot", "one_shot", "few_shot", "human"),
    ("zero_shot", "full", "lora", "human"),
    ("before", "after", "polite prompt"),
]


@pytest.mark.parametrize("systems", TOGETHER)
@pytest.mark.parametrize("lacking", ["none", "red", "green"])
def test_colors_of_one_figure_differ_for_color_blind_readers(systems, lacking):
    """By 10 units of CIELAB, several times what is just noticeable; markers differ besides."""
    colors = {plots.STYLES[name][0] for name in systems}
    colors = [_lightness_and_hue(color, lacking) for color in sorted(colors)]
    gaps = [np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)]
    assert min(gaps) > 10
