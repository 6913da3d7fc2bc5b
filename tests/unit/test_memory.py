"""Peak memory is what a block holds at its highest, above what was held before."""

import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from transformers import T5Config

from utils.training.memory import activation_bytes, device_memory, freed_memory_kept, peak_memory


def test_peak_counts_what_was_held_for_a_while_and_given_back():
    with peak_memory(torch.device("cpu")) as memory:
        held = np.ones(100_000_000 // 8)  # 100 MB, touched
        time.sleep(0.2)
        del held
    assert 80 < memory.megabytes < 140


def test_a_block_that_holds_nothing_has_a_peak_near_zero():
    with peak_memory(torch.device("cpu")) as memory:
        time.sleep(0.1)
    assert memory.megabytes < 20


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc's")
def test_freed_memory_is_kept_inside_the_block_and_given_back_after_it():
    process = psutil.Process()
    start = process.memory_info().rss
    with freed_memory_kept():
        held = np.ones(200_000_000 // 8)
        del held
        kept = process.memory_info().rss - start
    after = process.memory_info().rss - start
    assert kept > 150e6
    assert after < 50e6


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
