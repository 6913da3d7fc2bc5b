"""Compute completions, their log-probabilities and values with an encoder-decoder model."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from trl.trainer.utils import entropy_from_logits, selective_log_softmax, use_adapter

from .precision import forward_replaced

Model = PreTrainedModel | PeftModel
Prompts = dict[Any, Tensor]  # from `encode`; see `projections_shared`
REFERENCE_ADAPTER = "ref"  # TRL's name
SHARED_BYTES = 2**30  # of a sample's projections


class ValueHead(nn.Module):
    """A linear value head in float32, initialized to zero, on the decoder's last hidden state.

    `trunk` says whose state it reads: "detached" or "shared" (the policy's, without or with a
    gradient), or "own" (that of a copy of the model).
    """

    def __init__(self, model: Model, trunk: str):
        super().__init__()
        width = model.get_output_embeddings().weight.shape[1]
        self.detach = trunk == "detached"
        self.trunk = (
            copy.deepcopy(base_model(model)).requires_grad_(True) if trunk == "own" else None
        )
        self.linear = nn.Linear(width, 1, dtype=torch.float32, device=model.device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Return the value before each token, (batch, time), from hidden states (…, width)."""
        if self.trunk is not None:
            hidden = self.trunk(**inputs).decoder_hidden_states[-1]
        if self.detach:
            hidden = hidden.detach()
        with torch.autocast(hidden.device.type, enabled=False):
            return self.linear(hidden.float()).squeeze(-1)


def add_value_head(model: Model, trunk: str) -> ValueHead:
    """Add a value head to a model, as the submodule `value_head`.

    A forward hook adds `state_values` to the output whenever hidden states are requested, so the
    head also works inside distributed wrappers. A head that an earlier trainer added is replaced.
    """
    remove_value_head(model)
    model.value_head = ValueHead(model, trunk)

    def add_values(module: nn.Module, args: tuple, inputs: dict[str, Any], output: Any) -> Any:
        if not inputs.get("output_hidden_states"):
            return output
        values = module.value_head(output.decoder_hidden_states[-1], inputs)
        return {**output, "state_values": values}  # a dict: DDP rebuilds outputs by their class

    model.value_head.hook = model.register_forward_hook(add_values, with_kwargs=True)
    return model.value_head


def remove_value_head(model: Model) -> None:
    """Remove the value head that an earlier trainer added to the model, if there is one."""
    head = dict(model.named_children()).get("value_head")
    if isinstance(head, ValueHead):
        head.hook.remove()
        del model.value_head


class Reference:
    """The initial policy, which the KL is measured against.

    With a new adapter, it is the model without the adapter. With an existing adapter, it is a
    frozen copy of that adapter. Without any adapter, it is a frozen copy of the model.
    """

    def __init__(self, model: Model, fresh_adapter: bool):
        self.model: PreTrainedModel | None = None
        self.adapter: str | None = None
        if not isinstance(model, PeftModel):
            self.model = copy.deepcopy(model).eval().requires_grad_(False)
        elif not fresh_adapter:
            self.adapter = REFERENCE_ADAPTER
            name = model.active_adapter
            model.add_adapter(REFERENCE_ADAPTER, model.peft_config[name])
            for key, parameter in list(model.named_parameters()):
                if f".{REFERENCE_ADAPTER}." in key:
                    source = key.replace(f".{REFERENCE_ADAPTER}.", f".{name}.")
                    parameter.data.copy_(model.get_parameter(source).data)
                    parameter.requires_grad_(False)

    @contextmanager
    def active(self, policy: Model) -> Iterator[Model]:
        """Yield the reference model, and restore the policy after the block."""
        if self.model is not None:
            yield self.model
            return
        trainable = [(p, p.requires_grad) for p in policy.parameters()]
        try:
            with use_adapter(policy, self.adapter):
                yield policy
        finally:
            for parameter, flag in trainable:  # use_adapter makes the whole adapter trainable
                parameter.requires_grad_(flag)


def encode(model: Model, input_ids: Tensor, attention_mask: Tensor) -> Prompts:
    """Return the encoder's output for the prompts, or their ids if the encoder is trained.

    A frozen encoder runs only here: sampling, the reference and all updates reuse its output.
    """
    prompts = {"input_ids": input_ids, "attention_mask": attention_mask}
    encoder = model.get_encoder()
    if any(p.requires_grad for p in encoder.parameters()):
        return prompts
    with torch.inference_mode():  # faster attention; training can use the clone below
        hidden = encoder(**prompts).last_hidden_state
    return {"last_hidden_state": hidden.clone(), "attention_mask": attention_mask}


def projections_shared(model: nn.Module, prompts: Prompts) -> AbstractContextManager[None]:
    """Project a frozen encoder's output to keys and values only once for all passes on a sample.

    Inside the `with` block, `prompts`, from `encode`, stores the frozen layers' projections of that
    output, up to SHARED_BYTES in all. For a layer with an adapter, this is the frozen part, unless
    the adapter is merged for sampling.
    """
    linear = [m for m in model.modules() if type(m) is nn.Linear and "last_hidden_state" in prompts]
    frozen = [m for m in linear if {p.requires_grad for p in m.parameters()} == {False}]
    return forward_replaced({m: partial(_project, m, m.forward, prompts) for m in frozen})


def _project(layer: nn.Module, forward: Callable, prompts: Prompts, states: Tensor) -> Tensor:
    if states is not prompts["last_hidden_state"]:
        return forward(states)
    if (projected := prompts.get(layer)) is None:
        projected = forward(states)
        if sum(t.nbytes for t in (projected, *prompts.values())) <= SHARED_BYTES:
            prompts[layer] = projected
    return projected


def encoder_inputs(prompts: Prompts) -> dict[str, Any]:
    """Turn the output of `encode` into arguments for the model."""
    if "last_hidden_state" not in prompts:
        return dict(prompts)
    hidden = BaseModelOutput(last_hidden_state=prompts["last_hidden_state"])
    return {"encoder_outputs": hidden, "attention_mask": prompts["attention_mask"]}


def start_token(model: Model) -> int:
    """Return the id that decoding starts with; raises ValueError if the model has none."""
    configs = (model.generation_config, model.config, model.config.get_text_config(decoder=True))
    for name in ("decoder_start_token_id", "bos_token_id"):
        for config in configs:
            if (token := getattr(config, name, None)) is not None:
                return token
    raise ValueError(
        "the model has no decoder_start_token_id: set model.config.decoder_start_token_id"
    )


class InverseTransformSampling(LogitsProcessor):
    """Draw the next token with one uniform number, and mask all others for greedy decoding.

    By default, `generate` samples with torch.multinomial, which draws a number for each token of
    the vocabulary; on a CPU, this takes an eighth of a completion's time. `logprobs` collects the
    log-probabilities of the drawn tokens, one tensor (batch,) for each step.
    """

    def __init__(self, temperature: float = 1.0):
        self.temperature = temperature
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return 0 at the token drawn and −∞ elsewhere, (batch, vocabulary).

        Raises ValueError if a row's logits are not finite.
        """
        probabilities = (scores.float() / self.temperature).softmax(dim=-1)
        cumulative = probabilities.cumsum(dim=-1)
        if not cumulative[:, -1].isfinite().all():
            raise ValueError(
                "the policy's logits are not finite: training has diverged; lower the learning rate"
            )
        uniform = torch.rand(len(scores), 1, device=scores.device) * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, uniform, right=True)  # first sum above the number
        self.logprobs.append(probabilities.gather(1, drawn).squeeze(1).log())
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


@torch.no_grad()
def sample(
    model: Model, prompts: Prompts, config: GenerationConfig, temperature: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """Sample completions: ids after the start token, (batch, time), and their log-probabilities.

    The model's own generation settings (a minimum length, a repetition penalty, forced tokens) are
    disabled: with them, samples would not come from the policy. The log-probabilities are None if
    `config.do_sample` is true.
    """
    core = base_model(model)
    own, core.generation_config = core.generation_config, GenerationConfig()
    sampler = InverseTransformSampling(temperature)
    processors = LogitsProcessorList([] if config.do_sample else [sampler])
    try:
        with projections_shared(core, prompts):
            options = {"generation_config": config, "logits_processor": processors}
            ids = model.generate(**encoder_inputs(prompts), **options)[:, 1:]
    finally:
        core.generation_config = own
    return ids, torch.stack(sampler.logprobs, dim=1) if sampler.logprobs else None


def completion_logprobs(
    model: nn.Module,
    prompts: Prompts,
    completion_ids: Tensor,
    start: int,
    temperature: float = 1.0,
    values: bool = False,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return log-probability, value and entropy of each completion token, (batch, time), float32.

    The decoder reads the start token and all but the last completion token (teacher forcing).
    Values (from the value head) and entropies (without gradient) are None unless requested.
    """
    first = completion_ids.new_full((len(completion_ids), 1), start)
    decoder_ids = torch.cat([first, completion_ids[:, :-1]], dim=1)
    with projections_shared(model, prompts):
        output = model(
            **encoder_inputs(prompts),
            decoder_input_ids=decoder_ids,
            decoder_attention_mask=torch.ones_like(decoder_ids),  # else T5Gemma masks pad tokens
            use_cache=False,
            output_hidden_states=values,
        )
    logits = output["logits"].float()  # (batch, time, vocabulary)
    logits = logits if temperature == 1 else logits / temperature
    logprobs = selective_log_softmax(logits, completion_ids)
    with torch.no_grad():
        entropies = entropy_from_logits(logits) if entropy else None
    return logprobs, output["state_values"] if values else None, entropies


def zero_dropout(model: nn.Module) -> None:
    """Set all dropout to 0, including probabilities that a layer stores as plain numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or "layerdrop" in name):
                setattr(module, name, 0.0)


def base_model(model: Model) -> PreTrainedModel:
    """Return the model under the adapter, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
