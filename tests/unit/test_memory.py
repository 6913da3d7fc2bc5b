"""Memory of a device, and what a training step needs of it."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from peft import get_peft_model
from transformers import T5Config

from utils.finetuning import lora_config
from utils.training.memory import activation_bytes, device_memory, stored_activations


@pytest.mark.parametrize(
    ("rows", "tokens", "gigabytes"), [(16, 220, 4.0), (16, 512, 11.2), (8, 1024, 14.7)]
)
def test_activations_of_flan_t5_base_are_estimated_as_they_were_measured(rows, tokens, gigabytes):
    base = T5Config(d_model=768, d_ff=2048, num_layers=12, num_heads=12)
    assert activation_bytes(base, rows, tokens) / 1e9 == pytest.approx(gigabytes, rel=0.1)


def test_without_a_gpu_the_memory_is_the_machines():
    assert device_memory(torch.device("cpu")) == psutil.virtual_memory().total


def test_on_a_gpu_the_memory_is_what_this_process_may_use(monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=16_000)
    )
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.25)
    assert device_memory(torch.device("cuda")) == 4_000


class TwoSteps(torch.nn.Module):
    """Two products with a weight each: the inputs are stored for the gradients of the weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Linear(8, 8, bias=False) for _ in range(2))

    def forward(self, x):
        return self.second(self.first(x))


def test_stored_activations_are_the_inputs_of_trained_layers_without_the_weights():
    model, batch = TwoSteps().eval(), {"x": torch.ones(3, 8)}
    assert stored_activations(model, batch) == 2 * 3 * 8 * 4  # x and first(x), 4 bytes a number
    assert not model.training
    model.first.requires_grad_(False)
    assert stored_activations(model, batch) == 3 * 8 * 4


def test_a_frozen_model_beside_an_adapter_still_stores_activations(tiny_t5):
    ids = {"input_ids": torch.ones(2, 9, dtype=torch.long), "labels": torch.ones(2, 5).long()}
    whole = stored_activations(tiny_t5, ids)
    adapted = get_peft_model(tiny_t5, lora_config(2))
    assert 0.3 * whole < stored_activations(adapted, ids) < 1.5 * whole
