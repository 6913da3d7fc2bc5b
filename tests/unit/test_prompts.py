import itertools

import pytest

from utils.prompts import FLAN_TEMPLATES, TEMPLATES, build_prompt, build_prompts, count_tokens, random_examples

DIALOGUE = "#Person1#: Anna asks #Person2# for the ladder."
EXAMPLES = [("#Person1#: hello world.", "good"), ("#Person1#: nice.", "bad"), ("#Person2#: ugly.", "nice")]
ALL_TEMPLATES = [*TEMPLATES.values(), *FLAN_TEMPLATES]


# Templates


@pytest.mark.parametrize("template", ALL_TEMPLATES)
def test_every_template_has_one_place_for_the_dialogue(template):
    assert template.count("{dialogue}") == 1
    assert template.count("{") == template.count("}") == 1


def test_flan_was_trained_on_seven_different_templates():
    assert len(set(FLAN_TEMPLATES)) == 7


@pytest.mark.parametrize("template", ALL_TEMPLATES)
def test_a_zero_shot_prompt_is_the_template_around_the_dialogue(template):
    before, after = template.split("{dialogue}")
    assert build_prompt(DIALOGUE, template=template) == before + DIALOGUE + after


def test_the_plain_prompt_in_full():
    expected = "Summarize the following conversation.\n\n#Person1#: Hi.\n\nSummary:"
    assert build_prompt("#Person1#: Hi.") == expected


@pytest.mark.parametrize("text", ["{", "}", "{}", "{0}", "{name}", "{{dialogue}}", "{dialogue}", "%s", r"\1"])
def test_braces_and_the_like_in_a_dialogue_survive(text):
    assert build_prompt(text, [(text, text)], template="A {dialogue} B") == f"A {text} B {text}\n\nA {text} B"


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
    assert count_tokens(tiny_tokenizer, "good " * 600) == 601 > tiny_tokenizer.model_max_length


def test_examples_are_dropped_whole_the_last_first_to_fit_the_budget(tiny_tokenizer):
    whole = [build_prompt(DIALOGUE, EXAMPLES[:kept]) for kept in range(4)]
    sizes = [count_tokens(tiny_tokenizer, prompt) for prompt in whole]
    for budget in range(sizes[0], sizes[3] + 2):
        kept = max(k for k in range(4) if sizes[k] <= budget)
        assert build_prompt(DIALOGUE, EXAMPLES, tokenizer=tiny_tokenizer, max_tokens=budget) == whole[kept]


def test_without_a_budget_nothing_is_dropped(tiny_tokenizer):
    many = EXAMPLES * 50
    assert build_prompt(DIALOGUE, many, tokenizer=tiny_tokenizer).count("Summary:") == 151


def test_a_dialogue_too_long_by_itself_is_refused_and_never_cut(tiny_tokenizer):
    needed = count_tokens(tiny_tokenizer, build_prompt(DIALOGUE))
    assert DIALOGUE in build_prompt(DIALOGUE, tokenizer=tiny_tokenizer, max_tokens=needed)
    with pytest.raises(ValueError, match=rf"Anna asks.* needs {needed} tokens.*max_tokens={needed - 1}.*raise"):
        build_prompt(DIALOGUE, EXAMPLES, tokenizer=tiny_tokenizer, max_tokens=needed - 1)


def test_a_budget_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"max_tokens=100 needs a tokenizer"):
        build_prompt(DIALOGUE, max_tokens=100)


def test_each_of_many_prompts_has_its_own_examples_within_the_budget(tiny_tokenizer):
    shown = [EXAMPLES[:2], EXAMPLES[2:], []]
    dialogues = ["good", "bad", "nice"]
    budget = count_tokens(tiny_tokenizer, build_prompt("good", EXAMPLES[:1]))
    prompts = build_prompts(dialogues, shown, TEMPLATES["plain"], tiny_tokenizer, budget)
    assert prompts == [build_prompt("good", EXAMPLES[:1]), build_prompt("bad", EXAMPLES[2:]), build_prompt("nice")]


def test_among_many_prompts_a_dialogue_over_the_budget_stands_alone_uncut(tiny_tokenizer):
    long = "good " * 50
    assert build_prompts([long], [EXAMPLES], TEMPLATES["plain"], tiny_tokenizer, 40) == [build_prompt(long)]


def test_as_many_sets_of_examples_as_dialogues_are_needed(tiny_tokenizer):
    with pytest.raises(ValueError, match=r"argument 2 is shorter"):
        build_prompts(["good", "bad"], [EXAMPLES], TEMPLATES["plain"], tiny_tokenizer, 40)


# Choice of examples

LETTERS, CAPITALS = list("abcdefghij"), list("ABCDEFGHIJ")


def test_random_examples_are_the_same_for_the_same_seed_only():
    drawn = random_examples(LETTERS, CAPITALS, k=3, queries=5, seed=1)
    assert drawn == random_examples(LETTERS, CAPITALS, k=3, queries=5, seed=1)
    assert drawn != random_examples(LETTERS, CAPITALS, k=3, queries=5, seed=2)


def test_random_examples_pair_each_dialogue_with_its_own_summary():
    drawn = itertools.chain(*random_examples(LETTERS, CAPITALS, k=4, queries=20))
    assert all(summary == dialogue.upper() for dialogue, summary in drawn)


def test_random_examples_are_distinct_within_a_prompt():
    for examples in random_examples(LETTERS, CAPITALS, k=10, queries=20):
        assert sorted(dialogue for dialogue, _ in examples) == LETTERS


def test_random_examples_are_drawn_anew_for_every_prompt():
    drawn = random_examples(LETTERS, CAPITALS, k=2, queries=50)
    assert len(drawn) == 50
    assert len({tuple(examples) for examples in drawn}) > 25
    assert {dialogue for dialogue, _ in itertools.chain(*drawn)} == set(LETTERS)


def test_no_examples_give_zero_shot_prompts():
    assert random_examples([], [], k=0, queries=2) == [[], []]


def test_too_few_dialogues_to_draw_from_are_refused():
    with pytest.raises(ValueError, match=r"k=11 examples from 10"):
        random_examples(LETTERS, CAPITALS, k=11, queries=1)


def test_a_negative_number_of_examples_is_refused_and_named():
    with pytest.raises(ValueError, match=r"k=-1"):
        random_examples(LETTERS, CAPITALS, k=-1, queries=1)


def test_dialogues_and_summaries_of_different_number_are_refused():
    with pytest.raises(ValueError, match=r"10 dialogues.*9 summaries"):
        random_examples(LETTERS, CAPITALS[:9], k=1, queries=1)
