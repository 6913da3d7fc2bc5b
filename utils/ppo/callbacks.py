"""What happens between the Trainer's steps: whole samples, an early stop, the order of prompts."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import RepeatSampler


class WholeSamples(TrainerCallback):
    """Put checkpoints and evaluations off until a sample of completions has been learned from.

    A resumed run draws a new sample first: it equals the run that was not stopped only there.
    """

    def __init__(self, batches_per_sample: int):
        self.batches, self.save, self.evaluate = batches_per_sample, False, False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep in mind what was due, and do it at the end of the sample."""
        self.save |= control.should_save
        self.evaluate |= control.should_evaluate
        used = state.global_step * args.gradient_accumulation_steps
        whole = used % self.batches == 0 or state.global_step >= state.max_steps
        control.should_save, control.should_evaluate = whole and self.save, whole and self.evaluate
        if whole:
            self.save = self.evaluate = False


class StopAtMaxKL(TrainerCallback):
    """Skip the updates that remain on a sample once the policy has moved too far from its sampler.

    It is asked before the optimizer's step: the update that would go too far is not taken.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **kwargs: Any,
    ) -> None:
        """Drop the gradient, without which the optimizer changes nothing."""
        trainer = self.trainer
        if not trainer.stopped_early:
            drift = trainer.accelerator.reduce(trainer.drift, "sum")
            trainer.stopped_early = bool(drift[0] > args.max_kl * drift[1])
        if trainer.stopped_early:
            model.zero_grad(set_to_none=True)
        trainer.drift.zero_()
        trainer.metrics["train"].add("skipped_updates", float(trainer.stopped_early))


class SyncReference(SyncRefModelCallback):
    """TRL's callback by which the reference follows the policy; the value head is left out."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mix the policy's weights into those of the reference, where that is due."""
        policy = self.accelerator.unwrap_model(kwargs["model"])
        names = [name for name, _ in self.ref_model.named_parameters()]
        kwargs["model"] = nn.ParameterList(policy.get_parameter(name) for name in names)
        super().on_step_end(args, state, control, **kwargs)


class PromptSampler(RepeatSampler):
    """TRL's RepeatSampler, whose order follows from the seed and the epoch alone.

    A run that is resumed in a later epoch sees the same prompts as one that was not stopped.
    """

    def __init__(self, *args: Any, epoch: Callable[[], float | None], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield row numbers."""
        if self.shuffle:
            self.generator.manual_seed(self.seed + int((self.epoch() or 0) + 1e-6))
        return super().__iter__()
