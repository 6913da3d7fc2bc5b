"""PPO on tiny models in tests: policies to start from, scripted completions, what is compared."""

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import EOS, PAD
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from utils.ppo import PPOTrainer

PROMPTS = [
    "#Person1#: good",
    "hello world",
    "Anna asks #Person2# for the ladder on Friday.",
    "nice ugly bad good",
]
TOPICS = ["praise", "greeting", "loan", "list"]
DATA = Dataset.from_dict({"prompt": PROMPTS, "topic": TOPICS})
# Four completions: ended after two tokens, ended at once, never ended, and begun with the pad id.
SCRIPT = torch.tensor([[5, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [5, 6, 7, 8], [PAD, 5, 6, EOS]])
SCRIPT_MASK = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
DECODER_ONLY = {"r": 4, "lora_alpha": 4, "target_modules": r"decoder.*\.(q|v)"}
KINDS = ("fresh adapter", "frozen encoder", "trained adapter", "all parameters")


def policy(kind: str, model: PreTrainedModel) -> dict[str, Any]:
    """Return the arguments `model` and `peft_config` for one of `KINDS`."""
    if kind == "trained adapter":
        return {"model": trained_adapter(model)}
    if kind == "all parameters":
        return {"model": model}
    where = DECODER_ONLY if kind == "frozen encoder" else {"r": 4, "target_modules": ["q", "v"]}
    return {"model": model, "peft_config": LoraConfig(**where)}


def trained_adapter(model: PreTrainedModel) -> PeftModel:
    """Return the model under an adapter whose output is not zero; always the same."""
    peft_model = get_peft_model(model, LoraConfig(r=4, target_modules=["q", "v"]))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in peft_model.named_parameters():
        if ".lora_" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    return peft_model.eval()


def length_reward(completions: list[str], **kwargs: Any) -> list[float]:
    """Reward each character."""
    return [float(len(text)) for text in completions]


def count_o(completions: list[str], **kwargs: Any) -> list[float]:
    """Reward each letter o, as in "good", "hello", "world" and "for"."""
    return [float(text.count("o")) for text in completions]


def by_topic(*scores: float) -> Callable[..., list[float]]:
    """Return a reward that depends on the prompt alone: one score for each of `TOPICS`."""

    def topic_reward(topic: list[str], **kwargs: Any) -> list[float]:
        return [scores[TOPICS.index(name)] for name in topic]

    return topic_reward


def script(trainer: PPOTrainer, completions: Tensor = SCRIPT) -> PPOTrainer:
    """Let the policy "sample" these completions, row by row."""

    def generate(attention_mask: Tensor, **kwargs: Any) -> Tensor:
        start = torch.full((len(completions), 1), PAD)
        return torch.cat([start, completions], dim=1)[: len(attention_mask)]

    trainer.policy.generate = generate
    return trainer


class Watch(TrainerCallback):
    """Keeps a copy of the gradients, by name, that each optimizer step applies."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        named = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        if named:  # a step without gradients changes nothing
            self.gradients.append(named)

    @property
    def norms(self) -> list[float]:
        """The norm of all gradients of each step."""
        return [torch.stack([g.norm() for g in s.values()]).norm().item() for s in self.gradients]


def logged(trainer: PPOTrainer, name: str) -> list[float]:
    """Return what was logged under a name, in order."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's weights."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Return whether two sets of weights are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def encoded(tokenizer: Any) -> dict[str, Tensor]:
    """Return the ids of `PROMPTS`, padded, and their attention mask."""
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def logprobs_of(
    model: nn.Module, tokenizer: Any, completions: Tensor = SCRIPT, temperature: float = 1.0
) -> Tensor:
    """Return log-probabilities of each completion's tokens, apart from the code under test."""
    decoder_input_ids = torch.cat([torch.full_like(completions[:, :1], PAD), completions], dim=1)
    logits = model(**encoded(tokenizer), decoder_input_ids=decoder_input_ids[:, :-1]).logits
    return torch.distributions.Categorical(logits=logits / temperature).log_prob(completions)
