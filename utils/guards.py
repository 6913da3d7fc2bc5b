"""What must not pass in silence while a model trains: weights that are no numbers, checkpoints that are not written."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput

from utils.checkpoints import last_whole_checkpoint


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and what is kept."""


class GuardedTrainer(Trainer):
    """A Trainer that stops, before harm is done, with one error that names the step and what is kept."""

    written: Path | None = None  # the newest checkpoint of this run

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(FiniteGradients)

    def train(self, *args, **kwargs) -> TrainOutput:
        """As the Trainer's; weights that are not finite are refused at the end."""
        output = super().train(*args, **kwargs)
        check_weights(self.model, self.args, self.state)
        return output

    def _run_epoch(self, *args, **kwargs) -> None:
        """A run that is resumed at its last step is over: the Trainer looks only after the next one."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        check_weights(self.model, self.args, self.state)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise TrainingError(
                f"cannot write {folder}: {error}. Free some space or choose another disk, then start again and resume; "
                f"the last whole checkpoint is {self.written or last_whole_checkpoint(folder.parent)}"
            ) from error
        self.written = folder


class FiniteGradients(TrainerCallback):
    """Refuses a gradient that is no number before it is applied."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs
    ) -> None:
        """Look at the gradient's norm."""
        check_gradient(model, args, state)


def check_gradient(model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
    """Refuse a gradient whose norm is not finite: a loss that is no number has such a one, and so has an overflow.

    Raises:
        TrainingError: it is not.
    """
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if not torch.isfinite(norm):
        raise TrainingError(
            f"the norm of the gradient is {norm.item()} at step {state.global_step + 1}: {_remedy(args)}"
        )


def check_weights(model: nn.Module, args: TrainingArguments, state: TrainerState) -> None:
    """Refuse trained weights that are not finite.

    Raises:
        TrainingError: some are not.
    """
    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise TrainingError(
                f"{name} holds numbers that are not finite after step {state.global_step}: {_remedy(args)}"
            )


def _remedy(args: TrainingArguments) -> str:
    return (
        f"lower the learning rate (now {args.learning_rate}); checkpoints written before that remain in "
        f"{args.output_dir}"
    )
