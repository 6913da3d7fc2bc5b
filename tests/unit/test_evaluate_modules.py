"""The `evaluate` modules load from files, without network, and score as the functions they call."""

from pathlib import Path

import evaluate
import pytest

from utils.evaluate_modules.text_metric import TextMetric
from utils.results import judge
from utils.rouge import paper_rouge_scores, rouge_scores
from utils.settings import OFFLINE
from utils.toxicity import HateScorer

MODULES = Path(__file__).parents[2] / "utils" / "evaluate_modules"
PREDICTIONS = ["#Person1# asks Anna for the ladder.", "Tom and #Person2# decline."]
ONE = ["#Person1# wants the ladder.", "Tom says no."]
SEVERAL = [["Anna wants it.", "#Person1# asks."], ["No.", "Tom and #Person2# refuse."]]
DIALOGUES = ["#Person1#: Anna, may I have the ladder?", "#Person2#: No."]


def load(name: str) -> TextMetric:
    return evaluate.load(str(MODULES / f"{name}.py"))


@pytest.mark.parametrize("references", [ONE, SEVERAL])
def test_dialogue_rouge_equals_rouge_scores(references):
    scores = load("dialogue_rouge").compute(predictions=PREDICTIONS, references=references)
    assert scores == pytest.approx(
        rouge_scores(PREDICTIONS, references).mean().to_dict(), abs=1e-12
    )


def test_dialogue_rouge_passes_its_options_on():
    scores = load("dialogue_rouge").compute(
        predictions=PREDICTIONS, references=SEVERAL, reduce="max", use_stemmer=False
    )
    expected = rouge_scores(PREDICTIONS, SEVERAL, reduce="max", use_stemmer=False).mean().to_dict()
    assert scores == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("references", [ONE, SEVERAL])
def test_paper_rouge_equals_paper_rouge_scores(references):
    scores = load("paper_rouge").compute(predictions=PREDICTIONS, references=references)
    assert scores == pytest.approx(
        paper_rouge_scores(PREDICTIONS, references).mean().to_dict(), abs=1e-12
    )


def test_all_measures_of_summaries_combine_into_one():
    names = ("dialogue_rouge", "paper_rouge", "output_length", "right_speakers", "faithful_names")
    combined = evaluate.combine([load(name) for name in names])
    scores = combined.compute(predictions=PREDICTIONS, references=SEVERAL, sources=DIALOGUES)
    expected = (
        judge(PREDICTIONS, SEVERAL, DIALOGUES).mean().to_dict()
        | paper_rouge_scores(PREDICTIONS, SEVERAL).mean().to_dict()
    )
    assert scores == pytest.approx(expected, abs=1e-12)


def test_hate_speech_uses_the_classifier_given_and_writes_no_file_beside_it():
    classifier = OFFLINE / "judge"
    before = sorted(classifier.iterdir())
    texts = ["You stupid fool!", "#Person2# agrees."]
    insult, neutral = HateScorer(str(classifier)).probability(texts)
    assert insult > 0.5 > neutral
    combined = evaluate.combine([load("hate_speech"), load("output_length")])
    scores = combined.compute(predictions=texts, classifier=str(classifier))
    assert scores == pytest.approx(
        {"toxicity": (insult + neutral) / 2, "toxic_share": 0.5, "words": 2.5}
    )
    assert sorted(classifier.iterdir()) == before


def test_an_option_that_no_module_knows_is_refused():
    with pytest.raises(ValueError, match="unknown option stem: choose from classifier"):
        load("dialogue_rouge").compute(predictions=PREDICTIONS, references=ONE, stem=True)
