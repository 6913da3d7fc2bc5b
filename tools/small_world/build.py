"""Build the small world from scratch: dialogues, T5, decoder-only model and judges.

    python -m tools.small_world.build    # writes into utils/offline/, 30 to 80 minutes on two cores

Each model is trained in a process of its own, on one core and with one thread, so that the result
does not depend on how many cores there are. `python -m tools.small_world.card` then measures the
models and writes their model card.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers

from tools.small_world.corpus import write_corpus
from tools.small_world.heated import write_heated
from tools.small_world.judges import JUDGES
from utils.models import use_bf16
from utils.settings import OFFLINE

SEED = 0
MODELS = ("t5", "decoder", *JUDGES)


def train(name: str, folder: Path) -> dict[str, Any]:
    """Train one of MODELS in a process of its own with one thread; return seconds and precision.

    Raises CalledProcessError if the training fails; its output is in out/small_world/<name>.log.
    """
    commands = {
        "t5": ["tools.small_world.reader", "--folder", str(folder / "t5")],
        "decoder": ["tools.small_world.decoder", "--folder", str(folder / "decoder")],
    }
    judge = ["tools.small_world.judges", str(folder), "--only", name]
    command = [sys.executable, "-m", *commands.get(name, judge)]
    log = Path("out") / "small_world" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        subprocess.run(command, env=one_thread, stdout=output, stderr=subprocess.STDOUT, check=True)
    precision = "bf16" if use_bf16("auto", torch.device("cpu")) else "fp32"
    return {"seconds": round(time.perf_counter() - start), "precision": precision}


def write_manifest(folder: Path, trained: dict[str, dict[str, Any]]) -> None:
    """Write manifest.json: versions, how each model was trained, and the hash of every file."""
    files = [path for path in folder.glob("*/*") if path.is_file()]
    manifest = {
        "seed": SEED,
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, tokenizers, np)}
        | {"python": platform.python_version()},
        "trained": trained,
        "sha256": {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(files)
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Build the requested parts, two models at a time, and update the manifest."""
    parser = argparse.ArgumentParser(
        description="Build the small world's dialogues, T5, decoder-only model and judges."
    )
    parser.add_argument(
        "--only", choices=("data", *MODELS), nargs="+", help="build these and keep the others"
    )
    parser.add_argument("--folder", type=Path, default=OFFLINE, help="output folder")
    arguments = parser.parse_args()
    folder, names = arguments.folder, arguments.only or ("data", *MODELS)
    if "data" in names:
        write_corpus(folder / "data", SEED)
        write_heated(folder / "heated", SEED)
    manifest = folder / "manifest.json"
    trained = (
        json.loads(manifest.read_text(encoding="utf-8"))["trained"] if manifest.exists() else {}
    )
    models = [name for name in MODELS if name in names]
    with ThreadPoolExecutor(max_workers=2) as pool:
        trained |= zip(models, pool.map(lambda name: train(name, folder), models), strict=True)
    write_manifest(folder, trained)


if __name__ == "__main__":
    main()
