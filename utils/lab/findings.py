"""Say what a lab found: tables for reading, comparisons, and their sentences."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from utils.plots import readable
from utils.results import interval_table, read_results
from utils.rouge import compare, confidence_interval, holm

SECOND_VIEW = {  # measures beside ROUGE: title and scale in tables
    "words": ("words", 1),
    "right_speakers": ("right speakers, %", 100),
    "faithful_names": ("faithful names, %", 100),
    "told": ("facts told, %", 100),
    "facts": ("facts right, %", 100),
}
TOO_WIDE = 6  # points: an interval this wide that holds 0 says little


def overview(scores: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Tabulate scores (one row per dialogue) for reading: one row per system, cells of text.

    Shows ROUGE-1 with its 95% interval and, where the scores have them, the mean number of words
    and the shares of right speakers, faithful names, and facts that are told and right.
    """
    rows: dict[str, dict[str, str]] = {}
    for name, table in scores.items():
        mean, low, high = 100 * confidence_interval(table[["rouge1"]], seed=seed).loc["rouge1"]
        row = {"ROUGE-1": f"{mean:.1f}", "95% interval": f"{low:.1f} to {high:.1f}"}
        for measure, (title, scale) in SECOND_VIEW.items():
            if measure in table:
                row[title] = f"{scale * table[measure].mean():.1f}"
        rows[readable(name)] = row
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def shares(
    scores: Mapping[str, pd.DataFrame], measures: Mapping[str, str], seed: int = 0
) -> pd.DataFrame:
    """Tabulate shares for reading: one row per system, cells "12.5 [8.3, 17.9]" in percent.

    `scores` has one row per dialogue; `measures` maps its columns to titles. Intervals are those of
    `utils.results.interval_table`.
    """
    columns = {system: table[list(measures)] for system, table in scores.items()}
    cells = interval_table(columns, seed).apply(_with_interval, axis=1)
    table = cells.unstack("measure").rename(columns=measures).loc[list(scores)]
    return table[list(measures.values())].rename(index=readable).rename_axis(None)


def beside_published(lab: str, scores: pd.DataFrame, measure: str = "rouge1") -> pd.DataFrame:
    """Tabulate a run beside the stored run on the small world and published FLAN-T5 figures.

    `scores` comes from `interval_table`. Published figures are those of docs/published.csv that
    average over the references, as the labs do.
    """
    docs = Path(__file__).parents[2] / "docs"
    stored = read_results(docs / "results.json").query("lab == @lab and measure == @measure")
    published = pd.read_csv(docs / "published.csv").query("references == 'mean'")
    published = published.set_index("system")
    columns = {
        "your run": scores.xs(measure, level="measure").apply(_with_interval, axis=1),
        "small world": stored.set_index("system").apply(_with_interval, axis=1),
        "published": published.reindex(columns=[measure])[measure].map("{:.1f}".format, "ignore"),
        "source": published["source"],
    }
    table = pd.DataFrame(columns).reindex(columns["your run"].index)
    return table.rename(index=readable).rename_axis(None).fillna("")


def _with_interval(row: pd.Series) -> str:
    mean, low, high = (100 * row[name] for name in ("mean", "low", "high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def compare_systems(
    scores: Mapping[str, pd.DataFrame],
    pairs: Sequence[tuple[str, str]],
    measure: str = "rouge1",
    seed: int = 0,
) -> pd.DataFrame:
    """Compare pairs of systems by one measure on the same dialogues, one row per dialogue.

    Returns one row per pair, "a − b" in readable names, with the mean difference and its 95%
    interval (points of 0 to 100, or words) and `p_holm`, the p-value of the randomization test
    after Holm's correction over all pairs.

    Raises ValueError if there is no pair, and as `utils.rouge.compare` does.
    """
    if not pairs:
        raise ValueError("there is nothing to compare: pass at least one pair of systems")
    rows = {}
    for a, b in pairs:
        both = scores[a][[measure]], scores[b][[measure]]
        rows[f"{readable(a)} − {readable(b)}"] = compare(*both, seed=seed).loc[measure]
    table = pd.DataFrame(rows).T
    points = table[["difference", "low", "high"]] * (1 if measure == "words" else 100)
    return points.assign(p_holm=holm(table["p"]))


def comparison_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """Round the rows of `compare_systems` for reading; a tiny `p_holm` becomes "< 0.001"."""
    p_values = [f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in comparison["p_holm"]]
    return (comparison.round(1) + 0.0).assign(p_holm=p_values)  # no −0.0


def finding(comparison: pd.Series | pd.DataFrame, unit: str = "points of ROUGE-1") -> None:
    """Print a sentence for each row of `compare_systems`, or for one of its rows.

    A difference counts if its interval excludes 0 and `p_holm` is below 0.05. With 0 in an
    interval wider than 6, the sentence says that there are too few dialogues.
    """
    rows = comparison.to_frame().T if isinstance(comparison, pd.Series) else comparison
    for _, row in rows.iterrows():
        print(_sentence(row, unit))


def _sentence(row: pd.Series, unit: str) -> str:
    a, b = row.name.split(" − ")
    difference, low, high = (float(row[name]) for name in ("difference", "low", "high"))
    if low <= 0 <= high and high - low > TOO_WIDE:
        least = f"{(high - low) / 2:.1f} {unit}"
        return f"Too few dialogues to tell {a} from {b}: differences under {least} would not show."
    if low <= 0 <= high or row["p_holm"] >= 0.05:
        gap = f"{_tenths(difference, '+')} {unit} [{_tenths(low)}, {_tenths(high)}]"
        return f"No clear difference between {a} and {b}: {gap}."
    if difference < 0:
        a, b, low, high = b, a, -high, -low
    size, interval = _tenths(abs(difference)), f"[{_tenths(low)}, {_tenths(high)}]"
    s = "" if a == "humans" else "s"
    text = f"{a} beat{s} {b} by {size} {unit} {interval}."
    if unit == "words":
        text = f"{a} write{s} {size} more words than {b} {interval}."
    return text[0].upper() + text[1:]


def _tenths(number: float, sign: str = "") -> str:
    """Format a number with one decimal and a true minus sign, and never as −0.0."""
    return f"{round(number, 1) + 0.0:{sign}.1f}".replace("-", "−")
