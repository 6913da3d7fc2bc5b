"""Full and LoRA fine-tuning: what the loss counts, what trains, which checkpoint is kept."""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import Dataset
from peft import IA3Config, PeftModel, get_peft_model
from tiny_models import tiny_model
from tiny_training import PAIRS, SMALL, UNSAVED, Scores, checkpoints, losses, same, weights
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)

from utils.finetuning import fine_tune, finetune_arguments, lora_config, tokenize_pairs
from utils.generation import generate
from utils.models import has_bf16, load_model
from utils.settings import load_settings

CPU = torch.device("cpu")
DIALOGUE_ONLY = "{dialogue}"


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


def test_of_several_references_the_first_is_learned(tiny_tokenizer):
    grouped = Dataset.from_dict({"dialogue": ["good"], "summaries": [["nice", "ugly", "bad"]]})
    rows = tokenize_pairs(grouped, tiny_tokenizer)
    assert rows[0]["labels"] == tiny_tokenizer("nice")["input_ids"]


def test_long_texts_are_cut_at_the_limits_and_still_end_in_eos(tiny_tokenizer):
    rows = tokenize_pairs(PAIRS, tiny_tokenizer, DIALOGUE_ONLY, 3, 2)
    assert max(map(len, rows["input_ids"])) == 3
    assert max(map(len, rows["labels"])) == 2
    ends = {row[-1] for row in [*rows["input_ids"], *rows["labels"]]}
    assert ends == {tiny_tokenizer.eos_token_id}


def test_labels_end_in_eos_where_the_tokenizer_marks_only_the_start():
    """Gemma's tokenizer does so, and the decoder is given the start-of-sequence token already."""
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "good": 3, "bad": 4}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        "<bos> $A", special_tokens=[("<bos>", 2)]
    )
    marks = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    gemma_like = PreTrainedTokenizerFast(tokenizer_object=backend, **marks)
    pairs = Dataset.from_dict({"dialogue": ["good"] * 2, "summary": ["good bad", "good bad good"]})
    rows = tokenize_pairs(pairs, gemma_like, DIALOGUE_ONLY, max_summary_tokens=3)
    assert list(rows["labels"]) == [[3, 4, 1], [3, 4, 1]]
    assert list(rows["input_ids"]) == [[2, 3]] * 2
    assert set(rows.column_names) == {"input_ids", "attention_mask", "labels"}


# --- what the loss counts ---


class Batches(TrainerCallback):
    """Keeps the batches that the Trainer makes for training and for evaluation."""

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.seen = list(train_dataloader)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        self.seen += list(eval_dataloader)


@pytest.fixture
def batches(train):
    """One batch of training and one of evaluation."""
    callback = Batches()
    sizes = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    train(callbacks=[callback], max_new_tokens=2, **sizes)
    assert len(callback.seen) == 2
    return callback.seen


def test_label_padding_is_masked_with_minus_100(batches, tiny_tokenizer):
    # Whole: the limit on new summaries, 2 tokens, does not cut those that are learned from.
    labels = {tuple(tiny_tokenizer(summary)["input_ids"]) for summary in PAIRS["summary"]}
    for batch in batches:
        rows = batch["labels"].tolist()
        assert {tuple(i for i in row if i != -100) for row in rows} == labels
        assert any(row[-1] == -100 for row in rows)
        assert not (batch["labels"] == tiny_tokenizer.pad_token_id).any()


def test_batches_are_padded_to_their_longest_row_only_and_the_mask_hides_it(
    batches, tiny_tokenizer
):
    longest = max(len(tiny_tokenizer(dialogue)["input_ids"]) for dialogue in PAIRS["dialogue"])
    for batch in batches:
        padding = batch["input_ids"] == tiny_tokenizer.pad_token_id
        assert batch["input_ids"].shape == (4, longest) and padding.any()
        assert torch.equal(batch["attention_mask"], (~padding).long())


@torch.no_grad()
def loss_by_hand(model, tokenizer, pairs) -> float:
    """Return the mean of −log p over the summaries' tokens, each pair alone and unpadded."""
    total, tokens = 0.0, 0
    for pair in pairs:
        prompt = tokenizer(pair["dialogue"], return_tensors="pt")
        target = tokenizer(pair["summary"], return_tensors="pt")["input_ids"][0]
        decoder_input = torch.cat([torch.tensor([0]), target[:-1]])  # T5 starts with its pad token
        logits = model(**prompt, decoder_input_ids=decoder_input[None]).logits[0]
        logprobs = torch.log_softmax(logits, dim=-1)  # (time, vocabulary)
        total -= logprobs[torch.arange(len(target)), target].sum().item()
        tokens += len(target)
    return total / tokens


def test_loss_of_a_padded_batch_is_the_mean_over_its_real_tokens(train, tiny_t5, tiny_tokenizer):
    expected = loss_by_hand(tiny_t5, tiny_tokenizer, PAIRS)
    # At a rate of 0 the model that is evaluated is the model that was trained.
    still = {"per_device_train_batch_size": 4, "learning_rate": 0.0}
    history = train(model=tiny_model("t5", dropout_rate=0.0), **still).history
    for name in ("loss", "eval_loss"):  # logged with four decimals
        assert history[name].dropna().tolist() == pytest.approx([expected], abs=1e-3)


def test_label_smoothing_mixes_in_the_mean_over_the_vocabulary(train, tiny_tokenizer):
    """Szegedy et al. 2016: (1 − ε) · −log p(label) + ε · the mean of −log p over all tokens."""
    model = tiny_model("t5", dropout_rate=0.0)
    batch = tiny_tokenizer(["good bad"], return_tensors="pt")
    labels = tiny_tokenizer(["nice"], return_tensors="pt")["input_ids"]
    logprobs = torch.log_softmax(model(**batch, labels=labels).logits[0], dim=-1)
    of_labels = logprobs[torch.arange(labels.shape[1]), labels[0]]
    expected = (-0.7 * of_labels - 0.3 * logprobs.mean(dim=-1)).mean().item()
    rows = Dataset.from_dict({"dialogue": ["good bad"], "summary": ["nice"]})
    smoothed = {"learning_rate": 0.0, "label_smoothing_factor": 0.3}
    assert losses(train(model=model, rows=rows, **smoothed)) == pytest.approx([expected], abs=1e-3)


# --- one whole run of each method ---


def whole_run(method, folder, tokenizer, **changes) -> SimpleNamespace:
    """Train for four epochs; return the result, the initial weights and the folder."""
    model = tiny_model("t5")
    before, arguments = weights(model), SMALL | {"num_train_epochs": 4, "learning_rate": 3e-2}
    result = fine_tune(model, tokenizer, PAIRS, PAIRS, method, str(folder), **arguments | changes)
    return SimpleNamespace(method=method, given=model, before=before, result=result, folder=folder)


@pytest.fixture(scope="module")
def full_run(tmp_path_factory, tiny_tokenizer):
    """A run of full fine-tuning."""
    return whole_run("full", tmp_path_factory.mktemp("full"), tiny_tokenizer)


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory, tiny_tokenizer):
    """A run of LoRA."""
    folder = tmp_path_factory.mktemp("lora")
    return whole_run("lora", folder, tiny_tokenizer, peft_config=lora_config(rank=4))


@pytest.fixture(params=["full", "lora"])
def run(request):
    """A run of each method."""
    return request.getfixturevalue(f"{request.param}_run")


def test_history_holds_losses_and_rouge_of_every_epoch(run):
    history = run.result.history
    assert history.dropna(subset="loss")["step"].tolist() == list(range(1, 9))
    for name in ("eval_loss", "eval_rouge1", "eval_rouge2", "eval_rougeL", "eval_rougeLsum"):
        assert history.dropna(subset=name)["epoch"].tolist() == [1, 2, 3, 4]
    assert (run.result.method, run.result.epochs) == (run.method, 4)
    assert run.result.checkpoint in checkpoints(run.folder)


def test_the_model_comes_back_in_eval_mode_without_gradients(run):
    assert not any(module.training for module in run.result.model.modules())
    assert all(parameter.grad is None for parameter in run.result.model.parameters())


def test_the_loss_falls(run):
    found = losses(run.result)
    assert sum(found[-2:]) < sum(found[:2])


def test_full_training_changes_every_weight_of_the_model_given(full_run):
    model = full_run.result.model
    assert model is full_run.given
    total = sum(parameter.numel() for parameter in model.parameters())
    counts = {"total": total, "trainable": total, "trainable_percent": 100.0}
    assert full_run.result.parameters == counts
    after = weights(model)
    assert all(not torch.equal(full_run.before[name], after[name]) for name in after)


def test_only_the_adapter_trains_and_its_size_is_right(lora_run):
    model, counts = lora_run.result.model, lora_run.result.parameters
    trainable = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_A." in name or ".lora_B." in name for name in trainable)
    # q and v of 2 encoder layers (self) and 2 decoder layers (self, cross): 2 · (2 + 4) = 12
    # matrices of 32 × 32; each gains A (4 × 32) and B (32 × 4): 12 · 4 · (32 + 32) = 3,072.
    assert sum(trainable.values()) == counts["trainable"] == 3072
    assert counts["trainable_percent"] == pytest.approx(100 * 3072 / counts["total"])


def test_lora_leaves_the_base_as_it_was_and_changes_the_adapter(lora_run):
    model, before = lora_run.result.model, lora_run.before
    base = {k.replace(".base_layer", ""): v for k, v in weights(model.get_base_model()).items()}
    assert all(torch.equal(base[name], before[name]) for name in before)
    assert all(p.abs().max() > 0 for name, p in model.named_parameters() if ".lora_B." in name)


def test_a_saved_full_checkpoint_writes_the_same_text(full_run, tiny_tokenizer, tmp_path):
    model = full_run.result.model
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    for folder in (tmp_path, full_run.result.checkpoint):
        reloaded, tokenizer = load_model(str(folder), device="cpu")
        texts = generate(reloaded, tokenizer, PAIRS["dialogue"])
        assert texts == generate(model, tiny_tokenizer, PAIRS["dialogue"])
        assert same(weights(reloaded), weights(model))


def test_a_saved_adapter_on_a_fresh_base_writes_the_same_text(lora_run, tiny_tokenizer, tmp_path):
    model, base = lora_run.result.model, tiny_model("t5")
    model.save_pretrained(tmp_path)
    written = [path.name for path in tmp_path.glob("*.safetensors")]
    assert written == ["adapter_model.safetensors"]
    batch = tiny_tokenizer(list(PAIRS["dialogue"]), padding=True, return_tensors="pt")
    batch["decoder_input_ids"] = torch.zeros(len(batch["input_ids"]), 1, dtype=torch.long)
    before = base(**batch).logits
    reloaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert_close(reloaded(**batch).logits, model(**batch).logits, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(reloaded(**batch).logits, before, atol=0.1)
    texts = [generate(m, tiny_tokenizer, PAIRS["dialogue"]) for m in (reloaded, model)]
    assert texts[0] == texts[1]


def test_full_training_learns_a_tiny_task_by_heart(train, tiny_tokenizer):
    result = train(num_train_epochs=25, learning_rate=2e-2, **UNSAVED)
    answers = generate(result.model, tiny_tokenizer, PAIRS["dialogue"], max_new_tokens=8)
    assert answers == PAIRS["summary"]


# --- LoRA ---


def test_the_default_adapter_of_flan_t5_base_has_3538944_parameters():
    # 12 + 2 · 12 attentions, q and v of each, 32 · (768 + 768) parameters: 72 · 49,152.
    shape = T5Config(vocab_size=100, d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12)
    with torch.device("meta"):
        model = get_peft_model(T5ForConditionalGeneration(shape), lora_config())
    assert model.get_nb_trainable_parameters()[0] == 3_538_944


def test_alpha_equals_the_rank_so_that_the_adapter_is_not_scaled():
    assert lora_config(rank=7).lora_alpha == lora_config(rank=7).r == 7
    assert lora_config(rank=8, lora_alpha=16).lora_alpha == 16


def test_a_fresh_adapter_changes_nothing_because_b_is_zero(train, tiny_t5, tiny_tokenizer):
    batch = tiny_tokenizer(list(PAIRS["dialogue"]), padding=True, return_tensors="pt")
    batch["decoder_input_ids"] = torch.tensor([[0, 5, 6]] * 4)
    before = tiny_t5(**batch).logits
    model = train("lora", learning_rate=0.0, **UNSAVED).model
    assert all(p.abs().max() == 0 for name, p in model.named_parameters() if ".lora_B." in name)
    assert all(p.abs().max() > 0 for name, p in model.named_parameters() if ".lora_A." in name)
    assert_close(model(**batch).logits, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"use_rslora": True}, {"target_modules": ["wo"]}]
)
def test_other_adapters_are_passed_as_a_peft_config(train, changes):
    result = train("lora", peft_config=lora_config(2, **changes), **UNSAVED)
    config = result.model.peft_config["default"]
    expected = {k: set(v) if isinstance(v, list) else v for k, v in changes.items()}
    assert {name: getattr(config, name) for name in changes} == expected
    assert 0 < result.parameters["trainable_percent"] < 50


def test_an_adapter_of_another_kind_trains_too(train):
    config = IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=["k", "v"], feedforward_modules=[])
    result = train("lora", peft_config=config, **UNSAVED)
    assert isinstance(result.model.peft_config["default"], IA3Config)
    # A factor for each output of k and v, in 2 + 2 × 2 attentions.
    assert result.parameters["trainable"] == 2 * 6 * 32


# --- validation and the best checkpoint ---


def test_validation_rouge_comes_from_generated_summaries_and_all_references(
    train, tiny_t5, tiny_tokenizer
):
    asked = []

    def write(encoder_outputs, **config):
        asked.append((config["max_new_tokens"], tiny_t5.training))
        return tiny_tokenizer(["good bad", "nice"], padding=True, return_tensors="pt")["input_ids"]

    tiny_t5.generate = write
    references = [["good bad", "ugly"], ["nice", "nice"]]
    grouped = Dataset.from_dict({"dialogue": ["good", "bad"], "summaries": references})
    history = train(validation=grouped).history
    # First dialogue (1 + 0) / 2, second (1 + 1) / 2: mean 0.75.
    assert history["eval_rouge1"].dropna().tolist() == [0.75]
    assert asked == [(8, False)]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_checkpoint_with_the_best_validation_rouge1_is_kept(train, tmp_path, method):
    scores = Scores(0.1, 0.3, 0.2)  # the second epoch is best, whatever the loss says
    result = train(method, num_train_epochs=3, save_total_limit=3, callbacks=[scores])
    assert (result.kept, result.checkpoint.name) == ("best eval_rouge1", "checkpoint-4")
    for folder in checkpoints(tmp_path)[1:]:
        if method == "full":
            saved = T5ForConditionalGeneration.from_pretrained(folder)
        else:
            base = copy.deepcopy(result.model).unload()
            saved = PeftModel.from_pretrained(base, folder, is_trainable=True)
        assert same(weights(saved), weights(result.model)) == (folder == result.checkpoint)


def test_the_best_checkpoint_outlives_the_limit_on_checkpoints(train, tmp_path):
    train(num_train_epochs=4, callbacks=[Scores(0.3, 0.1, 0.1, 0.1)])
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-8"]


def test_without_the_best_the_result_names_the_last_checkpoint(train):
    result = train(num_train_epochs=2, load_best_model_at_end=False, callbacks=[Scores(0.5, 0.4)])
    assert (result.kept, result.checkpoint.name, result.epochs) == ("last", "checkpoint-4", 2)
    saved = T5ForConditionalGeneration.from_pretrained(result.checkpoint)
    assert same(weights(result.model), weights(saved))


def test_training_can_stop_early_by_validation_rouge(train):
    callbacks = [Scores(0.5, 0.4, 0.3, 0.2), EarlyStoppingCallback(1)]
    result = train(num_train_epochs=4, callbacks=callbacks)
    assert (result.epochs, result.kept) == (2, "best eval_rouge1")
    assert result.checkpoint.name == "checkpoint-2"


# --- precision, progress, settings ---


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_training_is_never_in_fp16_and_weights_stay_float32(train, tmp_path, precision):
    model = train(precision=precision).model
    arguments = torch.load(checkpoints(tmp_path)[-1] / "training_args.bin", weights_only=False)
    assert not arguments.fp16
    assert arguments.bf16 == (precision == "auto" and has_bf16(CPU))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.skipif(not has_bf16(CPU), reason="this CPU has no bf16")
def test_validation_summaries_are_generated_in_the_precision_of_training(train, tiny_t5):
    original, seen = tiny_t5.generate, []

    def watched(*args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return original(*args, **kwargs)

    tiny_t5.generate = watched
    train(precision="bf16")
    assert seen and all(seen)


def test_a_step_of_training_fills_no_cache(train, tiny_t5):
    caches = []
    tiny_t5.decoder.register_forward_hook(
        lambda module, args, output: caches.append(output.past_key_values)
    )
    train(**UNSAVED)
    assert caches and all(cache is None for cache in caches)


def test_a_bar_shows_progress_and_loss_and_no_log_entry_is_printed(train, capsys):
    train(disable_tqdm=False)
    shown = capsys.readouterr()
    assert "2/2" in shown.err and "loss=" in shown.err
    assert "{" not in shown.out + shown.err


def test_no_bar_is_shown_where_transformers_only_reports_errors(train, capsys):
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        train(disable_tqdm=None, **UNSAVED)
    finally:
        transformers.logging.set_verbosity(level)
    shown = capsys.readouterr()
    assert "2/2" not in shown.err and "{" not in shown.out + shown.err


@pytest.mark.parametrize("method", ["full", "lora"])
def test_settings_reach_training(train, tiny_tokenizer, method):
    settings = load_settings("offline", max_prompt_tokens=3, batch_size=4, lora_rank=2, seed=5)
    arguments = finetune_arguments(settings, method, weight_decay=0.1, max_steps=1)
    assert arguments["num_train_epochs"] == getattr(settings, f"{method}_epochs")
    callback = Batches()
    result = train(callbacks=[callback], **arguments | UNSAVED)
    assert callback.seen[0]["input_ids"].shape == (4, 3)  # cut at the longest prompt
    asked = {"learning_rate": getattr(settings, f"{method}_learning_rate"), "batch_size": 4}
    assert asked.items() <= result.recipe.items() and result.recipe["seed"] == 5
    assert arguments["weight_decay"] == 0.1
    if method == "lora":
        assert result.model.peft_config["default"].r == 2


@pytest.mark.parametrize(("method", "rate"), [("full", 1e-4), ("lora", 1e-3)])
def test_a_learning_rate_of_none_is_the_default_of_the_method(train, method, rate):
    assert train(method, learning_rate=None, **UNSAVED).recipe["learning_rate"] == rate


# --- what is refused ---


def test_an_unknown_method_is_refused(train):
    for ask in (train, lambda method: finetune_arguments(load_settings("offline"), method)):
        with pytest.raises(ValueError, match=r"'qlora'.*full or lora"):
            ask("qlora")


@pytest.mark.parametrize("precision", ["fp16", "half"])
def test_a_precision_other_than_auto_fp32_and_bf16_is_refused(train, precision):
    with pytest.raises(ValueError, match=precision):
        train(precision=precision)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fp16": True}, "fp16=True .* precision='auto'"),
        ({"weight_decai": 0.1}, "'weight_decai': did you mean weight_decay"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens=0 must be .* at least 1"),
        ({"max_new_tokens": 1.5}, "max_new_tokens=1.5 must be a whole number"),
        ({"rows": PAIRS.select([])}, "train has no rows"),
        (
            {"validation": PAIRS.remove_columns("summary")},
            r"validation has .*\['dialogue'\].*it needs",
        ),
        ({"template": "Summarize."}, "'Summarize.' has no {dialogue}"),
    ],
)
def test_arguments_and_data_that_cannot_be_used_are_refused(train, arguments, message):
    with pytest.raises(ValueError, match=message):
        train(**arguments)


def test_a_peft_config_with_full_training_is_refused(train, tiny_t5):
    with pytest.raises(ValueError, match="peft_config is given: choose method='lora'"):
        train("full", peft_config=lora_config())
    assert not any("lora" in name for name, _ in tiny_t5.named_parameters())


def test_a_quantized_model_is_not_trained_in_full(train, tiny_t5):
    tiny_t5.is_quantized = True
    with pytest.raises(ValueError, match="quantized: choose method='lora'"):
        train("full")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_with_an_adapter_is_refused(train, tiny_t5, method):
    with pytest.raises(ValueError, match=r"PeftModel: .*merge_and_unload"):
        train(method, get_peft_model(tiny_t5, lora_config()))


def test_a_decoder_only_model_is_refused(train):
    gpt2 = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=8)
    )
    with pytest.raises(ValueError, match=r"'gpt2' is not an encoder-decoder: .*TRL's SFTTrainer"):
        train("full", gpt2)


@pytest.mark.parametrize(
    ("method", "dtype"),
    [("full", torch.float16), ("lora", torch.float16), ("full", torch.bfloat16)],
)
def test_weights_of_half_precision_are_not_trained(train, tiny_t5, method, dtype):
    with pytest.raises(ValueError, match=rf"{dtype}.*dtype=torch.float32"):
        train(method, tiny_t5.to(dtype))
