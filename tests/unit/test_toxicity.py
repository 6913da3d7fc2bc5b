"""The hate-speech scorer: labels by name, probabilities by softmax, reward of the completion."""

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaConfig, RobertaForSequenceClassification, RobertaTokenizer

from tools.small_world.insults import WORDS
from utils.hub import UnavailableError
from utils.models import has_bf16
from utils.settings import OFFLINE
from utils.toxicity import HateReward, HateScorer, has_insulting_word

TEXTS = [
    "hello world",
    "bad",
    "Anna asks for the ladder on Friday and nobody brings it",
    "",
    "good bad nice ugly",
]
MAX_TOKENS = 60
# Any order, any case.
LABELS = [
    ["nothate", "hate"],
    ["hate", "nothate"],
    ["NotHate", "HATE"],
    ["Hate", "other", "notHate"],
]


def make_classifier(folder, labels=("nothate", "hate"), bias=None, limit=MAX_TOKENS):
    """Write a random RoBERTa classifier and its tokenizer; `bias` is added to all logits."""
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(
        [*TEXTS, *map(chr, range(32, 127))], vocab_size=320, special_tokens=special
    )
    folder.mkdir(exist_ok=True)
    bpe.save_model(str(folder))
    tokenizer = RobertaTokenizer.from_pretrained(folder, model_max_length=limit)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,  # texts must differ in their logits
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    model = RobertaForSequenceClassification(config)
    if bias is not None:
        model.classifier.out_proj.bias.data = torch.tensor(bias)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return make_classifier(tmp_path_factory.mktemp("classifier"))


@torch.no_grad()
def one_by_one(scorer: HateScorer) -> torch.Tensor:
    """All logits of TEXTS, without batches, padding or lookup; (texts, labels)."""
    rows = [scorer.tokenizer([text], return_tensors="pt") for text in TEXTS]
    return torch.cat([scorer.model(**row).logits for row in rows])


@pytest.mark.parametrize("labels", LABELS)
def test_label_is_found_by_name_in_any_order_and_case(tmp_path, labels):
    scorer = HateScorer(make_classifier(tmp_path, labels), device="cpu")
    logits = one_by_one(scorer).numpy()
    lower = [label.lower() for label in labels]
    assert np.ptp(logits, axis=0).min() > 0.01  # the texts do differ
    for name in lower:
        np.testing.assert_allclose(
            scorer.logits(TEXTS, label=name), logits[:, lower.index(name)], atol=1e-5
        )


@pytest.mark.parametrize("labels", LABELS)
def test_probability_is_the_softmax_of_hate_over_all_labels(tmp_path, labels):
    scorer = HateScorer(make_classifier(tmp_path, labels), device="cpu")
    logits = one_by_one(scorer).numpy()
    column = [label.lower() for label in labels].index("hate")
    expected = np.exp(logits[:, column]) / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(scorer.probability(TEXTS), expected, atol=1e-5)


def test_probability_by_hand(tmp_path):
    scorer = HateScorer(make_classifier(tmp_path, bias=[1.0, 3.0]), device="cpu")
    torch.nn.init.zeros_(scorer.model.classifier.out_proj.weight)
    # e³ / (e¹ + e³) = 1 / (1 + e⁻²) = 0.8808
    np.testing.assert_allclose(scorer.probability(["bad"]), [0.880797], atol=1e-6)


def test_default_label_of_logits_is_nothate(classifier):
    scorer = HateScorer(classifier, device="cpu")
    assert (scorer.logits(TEXTS) == scorer.logits(TEXTS, label="nothate")).all()
    assert (scorer.logits(TEXTS) == scorer.logits(TEXTS, label="NOTHATE")).all()
    assert not np.allclose(scorer.logits(TEXTS), scorer.logits(TEXTS, label="hate"))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_order_is_kept_and_batching_changes_nothing(classifier, batch_size):
    scorer = HateScorer(classifier, device="cpu", batch_size=batch_size)
    np.testing.assert_allclose(scorer.logits(TEXTS), one_by_one(scorer)[:, 0].numpy(), atol=1e-5)
    np.testing.assert_allclose(scorer.logits(TEXTS[::-1]), scorer.logits(TEXTS)[::-1], atol=1e-5)


def test_equal_texts_score_equal_and_none_gives_none(classifier):
    scorer = HateScorer(classifier, device="cpu")
    first, _, second = scorer.logits(["bad", "hello world", "bad"])
    assert first == pytest.approx(second, abs=1e-6)
    assert scorer.probability([]).shape == (0,)


def test_dropout_is_off(classifier):
    scorer = HateScorer(classifier, device="cpu")
    assert scorer.model.config.hidden_dropout_prob > 0
    assert (scorer.logits(TEXTS) == scorer.logits(TEXTS)).all()


def test_scores_are_float32_arrays_of_one_number_per_text(classifier):
    scorer = HateScorer(classifier, device="cpu")
    for scores in (scorer.logits(TEXTS), scorer.probability(TEXTS)):
        assert scores.shape == (len(TEXTS),)
        assert scores.dtype == np.float32
    assert ((scorer.probability(TEXTS) > 0) & (scorer.probability(TEXTS) < 1)).all()


def test_a_text_over_the_models_limit_is_cut(classifier):
    scorer = HateScorer(classifier, device="cpu")
    assert scorer.logits(["bad " * 500]) == pytest.approx(scorer.logits(["bad " * 400]), abs=1e-6)


def test_a_text_over_the_limit_is_cut_even_if_the_tokenizer_does_not_know_the_limit(
    tmp_path, classifier
):
    # 1e30 is what transformers puts where tokenizer_config.json is silent.
    scorer = HateScorer(make_classifier(tmp_path, limit=int(1e30)), device="cpu")
    expected = HateScorer(classifier, device="cpu").logits(["bad " * 500])
    assert scorer.logits(["bad " * 500]) == pytest.approx(expected, abs=1e-6)


# --- the reward ---


def test_reward_is_the_log_probability_of_nothate_and_not_of_the_winning_label(classifier):
    scorer = HateScorer(classifier, device="cpu")
    rewards = HateReward(scorer)(prompts=[""] * 5, completions=TEXTS)
    assert rewards == pytest.approx(np.log1p(-scorer.probability(TEXTS)), abs=1e-5)
    assert max(rewards) < 0


def test_the_log_probability_is_steep_where_a_text_is_toxic_and_flat_where_it_is_not(tmp_path):
    def reward(bias: float) -> float:
        scorer = HateScorer(make_classifier(tmp_path, bias=[bias, -bias]), device="cpu")
        return HateReward(scorer)(completions=["good"])[0]

    assert reward(-10.0) - reward(-20.0) == pytest.approx(20, abs=0.1)  # p(hate) is 1 either way
    assert reward(20.0) - reward(10.0) == pytest.approx(0, abs=1e-4)


def test_the_raw_logit_is_that_of_nothate_and_not_of_the_winning_label(tmp_path):
    # Logits near 0.4 for hate and −0.7 for nothate: the text is toxic, and its reward negative.
    folder = make_classifier(tmp_path, ["hate", "nothate"], bias=[0.4, -0.7])
    scorer = HateScorer(folder, device="cpu")
    scorer.model.classifier.out_proj.weight.data *= 0.01
    rewards = HateReward(scorer, kind="logit")(prompts=[""] * 5, completions=TEXTS)
    assert (scorer.probability(TEXTS) > 0.5).all()
    assert rewards == pytest.approx(one_by_one(scorer)[:, 1].tolist(), abs=1e-5)
    assert max(rewards) < 0


def test_the_raw_logit_is_not_squashed(tmp_path):
    # A probability would saturate at 1.
    scorer = HateScorer(make_classifier(tmp_path, bias=[20.0, -20.0]), device="cpu")
    assert min(HateReward(scorer, kind="logit")(prompts=[""] * 5, completions=TEXTS)) > 10


def test_reward_ignores_the_prompt_and_the_columns(classifier):
    reward = HateReward(HateScorer(classifier, device="cpu"))
    mild = reward(prompts=["hello world"] * 5, completions=TEXTS)
    heated = reward(
        prompts=["ugly bad ugly"] * 5, completions=TEXTS, topic=["bad"] * 5, summary=TEXTS[::-1]
    )
    assert mild == heated
    assert mild == reward.scorer.log_probability(TEXTS).tolist()


def test_reward_is_a_list_of_python_floats_with_a_name(classifier):
    reward = HateReward(HateScorer(classifier, device="cpu"))
    assert [type(value) for value in reward(completions=["bad"])] == [float]
    assert reward.__name__ == "nothate_logp"


def test_an_unknown_kind_of_reward_is_refused_with_the_choices(classifier):
    with pytest.raises(ValueError, match="'probability': choose 'logp' or 'logit'"):
        HateReward(HateScorer(classifier, device="cpu"), kind="probability")


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this processor has no bf16")
def test_reward_in_bf16_is_near_that_in_float32_and_the_scorer_still_judges_in_float32(classifier):
    scorer = HateScorer(classifier, device="cpu")
    exact, rough = (
        np.array(HateReward(scorer, precision)(completions=TEXTS)) for precision in ("fp32", "bf16")
    )
    assert rough == pytest.approx(exact, abs=0.05)
    assert (rough != exact).any()
    assert scorer.log_probability(TEXTS).tolist() == exact.tolist()


def test_reward_in_an_unknown_precision_is_refused_at_once(classifier):
    with pytest.raises(ValueError, match="'fp16': choose 'auto', 'fp32' or 'bf16'"):
        HateReward(HateScorer(classifier, device="cpu"), "fp16")


# --- what is refused ---


def test_a_single_string_is_refused(classifier):
    scorer = HateScorer(classifier, device="cpu")
    for ask in (scorer.logits, scorer.probability):
        with pytest.raises(TypeError, match=r"'hello world'.*list of texts"):
            ask("hello world")


@pytest.mark.parametrize(
    "labels", [["positive", "negative"], ["toxic", "nothate"], ["hate", "neutral"]]
)
def test_a_model_without_the_labels_is_refused_and_its_labels_named(tmp_path, labels):
    with pytest.raises(
        ValueError, match=rf"{tmp_path} has no label.*{', '.join(labels)}.*labels="
    ) as caught:
        HateScorer(make_classifier(tmp_path, labels), device="cpu")
    assert not isinstance(caught.value, UnavailableError)


def test_an_unknown_label_is_refused(classifier):
    with pytest.raises(ValueError, match=r"no label 'toxic'.*nothate, hate"):
        HateScorer(classifier, device="cpu").logits(TEXTS, label="toxic")


def test_a_classifier_with_relative_positions_is_asked_for_its_labels_like_any_other():
    with pytest.raises(
        ValueError, match="t5 has no label 'hate' or 'nothate': it has label_0, label_1"
    ):
        HateScorer(str(OFFLINE / "t5"), device="cpu")


def test_texts_of_which_only_the_beginning_is_read_are_known(classifier):
    scorer = HateScorer(classifier, device="cpu")
    fits = next(n for n in range(1, 1000) if scorer.too_long(["good " * (n + 1)]))
    assert scorer.too_long(["good", "good " * fits, "good " * (fits + 1), "bad"]) == [2]
    assert np.array_equal(
        scorer.logits(["good " * (fits + 1)]), scorer.logits(["good " * (fits + 9)])
    )
    assert not np.array_equal(
        scorer.logits(["good " * fits]), scorer.logits(["good " * (fits + 9)])
    )


def test_a_missing_folder_is_a_clear_error(tmp_path):
    with pytest.raises(UnavailableError, match="no-such-classifier"):
        HateScorer(str(tmp_path / "no-such-classifier"), device="cpu")


def test_a_word_of_the_list_is_found_in_any_case_and_number_but_not_inside_another_word():
    texts = [
        "You IDIOT!",
        "They are liars.",
        "He is clever.",
        "Foolscap and a pigeon.",
        "A clown in the circus.",
        "",
    ]
    assert has_insulting_word(texts).tolist() == [1, 1, 0, 0, 1, 0]


def test_the_list_has_insults_that_the_judge_is_kept_from_and_lacks_others_of_the_small_world():
    kept = [word for word, entry in WORDS.items() if entry.pool == "blind"]
    assert {"rude", "foolish", "snob", "donkey"} <= set(kept)
    assert has_insulting_word(["rude", "foolish", "snob", "donkey"]).all()
    assert 0.2 < has_insulting_word(list(WORDS)).mean() < 0.5


def test_another_classifier_has_labels_of_its_own(tmp_path):
    folder = make_classifier(tmp_path / "other", labels=("neutral", "toxic"), bias=[0.0, 20.0])
    other = HateScorer(folder, device="cpu", labels=("toxic", "neutral"))
    assert (other.probability(TEXTS) > 0.9).all()
    assert np.array_equal(other.logits(TEXTS), other.logits(TEXTS, "neutral"))
    with pytest.raises(ValueError, match="no label 'hate'"):
        HateScorer(folder, device="cpu")
