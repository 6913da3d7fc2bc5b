"""The playground answers to its widgets, tells what is wrong, and shows its first answer where there are no widgets."""

import pytest
from datasets import Dataset

from utils.lab.playground import Playground
from utils.prompts import TEMPLATES, build_prompt, count_tokens
from utils.settings import load_settings

TEST = Dataset.from_dict(
    {
        "dialogue": [
            "#Person1#: Anna asks <b>Tom</b>.\n#Person2#: nice",
            "#Person1#: hello world\n#Person2#: world",
        ],
        "summaries": [["Anna asks.", "#Person1# asks."], ["hello world", "bad"]],
    }
)
TRAIN = Dataset.from_dict(
    {
        "dialogue": [
            f"#Person1#: {word} ladder\n#Person2#: good"
            for word in ("hello", "ugly", "nice", "bad", "Friday")
        ],
        "summary": ["hello", "ugly", "nice", "bad", "Friday"],
    }
)


@pytest.fixture
def playground(tiny_t5, tiny_tokenizer):
    settings = load_settings("offline", max_prompt_tokens=120, max_new_tokens=8)
    return Playground(tiny_t5, tiny_tokenizer, TEST, TRAIN, settings)


def test_a_page_without_widgets_shows_the_first_answer(playground):
    bundle = playground._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"] == playground.page.value
    assert "Prompt" in bundle["text/html"] and "References" in bundle["text/html"]


def test_texts_are_escaped(playground):
    assert "&lt;b&gt;Tom&lt;/b&gt;" in playground.page.value
    assert "<b>Tom" not in playground.page.value


def test_the_answer_is_that_of_the_chosen_dialogue_and_wording(playground, tiny_tokenizer):
    playground.dialogue.value, playground.shots.value = 1, 0
    playground.template.value = "Say it: {dialogue}"
    answer = playground.answer()
    assert answer.prompt == "Say it: " + TEST["dialogue"][1]
    assert answer.tokens == count_tokens(tiny_tokenizer, answer.prompt)
    assert answer.examples == 0
    assert set(answer.rouge) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}


def test_choosing_a_template_writes_its_wording(playground):
    playground.template_name.value = "flan"
    assert playground.template.value == TEMPLATES["flan"]


def test_similar_examples_come_first_and_only_as_many_as_fit(playground):
    playground.dialogue.value, playground.shots.value = 1, 5
    answer = playground.answer()
    assert 0 < answer.examples < 5
    assert answer.tokens <= 120
    assert answer.prompt.index("hello ladder") < answer.prompt.index("hello world")
    playground.show()
    assert (
        f"examples: {answer.examples}, {5 - answer.examples} more did not fit"
        in playground.page.value
    )


@pytest.mark.parametrize("choice", ["random", "diverse"])
def test_drawn_examples_follow_the_seed(playground, choice):
    playground.choice.value = choice

    def prompt(seed: int) -> str:
        playground.seed.value = seed
        return playground.answer().prompt

    assert prompt(1) == prompt(1)
    assert len({prompt(seed) for seed in range(6)}) > 1


def test_decoding_follows_the_widgets(playground, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "utils.lab.playground.generate", lambda *_, **config: asked.append(config) or ["text"]
    )
    playground.answer()
    playground.decoding.value = "beam search"
    playground.answer()
    playground.decoding.value, playground.temperature.value, playground.top_p.value = (
        "sampling",
        0.5,
        0.9,
    )
    playground.new_tokens.value, playground.penalty.value = 6, 1.5
    playground.answer()
    plain = {"precision": "fp32", "max_new_tokens": 8, "repetition_penalty": 1.0}
    sampling = {"do_sample": True, "top_k": 0, "temperature": 0.5, "top_p": 0.9}
    assert asked == [
        plain,
        plain | {"num_beams": 4},
        plain | {"max_new_tokens": 6, "repetition_penalty": 1.5} | sampling,
    ]


def test_sampling_repeats_with_its_seed(playground):
    playground.decoding.value = "sampling"
    assert playground.answer() == playground.answer()


def test_a_click_answers_anew(playground):
    before = playground.page.value
    playground.dialogue.value = 1
    playground.button.click()
    assert playground.page.value != before and not playground.button.disabled


@pytest.mark.parametrize(
    ("wording", "said"),
    [("no place for it", "has no {dialogue}"), ("{dialogue} " * 40, "max_tokens=120")],
)
def test_a_choice_that_cannot_be_asked_is_explained_on_the_page(playground, wording, said):
    playground.template.value = wording
    playground.button.click()
    assert said in playground.page.value and not playground.button.disabled
    playground.template.value = TEMPLATES["plain"]
    playground.button.click()
    assert (
        build_prompt(TEST["dialogue"][0], template=TEMPLATES["plain"])[:30] in playground.page.value
    )
