"""utils/ppo alone: the wheel of the project, installed where nothing else of the labs is."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from utils.lab.notebooks import ROOT

PACKAGE = ROOT / "utils" / "ppo"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {"utils", "tools", "tests"}
TRAINING = """
import sys
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast, T5Config,
    T5ForConditionalGeneration,
)
from seq2seq_ppo import PPOConfig, PPOTrainer

words = ["<pad>", "</s>", "<unk>", *"the dog and a cat sat on mat".split()]
tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
)
torch.manual_seed(0)
size = {"vocab_size": len(words), "d_model": 16, "decoder_start_token_id": 0}
t5 = T5ForConditionalGeneration(T5Config(**size, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
sides = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
bart = BartForConditionalGeneration(BartConfig(**size, **sides, **heads, **tokens))


def reward(completions, **kwargs):
    \"\"\"Reward completions that name the dog.\"\"\"
    return [float("dog" in completion) for completion in completions]


for model in (t5, bart):
    args = PPOConfig(
        "out", max_steps=2, max_completion_length=6, per_device_train_batch_size=4,
        num_iterations=1, use_cpu=True, save_strategy="no", disable_tqdm=True,
    )
    rows = Dataset.from_dict({"prompt": ["the cat sat", "a dog", "on a mat", "and the dog"]})
    trainer = PPOTrainer(model, reward, args, rows, processing_class=tokenizer)
    trainer.train()
    print(type(model).__name__, trainer.state.global_step, trainer.completions.shape[0])
print("utils" in sys.modules, PPOTrainer.__module__)
"""


def test_the_package_imports_nothing_of_ours_but_itself():
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(name.name.split(".")[0] in OURS for name in node.names), file
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{file} imports from above the package"
                assert node.level == 1 or node.module.split(".")[0] not in OURS, file


def test_the_packages_requirements_are_those_of_the_labs():
    lines = [
        line
        for name in ("requirements.txt", "requirements-colab.txt")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
    ]
    of_the_labs = {re.split(r"[<>=]", line)[0]: line for line in lines if line[:1].isalpha()}
    for requirement in PROJECT["dependencies"]:
        name = re.split(r"[<>=]", requirement)[0]
        assert of_the_labs.get(name, requirement) == requirement


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that `pip install .` makes, built from a copy of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "project"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    for name in ("utils", "tools"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), "."]
    subprocess.run(command, cwd=copy, check=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(f"seq2seq_ppo/{file.name}" for file in PACKAGE.glob("*.py"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="its environment has another layout")
def test_the_installed_package_trains_t5_and_bart(wheel, tmp_path):
    """In a fresh environment that sees the libraries of this one, and none of the labs' code."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    packages = next((tmp_path / "env").rglob("site-packages"))
    for old in packages.glob("setuptools*"):  # Python 3.11 brings one that is too old for torch
        shutil.rmtree(old)
    (packages / "seen.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    python = str(tmp_path / "env" / "bin" / "python")
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([python, "-m", "pip", *install], check=True)

    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", TRAINING], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "T5ForConditionalGeneration 2 4",
        "BartForConditionalGeneration 2 4",
        "False seq2seq_ppo.trainer",
    ]
