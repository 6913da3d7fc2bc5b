"""The labs as commands: python -m utils --help. With several processes: accelerate launch -m utils finetune …"""

import argparse
import sys

from utils import commands
from utils.dialogue_files import FORMATS
from utils.finetuning import LEARNING_RATES
from utils.lab.notebooks import LabError
from utils.ppo.checkpointing import TrainingError
from utils.ppo.config import ESTIMATORS


def main() -> int:
    """Read the command line and do what it says."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(
            encoding="utf-8"
        )  # a Windows console's own cannot say everything that summaries can
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except (LabError, TrainingError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utils", description="Dialogue summarization labs as commands."
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    labs = _add(subparsers, commands.labs, "run the notebooks, write pages and results")
    labs.add_argument(
        "--only",
        type=int,
        nargs="+",
        choices=(1, 2, 3),
        default=(1, 2, 3),
        help="which labs to run",
    )

    finetune = _add(
        subparsers,
        commands.finetune,
        "fine-tune, judge on the test split, save the model with a card",
    )
    finetune.add_argument(
        "--method", choices=list(LEARNING_RATES), default="lora", help="(default: lora)"
    )
    finetune.add_argument(
        "--checkpoint-steps",
        type=int,
        metavar="N",
        help="evaluate and save every N steps, not epochs",
    )
    finetune.add_argument(
        "--quantization", choices=("8bit", "4bit"), help="of the base under an adapter; needs CUDA"
    )

    ppo = _add(
        subparsers,
        commands.ppo,
        "make summaries polite with PPO, RLOO or GRPO, and judge what it costs",
    )
    ppo.add_argument(
        "--adapter", help="of the policy to begin with (default: OUTPUT_DIR/lab2/lora/best)"
    )
    ppo.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default="gae",
        help="of advantages (default: gae, which is PPO)",
    )
    ppo.add_argument(
        "--checkpoint-steps", type=int, metavar="N", help="save every N steps (default: never)"
    )

    summarize = _add(
        subparsers, commands.summarize, "summarize dialogues of your own", writes=False
    )
    summarize.add_argument("file", metavar="FILE", help="text, JSONL or CSV; - for standard input")
    summarize.add_argument(
        "--format", choices=FORMATS, help="of the file (default: by its ending, else text)"
    )

    evaluate = _add(
        subparsers, commands.evaluate, "judge a model on the test split: table and figure"
    )

    toxicity = _add(
        subparsers, commands.toxicity, "probability of hate for each line of a text", writes=False
    )
    toxicity.add_argument("file", metavar="FILE", help="a text on each line; - for standard input")

    for judging in (summarize, evaluate):
        judging.add_argument(
            "--adapter", help="to merge into the model: a folder that Lab 2 or finetune wrote"
        )
    for training in (finetune, ppo):
        training.add_argument(
            "--resume",
            action="store_true",
            help="go on from the newest whole checkpoint, if there is one",
        )
        training.add_argument(
            "--report-to",
            default="none",
            help="tensorboard, trackio, wandb, …; its package is not ours (default: none)",
        )
    for command in (summarize, evaluate, toxicity, finetune, ppo):
        command.add_argument("--cpu", action="store_true", help="use no accelerator")
    return parser


def _add(subparsers, run, help_text: str, writes: bool = True) -> argparse.ArgumentParser:
    command = subparsers.add_parser(
        run.__name__,
        help=help_text,
        description=run.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--preset", help="offline, cpu, gpu or auto (default: LABS_PRESET, else offline)"
    )
    if writes:
        command.add_argument(
            "--output-dir", help="where to write (default: LABS_OUTPUT_DIR, else out)"
        )
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        default=[],
        help="settings to override, as the variables LABS_NAME do, after FILE if there is one: "
        "--set train_dialogues=500 seed=1",
    )
    command.set_defaults(run=run, **({} if writes else {"output_dir": None}))
    return command


if __name__ == "__main__":
    sys.exit(main())
