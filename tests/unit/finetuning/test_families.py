"""Full and LoRA fine-tuning of every encoder-decoder family, at toy size."""

import math

import pytest
import torch
from peft import PeftModel
from tiny_models import FAMILIES, tiny_model
from tiny_training import PAIRS, UNSAVED, losses, weights

from utils.finetuning import lora_config
from utils.generation import generate
from utils.models import load_model

ADAPTED = {family: {"q", "v"} for family in ("t5", "t5-v1.0", "mt5", "umt5", "longt5")}
ADAPTED |= {family: {"q_proj", "v_proj"} for family in ("bart", "pegasus", "t5gemma", "t5gemma2")}
ADAPTED |= {"led": {"q_proj", "v_proj", "query", "value"}}  # its encoder has names of its own
ONE_STEP = UNSAVED | {"max_steps": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_step_changes_the_weights_and_the_saved_model_writes_the_same_text(
    train, tiny_tokenizer, tmp_path, family
):
    model = tiny_model(family)
    before = weights(model)
    result = train("full", model, **ONE_STEP)
    assert all(math.isfinite(loss) and loss > 0 for loss in losses(result))
    after = weights(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("encoder" in name for name in changed) and any("decoder" in name for name in changed)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    texts = [
        generate(*pair, PAIRS["dialogue"], max_new_tokens=8)
        for pair in ((model, tiny_tokenizer), load_model(str(tmp_path), "cpu"))
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_trains_query_and_value_and_the_saved_adapter_writes_the_same_text(
    train, tiny_tokenizer, tmp_path, family
):
    result = train("lora", tiny_model(family), peft_config=lora_config(4), **ONE_STEP)
    assert all(math.isfinite(loss) and loss > 0 for loss in losses(result))
    trained = {name: p for name, p in result.model.named_parameters() if p.requires_grad}
    assert {name.split(".")[-4] for name in trained} == ADAPTED[family]
    assert not any("vision" in name for name in trained)
    assert all(p.abs().max() > 0 for name, p in trained.items() if ".lora_B." in name)
    result.model.save_pretrained(tmp_path)
    fresh = PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    texts = [
        generate(model, tiny_tokenizer, PAIRS["dialogue"], max_new_tokens=8)
        for model in (result.model, fresh)
    ]
    assert texts[0] == texts[1]
