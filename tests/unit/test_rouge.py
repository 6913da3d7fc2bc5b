import random
from itertools import product

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from utils.data import group_references, load_dialogsum, turns
from utils.rouge import (
    UnicodeTokenizer,
    compare,
    extractive_oracle,
    human_agreement,
    lead,
    longest,
    rouge_scores,
)

TYPES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
WORDS = [
    "Anna",
    "asks",
    "asked",
    "asking",
    "Bob",
    "the",
    "ladder",
    "ladders",
    "meets",
    "Friday,",
    "£5",
    "it's",
]
DIALOGUE = (
    "#Person1#: Good morning, Bob.\n"
    "#Person2#: Good morning! How are you today, my dear old friend?\n"
    "\n"
    "#Person1#: Could you lend me your ladder on Friday?\n"
    "#Person2#: Sure, the ladder is yours."
)
REFERENCES = [
    "Person1 wants Bob to lend the ladder on Friday.",
    "Bob is asked: could you lend me your ladder?",
]


@pytest.fixture(scope="module")
def test_split(real_data):
    return group_references(load_dialogsum(real_data)["test"])


def random_texts(count: int, seed: int) -> list[str]:
    """Texts of one to four lines over a few words with endings and punctuation."""
    rng = random.Random(seed)

    def line() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))

    return ["\n".join(line() for _ in range(rng.randint(1, 4))) for _ in range(count)]


# Scores


def test_a_toy_pair_by_hand():
    # overlap 3 of 3 and 4 words; no bigram in common; longest common subsequence "the sat"
    (row,) = rouge_scores(["cat the sat"], ["the cat sat down"]).to_dict("records")
    assert row == pytest.approx({"rouge1": 6 / 7, "rouge2": 0, "rougeL": 4 / 7, "rougeLsum": 4 / 7})


def test_a_repeated_word_counts_as_often_as_the_reference_has_it():
    assert rouge_scores(["the the the the"], ["the cat the hat"])["rouge1"][0] == pytest.approx(
        1 / 2
    )


def test_equal_texts_score_one_and_strangers_zero():
    scores = rouge_scores(
        ["Anna asks Bob.", "Anna asks Bob.", ""], ["Anna asks Bob.", "it rains", "Anna"]
    )
    assert scores.to_numpy().tolist() == [[1.0] * 4, [0.0] * 4, [0.0] * 4]


@pytest.mark.parametrize("use_stemmer", [True, False])
def test_scores_equal_those_of_rouge_score(use_stemmer):
    predictions, references = random_texts(40, 1), random_texts(40, 2)
    scorer = RougeScorer(TYPES, use_stemmer=use_stemmer)
    expected = [
        [scorer.score(target, prediction)[name].fmeasure for name in TYPES]
        for prediction, target in zip(predictions, references, strict=True)
    ]
    scores = rouge_scores(predictions, references, use_stemmer=use_stemmer)
    assert list(scores.columns) == TYPES
    np.testing.assert_array_equal(scores, expected)
    assert not np.allclose(
        scores["rougeL"], scores["rougeLsum"]
    )  # texts of several lines tell the two apart


def test_odd_texts_score_as_in_rouge_score():
    texts = [
        "",
        "\n",
        "a",
        "£ … !",
        "a\n",
        "\n\na b\r\n\nb a",
        "b a\nb a\nb a",
        "a c\rb d\na",
        "b d a c\nc",
        "B-a a_b don't",
        "naïve İstanbul",
        "running\nruns ran",
    ]
    predictions, references = zip(*product(texts, texts), strict=True)
    scorer = RougeScorer(TYPES, use_stemmer=True)
    expected = [
        [scorer.score(t, p)[name].fmeasure for name in TYPES] for p, t in product(texts, texts)
    ]
    np.testing.assert_array_equal(rouge_scores(predictions, references), expected)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_several_references_are_reduced_score_by_score(reduce):
    predictions = random_texts(15, 3)
    references = [random_texts(1 + i % 3, 10 + i) for i in range(15)]
    scorer = RougeScorer(TYPES, use_stemmer=True)
    expected = [
        getattr(np, reduce)(
            [[scorer.score(t, p)[name].fmeasure for name in TYPES] for t in targets], axis=0
        )
        for p, targets in zip(predictions, references, strict=True)
    ]
    np.testing.assert_array_equal(rouge_scores(predictions, references, reduce=reduce), expected)


def test_the_best_of_several_references_is_rouge_scores_own_score_multi():
    predictions, references = random_texts(10, 4), [random_texts(3, 20 + i) for i in range(10)]
    scorer = RougeScorer(TYPES, use_stemmer=True)
    expected = [
        [scorer.score_multi(targets, p)[name].fmeasure for name in TYPES]
        for p, targets in zip(predictions, references, strict=True)
    ]
    np.testing.assert_array_equal(rouge_scores(predictions, references, "max"), expected)


def test_the_mean_over_references_and_stemming_are_the_defaults():
    predictions, references = ["Anna asked Bob"], [["Anna asks Bob", "it rains"]]
    assert rouge_scores(predictions, references)["rouge1"][0] == pytest.approx(1 / 2)
    assert rouge_scores(predictions, references, "max", use_stemmer=False)["rouge1"][
        0
    ] == pytest.approx(2 / 3)


def test_one_prediction_is_one_row_however_many_references_it_has():
    scores = rouge_scores(["a b", "c d", "e f"], [["a", "b"], ["c", "d", "c d"], ["e"]])
    assert scores.shape == (3, 4)
    assert rouge_scores([], []).shape == (0, 4)


def test_a_different_number_of_predictions_and_references_is_refused():
    with pytest.raises(ValueError, match="2 predictions against 1 references"):
        rouge_scores(["a", "b"], ["a"])


def test_a_prediction_without_reference_is_refused_and_named():
    with pytest.raises(ValueError, match="prediction 1 has no reference"):
        rouge_scores(["a", "b"], [["a"], []])


def test_an_unknown_reduction_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'median'.*'mean'.*'max'"):
        rouge_scores(["a"], ["a"], reduce="median")


def test_one_bare_prediction_is_not_taken_for_a_list_of_letters():
    with pytest.raises((TypeError, ValueError), match="list"):
        rouge_scores("Anna", "Anna")


# Other scripts

SCRIPTS = [
    "安娜向鲍勃借梯子。",
    "アンナは梯子を借りる。",
    "آنا تطلب السلم من بوب",
    "Анна просит у Боба лестницу.",
    "अन्ना सीढ़ी माँगती है",
    "แอนนาขอยืมบันได",
]


@pytest.mark.parametrize("text", SCRIPTS)
def test_text_that_the_default_tokenizer_drops_gives_a_warning_with_the_remedy(text):
    with pytest.warns(UserWarning, match=r"few or no words of 2 of 4 texts.*tokenizer=") as warned:
        scores = rouge_scores([text, "Anna asks"], [[text], ["Anna asks"]])
    assert len(warned) == 1
    assert scores["rouge1"].tolist() == [0, 1]


def test_speaker_tags_and_digits_do_not_hide_a_script_that_cannot_be_scored():
    with pytest.warns(UserWarning, match="1 of 2 texts"):
        rouge_scores(["#Person1#: 三点来，带上你的梯子和工具。"], ["Person1"])


def test_agreement_and_oracle_warn_of_other_scripts_too():
    with pytest.warns(UserWarning, match="2 of 2 texts"):
        human_agreement([SCRIPTS[:2]])
    with pytest.warns(UserWarning, match="2 of 2 texts"):
        extractive_oracle(SCRIPTS[0], SCRIPTS[:1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", SCRIPTS)
def test_unicode_tokenizer_scores_any_script_one_against_itself_without_warning(text):
    scores = rouge_scores([text], [[text, "Anna"]], "max", tokenizer=UnicodeTokenizer())
    assert scores.to_numpy().tolist() == [[1.0] * 4]
    assert extractive_oracle(text, [text], tokenizer=UnicodeTokenizer()) == text
    assert human_agreement([[text, text]], UnicodeTokenizer())["rouge2"].tolist() == [1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", ["", "\n", "£ … !", "🙂", "__", "naïve café", "Ann"])
def test_text_without_letters_or_in_latin_script_gives_no_warning(text):
    rouge_scores([text], ["Anna asks"])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Анна, ASKS: don't!", ["анна", "asks", "don", "t"]),
        ("学习3点 now", ["学", "习", "3", "点", "now"]),
        ("माँगती है", ["माँगती", "है"]),  # vowel signs belong to the word
        ("cafe\u0301 a_b", ["caf\u00e9", "a", "b"]),  # two spellings of é are one
    ],
)
def test_unicode_tokens_are_lower_case_words_and_single_chinese_characters(text, tokens):
    assert UnicodeTokenizer().tokenize(text) == tokens


def test_a_tokenizer_of_ones_own_replaces_the_default_one():
    class Spaces:
        def tokenize(self, text):
            return text.split()

    scores = rouge_scores(["A b."], ["a b."], tokenizer=Spaces())
    assert scores["rouge1"].tolist() == [0.5]


# Baselines and ceilings


def test_turns_are_the_lines_with_something_on_them():
    assert "\n".join(turns(DIALOGUE)) == DIALOGUE.replace("\n\n", "\n")
    assert turns("#Person1#: Hi.\n \n\n#Person2#: Yes?") == ["#Person1#: Hi.", "#Person2#: Yes?"]
    assert turns(" \n\n") == []


def test_lead_is_the_first_turns():
    first, second = DIALOGUE.split("\n")[:2]
    assert [lead(DIALOGUE, n) for n in (0, 1, 2)] == ["", first, f"{first}\n{second}"]
    assert lead(DIALOGUE, 99) == "\n".join(turns(DIALOGUE))


def test_longest_is_the_turns_of_most_words_in_their_order():
    first, second, _, third, fourth = DIALOGUE.split("\n")  # 4, 11, 9 and 6 words
    assert longest(DIALOGUE, 1) == second
    assert longest(DIALOGUE, 2) == f"{second}\n{third}"
    assert longest(DIALOGUE, 3) == f"{second}\n{third}\n{fourth}"
    assert longest(DIALOGUE, 99) == f"{first}\n{second}\n{third}\n{fourth}"


def test_length_is_counted_in_words_not_in_letters():
    assert (
        longest("#Person1#: extraordinarily incomprehensible\n#Person2#: I do so", 1)
        == "#Person2#: I do so"
    )


def test_oracle_picks_the_turns_that_the_references_share_in_their_order():
    # the last turn is chosen first
    dialogue = "good morning\nAnna asks Bob\nfine weather today\nBob lends the ladder"
    oracle = extractive_oracle(dialogue, ["Anna asks Bob. Bob lends the ladder."])
    assert oracle == "Anna asks Bob\nBob lends the ladder"
    oracle = extractive_oracle(f"no\n{dialogue}" + "\nno" * 4 + "\nfine", ["fine. Anna asks Bob."])
    assert oracle == "Anna asks Bob\nfine"


def test_oracle_stops_where_another_turn_would_cost_more_than_it_brings():
    assert extractive_oracle("the ladder\na b c d e f g h ladder", ["the ladder"]) == "the ladder"


def test_oracle_of_a_dialogue_that_shares_no_word_is_empty():
    assert extractive_oracle("a b\nc d", ["x y"]) == ""


def test_oracle_prefers_the_turn_in_the_references_word_order():
    assert (
        extractive_oracle("ladder the lends Bob\nBob lends the ladder", ["Bob lends the ladder"])
        == "Bob lends the ladder"
    )


def test_oracle_serves_all_references_not_only_the_first():
    dialogue = "alpha beta gamma\ndelta epsilon zeta"
    references = ["alpha beta gamma", "delta epsilon zeta", "delta epsilon zeta"]
    assert extractive_oracle(dialogue, references).splitlines()[-1] == "delta epsilon zeta"
    assert extractive_oracle(dialogue, references[:1]) == "alpha beta gamma"


def test_oracle_beats_lead_on_its_references():
    texts = [
        extractive_oracle(DIALOGUE, REFERENCES),
        lead(DIALOGUE, 1),
        lead(DIALOGUE, 2),
        lead(DIALOGUE, 3),
    ]
    scores = rouge_scores(texts, [REFERENCES] * 4)
    oracle, *leads = scores["rouge1"] + scores["rouge2"]
    assert oracle > max(leads)


def test_oracle_is_the_greedy_choice_by_plain_rouge_score():
    rng = random.Random(5)
    dialogue = "\n".join(" ".join(rng.choices(WORDS, k=6)) for _ in range(6))
    references = [" ".join(rng.choices(WORDS, k=12)) for _ in range(3)]
    scorer, best, chosen = RougeScorer(["rouge1", "rouge2"], use_stemmer=True), 0.0, []
    while True:
        texts = {}
        for i in set(range(6)) - set(chosen):
            text = "\n".join(dialogue.split("\n")[j] for j in sorted([*chosen, i]))
            scores = [scorer.score(reference, text) for reference in references]
            texts[np.mean([s["rouge1"].fmeasure + s["rouge2"].fmeasure for s in scores])] = i, text
        if not texts or max(texts) <= best:
            break
        best = max(texts)
        chosen.append(texts[best][0])
        oracle = texts[best][1]
    assert len(chosen) > 1
    assert extractive_oracle(dialogue, references) == oracle


def test_human_agreement_by_hand():
    # pairs: "a b" with "a c" 1/2, with "a b" 1, "a c" with "a b" 1/2; bigrams 0, 1, 0
    scores = human_agreement([["a b", "a c", "a b"], ["x", "y"], ["a b", "a b"]])
    assert scores["rouge1"].tolist() == pytest.approx([2 / 3, 0, 1])
    assert scores["rouge2"].tolist() == pytest.approx([1 / 3, 0, 1])


def test_human_agreement_needs_two_annotators():
    with pytest.raises(ValueError, match="dialogue 1 has fewer than two references"):
        human_agreement([["a", "b"], ["a"]])


@pytest.mark.parametrize(
    "function", [human_agreement, lambda texts: extractive_oracle("a b", texts[0])]
)
def test_one_bare_reference_is_not_taken_for_a_list_of_letters(function):
    with pytest.raises((TypeError, ValueError), match="list"):
        function(["a b c", "a b d"])


# The real DialogSum


@pytest.mark.slow  # the real data
def test_humans_agree_on_dialogsum_at_53_27_45(test_split):
    scores = 100 * human_agreement(test_split["summaries"]).mean()
    assert scores[["rouge1", "rouge2", "rougeL"]].tolist() == pytest.approx(
        [53.37, 26.73, 44.99], abs=0.02
    )


@pytest.mark.slow  # the real data
def test_first_two_turns_of_dialogsum_score_27_6_21(test_split):
    predictions = [lead(dialogue, 2) for dialogue in test_split["dialogue"]]
    scores = 100 * rouge_scores(predictions, test_split["summaries"]).mean()
    assert scores[["rouge1", "rouge2", "rougeL"]].tolist() == pytest.approx(
        [26.95, 6.33, 20.68], abs=0.02
    )


@pytest.mark.slow  # the real data
def test_oracle_beats_lead_and_longest_on_dialogsum(test_split):
    few = test_split.select(range(20)).to_list()
    oracle = [extractive_oracle(row["dialogue"], row["summaries"]) for row in few]
    references = [row["summaries"] for row in few]
    for baseline in (lead, longest):
        simple = [baseline(row["dialogue"], 2) for row in few]
        assert (
            compare(rouge_scores(oracle, references), rouge_scores(simple, references)).loc[
                "rouge1", "low"
            ]
            > 0
        )
