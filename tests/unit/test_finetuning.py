"""Full and LoRA fine-tuning: what the loss counts, which parameters train, which checkpoint is kept."""

import copy
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from datasets import Dataset
from peft import IA3Config, PeftModel, get_peft_model
from torch.testing import assert_close
from transformers import (
    EarlyStoppingCallback,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)

import utils.finetuning
from utils.finetuning import fine_tune, lora_config, tokenize_pairs
from utils.generation import generate
from utils.models import has_bf16, load_model
from utils.ppo.checkpointing import TrainingError, last_whole_checkpoint

PAIRS = Dataset.from_dict(
    {
        "dialogue": [
            "#Person1#: good\n#Person2#: bad",
            "#Person1#: nice ugly",
            "hello world good bad",
            "ladder",
        ],
        "summary": ["good bad", "nice", "hello world", "Anna asks for the ladder"],
    }
)
DIALOGUE_ONLY = "{dialogue}"
CPU = torch.device("cpu")


@pytest.fixture
def train(tiny_t5, tiny_tokenizer, tmp_path):
    """fine_tune with tiny numbers: one epoch of two steps, both logged."""

    def run(
        method="full", model=tiny_t5, rows=PAIRS, validation=PAIRS, output_dir=tmp_path, **arguments
    ):
        small = {
            "template": DIALOGUE_ONLY,
            "precision": "fp32",
            "max_new_tokens": 8,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "warmup_steps": 0,
        }
        return fine_tune(
            model, tiny_tokenizer, rows, validation, method, str(output_dir), **small | arguments
        )

    return run


def without_dropout(model: T5ForConditionalGeneration) -> T5ForConditionalGeneration:
    twin = T5ForConditionalGeneration(
        T5Config.from_dict(model.config.to_dict() | {"dropout_rate": 0.0})
    )
    twin.load_state_dict(model.state_dict())
    return twin


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def checkpoints(folder: Path) -> list[Path]:
    return sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


# --- tokens ---


def test_pairs_are_token_ids_that_end_in_eos_and_are_not_padded(tiny_tokenizer):
    rows = tokenize_pairs(PAIRS, tiny_tokenizer, DIALOGUE_ONLY)
    assert set(rows.column_names) == {"input_ids", "attention_mask", "labels"}
    for row, pair in zip(rows, PAIRS, strict=True):
        assert row["input_ids"] == tiny_tokenizer(pair["dialogue"])["input_ids"]
        assert row["labels"] == tiny_tokenizer(pair["summary"])["input_ids"]
        assert row["input_ids"][-1] == row["labels"][-1] == tiny_tokenizer.eos_token_id
        assert set(row["attention_mask"]) == {1}


def test_the_prompt_is_the_template_filled_in(tiny_tokenizer):
    rows = tokenize_pairs(PAIRS, tiny_tokenizer, "hello {dialogue} world")
    assert rows[3]["input_ids"] == tiny_tokenizer("hello ladder world")["input_ids"]


def test_several_references_count_with_their_first(tiny_tokenizer):
    grouped = Dataset.from_dict({"dialogue": ["good"], "summaries": [["nice", "ugly", "bad"]]})
    rows = tokenize_pairs(grouped, tiny_tokenizer)
    assert rows[0]["labels"] == tiny_tokenizer("nice")["input_ids"]


def test_long_texts_are_cut_at_the_limits_and_still_end_in_eos(tiny_tokenizer):
    rows = tokenize_pairs(
        PAIRS, tiny_tokenizer, DIALOGUE_ONLY, max_prompt_tokens=3, max_summary_tokens=2
    )
    assert max(map(len, rows["input_ids"])) == 3
    assert max(map(len, rows["labels"])) == 2
    assert {row[-1] for row in [*rows["input_ids"], *rows["labels"]]} == {
        tiny_tokenizer.eos_token_id
    }


# --- what the loss counts ---


@pytest.fixture
def batches(train, monkeypatch):
    """What the loss was computed from, in training and in evaluation."""
    seen = []
    original = utils.finetuning.SummaryTrainer.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        seen.append(dict(inputs))
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(utils.finetuning.SummaryTrainer, "compute_loss", compute_loss)
    train(per_device_train_batch_size=4, per_device_eval_batch_size=4)
    assert len(seen) == 2
    return seen


def test_label_padding_is_masked_with_minus_100(batches, tiny_tokenizer):
    labels = {tuple(tiny_tokenizer(summary)["input_ids"]) for summary in PAIRS["summary"]}
    for batch in batches:
        rows = batch["labels"].tolist()
        assert {tuple(i for i in row if i != -100) for row in rows} == labels
        assert any(row[-1] == -100 for row in rows)
        assert not (batch["labels"] == tiny_tokenizer.pad_token_id).any()


def test_attention_mask_is_passed_and_hides_the_padding(batches, tiny_tokenizer):
    for batch in batches:
        padding = batch["input_ids"] == tiny_tokenizer.pad_token_id
        assert padding.any()
        assert torch.equal(batch["attention_mask"], (~padding).long())


def test_batches_are_padded_to_their_longest_row_only(batches, tiny_tokenizer):
    longest = max(len(tiny_tokenizer(dialogue)["input_ids"]) for dialogue in PAIRS["dialogue"])
    assert {batch["input_ids"].shape for batch in batches} == {(4, longest)}


@torch.no_grad()
def loss_by_hand(model, tokenizer, pairs) -> float:
    """Mean −log p over the summaries' tokens, each pair alone and unpadded."""
    total, tokens = 0.0, 0
    for pair in pairs:
        prompt = tokenizer(pair["dialogue"], return_tensors="pt")
        target = tokenizer(pair["summary"], return_tensors="pt")["input_ids"][0]
        decoder_input = torch.cat([torch.tensor([0]), target[:-1]])  # T5 starts with its pad token
        logits = model(**prompt, decoder_input_ids=decoder_input[None]).logits[
            0
        ]  # (time, vocabulary)
        total -= torch.log_softmax(logits, dim=-1)[torch.arange(len(target)), target].sum().item()
        tokens += len(target)
    return total / tokens


def test_loss_of_a_padded_batch_is_the_mean_over_its_real_tokens(train, tiny_t5, tiny_tokenizer):
    model = without_dropout(tiny_t5)
    expected = loss_by_hand(tiny_t5, tiny_tokenizer, PAIRS)
    # The rate is 0, so that the model evaluated is the model trained.
    history = train(model=model, per_device_train_batch_size=4, learning_rate=0.0).history
    assert history["loss"].dropna().tolist() == pytest.approx(
        [expected], abs=1e-3
    )  # logged with four decimals
    assert history["eval_loss"].dropna().tolist() == pytest.approx([expected], abs=1e-3)


def test_label_smoothing_mixes_in_the_mean_over_the_vocabulary(train, tiny_t5, tiny_tokenizer):
    """Szegedy et al. 2016: (1 − ε) · −log p(label) + ε · the mean of −log p over all tokens."""
    model = without_dropout(tiny_t5)
    batch = tiny_tokenizer(["good bad"], return_tensors="pt")
    labels = tiny_tokenizer(["nice"], return_tensors="pt")["input_ids"]
    logprobs = torch.log_softmax(model(**batch, labels=labels).logits[0], dim=-1)
    of_labels = logprobs[torch.arange(labels.shape[1]), labels[0]]
    expected = (-0.7 * of_labels - 0.3 * logprobs.mean(dim=-1)).mean().item()
    rows = Dataset.from_dict({"dialogue": ["good bad"], "summary": ["nice"]})
    history = train(model=model, rows=rows, learning_rate=0.0, label_smoothing_factor=0.3).history
    assert history["loss"].dropna().tolist() == pytest.approx([expected], abs=1e-3)


def test_the_length_of_new_summaries_does_not_cut_those_learned_from(
    train, tiny_tokenizer, monkeypatch
):
    seen = []
    original = utils.finetuning.SummaryTrainer.compute_loss
    monkeypatch.setattr(
        utils.finetuning.SummaryTrainer,
        "compute_loss",
        lambda self, model, inputs, *a, **k: (
            seen.append(inputs["labels"]) or original(self, model, inputs, *a, **k)
        ),
    )
    train(max_new_tokens=2, per_device_train_batch_size=4)
    assert (
        seen[0].shape[1]
        == max(len(ids) for ids in tiny_tokenizer(list(PAIRS["summary"]))["input_ids"])
        > 2
    )


# --- full training ---


def test_full_training_learns_a_tiny_task_by_heart(train, tiny_t5, tiny_tokenizer):
    before = weights(tiny_t5)
    result = train(num_train_epochs=30, learning_rate=2e-2, eval_strategy="no", save_strategy="no")
    losses = result.history["loss"].dropna()
    assert losses.iloc[-4:].mean() < losses.iloc[:4].mean() / 4
    assert (
        generate(result.model, tiny_tokenizer, PAIRS["dialogue"], max_new_tokens=8)
        == PAIRS["summary"]
    )
    after = weights(result.model)
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_full_training_trains_every_parameter_of_the_model_given(train, tiny_t5):
    result = train()
    assert result.model is tiny_t5
    total = sum(p.numel() for p in tiny_t5.parameters())
    assert result.parameters == {"total": total, "trainable": total, "trainable_percent": 100.0}


# --- LoRA ---


def test_only_the_adapter_trains_and_its_size_is_right(train):
    result = train("lora", peft_config=lora_config(rank=4))
    assert isinstance(result.model, PeftModel)
    trainable = {name: p.numel() for name, p in result.model.named_parameters() if p.requires_grad}
    assert all(".lora_A." in name or ".lora_B." in name for name in trainable)
    # q and v of 2 encoder layers (self) and 2 decoder layers (self, cross): 2 · (2 + 4) = 12 matrices of 32 × 32;
    # each gains A (4 × 32) and B (32 × 4): 12 · 4 · (32 + 32) = 3,072.
    assert sum(trainable.values()) == result.parameters["trainable"] == 3072
    assert result.parameters["trainable_percent"] == pytest.approx(
        100 * 3072 / result.parameters["total"]
    )


def test_the_default_adapter_of_flan_t5_base_has_3538944_parameters():
    # 12 + 2 · 12 attentions, q and v of each, 32 · (768 + 768) parameters: 72 · 49,152.
    shape = T5Config(vocab_size=100, d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12)
    with torch.device("meta"):
        model = get_peft_model(T5ForConditionalGeneration(shape), lora_config())
    assert model.get_nb_trainable_parameters()[0] == 3_538_944


def test_alpha_equals_the_rank_so_that_the_adapter_is_not_scaled():
    assert lora_config(rank=7).lora_alpha == lora_config(rank=7).r == 7
    assert lora_config(rank=8, lora_alpha=16).lora_alpha == 16


def test_lora_leaves_the_base_as_it_was_and_changes_the_adapter(train, tiny_t5):
    before = weights(tiny_t5)
    model = train("lora").model
    base = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in weights(model.get_base_model()).items()
    }
    assert all(torch.equal(base[name], before[name]) for name in before)
    assert all(p.abs().max() > 0 for name, p in model.named_parameters() if ".lora_B." in name)


def test_a_fresh_adapter_changes_nothing_because_b_is_zero(train, tiny_t5, tiny_tokenizer):
    batch = tiny_tokenizer(list(PAIRS["dialogue"]), padding=True, return_tensors="pt")
    decoder_input_ids = torch.tensor([[0, 5, 6]] * 4)
    before = tiny_t5(**batch, decoder_input_ids=decoder_input_ids).logits
    model = train("lora", learning_rate=0.0).model
    after = model(**batch, decoder_input_ids=decoder_input_ids).logits
    assert all(p.abs().max() == 0 for name, p in model.named_parameters() if ".lora_B." in name)
    assert all(p.abs().max() > 0 for name, p in model.named_parameters() if ".lora_A." in name)
    assert_close(after, before, atol=1e-5, rtol=0)


def test_lora_lowers_the_loss(train):
    result = train(
        "lora", num_train_epochs=10, learning_rate=3e-2, eval_strategy="no", save_strategy="no"
    )
    losses = result.history["loss"].dropna()
    assert losses.iloc[-4:].mean() < losses.iloc[:4].mean() / 1.5


# --- what comes back ---


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_model_comes_back_in_eval_mode(train, method):
    model = train(method).model
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_history_holds_losses_and_rouge_of_every_epoch(train, tmp_path, method):
    result = train(method, num_train_epochs=2)
    history = result.history
    assert isinstance(history, pd.DataFrame)
    assert history.dropna(subset="loss")["step"].tolist() == [1, 2, 3, 4]
    for name in ("eval_loss", "eval_rouge1", "eval_rouge2", "eval_rougeL", "eval_rougeLsum"):
        assert history.dropna(subset=name)["epoch"].tolist() == [1, 2]
    assert result.method == method
    assert result.output_dir == str(tmp_path)
    assert result.seconds > 0


def test_validation_rouge_comes_from_generated_summaries_and_all_references(train, monkeypatch):
    asked = []

    def answer(model, tokenizer, prompts, **config):
        asked.append((prompts, config, model.training))
        return ["good bad", "nice"]

    monkeypatch.setattr(utils.finetuning, "generate", answer)
    grouped = Dataset.from_dict(
        {"dialogue": ["good", "bad"], "summaries": [["good bad", "ugly"], ["nice", "nice"]]}
    )
    history = train(validation=grouped).history
    # First dialogue (1 + 0) / 2, second (1 + 1) / 2: mean 0.75.
    assert history["eval_rouge1"].dropna().tolist() == [0.75]
    assert asked == [(["good", "bad"], {"max_new_tokens": 8}, False)]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_checkpoint_with_the_best_validation_rouge1_is_kept(
    train, tmp_path, monkeypatch, method
):
    scores = iter([0.1, 0.3, 0.2])  # the second epoch is best, whatever the loss says
    monkeypatch.setattr(
        utils.finetuning,
        "rouge_scores",
        lambda *_: pd.DataFrame({"rouge1": [next(scores)], "rouge2": [0.0]}),
    )
    result = train(method, num_train_epochs=3, save_total_limit=3)
    _, best, last = checkpoints(tmp_path)
    kept = weights(result.model)
    reload = (
        T5ForConditionalGeneration.from_pretrained
        if method == "full"
        else _adapter_on(result.model)
    )
    assert same(kept, weights(reload(best)))
    assert not same(kept, weights(reload(last)))


def _adapter_on(trained: PeftModel):
    def reload(folder: Path) -> PeftModel:
        base = copy.deepcopy(trained).unload()
        return PeftModel.from_pretrained(base, folder, is_trainable=True)

    return reload


def test_the_best_checkpoint_outlives_the_limit_on_checkpoints(train, tmp_path, monkeypatch):
    scores = iter([0.3, 0.1, 0.1, 0.1])
    monkeypatch.setattr(
        utils.finetuning, "rouge_scores", lambda *_: pd.DataFrame({"rouge1": [next(scores)]})
    )
    train(num_train_epochs=4)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-8"]


def test_a_saved_full_checkpoint_writes_the_same_text(train, tiny_tokenizer, tmp_path):
    model = train(num_train_epochs=4).model
    model.save_pretrained(tmp_path / "final")
    tiny_tokenizer.save_pretrained(tmp_path / "final")
    reloaded, tokenizer = load_model(str(tmp_path / "final"), device="cpu")
    prompts = PAIRS["dialogue"]
    assert generate(reloaded, tokenizer, prompts) == generate(model, tiny_tokenizer, prompts)
    assert same(weights(reloaded), weights(model))


def test_a_training_checkpoint_loads_with_its_tokenizer(train, tiny_tokenizer, tmp_path):
    model = train(load_best_model_at_end=False).model
    reloaded, tokenizer = load_model(str(checkpoints(tmp_path)[-1]), device="cpu")
    prompts = PAIRS["dialogue"]
    assert generate(reloaded, tokenizer, prompts) == generate(model, tiny_tokenizer, prompts)


def test_a_saved_adapter_on_a_fresh_base_writes_the_same_text(
    train, tiny_t5, tiny_tokenizer, tmp_path
):
    base = copy.deepcopy(tiny_t5)
    model = train("lora", num_train_epochs=4, learning_rate=3e-2).model
    model.save_pretrained(tmp_path / "final")
    assert sorted(path.name for path in (tmp_path / "final").glob("*.safetensors")) == [
        "adapter_model.safetensors"
    ]
    batch = tiny_tokenizer(list(PAIRS["dialogue"]), padding=True, return_tensors="pt")
    batch["decoder_input_ids"] = torch.zeros(len(batch["input_ids"]), 1, dtype=torch.long)
    before = base(**batch).logits
    reloaded = PeftModel.from_pretrained(base, tmp_path / "final").eval()
    torch.testing.assert_close(
        reloaded(**batch).logits, model(**batch).logits, atol=1e-3, rtol=1e-3
    )
    assert not torch.allclose(reloaded(**batch).logits, before, atol=0.1)
    texts = [generate(m, tiny_tokenizer, PAIRS["dialogue"]) for m in (reloaded, model)]
    assert texts[0] == texts[1]


# --- precision ---


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_training_is_never_in_fp16_and_weights_stay_float32(train, tmp_path, precision):
    model = train(precision=precision).model
    arguments = torch.load(checkpoints(tmp_path)[-1] / "training_args.bin", weights_only=False)
    assert not arguments.fp16
    assert arguments.bf16 == (precision == "auto" and has_bf16(CPU))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp16", "half"])
def test_a_precision_other_than_auto_fp32_and_bf16_is_refused(train, precision):
    with pytest.raises(ValueError, match=precision):
        train(precision=precision)


def test_fp16_is_refused_as_an_argument_too(train):
    with pytest.raises(ValueError, match="fp16"):
        train(fp16=True)


# --- repeatable ---


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_fixed_seed_gives_the_same_weights_twice(train, tiny_t5, tmp_path, method):
    results = []
    for run in range(2):
        torch.manual_seed(100 + run)  # what ran before must not matter
        folder = tmp_path / str(run)
        results.append(
            weights(train(method, copy.deepcopy(tiny_t5), output_dir=folder, seed=7).model)
        )
    assert same(*results)


def test_another_seed_gives_other_weights(train, tiny_t5, tmp_path):
    results = [
        weights(
            train("full", copy.deepcopy(tiny_t5), output_dir=tmp_path / str(seed), seed=seed).model
        )
        for seed in (1, 2)
    ]
    assert not same(*results)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_resumed_run_equals_the_run_that_was_not_stopped(train, tiny_t5, tmp_path, method):
    arguments = {"lr_scheduler_type": "constant", "load_best_model_at_end": False}
    whole = train(
        method,
        copy.deepcopy(tiny_t5),
        output_dir=tmp_path / "whole",
        num_train_epochs=2,
        **arguments,
    )
    train(
        method,
        copy.deepcopy(tiny_t5),
        output_dir=tmp_path / "parts",
        num_train_epochs=1,
        **arguments,
    )
    torch.manual_seed(99)
    resumed = train(
        method,
        copy.deepcopy(tiny_t5),
        output_dir=tmp_path / "parts",
        num_train_epochs=2,
        resume=True,
        **arguments,
    )
    assert same(weights(resumed.model), weights(whole.model))
    assert resumed.history["loss"].dropna().tolist() == whole.history["loss"].dropna().tolist()


def test_a_run_resumed_at_its_last_step_takes_no_other(train, tiny_t5):
    arguments = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "no"}
    arguments |= {
        "load_best_model_at_end": False,
        "lr_scheduler_type": "constant",
    }  # two steps an epoch
    whole = train("full", copy.deepcopy(tiny_t5), **arguments)
    resumed = train("full", copy.deepcopy(tiny_t5), resume=True, **arguments)
    assert resumed.history["step"].max() == 3
    assert same(weights(resumed.model), weights(whole.model))


# --- what is refused ---


def test_an_unknown_method_is_refused(train):
    with pytest.raises(ValueError, match=r"'qlora'.*full or lora"):
        train("qlora")


def test_a_peft_config_with_full_training_is_refused(train, tiny_t5):
    with pytest.raises(ValueError, match="method='lora'"):
        train("full", peft_config=lora_config())
    assert not any("lora" in name for name, _ in tiny_t5.named_parameters())


def test_a_loss_that_is_not_a_number_ends_training_and_names_the_step(train, tmp_path):
    # A rate of 1e38 throws the weights out of float32's range at step 1, and the loss of step 2 is not a number.
    with pytest.raises(TrainingError, match=r"at step 2\b.*learning rate \(now 1e\+38\)") as caught:
        train(learning_rate=1e38)
    assert str(tmp_path) in str(caught.value)


def test_a_loss_that_is_not_a_number_is_seen_in_a_run_too_short_to_log(train):
    with pytest.raises(TrainingError, match="nan"):
        train(learning_rate=1e38, logging_steps=10)


EVERY_STEP = {
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": False,
    "eval_strategy": "no",
}


def test_weights_that_are_not_finite_are_written_into_no_checkpoint(train, tmp_path):
    with pytest.raises(TrainingError, match=r"not finite after step 1\b"):
        train(learning_rate=1e38, **EVERY_STEP)
    assert not checkpoints(tmp_path)


def test_weights_that_are_not_finite_are_not_returned(train):
    unsaved = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    with pytest.raises(TrainingError, match=r"not finite after step 1\b"):
        train(learning_rate=1e38, max_steps=1, **unsaved)


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_an_infinite_gradient_of_a_finite_loss_is_not_applied(
    train, tiny_t5, tmp_path, max_grad_norm
):
    backward = iter(range(100))
    tiny_t5.shared.weight.register_hook(
        lambda gradient: gradient * math.inf if next(backward) == 1 else gradient
    )
    with pytest.raises(TrainingError, match=r"gradient is (inf|nan) at step 2\b"):
        train(max_grad_norm=max_grad_norm, **EVERY_STEP)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-1"]
    assert all(weight.isfinite().all() for weight in tiny_t5.parameters())


@pytest.mark.parametrize(
    ("method", "dtype"),
    [("full", torch.float16), ("lora", torch.float16), ("full", torch.bfloat16)],
)
def test_weights_of_half_precision_are_not_trained(train, tiny_t5, method, dtype):
    with pytest.raises(ValueError, match=rf"{dtype}.*dtype=torch.float32"):
        train(method, tiny_t5.to(dtype))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rate": 3e-2}, "learning_rate 0.01, now 0.03"),
        ({"per_device_train_batch_size": 1}, "batch_size 2"),
    ],
)
def test_resuming_from_another_runs_checkpoint_is_refused(train, tiny_t5, changed, said):
    train("full", copy.deepcopy(tiny_t5))
    with pytest.raises(ValueError, match=rf"another run \({said}"):
        train("full", copy.deepcopy(tiny_t5), resume=True, **changed)


def test_resuming_a_run_of_the_other_method_is_refused(train, tiny_t5):
    train("lora", copy.deepcopy(tiny_t5))
    with pytest.raises(ValueError, match="method 'lora', now 'full'"):
        train("full", tiny_t5, resume=True)


# --- what a run survives ---


def test_resuming_passes_over_a_checkpoint_that_was_cut_short(train, tiny_t5, tmp_path, caplog):
    arguments = {
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": False,
        "eval_strategy": "no",
    }
    whole = train(
        "full",
        copy.deepcopy(tiny_t5),
        output_dir=tmp_path / "whole",
        num_train_epochs=2,
        **arguments,
    )
    train(
        "full", copy.deepcopy(tiny_t5), output_dir=tmp_path / "cut", num_train_epochs=2, **arguments
    )
    newest = tmp_path / "cut" / "checkpoint-4" / "optimizer.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    again = train(
        "full",
        copy.deepcopy(tiny_t5),
        output_dir=tmp_path / "cut",
        num_train_epochs=2,
        resume=True,
        **arguments,
    )
    assert "checkpoint-4: optimizer.pt is missing or cut short" in caplog.text
    assert "resuming from" in caplog.text and "checkpoint-3" in caplog.text
    assert same(weights(again.model), weights(whole.model))


def test_resuming_where_there_is_nothing_starts_from_the_beginning_and_says_so(
    train, tiny_t5, tmp_path, caplog
):
    fresh = train("full", copy.deepcopy(tiny_t5), output_dir=tmp_path / "a")
    resumed = train("full", copy.deepcopy(tiny_t5), output_dir=tmp_path / "b", resume=True)
    assert "the beginning" in caplog.text
    assert same(weights(fresh.model), weights(resumed.model))


def test_a_full_disk_stops_training_and_names_the_last_whole_checkpoint(train, tmp_path):
    """The limit on a file's size stands in for the full disk: the system refuses to write on, as it would there."""
    resource = pytest.importorskip("resource")
    arguments = {
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": False,
        "eval_strategy": "no",
    }
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fill(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))

    try:
        with pytest.raises(
            TrainingError, match=r"cannot write .*checkpoint-2: .*resume; .*checkpoint-1$"
        ) as caught:
            train(callbacks=[Fill()], **arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.__cause__ is not None
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-1"


def out_of_memory_above(monkeypatch, rows: int, times: int = 1000, step: int = 0) -> list[int]:
    """Let training run out of memory wherever a batch has more than `rows`; returns the sizes that were tried."""
    tried: list[int] = []
    original = utils.finetuning.SummaryTrainer.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        tried.append(len(inputs["labels"]))
        if model.training and self.state.global_step >= step and len(inputs["labels"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(utils.finetuning.SummaryTrainer, "compute_loss", compute_loss)
    return tried


def test_where_memory_runs_out_the_batch_is_halved_and_accumulated_to_the_same_gradient(
    train, tiny_t5, tmp_path, monkeypatch, caplog
):
    plain = without_dropout(tiny_t5)
    arguments = {
        "per_device_train_batch_size": 4,
        "optim": "sgd",
    }  # one step, so that rounding does not grow
    whole = train("full", copy.deepcopy(plain), output_dir=tmp_path / "whole", **arguments)
    out_of_memory_above(monkeypatch, rows=1)
    halved = train("full", copy.deepcopy(plain), output_dir=tmp_path / "halved", **arguments)
    assert (whole.batch_size, halved.batch_size) == (4, 1)
    assert (
        "batches of 2, accumulated over 2" in caplog.text
        and "batches of 1, accumulated over 4" in caplog.text
    )
    assert whole.history["step"].max() == halved.history["step"].max()
    for name, tensor in weights(whole.model).items():
        assert_close(weights(halved.model)[name], tensor, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("batch", "rows", "taken"), [(3, 2, 1), (5, 3, 1), (6, 3, 3), (6, 2, 1)])
def test_where_memory_runs_out_the_batch_keeps_its_size_in_all(
    train, tiny_t5, tmp_path, monkeypatch, batch, rows, taken
):
    plain, twelve = without_dropout(tiny_t5), PAIRS.select(3 * [0, 1, 2, 3])
    arguments = {"rows": twelve, "per_device_train_batch_size": batch, "optim": "sgd"}
    whole = train("full", copy.deepcopy(plain), output_dir=tmp_path / "whole", **arguments)
    out_of_memory_above(monkeypatch, rows=rows, step=1)
    parts = train("full", copy.deepcopy(plain), output_dir=tmp_path / "parts", **arguments)
    assert (parts.batch_size, parts.recipe["batch_size"]) == (taken, batch)
    assert parts.history["step"].max() == whole.history["step"].max() == math.ceil(12 / batch)
    for name, tensor in weights(whole.model).items():
        assert_close(weights(parts.model)[name], tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rows", [4, 2, 1])
def test_a_batch_too_long_for_the_memory_is_computed_in_parts_to_the_same_gradient(
    train, tiny_t5, tmp_path, monkeypatch, rows
):
    plain = without_dropout(tiny_t5)
    arguments = {"per_device_train_batch_size": 4, "optim": "sgd"}
    whole = train("full", copy.deepcopy(plain), output_dir=tmp_path / "whole", **arguments)
    monkeypatch.setattr(
        utils.finetuning, "activation_bytes", lambda config, rows, tokens: 100 * rows
    )
    monkeypatch.setattr(utils.finetuning, "device_memory", lambda device: 4 * 100 * rows)
    tried = out_of_memory_above(monkeypatch, rows=rows)
    parts = train("full", copy.deepcopy(plain), output_dir=tmp_path / "parts", **arguments)
    assert parts.batch_size == 4 and rows in tried
    assert parts.history["loss"].dropna().tolist() == pytest.approx(
        whole.history["loss"].dropna().tolist(), abs=1e-5
    )
    for name, tensor in weights(whole.model).items():
        assert_close(weights(parts.model)[name], tensor, atol=1e-5, rtol=0)


def test_where_memory_runs_out_late_training_goes_on_from_the_newest_checkpoint(
    train, tiny_t5, monkeypatch, caplog
):
    out_of_memory_above(monkeypatch, rows=1, step=1)
    arguments = {
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": False,
        "eval_strategy": "no",
    }
    result = train("full", num_train_epochs=2, **arguments)
    assert result.batch_size == 1
    assert "out of memory at step 1" in caplog.text
    assert result.history["step"].max() == 4


def test_where_memory_runs_out_late_and_nothing_was_saved_no_step_is_lost(
    train, tiny_t5, tmp_path, monkeypatch
):
    plain, arguments = (
        without_dropout(tiny_t5),
        {"save_strategy": "no", "load_best_model_at_end": False},
    )
    whole = train("full", copy.deepcopy(plain), output_dir=tmp_path / "whole", **arguments)
    out_of_memory_above(monkeypatch, rows=1, step=1)
    halved = train("full", copy.deepcopy(plain), output_dir=tmp_path / "halved", **arguments)
    assert halved.batch_size == 1
    assert halved.history["loss"].dropna().tolist() == pytest.approx(
        whole.history["loss"].dropna().tolist(), abs=1e-4
    )
    for name, tensor in weights(whole.model).items():
        assert_close(weights(halved.model)[name], tensor, atol=1e-4, rtol=0)


def test_a_step_of_training_fills_no_cache(train, tiny_t5):
    caches = []
    tiny_t5.decoder.register_forward_hook(
        lambda module, args, output: caches.append(output.past_key_values)
    )
    train(eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    assert caches and all(cache is None for cache in caches)


def test_a_batch_of_one_that_does_not_fit_is_the_systems_own_error(train, monkeypatch):
    out_of_memory_above(monkeypatch, rows=0)
    with pytest.raises(torch.OutOfMemoryError):
        train("full")


def test_other_errors_are_not_taken_for_a_lack_of_memory(train, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(utils.finetuning.SummaryTrainer, "compute_loss", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train("full")


# --- other adapters, quantized bases ---


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"use_rslora": True}, {"target_modules": ["wo"]}]
)
def test_other_adapters_are_passed_as_a_peft_config(train, changes):
    result = train("lora", peft_config=lora_config(2, **changes))
    config = result.model.peft_config["default"]
    assert all(
        getattr(config, name) in (value, set(value) if isinstance(value, list) else value)
        for name, value in changes.items()
    )
    assert 0 < result.parameters["trainable_percent"] < 50


def test_an_adapter_of_another_kind_trains_too(train):
    result = train(
        "lora",
        peft_config=IA3Config(
            task_type="SEQ_2_SEQ_LM", target_modules=["k", "v"], feedforward_modules=[]
        ),
    )
    assert isinstance(result.model.peft_config["default"], IA3Config)
    assert (
        result.parameters["trainable"] == 2 * 6 * 32
    )  # a factor per output of k and v, in 2 + 2 × 2 attentions


def test_a_quantised_model_is_not_trained_in_full(train, tiny_t5):
    tiny_t5.is_quantized = True
    with pytest.raises(ValueError, match="method='lora'"):
        train("full")


def test_without_the_best_the_result_names_the_last_checkpoint(train, tmp_path, monkeypatch):
    scores = iter([0.5, 0.4, 0.3])
    monkeypatch.setattr(
        utils.finetuning, "rouge_scores", lambda *_: pd.DataFrame({"rouge1": [next(scores)]})
    )
    result = train(num_train_epochs=3, load_best_model_at_end=False, save_total_limit=3)
    assert (result.kept, result.checkpoint.name, result.epochs) == ("last", "checkpoint-6", 3)
    assert same(
        weights(result.model),
        weights(T5ForConditionalGeneration.from_pretrained(result.checkpoint)),
    )


def test_training_can_stop_early_by_validation_rouge(train, monkeypatch):
    scores = iter([0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(
        utils.finetuning, "rouge_scores", lambda *_: pd.DataFrame({"rouge1": [next(scores)]})
    )
    result = train(num_train_epochs=4, callbacks=[EarlyStoppingCallback(1)])
    assert (result.epochs, result.kept, result.checkpoint.name) == (
        2,
        "best eval_rouge1",
        "checkpoint-2",
    )


def test_the_result_tells_memory_and_the_checkpoint_that_was_kept(train, tmp_path):
    result = train("full", num_train_epochs=2)
    assert result.checkpoint in checkpoints(tmp_path)
    assert result.peak_megabytes >= 0


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this CPU has no bf16")
def test_validation_summaries_are_generated_in_the_precision_of_training(train, monkeypatch):
    seen = []

    def watched(*args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return generate(*args, **kwargs)

    monkeypatch.setattr(utils.finetuning, "generate", watched)
    train(precision="bf16")
    assert seen and all(seen)
