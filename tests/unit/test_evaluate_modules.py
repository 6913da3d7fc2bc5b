"""The `evaluate` modules load from their files without network and score as the functions behind them."""

from pathlib import Path

import evaluate
import pytest

from utils.rouge import rouge_scores

METRICS = Path(__file__).parents[2] / "utils" / "metrics"
PREDICTIONS = ["Anna asks for the ladder.", "Tom declines."]


SEVERAL = [["Anna wants it.", "Anna asks."], ["No.", "Tom refuses."]]


@pytest.mark.parametrize("references", [["Anna wants the ladder.", "Tom says no."], SEVERAL])
def test_dialogue_rouge_equals_rouge_scores(references):
    metric = evaluate.load(str(METRICS / "dialogue_rouge.py"))
    scores = metric.compute(predictions=PREDICTIONS, references=references)
    assert scores == pytest.approx(rouge_scores(PREDICTIONS, references).mean().to_dict(), abs=1e-12)


def test_dialogue_rouge_passes_its_options_on():
    metric = evaluate.load(str(METRICS / "dialogue_rouge.py"))
    scores = metric.compute(predictions=PREDICTIONS, references=SEVERAL, reduce="max", use_stemmer=False)
    expected = rouge_scores(PREDICTIONS, SEVERAL, reduce="max", use_stemmer=False).mean().to_dict()
    assert scores == pytest.approx(expected, abs=1e-12)


def test_dialogue_rouge_combines_with_other_modules():
    metrics = {name: evaluate.load(str(METRICS / "dialogue_rouge.py")) for name in ("first", "second")}
    both = evaluate.combine(metrics, force_prefix=True)
    assert both.compute(predictions=["a b"], references=["a b"])["second_rouge1"] == 1.0
