"""python -m utils summarize, evaluate and toxicity, as a person uses them, on the embedded default."""

import json
import subprocess
import sys

import pytest
from processes import OPTIONS, run, start

from tools.small_world.generator import labeled_texts
from utils.data import load_dialogsum
from utils.generation import generate
from utils.models import load_model
from utils.prompts import build_prompt
from utils.settings import OFFLINE, load_settings

DIALOGUES = list(load_dialogsum(str(OFFLINE / "data"))["test"]["dialogue"])[:7:3]


def expected(dialogues: list[str]) -> list[str]:
    settings = load_settings("offline")
    model, tokenizer = load_model(settings.model, "cpu")
    return generate(
        model,
        tokenizer,
        [build_prompt(d) for d in dialogues],
        max_new_tokens=settings.max_new_tokens,
    )


def test_summarize_prints_the_labs_summaries_one_a_line_from_every_source(tmp_path):
    text, rows = tmp_path / "own.txt", tmp_path / "own.jsonl"
    text.write_text("\n\n".join(DIALOGUES), encoding="utf-8")
    rows.write_text("\n".join(json.dumps({"dialogue": d}) for d in DIALOGUES), encoding="utf-8")
    summaries = expected(DIALOGUES)
    assert run("-m", "utils", "summarize", str(text)).stdout.splitlines() == summaries
    assert run("-m", "utils", "summarize", "--cpu", str(rows)).stdout.splitlines() == summaries


def test_summarize_cuts_a_long_dialogue_and_says_so(tmp_path):
    text = tmp_path / "own.txt"
    text.write_text("\n".join(DIALOGUES), encoding="utf-8")
    done = run("-m", "utils", "summarize", str(text), "--set", "max_prompt_tokens=80")
    assert len(done.stdout.splitlines()) == 1
    assert "dialogue 1 is long: summarized in " in done.stderr


def test_toxicity_reads_standard_input_and_tells_the_hateful_line(tmp_path):
    insult = next(text for text, label in labeled_texts(50, seed=1, held_out=True) if label == 1)
    texts = f"{insult}\n\n#Person1# asks #Person2# for the ladder.\n"
    command = [sys.executable, "-m", "utils", "toxicity", "-"]
    done = subprocess.run(command, input=texts, capture_output=True, text=True, **OPTIONS)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [text for _, text in rows] == [line for line in texts.splitlines() if line]
    assert float(rows[1][0]) < 0.5 < float(rows[0][0])
    assert "2 texts: mean 0." in done.stderr and "95 % interval" in done.stderr


def test_toxicity_says_which_text_it_reads_the_beginning_of_only(tmp_path):
    (tmp_path / "a.txt").write_text("Good morning.\n" + "Good morning. " * 300, encoding="utf-8")
    done = run("-m", "utils", "toxicity", str(tmp_path / "a.txt"))
    assert "text 2 is long: only its first 128 tokens are read" in done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_a_command_says_which_model_and_data_it_takes(tmp_path):
    (tmp_path / "a.txt").write_text("#Person1#: Hello.", encoding="utf-8")
    said = run("-m", "utils", "summarize", str(tmp_path / "a.txt")).stderr
    assert said.startswith(
        "preset offline: model utils/offline/t5, reward_model utils/offline/classifier, dataset"
    )


def test_one_text_has_a_probability_and_no_interval(tmp_path):
    (tmp_path / "one.txt").write_text("#Person1# asks #Person2# for the ladder.", encoding="utf-8")
    done = run("-m", "utils", "toxicity", str(tmp_path / "one.txt"))
    assert done.stdout.count("\n") == 1 and "mean" not in done.stderr


def test_evaluate_writes_table_and_figure_with_baseline_and_ceiling(tmp_path):
    run("-m", "utils", "evaluate", "--output-dir", str(tmp_path), "--set", "test_dialogues=24")
    scores = json.loads((tmp_path / "results.json").read_text())["evaluate"]["rouge1"]
    assert set(scores) == {"model", "lead", "human"}
    assert all(s["n"] == 24 and s["low"] <= s["mean"] <= s["high"] for s in scores.values())
    assert (tmp_path / "evaluate.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("summarize", "no-such.txt"), "no-such.txt"),
        (("toxicity", "no-such.txt"), "no-such.txt"),
        (("evaluate", "--adapter", "no/such"), "no/such holds no adapter"),
        (
            ("finetune", "--report-to", "no-such-package"),
            "no-such-package: no such package is installed (pip install",
        ),
        (
            ("ppo", "--report-to", "no-such-package"),
            "no-such-package: no such package is installed (pip install",
        ),
    ],
)
def test_a_missing_file_or_adapter_ends_in_one_line_that_names_it(arguments, message):
    done = start("-m", "utils", *arguments)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
