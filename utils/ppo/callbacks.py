"""Delay checkpoints to the end of a sample, limit the KL of its updates, and order prompts."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import RepeatSampler


class WholeSamples(TrainerCallback):
    """Delay checkpoints and evaluations until all updates on a sample of completions are done.

    A resumed run starts with a new sample, so resuming in mid-sample would change the results.
    """

    def __init__(self, batches_per_sample: int):
        self.batches, self.save, self.evaluate = batches_per_sample, False, False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember what is due, and request it at the end of the sample."""
        self.save |= control.should_save
        self.evaluate |= control.should_evaluate
        used = state.global_step * args.gradient_accumulation_steps
        whole = used % self.batches == 0 or state.global_step >= state.max_steps
        control.should_save, control.should_evaluate = whole and self.save, whole and self.evaluate
        if whole:
            self.save = self.evaluate = False


class StopAtMaxKL(TrainerCallback):
    """Skip the remaining updates on a sample once the policy is too far from the one that drew it.

    The KL is checked before each optimizer step; if it is too high, that step is skipped, too.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop the gradients if the KL is too high, so that the optimizer changes nothing."""
        trainer = self.trainer
        if not trainer.stopped_early:
            drift = trainer.accelerator.reduce(trainer.drift, "sum")
            trainer.stopped_early = bool(drift[0] > args.max_kl * drift[1])
        if trainer.stopped_early:
            kwargs["model"].zero_grad(set_to_none=True)
        trainer.drift.zero_()
        trainer.metrics["train"].add("skipped_updates", float(trainer.stopped_early))


class SyncReference(SyncRefModelCallback):
    """TRL's SyncRefModelCallback, which here leaves out the policy's value head."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mix the policy's weights into the reference's if an update is due."""
        policy = self.accelerator.unwrap_model(kwargs["model"])
        names = [name for name, _ in self.ref_model.named_parameters()]
        kwargs["model"] = nn.ParameterList(policy.get_parameter(name) for name in names)
        super().on_step_end(args, state, control, **kwargs)


class PromptSampler(RepeatSampler):
    """TRL's RepeatSampler, in an order that depends only on the seed and the epoch.

    A run resumed in a later epoch therefore sees the same prompts as an uninterrupted one.
    """

    def __init__(self, *args: Any, epoch: Callable[[], float | None], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield row numbers."""
        if self.shuffle:
            self.generator.manual_seed(self.seed + int((self.epoch() or 0) + 1e-6))
        return super().__iter__()
