"""A tiny random model of every encoder-decoder family, and the tokenizer that they share."""

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LEDConfig,
    LEDForConditionalGeneration,
    LongT5Config,
    LongT5ForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
    SiglipVisionConfig,
    T5Config,
    T5ForConditionalGeneration,
    T5Gemma2Config,
    T5Gemma2DecoderConfig,
    T5Gemma2EncoderConfig,
    T5Gemma2ForConditionalGeneration,
    T5Gemma2TextConfig,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
    T5GemmaModuleConfig,
    T5Tokenizer,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from tools.small_world.vocabulary import make_tokenizer

FAMILIES = (
    "t5",  # v1.1 and FLAN: a gated feed-forward layer
    "t5-v1.0",  # a plain feed-forward layer
    "mt5",
    "umt5",
    "longt5",
    "bart",
    "pegasus",
    "led",
    "t5gemma",
    "t5gemma2",
)
WORDS = "#Person1#: Anna asks #Person2# for the ladder on Friday. good bad nice ugly hello world"
PAD, EOS, UNKNOWN = 0, 1, 2


def tiny_tokenizer() -> T5Tokenizer:
    """Return a T5 tokenizer that knows the words in `WORDS` and spells all others."""
    return make_tokenizer([WORDS])


def tiny_model(family: str, seed: int = 0, **config) -> PreTrainedModel:
    """Return a random model with dropout 0.1, in eval mode; `config` overrides its shape."""
    torch.manual_seed(seed)
    if family.startswith("t5gemma"):
        return _t5gemma2(config) if family == "t5gemma2" else _t5gemma(config)
    if family in ("bart", "pegasus", "led"):
        return _bart_like(family, config)
    return _t5_like(family, config)


def _t5_like(family: str, config: dict) -> PreTrainedModel:
    config_class, model_class = {
        "mt5": (MT5Config, MT5ForConditionalGeneration),
        "umt5": (UMT5Config, UMT5ForConditionalGeneration),
        "longt5": (LongT5Config, LongT5ForConditionalGeneration),
    }.get(family, (T5Config, T5ForConditionalGeneration))
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    if family == "longt5":
        shape |= {"local_radius": 5, "encoder_attention_type": "transient-global"}
        shape |= {"global_block_size": 4}
    shape |= {
        "vocab_size": len(tiny_tokenizer()),
        "feed_forward_proj": "relu" if family == "t5-v1.0" else "gated-gelu",
        "dropout_rate": 0.1,
        "decoder_start_token_id": PAD,
    }
    return model_class(config_class(**(shape | config))).eval()


def _bart_like(family: str, config: dict) -> PreTrainedModel:
    config_class, model_class = {
        "bart": (BartConfig, BartForConditionalGeneration),
        "pegasus": (PegasusConfig, PegasusForConditionalGeneration),
        "led": (LEDConfig, LEDForConditionalGeneration),
    }[family]
    shape = {"d_model": 32} | {
        f"{side}_{what}": size
        for side in ("encoder", "decoder")
        for what, size in {"layers": 2, "ffn_dim": 64, "attention_heads": 4}.items()
    }
    if family == "led":
        shape |= {"attention_window": 8, "max_encoder_position_embeddings": 256}
        shape |= {"max_decoder_position_embeddings": 256}
    else:
        shape |= {"max_position_embeddings": 256}
    shape |= {"vocab_size": len(tiny_tokenizer()), "dropout": 0.1, "init_std": 0.3}
    tokens = {"pad_token_id": PAD, "bos_token_id": UNKNOWN, "eos_token_id": EOS}
    tokens["decoder_start_token_id"] = PAD if family == "pegasus" else EOS  # as their checkpoints
    if family != "led":
        tokens["forced_eos_token_id"] = EOS
    model = model_class(config_class(**(shape | tokens | config))).eval()
    # An untrained model repeats its decoder's first token, here the one that ends an answer.
    model.final_logits_bias[0, EOS] = -20.0
    if family == "bart":
        model.generation_config.forced_bos_token_id = UNKNOWN
    return model


def _gemma_text() -> dict:
    return {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "bos_token_id": UNKNOWN,
        "initializer_range": 0.1,
    }


def _t5gemma(config: dict) -> T5GemmaForConditionalGeneration:
    shape = {
        "encoder": T5GemmaModuleConfig(**_gemma_text()),
        "decoder": T5GemmaModuleConfig(**_gemma_text()),
        "vocab_size": len(tiny_tokenizer()),
        "dropout_rate": 0.1,
    }
    return T5GemmaForConditionalGeneration(T5GemmaConfig(**(shape | config))).eval()


def _t5gemma2(config: dict) -> T5Gemma2ForConditionalGeneration:
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    last = len(tiny_tokenizer()) - 1  # no text uses the last three: they stand for images
    encoder = T5Gemma2EncoderConfig(
        text_config=T5Gemma2TextConfig(**_gemma_text()),
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=last - 1,
        eoi_token_index=last - 2,
        image_token_index=last,
    )
    shape = {
        "encoder": encoder,
        "decoder": T5Gemma2DecoderConfig(**_gemma_text()),
        "image_token_index": last,
        "dropout_rate": 0.1,
    }
    return T5Gemma2ForConditionalGeneration(T5Gemma2Config(**(shape | config))).eval()
