"""python -m utils: bad input ends in one line that names the value and the remedy, at once."""

import dataclasses
import subprocess
import sys

import nbformat
import pytest
from processes import OPTIONS
from transformers import TrainingArguments

from utils.cli import ESTIMATORS, METHODS, main, training_arguments
from utils.finetuning import LEARNING_RATES
from utils.lab.notebooks import LabError, run_lab
from utils.ppo import PPOConfig
from utils.ppo.checkpointing import TrainingError

BAD_INPUT = [
    ("labs --preset fast", "unknown preset 'fast': choose auto, offline, cpu, gpu"),
    ("labs --set epochs=3", "unknown setting 'epochs': did you mean"),
    ("labs --set weight_decay=0.1", "unknown setting 'weight_decay': "),
    ("evaluate --set weight_decay=0.1", "unknown setting 'weight_decay': "),
    ("finetune --set weigt_decay=0.1", "unknown setting 'weigt_decay': did you mean weight_decay?"),
    ("finetune --set gamma=0.1", "unknown setting 'gamma': "),
    ("ppo --set gama=0.1", "unknown setting 'gama': did you mean gamma?"),
    ("finetune --set weight_decay=much", "weight_decay='much' cannot be read: give a number"),
    ("finetune --set bf16=maybe", "bf16='maybe' cannot be read: give on or off"),
    ("finetune --set parallelism_config=x", "parallelism_config='x' cannot be read"),
    ("evaluate --set seed", "'seed': write NAME=VALUE"),
    ("evaluate --set batch_size=0", "setting batch_size=0 must be at least 1"),
    ("evaluate --set batch_size=many", "batch_size='many' cannot be read: give a whole number"),
    ("evaluate --set full_epochs=-1", "full_epochs=-1.0 must be positive and finite"),
    ("evaluate --set precision=fp16", "precision='fp16' is not allowed: choose from auto, fp32"),
    ("evaluate --set cpu_speedups=2", "cpu_speedups='2' cannot be read: give on or off"),
    ("evaluate --set second_judge_labels=toxic", "must be 2 names"),
    ("evaluate --set model=", "model='' is empty"),
    ("evaluate --adapter no/such", "no/such holds no adapter: run Lab 2 first"),
    ("summarize own.txt --adapter no/such", "no/such holds no adapter"),
    ("ppo --adapter no/such", "no/such holds no adapter"),
    ("ppo --output-dir no/such", "no/such/lab2/lora/best holds no adapter"),
    ("summarize no-such.txt", "no-such.txt"),
    ("toxicity no-such.txt", "no-such.txt"),
    ("summarize empty.txt", "empty.txt holds no dialogue"),
    ("toxicity empty.txt", "empty.txt holds no text"),
    ("summarize bad.jsonl", "bad.jsonl, line 2 is not JSON"),
    ("summarize bad.csv", "bad.csv has the columns ['id', 'line']"),
    ("summarize latin.txt", "latin.txt is not UTF-8"),
    ("finetune --report-to no-such", "no-such: no package 'no-such' is installed"),
    ("ppo --adapter adapter --report-to no.such", "no.such: no package 'no' is installed"),
    ("finetune --checkpoint-steps 0", "--checkpoint-steps 0 must be at least 1"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with files that hold no dialogues, and one that does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("#Person1#: Hello.", encoding="utf-8")
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text('{"dialogue": "A: Hello."}\nHello.\n', encoding="utf-8")
    (tmp_path / "bad.csv").write_text("id,line\n1,Hello.\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_text("café", encoding="latin-1")
    (tmp_path / "adapter").mkdir()
    config = '{"base_model_name_or_path": "some/model"}'
    (tmp_path / "adapter" / "adapter_config.json").write_text(config, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("line", "message"), BAD_INPUT)
def test_bad_input_ends_in_one_line_that_names_it(folder, capsys, monkeypatch, line, message):
    if "adapter adapter" in line:
        monkeypatch.setenv("LABS_MODEL", "some/model")
    assert main(line.split()) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ") and told.err.count("\n") == 1
    assert message in told.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("labs --only 4", "invalid choice: 4"),
        ("finetune --method best", "invalid choice: 'best'"),
        ("ppo --estimator reinforce", "invalid choice: 'reinforce'"),
        ("finetune --quantization 2bit", "invalid choice: '2bit'"),
        ("summarize", "the following arguments are required: FILE"),
        ("summarize a.docx --format docx", "invalid choice: 'docx'"),
        ("train", "invalid choice: 'train'"),
        ("evaluate --fast", "unrecognized arguments: --fast"),
        ("finetune --checkpoint-steps often", "invalid int value: 'often'"),
        ("", "the following arguments are required: COMMAND"),
    ],
)
def test_an_unknown_value_on_the_command_line_is_refused_with_code_2(capsys, line, message):
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("LABS_EPOCHS=3", "variable LABS_EPOCHS: unknown setting 'epochs': did you mean"),
        ("LABS_PRESET=tpu", "unknown preset 'tpu'"),
        ("LABS_SEED=one", "variable LABS_SEED: seed='one' cannot be read"),
    ],
)
def test_a_bad_variable_is_refused_before_anything_runs(
    folder, capsys, monkeypatch, variable, message
):
    monkeypatch.setenv(*variable.split("="))
    assert main(["labs", "--output-dir", "out"]) == 1
    assert message in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    "command", ["labs", "summarize", "evaluate", "toxicity", "finetune", "ppo"]
)
def test_every_command_explains_itself(capsys, command):
    assert main([command, "--help"]) == 0
    assert "--set NAME=VALUE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "ppo --set gama=0.9",
        "evaluate --adapter no/such",
        "summarize no-such.txt",
        "finetune --preset auto --set batch_size=0",
    ],
)
def test_help_and_bad_input_take_at_most_one_and_a_half_seconds_of_processor_time(line):
    resource = pytest.importorskip("resource", reason="Windows does not measure child processes so")

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    subprocess.run([sys.executable, "-m", "utils", *line.split()], capture_output=True, **OPTIONS)
    assert used() - before <= 1.5


@pytest.mark.parametrize(
    "error", [TrainingError("the weights\nare not finite"), LabError("Lab 1 stopped")]
)
def test_errors_of_our_own_are_told_in_one_line(monkeypatch, capsys, error):
    def stop(arguments):
        raise error

    monkeypatch.setattr("utils.commands.evaluate", stop)
    assert main(["evaluate"]) == 1
    assert capsys.readouterr().err.endswith(f"error: {' '.join(str(error).split())}\n")


def test_an_error_in_the_program_keeps_its_traceback(monkeypatch):
    def stop(arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("utils.commands.evaluate", stop)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["evaluate"])


@pytest.mark.parametrize(
    ("command", "config"), [("finetune", TrainingArguments), ("ppo", PPOConfig)]
)
def test_training_arguments_are_the_fields_of_their_class(command, config):
    assert set(training_arguments(command)) == {field.name for field in dataclasses.fields(config)}


def test_every_method_and_estimator_on_the_command_line_is_one_that_the_trainers_know(tmp_path):
    assert set(METHODS) == set(LEARNING_RATES)
    for name in ESTIMATORS:
        PPOConfig(str(tmp_path), advantage_estimator=name)
    with pytest.raises(ValueError, match="reinforce"):
        PPOConfig(str(tmp_path), advantage_estimator="reinforce")


def parsed(monkeypatch, *line: str):
    """The arguments that a command is called with."""
    seen = []
    monkeypatch.setattr(f"utils.commands.{line[0]}", seen.append)
    assert main(line) == 0
    return seen[0]


def test_overrides_may_be_given_together_or_one_by_one(monkeypatch):
    for pairs in (["--set", "seed=7", "few_shot=2"], ["--set", "seed=7", "--set", "few_shot=2"]):
        settings = parsed(monkeypatch, "evaluate", *pairs).settings
        assert (settings.preset, settings.seed, settings.few_shot) == ("offline", 7, 2)


def test_the_output_folder_is_that_of_the_option_then_the_override_then_the_variable(monkeypatch):
    monkeypatch.setenv("LABS_OUTPUT_DIR", "a")
    pairs = ["--set", "output_dir=b"]
    assert parsed(monkeypatch, "evaluate").settings.output_dir == "a"
    assert parsed(monkeypatch, "evaluate", *pairs).settings.output_dir == "b"
    assert parsed(monkeypatch, "evaluate", *pairs, "--output-dir", "c").settings.output_dir == "c"


def test_options_and_overrides_become_training_arguments_and_overrides_win(monkeypatch):
    line = ["finetune", "--checkpoint-steps", "5", "--set", "eval_steps=10", "weight_decay=0.01"]
    assert parsed(monkeypatch, *line).changes == {
        "report_to": "none",
        "eval_strategy": "steps",
        "eval_steps": 10.0,
        "save_strategy": "steps",
        "save_steps": 5,
        "weight_decay": 0.01,
    }


# The notebooks' runner


def write_notebook(file, *sources: str) -> None:
    """Write a notebook that holds outputs of an earlier run."""
    notebook = nbformat.v4.new_notebook()
    for source in sources:
        cell = nbformat.v4.new_code_cell(source, execution_count=7)
        cell.outputs = [nbformat.v4.new_output("stream", text="of an earlier run")]
        cell.metadata["execution"] = {"iopub.execute_input": "2001-01-01T00:00:00Z"}
        notebook.cells.append(cell)
    nbformat.write(notebook, file)


def test_a_kernel_that_dies_is_told_and_what_had_run_is_written(tmp_path):
    write_notebook(tmp_path / "deadly.ipynb", "print('so far')", "import os; os._exit(1)")
    with pytest.raises(LabError, match=r"deadly stopped: its kernel died.*LABS_BATCH_SIZE=4"):
        run_lab(tmp_path / "deadly.ipynb", tmp_path / "out", {})
    assert "so far" in (tmp_path / "out" / "deadly.html").read_text(encoding="utf-8")


def test_a_stopped_lab_shows_no_output_of_an_earlier_run(tmp_path):
    write_notebook(tmp_path / "stale.ipynb", "print('new')", "1 / 0", "print('never')")
    with pytest.raises(LabError, match="stale stopped: ZeroDivisionError"):
        run_lab(tmp_path / "stale.ipynb", tmp_path / "out", {})
    first, second, third = nbformat.read(tmp_path / "out" / "stale.ipynb", as_version=4).cells
    assert first.outputs[0].text == "new\n" and second.outputs[0].output_type == "error"
    assert third.outputs == [] and third.execution_count is None
    assert "execution" not in third.metadata
    assert "of an earlier run" not in (tmp_path / "out" / "stale.html").read_text(encoding="utf-8")


def test_a_page_shows_formulas_without_a_network_and_the_notebook_keeps_them(tmp_path):
    formulas = "Half of $x$, or\n\n$$y = \\frac{x}{2}$$\n\nand `$5`."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(formulas)])
    nbformat.write(notebook, tmp_path / "halves.ipynb")
    run_lab(tmp_path / "halves.ipynb", tmp_path / "out", {})
    page = (tmp_path / "out" / "halves.html").read_text(encoding="utf-8")
    assert page.count("<math") == 2 and "<mfrac>" in page and 'display="block"' in page
    assert "$x$" not in page and "$$y" not in page and "$5" in page
    assert nbformat.read(tmp_path / "out" / "halves.ipynb", 4).cells[0].source == formulas


@pytest.mark.parametrize("setting", ["dataset", "model"])
def test_a_missing_dataset_or_model_stops_a_command_with_one_line(folder, capsys, setting):
    assert main(f"evaluate --set {setting}=no/such".split()) == 1
    (message,) = (text for text in capsys.readouterr().err.splitlines() if "error: " in text)
    assert "no/such" in message and "LABS_PRESET=offline" in message
    assert not (folder / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["dataset", "model"])
def test_a_missing_dataset_or_model_stops_the_lab_with_one_line(tmp_path, capsys, setting):
    line = f"labs --only 1 --output-dir {tmp_path} --set {setting}=no/such"
    assert main(line.split()) == 1
    (message,) = (text for text in capsys.readouterr().err.splitlines() if "error: " in text)
    assert "no/such" in message and "LABS_PRESET=offline" in message
    assert not (tmp_path / "results.json").exists()
