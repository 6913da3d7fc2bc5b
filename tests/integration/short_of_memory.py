"""Run a command on two processes; the second runs out of memory in its second training step."""

import os
import sys

import torch
from transformers import Trainer

from utils.cli import main

trained = Trainer.training_step


def training_step(self, *args, **kwargs):
    if os.environ["RANK"] == "1" and self.state.global_step == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return trained(self, *args, **kwargs)


Trainer.training_step = training_step
sys.exit(main())
