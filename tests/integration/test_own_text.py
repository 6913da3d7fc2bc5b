"""python -m utils summarize, evaluate and toxicity, as a person uses them, on the small world."""

import io
import json
import re

import pytest
from processes import run

from utils.cli import main
from utils.generation import generate
from utils.prompts import build_prompt
from utils.settings import load_settings

OFFLINE = ("--preset", "offline")
LADDER = "#Person1# asks #Person2# for the ladder."


@pytest.fixture
def told(capsys):
    """Run a command in this process, to a good end, and return what it printed."""

    def tell(*line: str):
        assert main(line) == 0
        return capsys.readouterr()

    return tell


@pytest.fixture(scope="module")
def dialogues(offline_data) -> list[str]:
    return list(offline_data["test"]["dialogue"])[:7:3]


def test_summarize_prints_the_labs_summaries_one_a_line_from_every_source(
    tmp_path, told, dialogues, offline_model
):
    text, rows = tmp_path / "own.txt", tmp_path / "own.jsonl"
    text.write_text("\n\n".join(dialogues), encoding="utf-8")
    rows.write_text("\n".join(json.dumps({"dialogue": d}) for d in dialogues), encoding="utf-8")
    limit = load_settings("offline").max_new_tokens
    prompts = [build_prompt(dialogue) for dialogue in dialogues]
    summaries = generate(*offline_model, prompts, max_new_tokens=limit)
    assert told("summarize", *OFFLINE, str(text)).out.splitlines() == summaries
    assert told("summarize", *OFFLINE, str(rows)).out.splitlines() == summaries


LONG = ("--set", "max_prompt_tokens=80")


def test_summarize_prints_what_the_small_world_says_of_the_parts_of_a_long_conversation(
    tmp_path, told, dialogues
):
    (tmp_path / "own.txt").write_text("\n".join(dialogues), encoding="utf-8")
    printed = told("summarize", *OFFLINE, str(tmp_path / "own.txt"), *LONG)
    said = re.findall(r"  part \d+, \d+ turn\(s\): (.*)", printed.err)
    assert (
        f"own.txt, line 1: over max_prompt_tokens=80, so summarized in {len(said)} parts\n"
        in printed.err
    )
    assert len(said) > 3 and printed.out == " ".join(said) + "\n"


def test_summarize_goes_on_to_the_whole_with_a_model_that_knows_more_than_the_small_world(
    tmp_path, told, dialogues, monkeypatch
):
    monkeypatch.setattr("utils.commands.is_of_small_world", lambda model: False)
    asked = []
    monkeypatch.setattr(
        "utils.commands.generate",
        lambda model, tokenizer, prompts, **_: (
            asked.append(prompts) or ["#Person2# asks."] * len(prompts)
        ),
    )
    own = "\n".join(dialogues).replace("#Person2#:", "Tom:")
    (tmp_path / "own.txt").write_text(own, encoding="utf-8")
    printed = told("summarize", *OFFLINE, str(tmp_path / "own.txt"), *LONG)
    assert printed.out == "Tom asks.\n" and "part 2, " in printed.err
    assert len(asked) > 1 and "#Person2# asks.\n#Person2# asks.\n" in asked[1][0]
    assert "parts, then as a whole" in printed.err and "turn(s): Tom asks." in printed.err


def test_summarize_names_the_speakers_that_the_model_reads_as_numbers(
    tmp_path, told, dialogues, offline_model
):
    (tmp_path / "own.txt").write_text(dialogues[0], encoding="utf-8")
    summary = told("summarize", *OFFLINE, str(tmp_path / "own.txt")).out
    own = dialogues[0].replace("#Person1#:", "Zoë M.:").replace("#Person2#:", "+44 7700 900123:")
    (tmp_path / "own.txt").write_text(own, encoding="utf-8")
    printed = told("summarize", *OFFLINE, str(tmp_path / "own.txt"))
    assert "#Person1#" in summary
    assert printed.out == summary.replace("#Person1#", "Zoë M.").replace(
        "#Person2#", "+44 7700 900123"
    )
    assert "turn(s) of Zoë M., +44 7700 900123" in printed.err
    prompts = [build_prompt(own)]
    kept = generate(*offline_model, prompts, max_new_tokens=load_settings("offline").max_new_tokens)
    line = ("summarize", *OFFLINE, "--keep-names", str(tmp_path / "own.txt"))
    assert told(*line).out.splitlines() == kept


def test_summarize_shows_the_turns_without_a_model(tmp_path, told):
    cue = "00:00:01,000 --> 00:00:02,000"
    (tmp_path / "own.srt").write_text(f"1\n{cue}\nAnna: Are you\ncoming?\n\n2\n{cue}\nTom: Yes.\n")
    line = ("summarize", "--turns", str(tmp_path / "own.srt"))
    assert told(*line).out == "Anna: Are you coming?\nTom: Yes.\n"


@pytest.mark.parametrize(
    ("line", "variable", "cuda", "preset"),
    [
        ("", None, False, "cpu"),
        ("", None, True, "gpu"),
        ("--cpu", None, True, "cpu"),
        ("--preset auto", "offline", False, "cpu"),
        ("", "auto", True, "gpu"),
        ("", "offline", True, "offline"),
        ("--preset gpu", "offline", False, "gpu"),
    ],
)
@pytest.mark.parametrize("command", ["summarize", "toxicity"])
def test_ones_own_text_goes_to_the_real_models_unless_a_preset_is_chosen(
    tmp_path, monkeypatch, command, line, variable, cuda, preset
):
    (tmp_path / "own.txt").write_text(f"#Person1#: {LADDER}", encoding="utf-8")
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    if variable:
        monkeypatch.setenv("LABS_PRESET", variable)
    seen = []
    monkeypatch.setattr(f"utils.commands.{command}", seen.append)
    assert main([command, str(tmp_path / "own.txt"), *line.split()]) == 0
    assert seen[0].settings.preset == preset


def test_toxicity_reads_standard_input_and_finds_the_hateful_line(monkeypatch, told):
    insult = "You are such a stupid clown!"
    stream = io.TextIOWrapper(io.BytesIO(f"{insult}\n\n{LADDER}\n".encode()))
    monkeypatch.setattr("sys.stdin", stream)
    printed = told("toxicity", *OFFLINE, "-")
    rows = [line.split("\t") for line in printed.out.splitlines()]
    assert [text for _, text in rows] == [insult, LADDER]
    assert float(rows[1][0]) < 0.5 < float(rows[0][0])
    assert "2 texts: mean 0." in printed.err and "95% interval" in printed.err
    assert "50% at 0.5 or more" in printed.err


def test_toxicity_scores_each_turn_of_a_conversation_without_its_name(tmp_path, told):
    rows = [{"speaker": "Anna", "text": "You are such a stupid clown!"}]
    rows += [{"speaker": "Stupid clown", "text": "Good morning."}]
    (tmp_path / "own.json").write_text(json.dumps(rows), encoding="utf-8")
    printed = told("toxicity", *OFFLINE, str(tmp_path / "own.json"))
    first, second = (line.split("\t") for line in printed.out.splitlines())
    assert first[1].startswith("Anna: You") and float(second[0]) < 0.5 < float(first[0])


def test_toxicity_says_which_text_it_reads_only_in_part(tmp_path, told):
    (tmp_path / "a.txt").write_text("Good morning.\n" + "Good morning. " * 300, encoding="utf-8")
    printed = told("toxicity", *OFFLINE, str(tmp_path / "a.txt"))
    assert "text 2 is long: only its first 128 tokens are read" in printed.err
    assert len(printed.out.splitlines()) == 2


def test_a_command_says_which_model_and_data_it_uses(tmp_path):
    (tmp_path / "one.txt").write_text(LADDER, encoding="utf-8")
    printed = run(
        "-m", "utils", "toxicity", *OFFLINE, str(tmp_path / "one.txt")
    )  # as a process of its own
    assert printed.stderr.startswith(
        "preset offline: model utils/offline/t5, reward_model utils/offline/judge, dataset"
    )
    assert printed.stdout.endswith(f"\t{LADDER}\n")


def test_one_text_has_a_probability_and_no_interval(tmp_path, told):
    (tmp_path / "one.txt").write_text(LADDER, encoding="utf-8")
    printed = told("toxicity", *OFFLINE, str(tmp_path / "one.txt"))
    assert printed.out.count("\n") == 1 and "mean" not in printed.err


def test_evaluate_writes_table_and_figure_with_baseline_and_human_summaries(tmp_path, told):
    told("evaluate", "--output-dir", str(tmp_path), "--set", "test_dialogues=24")
    scores = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["evaluate"]
    assert set(scores["rouge1"]) == {"model", "lead", "human"}
    assert set(scores["right_speakers"]) == set(scores["faithful_names"]) == {"model", "lead"}
    for score in scores["rouge1"].values():
        assert score["n"] == 24 and score["low"] <= score["mean"] <= score["high"]
    assert (tmp_path / "evaluate.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", ["summarize", "toxicity"])
def test_the_small_world_does_not_answer_strangers(tmp_path, capsys, command):
    meeting = "#Person1#: Revenue forecasts slipped again.\n#Person2#: Postpone the budget meeting."
    (tmp_path / "own.txt").write_text(meeting, encoding="utf-8")
    assert main([command, *OFFLINE, str(tmp_path / "own.txt")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "of its words are unknown to the small world's model" in printed.err
    assert "choose the preset cpu or gpu" in printed.err
