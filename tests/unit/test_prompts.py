import itertools
import os
import sys
from types import ModuleType

import pytest
from datasets.utils._dill import dumps

from tools.small_world.tables import FLAN_TEMPLATES
from utils.prompts import (
    TEMPLATES,
    build_prompt,
    build_prompts,
    count_tokens,
    diverse_examples,
    random_examples,
    similar_examples,
)

DIALOGUE = "#Person1#: Anna asks #Person2# for the ladder."
EXAMPLES = [
    ("#Person1#: hello world.", "good"),
    ("#Person1#: nice.", "bad"),
    ("#Person2#: ugly.", "nice"),
]
ALL_TEMPLATES = [*TEMPLATES.values(), *FLAN_TEMPLATES]


# Templates


@pytest.mark.parametrize("template", ALL_TEMPLATES)
def test_every_template_has_one_place_for_the_dialogue(template):
    assert template.count("{dialogue}") == 1
    assert template.count("{") == template.count("}") == 1


def test_flan_was_trained_on_seven_different_templates():
    assert len(set(FLAN_TEMPLATES)) == 7 and TEMPLATES["flan"] in FLAN_TEMPLATES


@pytest.mark.parametrize("template", ALL_TEMPLATES)
def test_a_zero_shot_prompt_is_the_template_around_the_dialogue(template):
    before, after = template.split("{dialogue}")
    assert build_prompt(DIALOGUE, template=template) == before + DIALOGUE + after


def test_the_plain_prompt_in_full():
    expected = "Summarize the following conversation.\n\n#Person1#: Hi.\n\nSummary:"
    assert build_prompt("#Person1#: Hi.") == expected


@pytest.mark.parametrize(
    "text", ["{", "}", "{}", "{0}", "{name}", "{{dialogue}}", "{dialogue}", "%s", r"\1"]
)
def test_braces_and_the_like_in_a_dialogue_survive(text):
    assert (
        build_prompt(text, [(text, text)], template="A {dialogue} B")
        == f"A {text} B {text}\n\nA {text} B"
    )


def test_braces_of_a_template_survive():
    head = 'Answer as {"summary": …}.'
    assert build_prompt("b", [("a", "A.")], head + "\n{dialogue}") == f"{head}\na A.\n\n{head}\nb"


def test_newlines_between_turns_survive():
    assert "#Person1#: Hi.\n#Person2#: Bye." in build_prompt("#Person1#: Hi.\n#Person2#: Bye.")


def test_a_template_without_a_place_for_the_dialogue_is_refused_and_named():
    with pytest.raises(ValueError, match=r"'Summarize!' has no \{dialogue\}"):
        build_prompt(DIALOGUE, template="Summarize!")


# Examples


def test_examples_stand_before_the_dialogue_in_order_and_in_its_template():
    prompt = build_prompt("c", [("a", "A."), ("b", "B.")], template="Text: {dialogue}\nSummary:")
    assert prompt == "Text: a\nSummary: A.\n\nText: b\nSummary: B.\n\nText: c\nSummary:"


@pytest.mark.parametrize("template", ALL_TEMPLATES)
def test_a_few_shot_prompt_ends_as_the_zero_shot_prompt(template):
    prompt = build_prompt(DIALOGUE, EXAMPLES, template)
    assert prompt.endswith("\n\n" + build_prompt(DIALOGUE, template=template))


# Budget


def test_a_count_is_the_tokenizers_own_end_token_included(tiny_tokenizer):
    assert count_tokens(tiny_tokenizer, DIALOGUE) == len(tiny_tokenizer(DIALOGUE)["input_ids"])
    assert count_tokens(tiny_tokenizer, "good good") == 3


def test_a_count_is_not_cut_at_the_tokenizers_limit(tiny_tokenizer):
    assert count_tokens(tiny_tokenizer, "good " * 1_100) == 1_101 > tiny_tokenizer.model_max_length


def test_examples_are_dropped_whole_the_last_first_to_fit_the_budget(tiny_tokenizer):
    whole = [build_prompt(DIALOGUE, EXAMPLES[:kept]) for kept in range(4)]
    sizes = [count_tokens(tiny_tokenizer, prompt) for prompt in whole]
    for budget in range(sizes[0], sizes[3] + 2):
        kept = max(k for k in range(4) if sizes[k] <= budget)
        assert (
            build_prompt(DIALOGUE, EXAMPLES, tokenizer=tiny_tokenizer, max_tokens=budget)
            == whole[kept]
        )


def test_without_a_budget_nothing_is_dropped(tiny_tokenizer):
    many = EXAMPLES * 50
    assert build_prompt(DIALOGUE, many, tokenizer=tiny_tokenizer).count("Summary:") == 151


def test_a_dialogue_too_long_by_itself_is_refused_and_never_cut(tiny_tokenizer):
    needed = count_tokens(tiny_tokenizer, build_prompt(DIALOGUE))
    assert DIALOGUE in build_prompt(DIALOGUE, tokenizer=tiny_tokenizer, max_tokens=needed)
    with pytest.raises(
        ValueError, match=rf"Anna asks.* needs {needed} tokens.*max_tokens={needed - 1}.*raise"
    ):
        build_prompt(DIALOGUE, EXAMPLES, tokenizer=tiny_tokenizer, max_tokens=needed - 1)


def test_a_budget_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"max_tokens=100 needs a tokenizer"):
        build_prompt(DIALOGUE, max_tokens=100)


def test_each_of_many_prompts_has_its_own_examples_within_the_budget(tiny_tokenizer):
    shown = [EXAMPLES[:2], EXAMPLES[2:], []]
    dialogues = ["good", "bad", "nice"]
    budget = count_tokens(tiny_tokenizer, build_prompt("good", EXAMPLES[:1]))
    prompts = build_prompts(dialogues, shown, TEMPLATES["plain"], tiny_tokenizer, budget)
    assert prompts == [
        build_prompt("good", EXAMPLES[:1]),
        build_prompt("bad", EXAMPLES[2:]),
        build_prompt("nice"),
    ]


def test_among_many_prompts_a_dialogue_over_the_budget_stands_alone_uncut(tiny_tokenizer):
    long = "good " * 50
    assert build_prompts([long], [EXAMPLES], TEMPLATES["plain"], tiny_tokenizer, 40) == [
        build_prompt(long)
    ]


def test_as_many_sets_of_examples_as_dialogues_are_needed(tiny_tokenizer):
    with pytest.raises(ValueError, match=r"argument 2 is shorter"):
        build_prompts(["good", "bad"], [EXAMPLES], TEMPLATES["plain"], tiny_tokenizer, 40)


# Choice of examples

LETTERS = [2 * letter for letter in "abcdefghij"]
CAPITALS = [text.upper() for text in LETTERS]


def test_random_examples_are_the_same_for_the_same_seed_only():
    drawn = random_examples(LETTERS, CAPITALS, k=3, queries=5, seed=1)
    assert drawn == random_examples(LETTERS, CAPITALS, k=3, queries=5, seed=1)
    assert drawn != random_examples(LETTERS, CAPITALS, k=3, queries=5, seed=2)


def test_random_examples_are_distinct_within_a_prompt():
    for examples in random_examples(LETTERS, CAPITALS, k=10, queries=20):
        assert sorted(dialogue for dialogue, _ in examples) == LETTERS


def test_random_examples_are_drawn_anew_for_every_prompt():
    drawn = random_examples(LETTERS, CAPITALS, k=2, queries=50)
    assert len(drawn) == 50
    assert len({tuple(examples) for examples in drawn}) > 25
    assert {dialogue for dialogue, _ in itertools.chain(*drawn)} == set(LETTERS)


SHELF = {
    "the ladder is on the roof": "Ladder up.",
    "Anna buys bread": "Bread.",
    "Bob plays tennis with Anna": "Tennis.",
    "a ladder, a ladder and tennis": "Both.",
}


def test_similar_examples_share_the_querys_words_the_most_similar_first():
    found = similar_examples(
        list(SHELF), list(SHELF.values()), k=2, queries=["Who plays tennis?", "Where is my ladder?"]
    )
    assert [example for example, _ in found] == [
        ("Bob plays tennis with Anna", "Tennis."),
        ("a ladder, a ladder and tennis", "Both."),
    ]
    assert found[1][1] == ("the ladder is on the roof", "Ladder up.")


def test_similar_examples_are_distinct_and_as_many_as_asked_for_even_where_nothing_is_similar():
    (found,) = similar_examples(list(SHELF), list(SHELF.values()), k=4, queries=["zzz"])
    assert dict(found) == SHELF


def test_similar_examples_of_no_queries_are_none():
    assert similar_examples(list(SHELF), list(SHELF.values()), k=2, queries=[]) == []


@pytest.fixture
def jax(monkeypatch):
    """A stand-in for JAX that notes at its first computation whether it may take the GPU whole."""
    variable = "XLA_PYTHON_CLIENT_PREALLOCATE"
    jax, lax, seen = ModuleType("jax"), ModuleType("jax.lax"), []
    jax.lax, lax.top_k = lax, lambda scores, k: seen.append(os.environ.get(variable))
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setitem(sys.modules, "jax.lax", lax)
    monkeypatch.delenv(variable, raising=False)
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_bm25s(name)}
    yield seen
    for name in [name for name in sys.modules if _is_bm25s(name)]:
        del sys.modules[name]
    sys.modules.update(before)


def _is_bm25s(name: str) -> bool:
    return name.partition(".")[0] == "bm25s"


def test_where_jax_is_installed_it_leaves_the_gpus_memory_alone_and_does_not_rank(jax):
    ((found,),) = similar_examples(["a red car", "two green apples"], ["1", "2"], 1, ["apples"])
    assert found == ("two green apples", "2")
    assert jax == ["false"]  # bm25s asked it once, as it was imported


def test_diverse_examples_share_as_few_words_as_can_be():
    clusters = ["a b c", "a b c d", "a b c e", "x y z", "x y z w", "m n", "m n o"]
    for examples in diverse_examples(clusters, clusters, k=3, queries=20):
        assert {dialogue[0] for dialogue, _ in examples} == {"a", "x", "m"}


def test_diverse_examples_begin_anywhere_and_follow_the_seed():
    drawn = diverse_examples(LETTERS, CAPITALS, k=2, queries=40, seed=1)
    assert drawn == diverse_examples(LETTERS, CAPITALS, k=2, queries=40, seed=1)
    assert drawn != diverse_examples(LETTERS, CAPITALS, k=2, queries=40, seed=2)
    assert len({examples[0] for examples in drawn}) > 5


def test_diverse_examples_come_from_a_random_pool_of_at_least_k():
    near_and_far = ["a b", *(["a b c"] * 40), "x y"]
    drawn = diverse_examples(near_and_far, near_and_far, k=2, queries=20, pool=2)
    assert sum("x y" in dict(examples) for examples in drawn) < 10  # seldom in a pool of two
    assert (
        sorted(
            dialogue
            for dialogue, _ in diverse_examples(LETTERS, CAPITALS, k=10, queries=1, pool=1)[0]
        )
        == LETTERS
    )


def test_dialogues_without_words_can_be_among_diverse_examples():
    assert len(diverse_examples(["…", "!", "a"], ["1", "2", "3"], k=3, queries=1)[0]) == 3


# What no choice can do


def draw_random(dialogues: list[str], summaries: list[str], k: int):
    return random_examples(dialogues, summaries, k, queries=2)


def draw_similar(dialogues: list[str], summaries: list[str], k: int):
    return similar_examples(dialogues, summaries, k, queries=["aa", "bb"])


def draw_diverse(dialogues: list[str], summaries: list[str], k: int):
    return diverse_examples(dialogues, summaries, k, queries=2)


CHOICES = pytest.mark.parametrize("choose", [draw_random, draw_similar, draw_diverse])


@CHOICES
def test_no_examples_give_zero_shot_prompts(choose):
    assert choose(LETTERS, CAPITALS, k=0) == [[], []]


@CHOICES
def test_every_choice_pairs_a_dialogue_with_its_own_summary(choose):
    for examples in choose(LETTERS, CAPITALS, k=10):
        assert sorted(examples) == list(zip(LETTERS, CAPITALS, strict=True))


@CHOICES
def test_too_few_dialogues_to_choose_from_are_refused(choose):
    with pytest.raises(ValueError, match=r"k=11 examples from 10"):
        choose(LETTERS, CAPITALS, k=11)


@CHOICES
def test_a_negative_number_of_examples_is_refused_and_named(choose):
    with pytest.raises(ValueError, match=r"k=-1"):
        choose(LETTERS, CAPITALS, k=-1)


@CHOICES
def test_dialogues_and_summaries_of_different_number_are_refused(choose):
    with pytest.raises(ValueError, match=r"10 dialogues.*9 summaries"):
        choose(LETTERS, CAPITALS[:9], k=1)


def test_build_prompt_can_be_hashed_by_datasets_map():
    """datasets hashes a function with all that it calls, which fails for circular calls."""
    dumps(lambda row: build_prompt(row["dialogue"]))
