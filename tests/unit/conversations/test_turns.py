"""Numbers in place of names, and conversations that are summarized in parts."""

import itertools

import pytest

from utils.conversations.parts import split_at_turns, summarize_in_parts
from utils.conversations.turns import Turn, number_speakers, restore_names
from utils.prompts import build_prompt, count_tokens


def turns(*lines: str) -> list[Turn]:
    return [Turn(*line.split(": ", 1)) for line in lines]


def tokens(part, tokenizer) -> int:
    return count_tokens(tokenizer, build_prompt("\n".join(map(str, part))))


# Names


def test_speakers_are_numbered_by_first_appearance_and_named_again():
    numbered, names = number_speakers(turns("Tom: Hi, Anna.", "Anna: Hi.", "Tom: Bye."))
    assert numbered == turns("#Person1#: Hi, Anna.", "#Person2#: Hi.", "#Person1#: Bye.")
    summary = "#Person1# greets #Person2#. #Person2#'s friend is #Person3#."
    assert restore_names(summary, names) == "Tom greets Anna. Anna's friend is #Person3#."


def test_the_tenth_speaker_is_not_the_first_with_a_zero():
    _, names = number_speakers([Turn(f"N{i}", "Hi") for i in range(1, 12)])
    assert restore_names("#Person11# and #Person1#", names) == "N11 and N1"


def test_speakers_with_a_number_keep_it_and_others_get_the_next():
    dialogue = turns("#Person2#: Hi.", "Anna: Hi.", "Tom: Hi.")
    numbered, names = number_speakers(dialogue)
    assert numbered == turns("#Person2#: Hi.", "#Person1#: Hi.", "#Person3#: Hi.")
    assert restore_names("#Person2#, #Person1#", names) == "#Person2#, Anna"


# Parts


def test_a_conversation_that_fits_is_not_split(tiny_tokenizer):
    own = turns("#Person1#: good", "#Person2#: bad")
    assert split_at_turns(own, tiny_tokenizer, 500) == [own]


def test_a_long_conversation_is_split_between_turns_into_the_longest_parts_that_fit(
    tiny_tokenizer,
):
    own = [Turn(f"#Person{1 + i % 2}#", "good bad " * (1 + i % 3)) for i in range(20)]
    limit = tokens(own[:5], tiny_tokenizer)
    parts = split_at_turns(own, tiny_tokenizer, limit)
    assert [turn for part in parts for turn in part] == own
    assert len(parts) > 2 and all(tokens(part, tiny_tokenizer) <= limit for part in parts)
    for part, following in itertools.pairwise(parts):
        assert tokens([*part, following[0]], tiny_tokenizer) > limit


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("good bad nice. " * 40, (".",)),
        ("good bad nice " * 40, ("good", "bad", "nice")),
        ("good。" * 90, ("。",)),
        ("x" * 300, ("x",)),
    ],
)
def test_a_turn_that_is_too_long_alone_is_cut_at_sentences_else_words_else_characters(
    tiny_tokenizer, text, ends
):
    own = [Turn("#Person1#", "hello"), Turn("#Person2#", text.strip())]
    parts = split_at_turns(own, tiny_tokenizer, 120)
    assert len(parts) > 1 and all(tokens(part, tiny_tokenizer) <= 120 for part in parts)
    pieces = [turn for part in parts for turn in part][1:]
    assert {turn.speaker for turn in pieces} == {"#Person2#"}
    assert all(turn.text.endswith(ends) for turn in pieces)
    joined = "".join(turn.text for turn in pieces)
    assert joined.replace(" ", "") == text.replace(" ", "")


def test_a_limit_without_room_for_a_turn_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="max_prompt_tokens=5 has no room for a turn: raise it"):
        split_at_turns(turns("Anna: good"), tiny_tokenizer, 5)


# Summaries


def test_the_summaries_of_parts_are_summarized_until_one_is_left(tiny_tokenizer):
    asked, told = [], []

    def summarize(prompts: list[str]) -> list[str]:
        assert all(count_tokens(tiny_tokenizer, prompt) <= 80 for prompt in prompts)
        asked.append(len(prompts))
        return [f"good\n {len(asked)}" for _ in prompts]

    long = [Turn("#Person1#", "good bad nice " * 4)] * 30
    short = turns("#Person1#: good")
    summaries = summarize_in_parts(
        [short, long], summarize, tiny_tokenizer, 80, lambda *told_: told.append(told_)
    )
    assert summaries == ["good 1", f"good {len(asked)}"]
    assert len(asked) > 2 and asked[0] > asked[1] > asked[-1] == 1
    index, parts, said = told[0]
    assert index == 1 and len(parts) == asked[0] - 1 and said == ["good 1"] * len(parts)
    assert [turn for part in parts for turn in part] == long


def test_the_summaries_of_parts_are_joined_for_a_model_that_cannot_read_them(tiny_tokenizer):
    long = [Turn("#Person1#", "good bad nice " * 4)] * 9
    parts = split_at_turns(long, tiny_tokenizer, 80)
    said = summarize_in_parts([long], lambda p: ["good"] * len(p), tiny_tokenizer, 80, whole=False)
    assert len(parts) > 1 and said == [" ".join(["good"] * len(parts))]


def test_summaries_that_do_not_become_shorter_are_refused(tiny_tokenizer):
    long = [Turn("#Person1#", "good bad nice " * 4)] * 9
    with pytest.raises(ValueError, match="max_prompt_tokens=80: raise it, or lower max_new_tokens"):
        summarize_in_parts([long], lambda p: ["good " * 60] * len(p), tiny_tokenizer, 80)
