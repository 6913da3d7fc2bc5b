"""Measures beside ROUGE: length, the right speakers, and names that the dialogue has."""

import pytest

from utils.faithfulness import (
    faithful_names,
    output_length,
    right_speakers,
)


def test_length_is_counted_in_words():
    assert output_length(["#Person1# asks Anna.", "", "No."]).tolist() == [3, 0, 1]


@pytest.mark.parametrize(
    ("prediction", "references", "right"),
    [
        ("#Person1# asks #Person2#.", "#Person2# is asked by #Person1#.", 1),
        ("#Person1# asks.", "#Person2# asks.", 0),
        ("#Person1# asks.", "#Person1# asks #Person2#.", 0),  # one speaker is missing
        ("#Person1# asks #Person2#.", "#Person1# asks.", 0),  # one is too many
        (
            "#Person1# asks.",
            ["Anna asks.", "#Person1# asks."],
            1,
        ),  # one reference that agrees is enough
        (
            "#Person1# asks.",
            ["#Person1# asks #Person2#.", "#Person2# agrees."],
            0,
        ),  # their union is no reference
        ("Anna asks.", "Tom agrees.", 1),  # neither names a speaker
        ("#Person11# asks.", "#Person1# asks.", 0),
        (
            "Person1 asks # Person2 #.",
            "#Person1# asks #Person2#.",
            1,
        ),  # the tag's marks are lost, the person is right
        ("#Person2# asks #Person1#.", "#Person1# asks #Person2#.", 1),  # who does what is not seen
    ],
)
def test_speakers_are_right_where_one_reference_has_the_same(prediction, references, right):
    assert right_speakers([prediction], [references]).tolist() == [right]


@pytest.mark.parametrize(
    ("prediction", "dialogue", "share"),
    [
        ("Anna asks Tom.", "#Person1#: Hi Anna, here is Tom.", 1),
        ("Anna asks Bob.", "#Person1#: Hi Anna, here is Tom.", 1 / 2),
        ("#Person1# asks Bob.", "#Person1#: Hi Anna.", 0),
        ("#Person1# asks for it.", "#Person1#: Hi Anna.", 1),  # no name, so none that is wrong
        ("The ladder is lent.", "#Person1#: Is the ladder free?", 1),  # "The" starts a sentence
        (
            "#Person1# asks. Bob agrees.",
            "#Person1#: Hi Anna.",
            0,
        ),  # so does Bob, whom no text has in small letters
        ("Anna's ladder is lent.", "#Person1#: Anna, is it free?", 1),
        ("#Person1# comes on Friday.", "#Person1#: I come on friday.", 1),
        ("#Person1# comes on Friday.", "#Person1#: I come on Monday.", 0),
        ("I asked Anna.", "#Person1#: Hi Anna.", 1),
        (
            "Bob and Bob agree with Anna.",
            "#Person1#: Hi Anna. They agree.",
            1 / 2,
        ),  # a name counts once
        ("Result: Bob agrees.", "#Person1#: Hi Anna.", 0),  # a label is no name, Bob is
        ("They ask. Result: yes.", "#Person1#: Hi, they ask.", 1),
        ("She asks. Then I'll go to Mrs. Lee.", "#Person1#: Hi, Lee.", 1),
        ("Person1 asks #Person2.", "#Person1#: Hi.", 1),  # a tag is no name, whatever is left of it
        ("Will asks.", "#Person1#: Will you come?", 1),
        ("Al asks.", "#Person1#: Alan is here.", 0),  # whole words only
    ],
)
def test_names_are_faithful_where_the_dialogue_has_them(prediction, dialogue, share):
    assert faithful_names([prediction], [dialogue]).tolist() == [pytest.approx(share)]


@pytest.mark.parametrize("function", [right_speakers, faithful_names])
def test_a_different_number_of_texts_is_refused_with_both_numbers(function):
    with pytest.raises(ValueError, match="2 predictions with 1 "):
        function(["a", "b"], ["a"])


def test_names_depend_on_the_dialogues_and_not_on_the_other_predictions():
    alone = faithful_names(["Rose asks Tom."], ["#Person1#: Hi, Tom."])
    beside = faithful_names(
        ["Rose asks Tom.", "#Person1# likes a rose."], ["#Person1#: Hi, Tom."] * 2
    )
    assert alone[0] == beside[0] == 1 / 2
