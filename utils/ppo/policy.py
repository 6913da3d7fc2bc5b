"""What PPO trains: an encoder-decoder policy, its reference and, where asked for, its value head, in one module."""

import copy
from contextlib import nullcontext
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from utils.training.cpu import use_fast_layers

from .precision import weights_cast_once


class PolicyModel(nn.Module):
    """A policy, the reference it must stay close to, and a linear value head on its decoder's last hidden state.

    The reference is the policy as found. With LoRA the policy as found, its own adapter merged, becomes the base under
    a fresh adapter, and the reference is that base with the adapter off: no second model in memory, and the first KL
    is 0. Where no adapter touches the encoder, `encode` runs it once and its output serves every later call.

    Args:
        model: the policy as found; it is changed in place.
        peft_config: the fresh adapter's, by default `lora_config()` without dropout; False trains all parameters
            against a frozen copy.
        value_head: whether there is one; RLOO and GRPO need none.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        peft_config: LoraConfig | bool | None = None,
        value_head: bool = True,
    ):
        super().__init__()
        base = model.merge_and_unload() if isinstance(model, PeftModel) else model
        if peft_config is False:
            self.reference = create_reference_model(use_fast_layers(base))
            self.policy = base.requires_grad_(True)
        else:
            self.reference = None
            self.policy = use_fast_layers(
                get_peft_model(
                    base,
                    peft_config
                    or LoraConfig(
                        task_type="SEQ_2_SEQ_LM", r=32, lora_alpha=32, target_modules=["q", "v"]
                    ),
                )
            )
        self.encoder_is_frozen = not any(
            p.requires_grad for p in self.policy.get_encoder().parameters()
        )
        self.value_head = None
        if value_head:
            self.value_head = nn.Linear(
                self.policy.config.d_model, 1, dtype=torch.float32, device=self.policy.device
            )
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        """What the decoder needs to know of the prompts: the encoder's output if it is frozen, else its input."""
        if not self.encoder_is_frozen:
            return {"input_ids": input_ids, "attention_mask": attention_mask}
        with (
            torch.inference_mode()
        ):  # attention is quicker there; the copy is an ordinary tensor, to be learned from
            output = self.policy.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)
        return {
            "last_hidden_state": output.last_hidden_state.clone(),
            "attention_mask": attention_mask,
        }

    def sample(self, prompts: dict[str, Tensor], generation_config: GenerationConfig) -> Tensor:
        """Responses drawn from the policy, as ids after the decoder's start token, (batch, time).

        `generation_config` says how long they are and where they end. The model's own generation settings are set
        aside: `generate` would fill what `generation_config` leaves open from them (a minimum length, a repetition
        penalty, beams), and the sampler would not be the policy.
        """
        core = self.policy.get_base_model() if isinstance(self.policy, PeftModel) else self.policy
        own, core.generation_config = core.generation_config, GenerationConfig()
        try:
            with weights_cast_once(core):
                return self.policy.generate(
                    **_encoder_inputs(prompts),
                    generation_config=generation_config,
                    logits_processor=LogitsProcessorList([InverseTransformSampling()]),
                )[:, 1:]
        finally:
            core.generation_config = own

    def forward(
        self, prompts: dict[str, Tensor], responses: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probability of each response token, the value before it and the entropy there; (batch, time), fp32.

        Without a value head the values are 0. The entropy carries no gradient.
        """
        output = _decode(self.policy, prompts, responses, output_hidden_states=True)
        logits = output.logits.float()  # (batch, time, vocabulary)
        logprobs, entropy = logprobs_of(logits, responses), entropy_of(logits)
        if self.value_head is None:
            return logprobs, torch.zeros_like(logprobs), entropy
        with torch.autocast(responses.device.type, enabled=False):
            values = self.value_head(output.decoder_hidden_states[-1].float()).squeeze(-1)
        return logprobs, values, entropy

    @torch.no_grad()
    def reference_logprobs(self, prompts: dict[str, Tensor], responses: Tensor) -> Tensor:
        """Log-probability of each response token under the policy as found, (batch, time), fp32."""
        with nullcontext() if self.reference else self.policy.disable_adapter():
            logits = _decode(self.reference or self.policy, prompts, responses).logits
        return logprobs_of(logits.float(), responses)

    def base_state_dict(self) -> dict[str, Tensor]:
        """Weights of the policy as found, under the names it had before the fresh adapter."""
        state = self.policy.get_base_model().state_dict()
        return {
            name.replace(".base_layer.", "."): w
            for name, w in state.items()
            if ".lora_" not in name
        }


class InverseTransformSampling(LogitsProcessor):
    """Draws the next token and leaves only that possible, for greedy decoding to take.

    One uniform number decides for each row. `generate` samples by torch.multinomial, which draws one for each token of
    the vocabulary: on a CPU an eighth of the time that a response takes.
    """

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits (batch, vocabulary) → 0 at the token drawn, −∞ elsewhere.

        Raises:
            ValueError: a row has logits that are no numbers.
        """
        cumulative = scores.float().softmax(dim=-1).cumsum(dim=-1)
        if not cumulative[:, -1].isfinite().all():
            raise ValueError(
                "the policy's logits are not finite: training has diverged, lower the learning rate"
            )
        uniform = torch.rand(len(scores), 1, device=scores.device) * cumulative[:, -1:]
        drawn = torch.searchsorted(
            cumulative, uniform, right=True
        )  # the first whose sum is above the number
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def _decode(
    model: PreTrainedModel | PeftModel,
    prompts: dict[str, Tensor],
    responses: Tensor,
    **arguments: Any,
) -> Any:
    """Teacher forcing: the decoder reads the start token and all but the last response token."""
    start = responses.new_full((len(responses), 1), model.config.decoder_start_token_id)
    decoder_input_ids = torch.cat([start, responses[:, :-1]], dim=1)
    return model(
        **_encoder_inputs(prompts),
        decoder_input_ids=decoder_input_ids,
        use_cache=False,
        **arguments,
    )


def _encoder_inputs(prompts: dict[str, Tensor]) -> dict[str, Any]:
    if "last_hidden_state" not in prompts:
        return prompts
    encoded = BaseModelOutput(last_hidden_state=prompts["last_hidden_state"])
    return {"encoder_outputs": encoded, "attention_mask": prompts["attention_mask"]}


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each token, (batch, time), from logits (batch, time, vocabulary)."""
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)


@torch.no_grad()
def entropy_of(logits: Tensor) -> Tensor:
    """Entropy in nats, (batch, time), of the distributions that logits (batch, time, vocabulary) stand for."""
    probabilities = logits.softmax(dim=-1)
    return torch.special.entr(probabilities, out=probabilities).sum(dim=-1)


def create_reference_model(model: PreTrainedModel) -> PreTrainedModel:
    """A frozen copy in eval mode."""
    return copy.deepcopy(model).eval().requires_grad_(False)
