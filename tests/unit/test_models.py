import copy
import json

import pytest
import tiny_models
import torch
from peft import get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, RobertaConfig, T5Config, T5ForConditionalGeneration

from utils import models
from utils.finetuning import lora_config
from utils.hub import UnavailableError
from utils.models import (
    autocast,
    has_bf16,
    load_model,
    parameter_counts,
    pick_device,
    use_bf16,
)
from utils.ppo.precision import frozen_weights_in_bf16, prepared_for_decoding
from utils.training.cpu import ATTENTION, uses_cpu_speedups

CPU = torch.device("cpu")


@pytest.fixture
def folder(tiny_t5, tiny_tokenizer, tmp_path) -> str:
    """The tiny T5 as a checkpoint, head tied."""
    tiny_t5.train().save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.fixture
def untied_folder(tiny_t5, tiny_tokenizer, tmp_path) -> str:
    """The tiny T5 as google/flan-t5-* are stored: an untied head, and the file says so."""
    untie(tiny_t5)
    tiny_t5.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["scale_decoder_outputs"]  # unknown to the transformers of that time
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return str(tmp_path)


def untie(model: T5ForConditionalGeneration) -> None:
    """A head of its own; the two embeddings of encoder and decoder stay one with `shared`."""
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.shared.weight))
    model.config.tie_word_embeddings = False


def logits(model: T5ForConditionalGeneration) -> torch.Tensor:
    return model(
        input_ids=torch.tensor([[5, 6, 7, 1]]), decoder_input_ids=torch.tensor([[0, 8, 9]])
    ).logits


# Loading


def test_a_loaded_model_is_in_eval_mode_in_fp32_with_cpu_speedups(folder):
    model, tokenizer = load_model(folder, device="cpu")
    assert not any(module.training for module in model.modules())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == ATTENTION
    assert uses_cpu_speedups(model)
    assert (
        tokenizer.decode(tokenizer("good hello")["input_ids"], skip_special_tokens=True)
        == "good hello"
    )


def test_cpu_speedups_can_be_switched_off(folder):
    model, _ = load_model(folder, device="cpu", cpu_speedups=False)
    assert not uses_cpu_speedups(model)
    assert model.config._attn_implementation == "sdpa"
    assert {type(m) for m in model.modules() if isinstance(m, nn.Dropout)} == {nn.Dropout}


def test_a_loaded_model_answers_twice_the_same(folder):
    model, _ = load_model(folder, device="cpu")
    assert torch.equal(logits(model), logits(model))


def test_a_loaded_model_computes_what_the_saved_one_did(folder, tiny_t5):
    model, _ = load_model(folder, device="cpu")
    assert torch.allclose(logits(model), logits(tiny_t5.eval()), atol=1e-5)


def test_weights_are_fp32_even_where_the_file_says_bf16(tiny_t5, tiny_tokenizer, tmp_path):
    tiny_t5.to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    assert load_model(str(tmp_path), device="cpu")[0].dtype == torch.float32
    assert load_model(str(tmp_path), device="cpu", dtype=torch.bfloat16)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("missing", ["nobody/no-such-model", "/no/such/folder", "no-such-model"])
def test_an_unreachable_model_is_named_in_one_line_with_the_remedy(missing):
    with pytest.raises(UnavailableError, match=rf"'{missing}'.*LABS_PRESET=offline") as error:
        load_model(missing)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__  # no page of the hub client's own errors above it


def test_a_folder_without_a_model_is_named_with_the_remedy(tmp_path):
    with pytest.raises(UnavailableError, match=rf"'{tmp_path}'.*LABS_PRESET=offline"):
        load_model(str(tmp_path))


def test_a_download_cut_short_is_named_with_the_remedy(folder, tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UnavailableError, match=rf"'{folder}'.*LABS_PRESET=offline"):
        load_model(folder)


@pytest.mark.parametrize(
    "config",
    [GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=113), RobertaConfig(num_hidden_layers=1)],
    ids=["decoder only", "encoder only"],
)
def test_another_architecture_is_refused_with_what_to_use_instead(config, tiny_tokenizer, tmp_path):
    config.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    sentence = rf"{config.model_type} model, not an encoder-decoder.*TRL's GRPOTrainer or RLOOTra"
    with pytest.raises(ValueError, match=sentence):
        load_model(str(tmp_path))


# The head of FLAN-T5


def test_a_head_unlike_the_embedding_loads_untied(untied_folder, tiny_t5):
    model, _ = load_model(untied_folder, device="cpu")
    assert torch.equal(model.lm_head.weight, tiny_t5.lm_head.weight)
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight


def test_an_untied_head_reads_unscaled_decoder_outputs_and_stays_so_when_saved_again(
    untied_folder, tmp_path
):
    model, tokenizer = load_model(untied_folder, device="cpu")
    assert not model.config.scale_decoder_outputs
    model.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load_model(str(tmp_path / "again"), device="cpu")[0]), logits(model))


# Parameters


def test_shared_weights_count_once():
    embedding, head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    model = nn.ModuleList([embedding, head])
    assert parameter_counts(model)["total"] == 80
    head.weight = embedding.weight
    assert parameter_counts(model)["total"] == 40


def test_trainable_share_is_in_percent():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 12, bias=False))  # 20 and 60
    model[1].requires_grad_(False)
    assert parameter_counts(model) == {"total": 80, "trainable": 20, "trainable_percent": 25.0}


def test_flan_t5_base_has_247577856_parameters_and_lora_trains_3538944():
    config = T5Config(
        d_model=768,
        d_ff=2048,
        num_layers=12,
        num_heads=12,
        vocab_size=32_128,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
        assert (
            parameter_counts(model)["total"] == 222_903_552
        )  # built from a config, transformers 5 ties the head
        untie(model)
        assert parameter_counts(model)["total"] == 247_577_856
        counts = parameter_counts(get_peft_model(model, lora_config(rank=32)))
    assert (counts["total"], counts["trainable"]) == (251_116_800, 3_538_944)
    assert counts["trainable_percent"] == pytest.approx(1.41, abs=0.005)


# Device and precision


def test_the_device_asked_for_wins_and_cuda_comes_first_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda")
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize(("mps", "device"), [(True, "mps"), (False, "cpu")])
def test_without_cuda_the_device_is_mps_or_the_cpu(monkeypatch, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device().type == device


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_cuda_has_bf16_from_ampere_on_and_a_t4_has_not(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bf16(torch.device("cuda")) is expected


@pytest.mark.parametrize("expected", [True, False])
def test_a_cpu_has_bf16_where_its_instructions_say_so(monkeypatch, expected):
    known = {"avx512_bf16": expected}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert has_bf16(CPU) is expected


def test_mps_counts_as_without_bf16():
    assert has_bf16(torch.device("mps")) is False


@pytest.mark.parametrize(
    ("precision", "there", "expected"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("bf16", True, True),
        ("fp32", True, False),
        ("fp32", False, False),
    ],
)
def test_bf16_is_used_where_available_unless_fp32_is_asked_for(
    monkeypatch, precision, there, expected
):
    monkeypatch.setattr(models, "has_bf16", lambda device: there)
    assert use_bf16(precision, CPU) is expected


def test_bf16_is_refused_where_the_device_has_none(monkeypatch):
    monkeypatch.setattr(models, "has_bf16", lambda device: False)
    with pytest.raises(ValueError, match=r"'bf16'.*cpu.*'auto' or 'fp32'"):
        autocast("bf16", CPU)


def test_fp16_is_refused_because_it_overflows_in_t5():
    with pytest.raises(ValueError, match=r"fp16"):
        use_bf16("fp16", CPU)


def test_fp32_is_fp32_even_inside_bf16_autocast():
    a = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16), autocast("fp32", CPU):
        assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize(("there", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast_computes_in_bf16_or_fp32_and_never_in_fp16(monkeypatch, there, dtype):
    monkeypatch.setattr(models, "has_bf16", lambda device: there)
    layer = nn.Linear(2, 2)
    with autocast("auto", CPU):
        assert layer(torch.ones(1, 2)).dtype == dtype
    assert layer.weight.dtype == layer(torch.ones(1, 2)).dtype == torch.float32


# Weights cast once


class Casts(TorchDispatchMode):
    """Counts the casts of tensors of one shape to bf16."""

    def __init__(self, shape: torch.Size):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default and args[0].shape == self.shape:
            self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_weight_used_three_times_is_cast_once_and_the_outcome_is_the_same(frozen):
    layer, x = nn.Linear(7, 5).requires_grad_(not frozen), torch.randn(3, 7)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        with Casts(layer.weight.shape) as casts, prepared_for_decoding(layer):
            outcomes = [layer(x) for _ in range(3)]
    assert casts.count == 1 or (
        not frozen and casts.count == 0
    )  # then autocast remembers that of the first line
    assert all(torch.equal(outcome, expected) and not outcome.requires_grad for outcome in outcomes)
    assert layer.weight.requires_grad is not frozen


def test_a_frozen_weight_is_cast_at_each_use_without_prepared_for_decoding():
    layer, x = nn.Linear(7, 5).requires_grad_(False), torch.randn(3, 7)
    with torch.autocast("cpu", torch.bfloat16), Casts(layer.weight.shape) as casts:
        for _ in range(3):
            layer(x)
    assert casts.count == 3


def test_a_weight_cast_without_a_gradient_still_learns_afterwards_under_the_same_autocast():
    layer, x = nn.Linear(7, 5), torch.randn(3, 7)
    with torch.autocast("cpu", torch.bfloat16):
        with prepared_for_decoding(layer):
            layer(x)
        layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, x.sum(dim=0).expand(5, 7), atol=0.05)  # d Σ xW / dW


def test_a_layer_computes_as_before_after_an_error():
    layer, x = nn.Linear(2, 2).requires_grad_(False), torch.ones(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(KeyError), prepared_for_decoding(layer):
            raise KeyError
        layer.weight.zero_()  # a layer that still had its cast weight would not see this
        assert torch.equal(layer(x)[0], layer.bias.bfloat16())


def test_a_layer_with_a_forward_of_its_own_keeps_it():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2)
    layer.forward = hook = lambda hidden: hidden + 1  # as accelerate sets one to move weights
    with torch.autocast("cpu", torch.bfloat16), prepared_for_decoding(layer):
        assert torch.equal(layer(x), x + 1)
    assert layer.forward is hook


@torch.no_grad()
def test_float32_weights_are_packed_and_give_the_same_output():
    layer, x = nn.Linear(64, 32), torch.randn(3, 64)
    expected = layer(x)
    with prepared_for_decoding(layer):
        packed = "forward" in vars(layer)
        assert torch.allclose(layer(x), expected, atol=1e-5)
    assert packed and torch.equal(layer(x), expected)


def test_layers_are_left_alone_where_speedups_are_off():
    layer = nn.Linear(2, 2)
    layer.cpu_speedups = False
    with prepared_for_decoding(layer):
        assert "forward" not in vars(layer)
    casts = Casts(layer.weight.shape)
    with torch.autocast("cpu", torch.bfloat16), casts, prepared_for_decoding(layer):
        assert casts.count == 0


def test_a_frozen_weight_in_bf16_gives_the_same_under_autocast_and_is_float32_afterwards(tiny_t5):
    tiny_t5.requires_grad_(False)
    found, ids = copy.deepcopy(tiny_t5), torch.tensor([[5, 6, 7, 1]])
    with torch.autocast("cpu", torch.bfloat16):
        expected = tiny_t5(input_ids=ids, labels=ids).logits
        with frozen_weights_in_bf16(tiny_t5):
            assert tiny_t5.encoder.block[0].layer[0].SelfAttention.q.weight.dtype == torch.bfloat16
            assert torch.equal(tiny_t5(input_ids=ids, labels=ids).logits, expected)
    for (name, weight), original in zip(
        tiny_t5.named_parameters(), found.parameters(), strict=True
    ):
        assert weight.dtype == torch.float32, name
        assert torch.equal(weight, original) or torch.equal(
            weight, original.to(torch.bfloat16).float()
        ), name


def test_weights_that_learn_and_a_head_that_is_the_embedding_stay_float32_in_the_block():
    model = nn.Sequential(
        nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
    ).requires_grad_(False)
    model[2].weight = model[0].weight
    model[1].weight.requires_grad_(True)
    with frozen_weights_in_bf16(model):
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_head_of_its_own_stays_float32_in_the_block():
    model = tiny_models.tiny_model("t5")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    model.requires_grad_(False)
    with frozen_weights_in_bf16(model):
        assert model.lm_head.weight.dtype == torch.float32
        assert model.decoder.block[0].layer[0].SelfAttention.q.weight.dtype == torch.bfloat16


def test_frozen_weights_are_float32_again_after_an_error():
    layer = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(KeyError), frozen_weights_in_bf16(layer):
        assert layer.weight.dtype == torch.bfloat16
        raise KeyError
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_quantized_base_needs_cuda_and_says_so(offline_t5, quantization):
    with pytest.raises(
        ValueError, match=rf"'{quantization}' needs a CUDA device \(this one is cpu\).*choose None"
    ):
        load_model(offline_t5, device="cpu", quantization=quantization)


def test_an_unknown_quantization_is_refused_with_the_choices(offline_t5):
    with pytest.raises(ValueError, match="'3bit': choose '8bit', '4bit' or None"):
        load_model(offline_t5, quantization="3bit")


@pytest.fixture
def adapted(tiny_t5):
    """A T5 whose LoRA adapter changes something, in eval mode."""
    net = get_peft_model(tiny_t5, lora_config(4, target_modules="all-linear")).eval()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return net


INPUTS = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "labels": torch.tensor([[8, 9, 1]])}


def test_an_adapter_is_added_to_its_weights_for_decoding_and_nothing_stays_changed(adapted):
    before = {name: weight.clone() for name, weight in adapted.named_parameters()}
    with torch.no_grad():
        expected = adapted(**INPUTS).logits
        layer = next(m for m in adapted.modules() if hasattr(m, "lora_A"))
        calls = []
        layer.lora_A["default"].register_forward_hook(lambda *args: calls.append(1))
        with prepared_for_decoding(adapted):
            merged = adapted(**INPUTS).logits
        assert not calls  # the adapter's own products were not computed
        assert torch.allclose(merged, expected, atol=1e-5) and not torch.equal(merged, expected)
        with adapted.disable_adapter(), prepared_for_decoding(adapted):
            assert not torch.allclose(adapted(**INPUTS).logits, expected, atol=1e-3)
        assert torch.equal(adapted(**INPUTS).logits, expected) and calls
    assert all(torch.equal(before[name], weight) for name, weight in adapted.named_parameters())


def test_under_autocast_an_adapter_is_not_merged_because_bf16_would_round_it_away(adapted):
    layer, calls = next(m for m in adapted.modules() if hasattr(m, "lora_A")), []
    layer.lora_A["default"].register_forward_pre_hook(lambda *args: calls.append(1))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), prepared_for_decoding(adapted):
        adapted(**INPUTS)
    assert vars(layer).get("forward") is None and calls


def test_an_adapter_over_bf16_weights_computes_itself_without_autocast(adapted):
    adapted = adapted.to(torch.bfloat16)
    with torch.no_grad(), prepared_for_decoding(adapted):
        assert adapted(**INPUTS).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("why", ["speedups are off", "it trains", "it is DoRA"])
def test_an_adapter_that_is_no_plain_sum_or_may_not_be_merged_computes_itself(adapted, why):
    if why == "it is DoRA":
        base = adapted.unload()
        adapted = get_peft_model(base, lora_config(4, use_dora=True)).eval()
    adapted.train(why == "it trains")
    adapted.cpu_speedups = why != "speedups are off"
    layer, calls = next(m for m in adapted.modules() if hasattr(m, "lora_A")), []
    layer.lora_A["default"].register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad(), prepared_for_decoding(adapted):
        adapted(**INPUTS)
    assert calls
