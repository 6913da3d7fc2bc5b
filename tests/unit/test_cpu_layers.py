"""CPU speed-ups: the same outputs, gradients and probabilities in less time, and one switch."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close

from utils.training.cpu import (
    ATTENTION,
    BitDropout,
    attention_by_products,
    keep_mask,
    use_cpu_speedups,
    uses_cpu_speedups,
)


@pytest.fixture
def allowed_t5(tiny_t5):
    """The tiny T5, marked as `load_model` marks a model."""
    tiny_t5.cpu_speedups = True
    return tiny_t5


# Which models get them


def test_a_model_without_the_mark_keeps_the_layers_of_the_libraries(tiny_t5):
    for mark in (None, False):
        if mark is not None:
            tiny_t5.cpu_speedups = mark
        assert use_cpu_speedups(tiny_t5) is tiny_t5 and not uses_cpu_speedups(tiny_t5)
        assert not any(isinstance(module, BitDropout) for module in tiny_t5.modules())
        assert tiny_t5.config._attn_implementation == "sdpa"


def test_a_model_on_a_device_other_than_a_cpu_keeps_the_layers_of_the_libraries(allowed_t5):
    model = use_cpu_speedups(allowed_t5.to("meta"))
    assert not uses_cpu_speedups(model)
    assert not any(isinstance(module, BitDropout) for module in model.modules())


def test_a_t5_gets_the_attention_by_products(allowed_t5):
    use_cpu_speedups(allowed_t5)
    assert allowed_t5.encoder.config._attn_implementation == ATTENTION
    assert allowed_t5.decoder.config._attn_implementation == ATTENTION


def test_a_model_with_its_own_choice_of_attention_keeps_it(allowed_t5):
    allowed_t5.set_attn_implementation("eager")
    assert use_cpu_speedups(allowed_t5).config._attn_implementation == "eager"


@pytest.mark.parametrize("allow", [True, False])
def test_layers_of_an_adapter_added_later_follow_the_mark_of_the_base(tiny_t5, allow):
    tiny_t5.cpu_speedups = allow
    config = LoraConfig(r=2, target_modules=["q", "v"], lora_dropout=0.1)
    model = use_cpu_speedups(get_peft_model(use_cpu_speedups(tiny_t5), config))
    dropout = nn.Dropout if not allow else BitDropout
    added = [
        layer for name, layer in model.named_modules() if name.endswith("lora_dropout.default")
    ]
    assert added and {type(layer) for layer in added} == {dropout}
    assert uses_cpu_speedups(model) == uses_cpu_speedups(copy.deepcopy(model)) == allow


def test_cudnn_attention_stays_as_the_process_has_it(allowed_t5):
    before = torch.backends.cuda.cudnn_sdp_enabled()
    use_cpu_speedups(allowed_t5)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


# What a model computes with them


def test_outputs_and_gradients_of_a_model_stay_the_same(allowed_t5):
    fast = use_cpu_speedups(copy.deepcopy(allowed_t5))
    ids = torch.tensor([[5, 6, 7, 1], [5, 6, 1, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids}
    losses = [model(**inputs).loss for model in (allowed_t5, fast)]
    for loss in losses:
        loss.backward()
    assert_close(*losses)
    for slow_weight, fast_weight in zip(allowed_t5.parameters(), fast.parameters(), strict=True):
        assert_close(slow_weight.grad, fast_weight.grad, atol=1e-6, rtol=1e-4)


def test_dropout_is_on_in_training_and_off_in_evaluation(allowed_t5):
    fast = use_cpu_speedups(allowed_t5)
    ids = torch.tensor([[5, 6, 7, 1]])
    first, second = (fast.train()(input_ids=ids, labels=ids).loss for _ in range(2))
    assert first != second
    first, second = (fast.eval()(input_ids=ids, labels=ids).loss for _ in range(2))
    assert first == second


def test_weights_keep_their_names_and_dropout_its_probability_and_mode(allowed_t5):
    names = list(allowed_t5.state_dict())
    use_cpu_speedups(allowed_t5.eval())
    assert list(allowed_t5.state_dict()) == names
    dropouts = [module for module in allowed_t5.modules() if isinstance(module, BitDropout)]
    assert dropouts and not any(module.training for module in dropouts)
    assert {module.p for module in dropouts} == {0.1}


def test_a_model_under_an_adapter_can_still_be_merged(allowed_t5):
    config = LoraConfig(r=2, target_modules=["q", "v"], init_lora_weights=False)
    model = use_cpu_speedups(get_peft_model(allowed_t5, config)).eval()
    ids = torch.tensor([[5, 6, 7, 1]])
    expected = model(input_ids=ids, labels=ids).logits
    merged = model.merge_and_unload()(input_ids=ids, labels=ids).logits
    assert_close(merged, expected, atol=1e-5, rtol=1e-5)


# Dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_elements_are_dropped_with_probability_p_and_the_mean_is_kept(p):
    torch.manual_seed(0)
    mask = keep_mask(torch.Size([300, 1001]), p, torch.float32)
    n = mask.numel()
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], rel=1e-3)
    assert (mask == 0).float().mean().item() == pytest.approx(
        p, abs=4 * (p * (1 - p) / n) ** 0.5 + 1e-5
    )
    assert mask.mean().item() == pytest.approx(1, abs=5 * (p / (1 - p) / n) ** 0.5 + 1e-3)


def test_neighbors_are_dropped_independently():
    """A draw of 64 bits decides about four elements."""
    torch.manual_seed(0)
    dropped = (keep_mask(torch.Size([400_000]), 0.5, torch.float32) == 0).float().view(-1, 4)
    assert torch.corrcoef(dropped.T).fill_diagonal_(0).abs().max() < 0.02


def test_dropout_follows_the_seed_and_is_off_in_evaluation():
    layer, x = BitDropout(0.1), torch.ones(1000)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    assert not torch.equal(layer(x), first)
    assert torch.equal(layer.eval()(x), x)


def test_gradients_pass_where_the_element_was_kept():
    torch.manual_seed(0)
    x = torch.ones(1000, requires_grad=True)
    y = BitDropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


# Attention


def attention_inputs() -> dict:
    """Two rows, two heads, three queries, five keys of size 4; row 2 ends in a padding key."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, n, 4, generator=generator) for n in (3, 5, 5))
    mask = torch.zeros(2, 1, 3, 5)
    mask[1, ..., -1] = torch.finfo(torch.float32).min
    bias = torch.randn(1, 2, 3, 5, generator=generator)
    module = torch.nn.Module()
    return {
        "module": module,
        "query": query,
        "key": key,
        "value": value,
        "attention_mask": mask,
        "position_bias": bias,
        "scaling": 0.7,
    }


def test_attention_without_dropout_is_softmax_of_scaled_scores_plus_bias_and_mask():
    inputs = attention_inputs()
    scores = (
        inputs["query"] @ inputs["key"].transpose(2, 3) * 0.7
        + inputs["position_bias"]
        + inputs["attention_mask"]
    )
    expected = (scores.softmax(dim=-1) @ inputs["value"]).transpose(1, 2)
    assert_close(attention_by_products(**inputs)[0], expected)


def test_attention_is_the_same_in_decoding_and_in_inference_mode_where_another_kernel_computes_it():
    inputs = attention_inputs()
    expected = attention_by_products(**inputs)[0]
    with torch.inference_mode():
        assert_close(attention_by_products(**inputs)[0], expected)
    last = {name: inputs[name][:, :, -1:] for name in ("query", "attention_mask", "position_bias")}
    assert_close(attention_by_products(**inputs | last)[0], expected[:, -1:])


def test_attention_without_a_gradient_is_bit_for_bit_that_with_one():
    """PPO divides the probabilities of the two, and in bf16 another kernel makes them differ."""
    inputs = attention_inputs()
    inputs |= {name: inputs[name].to(torch.bfloat16) for name in ("query", "key", "value")}
    with_gradient = attention_by_products(**inputs)[0]
    with torch.no_grad():
        assert torch.equal(attention_by_products(**inputs)[0], with_gradient)
    with torch.inference_mode():
        assert not torch.equal(
            attention_by_products(**inputs)[0], with_gradient
        )  # or this would prove nothing


def test_attention_without_bias_and_mask_attends_to_everything():
    inputs = attention_inputs() | {"attention_mask": None, "position_bias": None}
    scores = inputs["query"] @ inputs["key"].transpose(2, 3) * 0.7
    expected = (scores.softmax(dim=-1) @ inputs["value"]).transpose(1, 2)
    assert_close(attention_by_products(**inputs)[0], expected)
    assert_close(
        attention_by_products(**inputs | {"query": inputs["query"][:, :, :1]})[0], expected[:, :1]
    )


def test_attention_with_dropout_drops_weights_and_keeps_their_mean():
    inputs = attention_inputs()
    torch.manual_seed(0)
    draws = torch.stack([attention_by_products(**inputs, dropout=0.2)[0] for _ in range(20_000)])
    expected = attention_by_products(**inputs)[0]
    assert_close(draws.mean(dim=0), expected, atol=0.05, rtol=0)
    assert draws.std(dim=0).min() > 0.05
    without = attention_by_products(**inputs, dropout=1e-9)[0]  # rounds to no dropout
    assert_close(without, expected)


def test_padding_gets_no_attention_with_dropout():
    inputs = attention_inputs()
    inputs["value"].requires_grad_()
    attention_by_products(**inputs, dropout=0.2)[0].sum().backward()
    assert not inputs["value"].grad[1, :, -1].any()
