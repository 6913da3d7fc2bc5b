"""The fast layers compute what the slow ones do."""

import copy

import pytest
import torch
from torch.testing import assert_close
from transformers.activations import NewGELUActivation

from utils.fast_layers import BitDropout, keep_mask, use_fast_layers


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
    assert (mask == 0).float().mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5 + 1e-5)
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
