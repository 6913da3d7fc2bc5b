"""Memory of a device, and what a training step needs of it."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from transformers import T5Config

from utils.training.memory import activation_bytes, device_memory


@pytest.mark.parametrize(
    ("rows", "tokens", "gigabytes"), [(16, 220, 4.0), (16, 512, 11.2), (8, 1024, 14.7)]
)
def test_activations_of_flan_t5_base_are_estimated_as_they_were_measured(rows, tokens, gigabytes):
    base = T5Config(d_model=768, d_ff=2048, num_layers=12, num_heads=12)
    assert activation_bytes(base, rows, tokens) / 1e9 == pytest.approx(gigabytes, rel=0.1)


def test_without_a_gpu_the_memory_is_the_machines():
    assert device_memory(torch.device("cpu")) == psutil.virtual_memory().total


def test_on_a_gpu_it_is_what_this_process_may_have(monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=16_000)
    )
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.25)
    assert device_memory(torch.device("cuda")) == 4_000
