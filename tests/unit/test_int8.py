"""An int8 model by CTranslate2, where that package is installed, writes what the model writes."""

import importlib.util
from types import SimpleNamespace

import pytest

from utils import generation
from utils.data import first_rows, load_splits
from utils.generation import Int8Model, generate
from utils.prompts import build_prompt
from utils.rouge import rouge_scores
from utils.settings import load_settings

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("ctranslate2") is None, reason="ctranslate2 is not installed"
)


@pytest.fixture(scope="module")
def test_rows():
    return first_rows(load_splits(load_settings("offline"))["test"], 40)


@needs_package
def test_summaries_are_nearly_always_those_of_the_model(offline_model, test_rows):
    model, tokenizer = offline_model
    prompts = [build_prompt(dialogue) for dialogue in test_rows["dialogue"]]
    whole = generate(model, tokenizer, prompts, max_new_tokens=64)
    int8 = generate(Int8Model(model, tokenizer), tokenizer, prompts, max_new_tokens=64)
    assert sum(a == b for a, b in zip(whole, int8, strict=True)) >= 34
    scores = [
        rouge_scores(texts, list(test_rows["summaries"]))["rouge1"] for texts in (whole, int8)
    ]
    assert abs(scores[0].mean() - scores[1].mean()) < 0.01


@needs_package
def test_beams_are_possible_and_sampling_is_refused(offline_model, test_rows):
    model, tokenizer = offline_model
    int8, prompts = Int8Model(model, tokenizer), [build_prompt(test_rows[0]["dialogue"])]
    options = {"max_new_tokens": 64, "num_beams": 4}
    assert generate(int8, tokenizer, prompts, **options) == generate(
        model, tokenizer, prompts, **options
    )
    with pytest.raises(ValueError, match="int8 models do not support do_sample"):
        generate(int8, tokenizer, prompts, do_sample=True)


@needs_package
def test_a_long_prompt_is_not_cut_and_bf16_is_refused(offline_model, test_rows):
    model, tokenizer = offline_model
    long = build_prompt("\n".join(test_rows["dialogue"][:16]))
    assert len(tokenizer(long)["input_ids"]) > 1_100
    int8, asked = Int8Model(model, tokenizer), []

    def translate_batch(rows, **given):
        asked.append((len(rows[0]), given["max_input_length"]))
        return [SimpleNamespace(hypotheses=[["▁the"]]) for _ in rows]

    int8.translator = SimpleNamespace(translate_batch=translate_batch)
    assert generate(int8, tokenizer, [long], temperature=1.0) == ["the"]
    assert asked[0][0] > 1_100 and asked[0][1] == 0  # CTranslate2's default cuts at 1,024
    with pytest.raises(ValueError, match="no precision 'bf16'"):
        generate(int8, tokenizer, [long], precision="bf16")


def test_without_the_package_the_error_names_the_remedy(monkeypatch, offline_model):
    monkeypatch.setattr(generation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install ctranslate2"):
        Int8Model(*offline_model)
