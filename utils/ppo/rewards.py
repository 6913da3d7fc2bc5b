"""Call reward functions, coroutines and classifiers (or their ids) as TRL does."""

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from trl.trainer.utils import get_callable_name, is_async_callable

LOG = logging.getLogger(__name__)
RewardFunc = str | nn.Module | Callable[..., Any]


def reward_name(reward: RewardFunc) -> str:
    """Return the name that a reward is logged under: the function's, or the id's last part."""
    if isinstance(reward, nn.Module):
        folder = getattr(getattr(reward, "config", None), "name_or_path", "")
        return folder.rstrip("/").split("/")[-1] or type(reward).__name__
    return get_callable_name(reward)


class Rewards:
    """All reward functions of a run, called on a batch of completions.

    Args:
        reward_funcs: one or several functions or coroutine functions `f(prompts=, completions=,
            completion_ids=, trainer_state=, log_extra=, log_metric=, **columns)`. Each is called by
            keyword with the arguments that its signature names (all if it has `**kwargs`), and
            returns one number or None per completion. A sequence classifier with one output, or its
            id, scores the prompt and the completion together.
        processing_classes: one tokenizer per classifier, or None to load it; None for functions.
        model_init_kwargs: arguments of `from_pretrained` for classifiers given by id.

    Raises ValueError if there is no function, if two have the same name, if a classifier has more
    than one output, or if the number of tokenizers is wrong.
    """

    def __init__(
        self,
        reward_funcs: RewardFunc | Sequence[RewardFunc],
        processing_classes: Any = None,
        model_init_kwargs: dict[str, Any] | None = None,
    ):
        given = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
        options = {"num_labels": 1, **(model_init_kwargs or {})}
        load = AutoModelForSequenceClassification.from_pretrained
        self.funcs = [load(f, **options) if isinstance(f, str) else f for f in given]
        self.names = [reward_name(f) for f in self.funcs]
        if not self.funcs:
            raise ValueError("reward_funcs is empty: pass at least one reward function")
        if len(set(self.names)) < len(self.names):
            names = ", ".join(self.names)
            raise ValueError(f"two of the reward functions ({names}) share a name: rename one")
        if not isinstance(processing_classes, list | tuple):
            count = 1 if processing_classes else len(self.funcs)
            processing_classes = [processing_classes] * count
        if len(processing_classes) != len(self.funcs):
            raise ValueError(
                f"{len(processing_classes)} reward_processing_classes for {len(self.funcs)} reward "
                "functions: their numbers must match; pass None for a function"
            )
        self.tokenizers = [
            _tokenizer(f, t) if isinstance(f, nn.Module) else None
            for f, t in zip(self.funcs, processing_classes, strict=True)
        ]

    def to(self, device: torch.device) -> "Rewards":
        """Move the classifiers to a device, and put them in eval mode."""
        for f in self.funcs:
            if isinstance(f, nn.Module):
                f.to(device).eval()
        return self

    def __call__(self, prompts: list[Any], completions: list[Any], **named: Any) -> Tensor:
        """Return the rewards, (completions, functions), float32, with NaN in place of None.

        As in TRL, prompts and completions are texts, or both are lists of messages.

        Raises ValueError if a function returns too few or too many rewards, or a non-finite one.
        """
        named |= {"prompts": prompts, "completions": completions}
        coroutines = [f(**_accepted(f, named)) for f in self.funcs if is_async_callable(f)]
        awaited = iter(_run(coroutines))
        columns = []
        for f, name, tokenizer in zip(self.funcs, self.names, self.tokenizers, strict=True):
            if isinstance(f, nn.Module):
                rewards = _classify(f, tokenizer, prompts, completions)
            else:
                rewards = next(awaited) if is_async_callable(f) else f(**_accepted(f, named))
            columns.append(_checked(name, rewards, completions))
        table = torch.stack(columns, dim=1)  # (completions, functions)
        if (unscored := table.isnan().all(dim=1)).any():
            row = int(unscored.nonzero()[0])
            LOG.warning(
                "All reward functions returned None for the following kwargs: prompt=%r, "
                "completion=%r. It is excluded; at least one should return a number.",
                prompts[row],
                completions[row],
            )
        return table


def as_text(
    prompt: str | list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, **template_kwargs: Any
) -> str:
    """Return a prompt as the text that a model reads.

    Messages are formatted with the tokenizer's chat template. T5 and BART have none, so each
    message's content goes on its own line.
    """
    if isinstance(prompt, str):
        return prompt
    if tokenizer.chat_template is None:
        return "\n".join(message["content"] for message in prompt)
    options = {"add_generation_prompt": prompt[-1]["role"] == "user"} | template_kwargs
    return tokenizer.apply_chat_template(prompt, tokenize=False, **options)


def _tokenizer(model: nn.Module, given: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """Return the classifier's tokenizer, with a pad token that the classifier knows."""
    if model.config.num_labels != 1:
        raise ValueError(
            f"the reward model {model.config.name_or_path} has {model.config.num_labels} outputs, "
            f"{', '.join(model.config.id2label.values())}: which one is the reward? Wrap it in a "
            "function that returns the score you want"
        )
    tokenizer = given or AutoTokenizer.from_pretrained(model.config.name_or_path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(model, PreTrainedModel):
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def _accepted(f: Callable[..., Any], named: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a function's signature names, or all if it has **kwargs."""
    parameters = inspect.signature(f).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return named
    return {p.name: named[p.name] for p in parameters if p.name in named}


def _run(coroutines: list[Any]) -> list[Any]:
    """Await coroutines together in a new thread: a notebook's thread already runs a loop."""
    if not coroutines:
        return []

    async def gather() -> list[Any]:
        return await asyncio.gather(*coroutines)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, gather()).result()


@torch.no_grad()
def _classify(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[Any], completions: list[Any]
) -> list[float]:
    pairs = zip(prompts, completions, strict=True)
    texts = [as_text(prompt + completion, tokenizer) for prompt, completion in pairs]
    batch = tokenizer(text=texts, return_tensors="pt", padding=True, truncation=True)
    return model(**batch.to(next(model.parameters()).device)).logits[:, 0].float().tolist()


def _checked(name: str, rewards: Sequence[float | None], completions: list[str]) -> Tensor:
    """Return one function's rewards as float32, (completions,), NaN for None."""
    if len(rewards) != len(completions):
        raise ValueError(
            f"the reward function {name} returned {len(rewards)} rewards for {len(completions)} "
            "completions: return one for each"
        )
    given = [i for i, reward in enumerate(rewards) if reward is not None]
    column = torch.full((len(completions),), torch.nan)
    try:
        column[given] = torch.tensor([float(rewards[i]) for i in given])
    except (TypeError, ValueError) as error:
        raise ValueError(f"the reward function {name} returned a non-number: {error}") from error
    if bad := [i for i in given if not column[i].isfinite()]:
        raise ValueError(
            f"the reward function {name} returned {column[bad[0]].item()} for the completion "
            f"{completions[bad[0]]!r}: return finite numbers, or None"
        )
    return column
