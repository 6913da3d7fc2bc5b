"""Run the labs as commands: python -m utils --help, or accelerate launch -m utils finetune …

This module does not import torch, so that help and input errors appear at once.
"""

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from utils.dialogue_files import FORMATS, check_words, read_conversations
from utils.settings import FIELDS, load_settings, parse_overrides

METHODS = ("full", "lora")
OWN = {"summarize": "model", "toxicity": "reward_model"}  # read your own texts, with this model
ESTIMATORS = ("gae", "rloo", "grpo")
REPORT_MODULES = {"azure_ml": "azureml", "flyte": "flytekit"}  # others have their module's name
FILE = """FILE is text (a name and a colon before each turn, a blank line between conversations),
JSON, JSONL, CSV (rows with dialogue, or with speaker and text), subtitles (.vtt, .srt), a WhatsApp
chat, or a Slack export (a file, a folder or a zip file)."""
REPORT = """Turn the results of your labs into a report that you can share.

It lists hardware, versions, times, scores and intervals, and nothing personal: no names of
machines, users or folders. Read it before you send it; docs/expected.md says where to send it."""
SUMMARIZE = f"""Summarize your own conversations, and print one summary per line.

{FILE}

The model reads the speakers as #Person1#, #Person2#, …, as in DialogSum; their names are then put
back into the summary. A conversation whose prompt would exceed max_prompt_tokens is summarized in
parts; real models then summarize those summaries."""
TOXICITY = f"""Print the reward model's probability of hate for each turn, or each line of a text.

{FILE} No names are needed here.

The classifier measures hate toward groups, not rudeness, and makes mistakes: see Lab 3."""
FINETUNE = """Fine-tune as Lab 2 does, score on the test split, and save the model with its card.

Each device takes batch_size dialogues at a time. With accelerate launch, the processes share the
data, and the global batch is batch_size times their number. --set also accepts any argument of
transformers' TrainingArguments, such as weight_decay=0.01."""
PPO = """Train with PPO as Lab 3 does, score on the test split, and save the policy.

The prompts are heated and ordinary dialogues, and each device samples ppo_batch_size summaries at a
time. With accelerate launch, every process adds its own prompts to a step. --set also accepts any
argument of PPOConfig and TrainingArguments, such as gamma=0.99."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (by default, the command line's) and return an exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")  # a Windows console's default lacks many characters
    try:
        arguments = _parser().parse_args(argv)
        _check_input(arguments)
        from utils import commands

        getattr(commands, arguments.command)(arguments)
    except SystemExit as end:  # argparse has printed help or an error
        return int(end.code or 0)
    except Exception as error:
        ours = type(error).__module__.startswith("utils.")
        if not ours and not isinstance(error, OSError | ValueError):
            raise  # a bug rather than bad input: keep the traceback
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utils", description="Dialogue summarization labs as commands."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    labs = _add(subparsers, "labs", "Run the notebooks, and write their pages and results.")
    labs("--only", type=int, nargs="+", choices=(1, 2, 3), default=(1, 2, 3), help="labs to run")
    report = _add(subparsers, "report", REPORT)
    summarize = _add(subparsers, "summarize", SUMMARIZE)
    summarize("--speakers", nargs="+", metavar="NAME", default=(), help="all speakers of a text")
    summarize("--keep-names", action="store_true", help="show real names to the model")
    summarize("--turns", action="store_true", help="print the turns instead, without a model")
    evaluate = _add(subparsers, "evaluate", "Score a model on the test split, and plot the scores.")
    toxicity = _add(subparsers, "toxicity", TOXICITY)
    finetune = _add(subparsers, "finetune", FINETUNE)
    finetune("--method", choices=METHODS, default="lora", help="fine-tuning method (default: lora)")
    finetune("--quantization", choices=("8bit", "4bit"), help="quantize the base model; needs CUDA")
    ppo = _add(subparsers, "ppo", PPO)
    ppo("--estimator", choices=ESTIMATORS, default="gae", help="gae (PPO; default), rloo or grpo")
    ppo("--adapter", help="adapter to start from (default: OUTPUT_DIR/lab2/lora/best)")
    for option in (summarize, toxicity):
        option("file", metavar="FILE", help="your conversations; - for standard input")
        option("--format", choices=FORMATS, help="FILE's format (default: detected)")
    for option in (summarize, evaluate):
        option("--adapter", help="folder of an adapter to merge into the model")
        option("--int8", action="store_true", help="8-bit weights on CPUs; needs ctranslate2")
    for option in (finetune, ppo):
        option("--checkpoint-steps", type=int, metavar="N", help="save a checkpoint every N steps")
        option("--resume", action="store_true", help="resume from the newest complete checkpoint")
        option("--report-to", default="none", help="tensorboard, trackio, wandb, … (default: none)")
    for option in (labs, report, evaluate, finetune, ppo):
        option("--output-dir", help="output folder (default: LABS_OUTPUT_DIR, else the preset's)")
    for option in (summarize, evaluate, toxicity, finetune, ppo):
        option("--cpu", action="store_true", help="do not use a GPU")
    return parser


def _add(subparsers: Any, name: str, text: str) -> Any:
    """Add a command with the options that all commands have, and return its `add_argument`."""
    first, layout = text.partition("\n")[0], argparse.RawDescriptionHelpFormatter
    command = subparsers.add_parser(name, help=first, description=text, formatter_class=layout)
    option = command.add_argument
    default = "cpu or gpu" if name in OWN else "offline"
    option("--preset", help=f"offline, cpu, gpu or auto (default: LABS_PRESET, else {default})")
    about = "settings to change (put FILE, if any, before --set): --set train_dialogues=500 seed=1"
    option("--set", nargs="+", action="extend", metavar="NAME=VALUE", default=[], help=about)
    return option


def _check_input(arguments: argparse.Namespace) -> None:
    """Check the arguments, and add the settings, training arguments and texts of FILE to them.

    The default preset is "offline", which needs no network; for your own text, it is cpu or gpu.
    """
    given, command = vars(arguments), arguments.command
    trains = command in ("finetune", "ppo")
    overrides = parse_overrides(arguments.set, training_arguments(command) if trains else {})
    changes = {name: overrides.pop(name) for name in list(overrides) if name not in FIELDS}
    overrides |= {name: given[name] for name in ("output_dir", "resume") if given.get(name)}
    preset = arguments.preset or os.environ.get("LABS_PRESET")
    if command in OWN:
        _read_own(arguments)
        if preset in (None, "", "auto"):
            import torch  # takes seconds

            preset = "gpu" if torch.cuda.is_available() and not arguments.cpu else "cpu"
    arguments.settings = settings = load_settings(preset or "offline", **overrides)
    if command == "ppo" and arguments.adapter is None:
        arguments.adapter = Path(settings.output_dir) / "lab2" / "lora" / "best"
    if given.get("adapter"):
        settings.check_adapter(arguments.adapter)
    if trains:
        arguments.changes = _checkpoints_and_report(arguments) | changes
    if command in OWN:
        check_words(arguments.texts, getattr(settings, OWN[command]))
    if command != "report":
        used = (f"{name} {settings.shown(name)}" for name in ("model", "reward_model", "dataset"))
        print(f"preset {settings.preset}: {', '.join(used)}", file=sys.stderr)
    for conversation in arguments.conversations[:20] if command in OWN else ():
        print(conversation.contents, file=sys.stderr)


def _read_own(arguments: argparse.Namespace) -> None:
    """Read the conversations of FILE, or, with --turns, print them and stop."""
    summarize = arguments.command == "summarize"
    names = {"speakers": arguments.speakers} if summarize else {"named": False}
    found = read_conversations(arguments.file, arguments.format, **names)
    if summarize and arguments.turns:
        print("\n\n".join(map(str, found)))
        raise SystemExit
    own = [[turn.text for turn in conversation.turns] for conversation in found]
    arguments.conversations = found
    arguments.texts = [" ".join(texts) for texts in own] if summarize else list(chain(*own))


def _checkpoints_and_report(arguments: argparse.Namespace) -> dict[str, Any]:
    """Convert a training command's options to training arguments."""
    steps, name = arguments.checkpoint_steps, arguments.report_to
    module = REPORT_MODULES.get(name, name).partition(".")[0]
    if name not in ("none", "all") and (not module or find_spec(module) is None):
        raise ValueError(f"--report-to {name}: no package {module!r} is installed; install it")
    if steps is not None and steps < 1:
        raise ValueError(f"--checkpoint-steps {steps} must be at least 1")
    changes = {"report_to": name}
    if arguments.command == "ppo":
        changes |= {"advantage_estimator": arguments.estimator, "save_total_limit": 2}
    elif steps:
        changes |= {"eval_strategy": "steps", "eval_steps": steps}
    return changes | ({"save_strategy": "steps", "save_steps": steps} if steps else {})


def training_arguments(command: str) -> dict[str, str]:
    """Read the names and annotations of a command's training arguments from their source code.

    "finetune" accepts those of TrainingArguments, and "ppo" also those of PPOConfig. Importing
    these classes would take seconds.
    """
    (library,) = find_spec("transformers").submodule_search_locations
    sources = {"TrainingArguments": Path(library) / "training_args.py"}
    if command == "ppo":
        sources["PPOConfig"] = Path(__file__).parent / "ppo" / "config.py"
    annotations = {}
    for name, file in sources.items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
                annotations |= {f.target.id: ast.unparse(f.annotation) for f in fields}
    return annotations
