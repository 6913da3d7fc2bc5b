"""The playground follows its widgets, explains bad input, and shows an answer without widgets."""

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


def test_html_in_a_dialogue_is_escaped(playground):
    assert "&lt;b&gt;Tom&lt;/b&gt;" in playground.page.value
    assert "<b>Tom" not in playground.page.value


def test_answer_uses_the_chosen_dialogue_and_wording(playground, tiny_tokenizer):
    playground.controls.dialogue.value, playground.controls.shots.value = 1, 0
    playground.controls.template.value = "Say it: {dialogue}"
    answer = playground.answer()
    assert answer.prompt == "Say it: " + TEST["dialogue"][1]
    assert answer.tokens == count_tokens(tiny_tokenizer, answer.prompt)
    assert answer.examples == 0
    assert set(answer.rouge) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}


def test_choosing_a_template_shows_its_wording(playground):
    playground.controls.template_name.value = "flan"
    assert playground.controls.template.value == TEMPLATES["flan"]


def test_prompt_holds_the_most_similar_examples_that_fit_its_budget(playground):
    playground.controls.dialogue.value, playground.controls.shots.value = 1, 5
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
def test_random_and_diverse_examples_depend_on_the_seed(playground, choice):
    playground.controls.selection.value = choice

    def prompt(seed: int) -> str:
        playground.controls.seed.value = seed
        return playground.answer().prompt

    assert prompt(1) == prompt(1)
    assert len({prompt(seed) for seed in range(6)}) > 1


def test_decoding_follows_the_widgets(playground):
    controls = playground.controls
    greedy = {"precision": "fp32", "max_new_tokens": 8, "repetition_penalty": 1.0}
    assert playground.generation_config() == greedy
    controls.decoding.value = "beam search"
    assert playground.generation_config() == greedy | {"num_beams": 4}
    controls.decoding.value, controls.temperature.value = "sampling", 0.5
    controls.top_p.value, controls.penalty.value = 0.9, 1.5
    sampling = {"do_sample": True, "top_k": 0, "temperature": 0.5, "top_p": 0.9}
    assert playground.generation_config() == greedy | {"repetition_penalty": 1.5} | sampling


def test_sampled_summaries_repeat_with_a_seed_and_differ_between_seeds(playground):
    playground.controls.decoding.value = "sampling"

    def summary(seed: int) -> str:
        playground.controls.seed.value = seed
        return playground.answer().summary

    assert summary(1) == summary(1)
    assert len({summary(seed) for seed in range(4)}) > 1


def test_click_shows_the_answer_for_the_new_choice(playground):
    before = playground.page.value
    playground.controls.dialogue.value = 1
    playground.button.click()
    assert playground.page.value != before and not playground.button.disabled


@pytest.mark.parametrize(
    ("wording", "said"),
    [("no place for it", "has no {dialogue}"), ("{dialogue} " * 40, "max_tokens=120")],
)
def test_invalid_choice_is_explained_on_the_page(playground, wording, said):
    playground.controls.template.value = wording
    playground.button.click()
    assert said in playground.page.value and not playground.button.disabled
    playground.controls.template.value = TEMPLATES["plain"]
    playground.button.click()
    assert (
        build_prompt(TEST["dialogue"][0], template=TEMPLATES["plain"])[:30] in playground.page.value
    )


@pytest.fixture
def real(tiny_t5, tiny_tokenizer):
    """A playground that does not believe that it knows the small world only."""
    settings = load_settings("cpu", max_prompt_tokens=120, max_new_tokens=8, precision="fp32")

    def make(own=""):
        return Playground(tiny_t5, tiny_tokenizer, TEST, TRAIN, settings, own=own)

    return make


def test_own_conversation_takes_the_place_of_the_dialogue_and_has_no_references(real, monkeypatch):
    monkeypatch.setattr("utils.lab.playground.generate", lambda *_, **__: ["#Person2# asks <b>."])
    playground = real("Anna: hello <b>Tom</b>\n\nTom: nice")
    answer = playground.answer()
    assert "#Person1#: hello <b>Tom</b>\n#Person2#: nice\n" in answer.prompt
    assert answer.summary == "Tom asks <b>." and answer.rouge == {}
    assert "&lt;b&gt;Tom" in playground.page.value and "References" not in playground.page.value
    playground.controls.own.value = ""
    assert TEST["dialogue"][0] in playground.answer().prompt


def test_own_conversation_without_speakers_is_asked_about_on_the_page(real):
    playground = real("hello\nworld")
    assert "your text, line 1 has no speaker" in playground.page.value


SUBTITLES = (
    b"WEBVTT\n\n00:01.000 --> 00:02.000\n<v hotel clerk>good\n\n00:02.000 --> 00:03.000\nbad"
)
UPLOADS = [  # as ipywidgets 8 and 7 give them
    ({"name": "a.vtt", "content": memoryview(SUBTITLES)},),
    {"a.vtt": {"metadata": {"name": "a.vtt"}, "content": SUBTITLES}},
]


@pytest.mark.parametrize("files", UPLOADS)
def test_an_uploaded_file_is_read_in_its_format(real, files):
    playground = real()
    playground.read_upload(files)
    assert playground.controls.own.value == "hotel clerk: good bad"
    assert "#Person1#: good bad\n" in playground.answer().prompt
    playground.controls.own.value = "Anna: nice\nhello"
    assert "#Person1#: nice hello\n" in playground.answer().prompt


def test_an_upload_that_cannot_be_read_is_explained_on_the_page(real):
    playground = real()
    playground.read_upload([{"name": "a.vtt", "content": b"hello"}])
    assert "a.vtt cannot be read as .vtt" in playground.page.value
    playground.read_upload([{"name": "a.csv", "content": b"dialogue\nA: good\nA: bad\n"}])
    assert "the text holds 2 conversations: give one of them" in playground.page.value


def test_small_world_says_that_it_does_not_know_the_words_of_a_conversation(playground):
    playground.controls.own.value = "Anna: quantum chromodynamics confuses everybody"
    playground.button.click()
    assert "would only guess" in playground.page.value and "cpu" in playground.page.value
