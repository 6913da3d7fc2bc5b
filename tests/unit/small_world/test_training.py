"""A few steps of training lower the loss of the answers, and are the same when repeated."""

import random

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from tools.small_world import decoder, reader, training
from tools.small_world.measure import judged, measure
from tools.small_world.training import Recipe, batches, make_optimizers, mixture, rate_factor
from tools.small_world.vocabulary import make_tokenizer
from tools.small_world.world import Style, draw_facts, write_summary

SHORT = Recipe(
    steps=30, batch_tokens=800, first_steps=0, warmup_steps=4, log_steps=10, save_steps=30
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple:
    """Folder and log of a T5 trained for 30 steps."""
    folder = tmp_path_factory.mktemp("reader") / "t5"
    return folder, reader.train_reader(folder, SHORT, judged=4)


def test_a_batch_has_one_number_of_examples_and_stays_within_its_tokens(tokenizer):
    recipe = Recipe(steps=60, first_steps=10)
    drawn = list(batches(recipe, tokenizer, mixture(recipe)))
    assert len(drawn) == 60
    for step, batch in enumerate(drawn):
        shots = {len(item.task.shown) for item in batch}
        assert len(shots) == 1
        assert step >= 10 or shots == {0}
        longest = max(len(item.prompt) for item in batch)
        assert len(batch) == 1 or longest * len(batch) <= recipe.batch_tokens
    again = next(batches(recipe, tokenizer, mixture(recipe)))
    assert [item.prompt for item in again] == [item.prompt for item in drawn[0]]
    assert {len(batch[0].task.shown) for batch in drawn} == {0, 1, 2, 3}


@pytest.mark.slow  # trains a T5
def test_the_loss_of_the_answers_falls(trained):
    rows = [row["answer"] for row in trained[1] if "answer" in row]
    assert rows[-1] < rows[1] < rows[0]


@pytest.mark.slow  # trains twice
def test_training_repeats_to_the_bit(trained, tmp_path):
    reader.train_reader(tmp_path / "t5", SHORT, judged=4)
    file = "model.safetensors"
    assert (tmp_path / "t5" / file).read_bytes() == (trained[0] / file).read_bytes()


@pytest.mark.slow  # trains a T5
def test_the_model_is_saved_with_dropout_for_fine_tuning_and_without_probes(trained):
    folder, _ = trained
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert model.config.dropout_rate == 0.1
    assert sum(p.numel() for p in model.parameters()) < 3_000_000
    assert not any("probes" in name for name in model.state_dict())
    scores = measure(model, AutoTokenizer.from_pretrained(folder), n=3, shots=(0, 1))
    assert list(scores["shots"]) == [0, 0, 0, 1, 1, 1]


def test_matrices_inside_the_layers_are_muons(tokenizer):
    model = reader.make_model(tokenizer)
    modules = nn.ModuleDict({"model": model, "probes": reader.Probes(model.config.d_model)})
    muon, adamw = make_optimizers(modules, Recipe())
    inner = {id(p) for p in muon.param_groups[0]["params"]}
    outer = {id(p) for p in adamw.param_groups[0]["params"]}
    assert not inner & outer
    assert inner | outer == {id(p) for p in modules.parameters()}
    assert id(model.shared.weight) in outer
    assert id(model.encoder.block[0].layer[0].SelfAttention.q.weight) in inner
    assert all(id(p) in outer for p in modules["probes"].parameters())


def test_the_rate_warms_up_stays_and_falls():
    recipe = Recipe(steps=1_000, warmup_steps=100)
    assert [rate_factor(step, recipe) for step in (0, 49, 100, 500, 750)] == [
        0.01, 0.5, 1.0, 1.0, 0.5,
    ]  # fmt: skip
    assert rate_factor(999, recipe) == pytest.approx(0.002)


def test_a_loss_that_is_not_finite_stops_training():
    modules = nn.ModuleDict({"model": nn.Linear(2, 2)})
    losses = lambda batch: {"answer": modules["model"].weight.sum() * float("nan")}  # noqa: E731
    with pytest.raises(FloatingPointError, match="lower the learning rates"):
        training.train(modules, losses, iter([[]]), Recipe(steps=1))


def test_references_judge_themselves_right():
    rng = random.Random(0)
    facts = [draw_facts(rng, heated=False) for _ in range(20)]
    texts = [write_summary(f, Style(), rng) for f in facts]
    scores = judged(texts, [[text] for text in texts], facts)
    assert (scores[["rouge1", "who", "facts"]].min() == [100, 1, 1]).all()


@pytest.mark.slow  # trains a decoder
def test_the_decoder_learns_and_padding_on_the_left_changes_nothing(tmp_path):
    log = decoder.train_decoder(tmp_path / "gpt", SHORT_DECODER, judged=4)
    rows = [row for row in log if "prompt" in row]
    assert rows[-1]["answer"] < rows[0]["answer"] and rows[-1]["prompt"] < rows[0]["prompt"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "gpt").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gpt")
    assert tokenizer.padding_side == "left"
    assert sum(p.numel() for p in model.parameters()) < 2_000_000
    texts = ["#Person1#: Hello.", "#Person2#: Hi, Anna. Could I borrow your ladder?"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        ids, mask = batch["input_ids"], batch["attention_mask"]
        together = model(input_ids=ids, attention_mask=mask).logits[0, -1]
        alone = model(**tokenizer(texts[:1], return_tensors="pt")).logits[0, -1]
    assert torch.allclose(together, alone, atol=1e-4)


SHORT_DECODER = Recipe(
    steps=16, batch_tokens=800, first_steps=0, shares=(1.0,), warmup_steps=4, log_steps=8,
    save_steps=16,
)  # fmt: skip
