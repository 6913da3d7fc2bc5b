"""Memory of a piece of work: what it will need, its peak, and what it frees kept for its next use."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch
from transformers import PretrainedConfig

INTERVAL = 0.02  # seconds between two looks at the process
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4  # options of glibc's mallopt
KEEP = {TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 2**26, MMAP_MAX: 0}
GIVE_BACK = {
    TRIM_THRESHOLD: 2**26,
    TOP_PAD: 2**17,
    MMAP_THRESHOLD: 2**25,
    MMAP_MAX: 2**16,
}  # where glibc's own tuning ends


@dataclass
class PeakMemory:
    """What `peak_memory` measured."""

    megabytes: float = 0.0


def device_memory(device: torch.device) -> int:
    """Bytes of memory in all: what this process may have of a GPU's own, else the machine's."""
    if device.type == "cuda":
        share = torch.cuda.get_per_process_memory_fraction(device)
        return int(share * torch.cuda.get_device_properties(device).total_memory)
    return psutil.virtual_memory().total


def activation_bytes(config: PretrainedConfig, rows: int, tokens: int) -> int:
    """Estimate of what a training step keeps for its backward pass, of prompts of shape (rows, tokens).

    In each layer 118 bytes for every channel of a token, and 5 for every pair of tokens that a head compares: within a
    tenth of what prompts of 220 to 1,024 tokens took on FLAN-T5-base's shape, under bf16 autocast on a CPU.
    """
    per_token = 118 * config.hidden_size + 5 * config.num_attention_heads * tokens
    return rows * tokens * config.num_hidden_layers * per_token


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measure the highest memory held inside a `with` block, above what was held at its start.

    On CUDA it is the allocator's own count, elsewhere the process's resident memory: a thread looks at it every
    20 ms, shorter peaks can be missed, and memory that the process had kept for reuse before does not show.
    """
    peak = PeakMemory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        yield peak
        peak.megabytes = (torch.cuda.max_memory_allocated(device) - start) / 1e6
        return
    process, done = psutil.Process(), threading.Event()
    start = process.memory_info().rss

    def watch() -> None:
        """Look at the process until the block is done."""
        while not done.wait(INTERVAL):
            peak.megabytes = max(peak.megabytes, (process.memory_info().rss - start) / 1e6)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the C library keep what the block frees for its next allocation, and give it all back at the end.

    By default glibc returns large blocks to the system at once, and every new tensor is paid for page by page: a fifth
    of a training step on a CPU. Elsewhere than under Linux with glibc nothing is changed.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not all(hasattr(libc, name) for name in ("mallopt", "malloc_trim")):
        yield
        return
    for option, value in KEEP.items():
        libc.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in GIVE_BACK.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)
