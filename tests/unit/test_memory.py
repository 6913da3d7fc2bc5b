"""Peak memory is what a block holds at its highest, above what was held before."""

import time

import numpy as np
import torch

from utils.memory import peak_memory


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
