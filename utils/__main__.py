"""The labs as commands: python -m utils --help."""

import argparse
import os
import sys
from pathlib import Path

from utils.labs import NOTEBOOKS, LabError, run_lab
from utils.results import percent, read_results
from utils.settings import load_settings


def labs(arguments: argparse.Namespace) -> None:
    """Run the notebooks and print the table of their results."""
    output_dir = Path(arguments.output_dir).resolve()
    preset = arguments.preset or os.environ.get("LABS_PRESET") or "offline"
    load_settings(preset)  # a wrong setting is better told before the first notebook starts
    environment = {"LABS_PRESET": preset, "LABS_OUTPUT_DIR": str(output_dir)}
    for number in arguments.only:
        name = NOTEBOOKS[number - 1]
        print(f"{name} …", flush=True)
        print(f"  {run_lab(name, output_dir, environment):.0f} s → {output_dir / name}.html", flush=True)
    table = percent(read_results(output_dir / "results.json"))
    print(table.to_string(index=False), f"\nScores in points of 0–100, 95 % intervals: {output_dir / 'results.json'}")


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m utils", description="Dialogue summarisation labs as commands.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("labs", help="run the notebooks, write pages and results", description=labs.__doc__)
    command.add_argument("--only", type=int, nargs="+", choices=(1, 2, 3), default=(1, 2, 3), help="which labs to run")
    command.add_argument("--preset", help="offline, cpu, gpu or auto (default: LABS_PRESET, else offline)")
    command.add_argument("--output-dir", default="out", help="where to write (default: out)")
    command.set_defaults(run=labs)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (LabError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
