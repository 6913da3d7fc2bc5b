"""Nothing that the project loads can run code, and nothing that it writes leaves its folder."""

import ast
import json
import os
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from utils.data import load_dialogsum
from utils.dialogue_files import read_conversations
from utils.hub import UnavailableError
from utils.lab.notebooks import NOTEBOOKS, ROOT
from utils.models import load_model
from utils.ppo import PPOConfig
from utils.ppo.setup import prepared_model
from utils.settings import OFFLINE, load_settings
from utils.toxicity import HateScorer

SOURCES = [*(ROOT / "utils").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.system, (f"echo owned > {self.file}",)


def with_remote_code(folder: Path, file: Path) -> None:
    """Let a checkpoint ask for code of its own, which would write `file`."""
    code = f"open({str(file)!r}, 'w').write('owned')\nclass Config: pass\nclass Model: pass\n"
    (folder / "own.py").write_text(code, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = ("AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification")
    config["auto_map"] = {"AutoConfig": "own.Config"} | dict.fromkeys(names, "own.Model")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture
def checkpoint(tiny_t5, tiny_tokenizer, tmp_path) -> Path:
    folder = tmp_path / "model"
    tiny_t5.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


NOT_LOADED = r"pickle.*not loaded.*save_pretrained"


def test_a_pickled_model_is_refused_even_if_it_holds_only_tensors(checkpoint, tiny_t5):
    (checkpoint / "model.safetensors").unlink()
    torch.save(tiny_t5.state_dict(), checkpoint / "pytorch_model.bin")
    with pytest.raises(UnavailableError, match=rf"no model\.safetensors.*{NOT_LOADED}"):
        load_model(str(checkpoint), "cpu")
    with pytest.raises(OSError, match=rf"no model\.safetensors.*{NOT_LOADED}"):
        prepared_model(str(checkpoint), PPOConfig("unused"), None)


def test_a_pickled_adapter_is_refused(tmp_path):
    config = json.dumps({"base_model_name_or_path": "t"})
    (tmp_path / "adapter_config.json").write_text(config, encoding="utf-8")
    settings = load_settings("offline", model="t")
    settings.check_adapter(tmp_path)
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=rf"adapter_model\.bin is a {NOT_LOADED}"):
        settings.check_adapter(tmp_path)


def judge_with(weights: object, folder: Path) -> Path:
    """Copy the small world's judge, with these weights as a pickle."""
    shutil.copytree(OFFLINE / "judge", folder)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def test_a_classifiers_pickle_is_read_only_if_it_holds_nothing_but_tensors(tmp_path):
    tensors = load_file(OFFLINE / "judge" / "model.safetensors")
    pickled = HateScorer(str(judge_with(tensors, tmp_path / "tensors")), "cpu")
    texts = ["You idiot.", "Thank you."]
    own = HateScorer(str(OFFLINE / "judge"), "cpu")
    assert pickled.probability(texts).tolist() == own.probability(texts).tolist()
    code = judge_with({"weight": Payload(tmp_path / "owned")}, tmp_path / "code")
    with pytest.raises(UnavailableError, match=r"more than tensors\. Choose a model with safetens"):
        HateScorer(str(code), "cpu")
    assert not (tmp_path / "owned").exists()


def test_code_that_a_checkpoint_brings_is_not_run(checkpoint, tmp_path):
    with_remote_code(checkpoint, tmp_path / "owned")
    load_model(str(checkpoint), "cpu")
    assert not (tmp_path / "owned").exists()


def test_code_that_a_classifier_brings_is_not_run(tmp_path):
    folder = tmp_path / "judge"
    folder.mkdir()
    for file in (OFFLINE / "judge").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with_remote_code(folder, tmp_path / "owned")
    HateScorer(str(folder), "cpu")
    assert not (tmp_path / "owned").exists()


def test_what_the_project_writes_is_safetensors(checkpoint):
    assert [file.suffix for file in checkpoint.iterdir() if "model" in file.name] == [
        ".safetensors"
    ]
    weights = [f for f in OFFLINE.rglob("*") if f.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert weights == []


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_source_starts_a_shell_trusts_remote_code_or_evaluates_text(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "os.system", "os.popen", "pickle.load"), called
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert given.get("shell", "False") == "False"
            assert given.get("trust_remote_code", "False") == "False"
            assert given.get("weights_only", "True") == "True"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_notebook_starts_a_shell(name):
    notebook = json.loads((ROOT / f"{name}.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            assert "os.system" not in source and "shell=True" not in source
            assert not source.lstrip().startswith(("!", "%%bash", "%%sh"))


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", "x\0y"])
def test_ids_and_names_from_data_never_become_paths(tmp_path, name):
    """A dataset's ids stay text, and a conversation's names stay names."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        row = f"id,dialogue,summary,topic\n{name},Anna: Hi.,a,t\n"
        (folder / f"{split}.csv").write_text(row, encoding="utf-8")
    whole = name if pd.__version__ >= "3" else name.partition("\0")[0]  # it ended a cell before
    assert load_dialogsum(str(folder))["test"][0]["id"] == whole
    (tmp_path / "own.json").write_text(
        json.dumps([{"speaker": name.replace("\0", ""), "text": "Hi"}])
    )
    read_conversations(str(tmp_path / "own.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "own.json"]


def test_an_archives_files_are_read_and_never_unpacked(tmp_path):
    archive = tmp_path / "in" / "own.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../evil.txt", "Anna: Hi.\nBen: No.")
    assert len(read_conversations(str(archive))) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]
