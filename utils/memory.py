"""Peak memory of a piece of work: the allocator's own count on CUDA, the process's resident memory elsewhere."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

INTERVAL = 0.02  # seconds between two looks at the process


@dataclass
class PeakMemory:
    """What `peak_memory` measured."""

    megabytes: float = 0.0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measure the highest memory held inside a `with` block, above what was held at its start.

    On the CPU a thread looks at the process every 20 ms: shorter peaks can be missed, and memory that the process had
    kept for reuse before does not show.
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
