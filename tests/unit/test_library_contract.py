"""Private names of libraries that utils overrides or reads: a release may rename them silently."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import evaluate
import pytest
import torch
from transformers import PreTrainedConfig, Trainer, TrainingArguments

import utils

PACKAGE = Path(utils.__file__).parent
PRIVATE_NAMES = [  # the library's class, its private name, the file in utils that needs it
    (Trainer, "_run_epoch", "ppo/checkpointing.py"),
    (Trainer, "_save_checkpoint", "ppo/checkpointing.py"),
    (Trainer, "_get_train_sampler", "finetuning.py"),
    (Trainer, "_get_train_sampler", "ppo/trainer.py"),
    (Trainer, "_get_eval_sampler", "ppo/trainer.py"),
    (Trainer, "_get_dataloader", "ppo/trainer.py"),
    (Trainer, "_train_batch_size", "ppo/trainer.py"),
    (Trainer, "_prepare_inputs", "ppo/trainer.py"),
    (Trainer, "_save", "ppo/trainer.py"),
    (Trainer, "_load_from_checkpoint", "ppo/trainer.py"),
    (Trainer, "_set_signature_columns_if_needed", "ppo/trainer.py"),
    (TrainingArguments, "_VALID_DICT_FIELDS", "ppo/config.py"),
    (PreTrainedConfig, "_attn_implementation", "training/cpu.py"),
    (torch.ops.mkldnn, "_is_mkldnn_bf16_supported", "ppo/precision.py"),
    (torch.ops.mkldnn, "_reorder_linear_weight", "ppo/precision.py"),
    (torch.ops.mkldnn, "_linear_pointwise", "ppo/precision.py"),
    (evaluate.Metric, "_info", "evaluate_modules/text_metric.py"),
    (evaluate.Metric, "_compute", "evaluate_modules/text_metric.py"),
]
TABLED = {name for _, name, _ in PRIVATE_NAMES}


@pytest.mark.parametrize(("owner", "name", "file"), PRIVATE_NAMES)
def test_a_private_name_that_utils_needs_is_still_in_its_library(owner, name, file):
    library = getattr(owner, "__module__", owner.__name__).partition(".")[0]
    found = hasattr(owner, name) or f"self.{name} = " in inspect.getsource(owner)
    assert found, (
        f"{library} no longer has {owner.__name__}.{name}, which utils/{file} overrides or reads: "
        "look for its new name in the release notes"
    )


@pytest.mark.parametrize(("owner", "name", "file"), PRIVATE_NAMES)
def test_the_table_names_only_what_utils_still_uses(owner, name, file):
    assert name in (PACKAGE / file).read_text(encoding="utf-8"), (
        f"utils/{file} no longer uses {owner.__name__}.{name}: remove it from PRIVATE_NAMES"
    )


def test_every_private_name_that_utils_reads_is_its_own_or_in_the_table():
    used, own = set(), set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and _is_private(node.attr):
                (own if isinstance(node.ctx, ast.Store) else used).add(node.attr)
    new = used - own - TABLED
    assert not new, f"add {new} to PRIVATE_NAMES, or use public names"


def test_every_private_name_of_a_library_that_utils_overrides_is_in_the_table():
    overridden = set()
    for module in pkgutil.walk_packages(utils.__path__, "utils."):
        if not module.name.endswith("__main__"):
            for item in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(item) and item.__module__ == module.name:
                    theirs = [c for c in item.__mro__ if not c.__module__.startswith("utils")]
                    overridden |= {
                        name
                        for name, value in vars(item).items()
                        if _is_private(name)
                        and inspect.isfunction(value)
                        and any(name in vars(parent) for parent in theirs)
                    }
    new = overridden - TABLED
    assert not new, f"add {new} to PRIVATE_NAMES, or override public names"


def _is_private(name: str) -> bool:
    """Names like _repr_html_ are public: IPython's documentation invites classes to define them."""
    return name.startswith("_") and not name.startswith(("__", "_repr_", "_ipython_"))
