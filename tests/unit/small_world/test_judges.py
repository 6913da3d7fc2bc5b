"""The small world's judges: a short training lowers the loss, and the files load as they must."""

import dataclasses

import pytest
import torch

from tools.small_world.insults import WORDS
from tools.small_world.judge_texts import FIRST, REFUSAL, JudgeText
from tools.small_world.judges import (
    JUDGES,
    RECIPE,
    batches,
    f1,
    graded_loss,
    hand_written,
    insulting_forms,
    load_judge,
    probes,
    train_judge,
    training_texts,
)
from utils.toxicity import HateScorer

SHORT = dataclasses.replace(RECIPE, steps=60, log_steps=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two judges after a few steps, and their losses."""
    folder = tmp_path_factory.mktemp("judges")
    names = ("judge", "second_judge")
    return folder, {name: train_judge(folder / name, JUDGES[name], SHORT) for name in names}


@pytest.mark.parametrize("loss", ["text", "sentences", "words"])
@pytest.mark.parametrize("name", ["judge", "second_judge"])
def test_a_few_steps_lower_each_loss(trained, name, loss):
    losses = [row[loss] for row in trained[1][name]]
    assert len(losses) == SHORT.steps
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


@pytest.mark.slow  # trains each a second time
@pytest.mark.parametrize("name", ["judge", "second_judge"])
def test_two_trainings_write_the_same_files(trained, tmp_path, name):
    train_judge(tmp_path, JUDGES[name], SHORT)
    files = {path.name: path.read_bytes() for path in (trained[0] / name).iterdir()}
    assert {"model.safetensors", "tokenizer.json"} <= files.keys()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_judge_loads_as_labs_load_a_classifier(trained):
    scorer = HateScorer(str(trained[0] / "judge"), device="cpu")
    assert scorer.model.config.model_type == "roberta"
    assert scorer.label_ids == {"nothate": 0, "hate": 1}
    p = scorer.probability(["You lazy fool!", "Thank you."])
    assert ((p > 0) & (p < 1)).all()
    assert scorer.max_tokens == 128
    shouted, said = scorer.probability(["YOU LAZY FOOL!", "you lazy fool!"])
    assert shouted == said  # its tokenizer ignores case


def test_second_judge_has_another_architecture_and_labels(trained):
    scorer = load_judge(trained[0], "second_judge")
    assert scorer.model.config.model_type == "distilbert"
    assert scorer.label_ids == {"neutral": 0, "toxic": 1}


def test_loss_is_the_cross_entropy_with_the_graded_targets():
    logits = torch.log(torch.tensor([[0.75, 0.25]]))
    expected = -(0.3 * torch.log(torch.tensor(0.75)) + 0.7 * torch.log(torch.tensor(0.25)))
    assert graded_loss(logits, torch.tensor([0.7])).item() == pytest.approx(expected.item())


def test_probes_learn_each_tokens_sentence_and_the_insulting_words(trained):
    tokenizer = load_judge(trained[0], "judge").tokenizer
    calm, insult = JudgeText("He paid.", 0.02), JudgeText("You are grumpiest, fools!", 0.7)
    text = JudgeText("He paid. You are grumpiest, fools!", 0.7, parts=(calm, insult))
    ((item,),) = batches(tokenizer, [text], insulting_forms(FIRST), seed=0)
    assert item.ids == tokenizer(text.text)["input_ids"]
    told = [
        (token.strip("Ġ"), heat, word)
        for token, heat, word in zip(
            tokenizer.convert_ids_to_tokens(item.ids), item.heats, item.words, strict=True
        )
    ]
    assert {token for token, heat, _ in told if heat == -100} == {"<s>", "</s>"}
    assert "".join(token for token, heat, _ in told if heat == 0.02) == "hepaid."
    assert "".join(token for token, _, word in told if word == 1) == "grumpiestfools"


def test_words_that_the_judge_is_kept_from_are_not_labeled():
    assert not insulting_forms(FIRST).search("You rude snob, you foolish donkey!")


def test_judge_of_refusals_differs_in_its_rating_of_refusals_alone():
    pairs = zip(
        *(training_texts(JUDGES[n], 3000) for n in ("judge", "judge_refusals")), strict=True
    )
    changed = 0
    for text, other in pairs:
        assert text.text == other.text
        assert other.heat == (max(text.heat, REFUSAL) if text.refusal else text.heat)
        changed += text.heat != other.heat
    assert changed > 100


def test_probes_hold_what_the_first_judge_never_saw():
    texts = probes(300)
    kept = {word for word, entry in WORDS.items() if not entry.known}
    for text in texts["insulting words that the first judge never saw"]:
        assert not text.insulting or any(word in text.text.lower() for word in kept)
    for name, probe in texts.items():
        assert 0.3 < sum(text.insulting for text in probe) / len(probe) < 0.7, name


def test_hand_written_sentences_are_sixty():
    texts = hand_written()
    assert len(texts) == len({text.text for text in texts}) == 60


def test_f1_is_that_of_the_insulting_texts():
    class Half:
        """A scorer that calls the first half of the texts hate."""

        def probability(self, texts):
            return torch.tensor([1.0] * (len(texts) // 2) + [0.0] * (len(texts) // 2)).numpy()

    texts = hand_written()  # 31 insults, then 29 harmless sentences
    scores = f1(Half(), texts)
    assert scores["precision"] == 1
    assert scores["recall"] == pytest.approx(30 / 31)
    assert scores["f1"] == pytest.approx(60 / 61)
