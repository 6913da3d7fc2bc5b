"""The fast layers compute what the slow ones do."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners import lora
from torch.testing import assert_close
from transformers.activations import NewGELUActivation

from utils.training.cpu import (
    ATTENTION,
    BitDropout,
    CastOnceNorm,
    LoraProducts,
    attention_by_products,
    keep_mask,
    use_fast_layers,
)


def test_outputs_and_gradients_of_a_model_stay_the_same(tiny_t5):
    fast = use_fast_layers(copy.deepcopy(tiny_t5))
    assert not any(isinstance(module, NewGELUActivation) for module in fast.modules())
    ids = torch.tensor([[5, 6, 7, 1]])
    losses = [model(input_ids=ids, labels=ids).loss for model in (tiny_t5, fast)]
    for loss in losses:
        loss.backward()
    assert_close(*losses)
    for slow_weight, fast_weight in zip(tiny_t5.parameters(), fast.parameters(), strict=True):
        assert_close(slow_weight.grad, fast_weight.grad, atol=1e-6, rtol=1e-4)


def test_weights_keep_their_names_and_dropout_its_mode(tiny_t5):
    names = list(tiny_t5.state_dict())
    use_fast_layers(tiny_t5.eval())
    assert list(tiny_t5.state_dict()) == names
    dropouts = [module for module in tiny_t5.modules() if isinstance(module, BitDropout)]
    assert dropouts and not any(module.training for module in dropouts)
    assert {module.p for module in dropouts} == {0.1}


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


def test_neighbours_are_dropped_independently():
    """Four decisions come from one draw of 64 bits."""
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


def attention_inputs() -> dict:
    """Two rows, two heads, three queries, five keys of four numbers; the second row's last key is padding."""
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
    """PPO divides the probabilities of the two: in bf16 another kernel would show."""
    inputs = attention_inputs()
    inputs |= {name: inputs[name].to(torch.bfloat16) for name in ("query", "key", "value")}
    with_gradient = attention_by_products(**inputs)[0]
    with torch.no_grad():
        assert torch.equal(attention_by_products(**inputs)[0], with_gradient)
    with torch.inference_mode():
        assert not torch.equal(
            attention_by_products(**inputs)[0], with_gradient
        )  # else this would prove nothing


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
    without = attention_by_products(**inputs, dropout=1e-9)[0]  # rounded to no dropout at all
    assert_close(without, expected)


def test_padding_gets_no_attention_with_dropout():
    inputs = attention_inputs()
    inputs["value"].requires_grad_()
    attention_by_products(**inputs, dropout=0.2)[0].sum().backward()
    assert not inputs["value"].grad[1, :, -1].any()


def test_a_norm_casts_its_output_once_under_autocast_and_computes_in_float32(tiny_t5):
    norm = tiny_t5.encoder.final_layer_norm
    norm.weight.data.uniform_(0.5, 2)
    fast, hidden = CastOnceNorm(norm), 100 * torch.randn(2, 3, norm.weight.numel())
    assert_close(fast(hidden), norm(hidden))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(hidden), fast(hidden.double()).to(torch.bfloat16))
        assert fast(hidden).dtype == torch.bfloat16


def test_a_t5_in_training_uses_the_attention_by_products(tiny_t5):
    tiny_t5.set_attn_implementation("sdpa")
    fast = use_fast_layers(copy.deepcopy(tiny_t5)).train()
    assert fast.encoder.config._attn_implementation == ATTENTION
    ids = torch.tensor([[5, 6, 7, 1], [5, 6, 1, 0]])
    torch.manual_seed(0)
    with_dropout = fast(input_ids=ids, attention_mask=(ids > 0).long(), labels=ids).loss
    fast.eval()
    without = [
        m(input_ids=ids, attention_mask=(ids > 0).long(), labels=ids).loss
        for m in (fast, tiny_t5.eval())
    ]
    assert_close(*without)
    assert with_dropout != without[0]


def test_a_model_with_its_own_choice_of_attention_keeps_it(tiny_t5):
    tiny_t5.set_attn_implementation("eager")
    assert use_fast_layers(tiny_t5).config._attn_implementation == "eager"


def adapted(**changes) -> LoraProducts:
    """A linear layer of 6 → 5 numbers under LoRA of rank 2, B not zero, in fast layers."""
    torch.manual_seed(0)
    config = LoraConfig(
        **{"r": 2, "lora_alpha": 6, "target_modules": ["0"], "lora_dropout": 0.0} | changes
    )
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 5)), config)
    layer = model.base_model.model[0]
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    return LoraProducts.of(layer)


def test_lora_by_three_products_is_w_x_plus_scaled_b_a_x():
    layer, x = adapted(), torch.randn(2, 3, 6)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert_close(layer(x), layer.base_layer(x) + 3 * x @ down.T @ up.T)
    layer(x).square().sum().backward()
    gradients = down.grad.clone(), up.grad.clone()
    layer.zero_grad()
    lora.Linear.forward(layer, x).square().sum().backward()
    assert_close(gradients, (down.grad, up.grad))


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"lora_bias": True}, {"use_rslora": True}])
def test_other_kinds_of_lora_compute_as_peft_does(changes):
    layer, x = adapted(**changes), torch.randn(2, 3, 6)
    assert_close(layer(x), lora.Linear.forward(layer, x))


def test_an_adapter_that_is_off_or_merged_counts_once_or_not_at_all():
    layer, x = adapted(), torch.randn(2, 3, 6)
    with_adapter, without = layer(x), layer.base_layer(x)
    layer.merge()
    assert_close(layer(x), with_adapter)
    layer.unmerge()
    layer.enable_adapters(False)
    assert_close(layer(x), without)


def test_a_float32_adapter_on_a_bf16_base_answers_in_bf16_with_and_without_autocast():
    layer, x = adapted(), torch.randn(2, 3, 6).to(torch.bfloat16)
    layer.base_layer.to(torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(layer(x), lora.Linear.forward(layer, x), atol=0.1, rtol=0.02)
        assert layer(x).dtype == torch.bfloat16


def test_lora_dropout_is_on_in_training_only():
    layer, x = adapted(lora_dropout=0.5), torch.randn(2, 3, 6)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_a_model_under_an_adapter_gets_the_fast_layers_and_can_still_be_merged(tiny_t5):
    model = use_fast_layers(
        get_peft_model(tiny_t5, LoraConfig(r=2, target_modules=["q", "v"]))
    ).eval()
    adapters = [module for module in model.modules() if isinstance(module, lora.Linear)]
    assert adapters and all(type(module) is LoraProducts for module in adapters)
    for module in adapters:
        torch.nn.init.normal_(module.lora_B["default"].weight, std=0.1)
    ids = torch.tensor([[5, 6, 7, 1]])
    expected = model(input_ids=ids, labels=ids).logits
    assert_close(
        model.merge_and_unload()(input_ids=ids, labels=ids).logits, expected, atol=1e-5, rtol=1e-5
    )


def test_attention_that_plans_for_every_shape_is_off(tiny_t5):
    torch.backends.cuda.enable_cudnn_sdp(True)
    use_fast_layers(tiny_t5)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
