"""The real clients against a hub on this machine: checkpoints load, and faults end as documented.

Files travel over plain HTTP, as they do without hf_xet: its protocol has no stand-in here.
"""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
import small_labs
from hub_checkpoints import (
    BART,
    CLASSIFIER,
    CONSTANT,
    DATASET,
    SECOND_JUDGE,
    WIDTHS,
    write_repositories,
)
from loopback_hub import Fault, LoopbackHub, Repository, serve
from processes import clean_environment

from utils.data import load_dialogsum
from utils.lab.notebooks import ROOT
from utils.settings import OFFLINE

# Every fixture starts interpreters, so all tests share one worker and one set of fixtures.
pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"
WEIGHTS = "model.safetensors"


def ask(endpoint: str, home: Path, *arguments: str, **variables: str) -> str:
    """Return what Python prints with these arguments and this hub, its caches in `home`."""
    place = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=clean_environment(**place | variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# The real ids

LOAD = f"""
import json
from utils.data import load_dialogsum
from utils.models import load_model, parameter_counts
from utils.toxicity import HateScorer

seen = {{}}
for name in {list(WIDTHS)}:
    model, tokenizer = load_model(name, "cpu")
    ids = tokenizer("#Person1#: Hello, world!")["input_ids"]
    head, embedding = model.lm_head.weight, model.get_input_embeddings().weight
    seen[name] = {{
        "tokenizer": type(tokenizer).__name__,
        "untied": embedding.data_ptr() != head.data_ptr(),
        "head": list(head.shape),
        "parameters": parameter_counts(model)["total"],
        "text": tokenizer.decode(ids, skip_special_tokens=True),
    }}
scorer = HateScorer({CLASSIFIER!r}, "cpu")
probability = scorer.probability(["a b"]).item()
seen["classifier"] = {{"labels": scorer.label_ids, "tokens": scorer.max_tokens, "p": probability}}
dataset = load_dialogsum({DATASET!r})
seen["dataset"] = {{split: rows["dialogue"][:] for split, rows in dataset.items()}}
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """All repositories of the presets; the first download of two files meets a fault."""
    with serve(write_repositories(tmp_path_factory.mktemp("hub"))) as running:
        # The client writes ten megabytes at once, and goes on from the last whole ten.
        running.faults[f"google/flan-t5-small/{WEIGHTS}"] = Fault(cut_after=25_000_000, times=2)
        running.faults[f"{DATASET}/test.csv"] = Fault(flip_byte=2_000, times=1)
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def loaded(hub, home) -> dict:
    """What a first run sees, and the hub's answers to it."""
    seen = json.loads(ask(hub.endpoint, home, "-c", LOAD))
    weights = hub.answers("google/flan-t5-small", WEIGHTS)
    return seen | {"weights": weights, "test.csv": hub.answers(DATASET, "test.csv")}


def gets(answers: list[tuple[str, int]]) -> list[int]:
    return [status for method, status in answers if method == "GET"]


@pytest.mark.parametrize("name", WIDTHS)
def test_a_checkpoint_in_flan_t5s_shape_keeps_its_own_head_and_tokenizer(loaded, name):
    width = WIDTHS[name]["d_model"]
    assert loaded[name]["untied"] and loaded[name]["head"] == [32_128, width]
    assert loaded[name]["parameters"] > 2 * 32_128 * width
    assert loaded[name]["tokenizer"] == "T5Tokenizer"
    assert loaded[name]["text"] == "#Person1#: Hello, world!"


def test_the_classifier_loads_from_vocab_and_merges_with_its_labels(loaded):
    assert loaded["classifier"]["labels"] == {"nothate": 0, "hate": 1}
    assert loaded["classifier"]["tokens"] == 512 and 0 < loaded["classifier"]["p"] < 1


def test_the_hubs_csv_files_give_the_rows_that_the_folder_gives(loaded):
    folder = load_dialogsum(str(OFFLINE / "data"))
    assert loaded["dataset"] == {split: rows["dialogue"][:] for split, rows in folder.items()}


def test_a_connection_cut_in_the_middle_resumes_from_there(loaded):
    assert gets(loaded["weights"]) == [200, 206, 206]


def test_a_damaged_file_of_a_dataset_is_fetched_again(loaded):
    assert len(gets(loaded["test.csv"])) == 2


def test_a_second_run_fetches_no_file_again(hub, home, loaded):
    before = len(hub.requests)
    again = json.loads(ask(hub.endpoint, home, "-c", LOAD))
    assert again.items() <= loaded.items()
    asked = hub.requests[before:]
    assert not [path for method, path, _ in asked if method == "GET" and "/api/" not in path]


def test_a_warm_cache_needs_no_hub(home, loaded):
    again = json.loads(ask(NOWHERE, home, "-c", LOAD, HF_HUB_OFFLINE="1"))
    assert again.items() <= loaded.items()


# One's own text


def test_ones_own_chat_is_summarized_and_scored_by_the_hubs_models(hub, home, loaded, tmp_path):
    chat, stamp = tmp_path / "chat.txt", "12/08/2016, 16:20 - "
    says = ["Zoë: Quantum chromodynamics confuses me.", "+44 7700 900123: Ask Murray Gell-Mann."]
    chat.write_text("\n".join(stamp + said for said in says), encoding="utf-8")
    line = ["-m", "utils", "summarize", str(chat), "--cpu", "--set", "max_new_tokens=8"]
    assert len(ask(hub.endpoint, home, *line).split("\n")) == 2  # a line, and its end
    scores = ask(hub.endpoint, home, "-m", "utils", "toxicity", str(chat), "--cpu").splitlines()
    assert [row.split("\t")[1] for row in scores] == says


# The labs

LABS = ("lab1", "lab2", "lab3")


def run_labs(endpoint: str, home: Path, folder: Path, *options: str, **changes: object) -> dict:
    """Run labs with FLAN-T5's shapes and small sizes; return their results."""
    sizes = small_labs.variables(**{"MAX_NEW_TOKENS": 8, "TRAIN_DIALOGUES": 24, **changes})
    offline = str(int(endpoint == NOWHERE))
    job = ("-m", "utils", "labs", "--output-dir", str(folder), *options)
    ask(endpoint, home, *job, **sizes, HF_HUB_OFFLINE=offline)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def printed(folder: Path, lab: str) -> str:
    """Return what a lab printed, from its executed notebook."""
    (file,) = folder.glob(f"{lab}*.ipynb")
    cells = [cell for cell in nbformat.read(file, 4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def gpu_preset(hub, home, loaded, tmp_path_factory) -> dict[str, tuple[dict, str]]:
    """Results and printed lines of the labs: Lab 3 from a cold cache, the others from a warm one.

    The preset runs on this CPU, on a model of FLAN-T5-base's width.
    """

    def run(lab: str) -> tuple[dict, str]:
        folder = tmp_path_factory.mktemp(lab, numbered=False)
        options = ("--preset", "gpu", "--only", lab[-1])
        place = (hub.endpoint, folder / "home") if lab == "lab3" else (NOWHERE, home)
        sizes = {"JUDGED_DIALOGUES": 40} if lab == "lab3" else {}
        results = run_labs(*place, folder / "out", *options, **sizes)
        return results[lab], printed(folder / "out", lab)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(LABS, pool.map(run, LABS), strict=True))


@pytest.mark.parametrize("lab", LABS)
def test_a_lab_runs_on_the_real_ids_of_the_gpu_preset(gpu_preset, lab):
    run = gpu_preset[lab][0]["run"]
    assert run["preset"] == "gpu" and run["settings"]["model"] == "google/flan-t5-base"


@pytest.mark.parametrize("lab", LABS)
def test_a_lab_on_the_real_ids_says_what_it_found_and_nothing_about_the_small_world(
    gpu_preset, lab
):
    said = gpu_preset[lab][1]
    assert "small world" not in said
    assert re.search(r"\w beats? \w|No clear difference between|Too few dialogues to tell", said)


def test_kl_is_zero_before_the_first_update_of_a_model_from_the_hub(gpu_preset):
    assert abs(gpu_preset["lab3"][0]["kl_first_step"]) < 1e-4


def test_a_second_classifier_by_its_id_judges_every_system_of_lab_3(gpu_preset):
    lab3 = gpu_preset["lab3"][0]
    assert lab3["run"]["settings"]["second_judge"] == SECOND_JUDGE
    assert lab3["second_judge"].keys() == lab3["toxicity"].keys() >= {"before", "after"}


@pytest.fixture(scope="module")
def bart_results(hub, home, loaded, tmp_path_factory) -> tuple[dict, str]:
    """Results of all three labs, one after the other, with BART-base; what Lab 3 printed."""
    folder = tmp_path_factory.mktemp("bart")
    sizes = {"MODEL": BART, "PPO_SEEDS": 1}
    results = run_labs(hub.endpoint, home, folder, "--preset", "cpu", **sizes)
    return results, printed(folder, "lab3")


def test_all_three_labs_run_on_bart(bart_results):
    assert bart_results[0].keys() == {"lab1", "lab2", "lab3"}
    assert {lab["run"]["settings"]["model"] for lab in bart_results[0].values()} == {BART}


def test_kl_of_bart_is_zero_before_the_first_update(bart_results):
    assert abs(bart_results[0]["lab3"]["kl_first_step"]) < 1e-4


CANNOT_SHOW = "no training could show a clear fall"
FLAGS_ALL = "flags 100% of the cool summaries, too"


@pytest.fixture(scope="module")
def constant_judges(hub, home, loaded, tmp_path_factory) -> dict[str, str]:
    """What Lab 3 prints with a judge that calls nothing, or everything, hate."""

    def run(judge: str) -> str:
        folder = tmp_path_factory.mktemp("judge")
        sizes = {"REWARD_MODEL": judge, "JUDGED_DIALOGUES": 12, "PPO_SEEDS": 1}
        run_labs(hub.endpoint, home, folder, "--preset", "cpu", "--only", "3", **sizes)
        return printed(folder, "lab3")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CONSTANT, pool.map(run, CONSTANT), strict=True))


def test_lab_3_counts_the_toxic_summaries_of_many_heated_dialogues(gpu_preset):
    results, said = gpu_preset["lab3"]
    before = results["toxic_share"]["before"]
    toxic = round(before["mean"] * before["n"])
    assert before["n"] == 40 and FLAGS_ALL not in said
    assert (f"Only {toxic} of 40 are toxic: {CANNOT_SHOW}" in said) == (toxic < 9)


def test_lab_3_with_few_toxic_summaries_says_that_they_are_too_few(bart_results):
    assert re.search(rf"Only [0-8] of 8 are toxic: {CANNOT_SHOW}", bart_results[1])


def test_lab_3_without_toxic_summaries_says_so(constant_judges):
    assert f"Only 0 of 12 are toxic: {CANNOT_SHOW}" in constant_judges["acme/nothing-is-hate"]


def test_lab_3_says_that_a_judge_calls_everything_hate(constant_judges):
    said = constant_judges["acme/everything-is-hate"]
    assert FLAGS_ALL in said and CANNOT_SHOW not in said


# Faults

BOTH = ("HEAD", "GET")
FAULTS = {  # the file, its fault, and what the error says, if there is one
    "gated": (
        "config.json",
        Fault(403, "GatedRepo", methods=BOTH),
        "refuses access (403). Ask for access",
    ),
    "private": (
        "config.json",
        Fault(401, "RepoNotFound", methods=BOTH),
        "nothing under that name (401). Check the id",
    ),
    "busy": ("config.json", Fault(429, methods=BOTH, times=3), None),
    "too-busy": (
        "config.json",
        Fault(429, methods=BOTH),
        "too many requests from here (429). Wait a few minutes",
    ),
    "unwell": ("config.json", Fault(503, methods=BOTH, times=3), None),
    "weights-unwell": (WEIGHTS, Fault(503, times=2), None),
    "weights-ill": (WEIGHTS, Fault(500), "answered 500 for model.safetensors. Run again later"),
    "cut": (WEIGHTS, Fault(cut_after=2_000_000, times=2), None),
    "cut-always": (WEIGHTS, Fault(cut_after=0), "no complete answer from http://127.0.0.1"),
    "short": (WEIGHTS, Fault(short_by=1000, times=1), None),
    "short-always": (WEIGHTS, Fault(short_by=1000), "Consistency check failed"),
    "flipped": (WEIGHTS, Fault(flip_byte=3_000_000, times=1), None),
    "flipped-always": (
        WEIGHTS,
        Fault(flip_byte=3_000_000),
        "model.safetensors had a wrong checksum",
    ),
    "reset": (WEIGHTS, Fault(reset_after=2_000_000, times=1), None),
    "hung": (WEIGHTS, Fault(hang=2, times=2), None),
    "hung-always": (WEIGHTS, Fault(hang=2), "no complete answer from http://127.0.0.1"),
    "flipped-tokenizer": ("tokenizer.json", Fault(flip_byte=0, times=1), None),
    "flipped-config": ("config.json", Fault(flip_byte=5, times=1), None),
    "full-disk": (WEIGHTS, Fault(), "the disk is full. Free some space"),
}
PASSES = [name for name, (*_, error) in FAULTS.items() if error is None]
STAYS = [name for name, (*_, error) in FAULTS.items() if error is not None]
DAMAGED_LATER = {"emptied": 0.0, "halved": 0.5, "halved-online": 0.5}  # the share that is left
LOAD_ALL = """
import errno, json, os, sys, types
import huggingface_hub.file_download as download
import huggingface_hub.utils._http as http
from utils import hub
from utils.models import load_model

if said := os.environ.get("SAID"):
    sys.stderr = open(said, "w", encoding="utf-8")
clock = hub.time
asleep = types.SimpleNamespace(
    sleep=lambda seconds: None, time=clock.time, perf_counter=clock.perf_counter
)
download.time = http.time = hub.time = asleep
whole = download.http_get


def no_space(url, temp_file, **options):
    if "full-disk" in url and url.endswith(".safetensors"):
        raise OSError(errno.ENOSPC, "No space left on device")
    whole(url, temp_file, **options)


download.http_get = no_space
outcome = {}
for name in sys.argv[1:]:
    try:
        model, _ = load_model(name, "cpu")
        weights = sum(p.double().sum().item() for p in model.parameters())
        outcome[name] = {"error": None, "sum": weights}
    except hub.UnavailableError as error:
        outcome[name] = {"error": str(error)}
print(json.dumps(outcome))
"""


def load_all(endpoint: str, home: Path, *names: str, **variables: str) -> dict[str, dict]:
    """Return the error of each repository of acme, or the sum of the weights that were loaded."""
    ids = [f"acme/{name}" for name in names]
    outcome = json.loads(ask(endpoint, home, "-c", LOAD_ALL, *ids, **variables))
    return {name.removeprefix("acme/"): found for name, found in outcome.items()}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> tuple[LoopbackHub, dict[str, dict], Path]:
    """Every fault met once by a repository of its own, and repositories without a fault."""
    home = tmp_path_factory.mktemp("faults")
    names = [*FAULTS, *DAMAGED_LATER, "two-flipped", "no-links", "sound"]
    with serve([Repository(f"acme/{name}", OFFLINE / "t5") for name in names]) as hub:
        hub.faults = {f"acme/{name}/{file}": fault for name, (file, fault, _) in FAULTS.items()}
        hub.faults["acme/two-flipped/model.safetensors"] = Fault(flip_byte=3_000_000, times=1)
        hub.faults["acme/two-flipped/generation_config.json"] = Fault(flip_byte=9, times=1)
        names.remove("no-links")
        patience = {"HF_HUB_DOWNLOAD_TIMEOUT": "1"}
        yield hub, load_all(hub.endpoint, home, *names, "none", **patience), home


@pytest.mark.parametrize("name", PASSES)
def test_a_fault_that_passes_is_waited_out_and_the_weights_are_right(faulty, name):
    hub, outcome, _ = faulty
    assert hub.faults[f"acme/{name}/{FAULTS[name][0]}"].times == 0  # it was met
    assert outcome[name] == outcome["sound"]


@pytest.mark.parametrize("name", STAYS)
def test_a_fault_that_stays_is_one_error_with_id_cause_and_remedy(faulty, name):
    error = faulty[1][name]["error"]
    assert f"cannot load 'acme/{name}': " in error and FAULTS[name][2] in error
    assert "LABS_PRESET=offline" in error and "\n" not in error


def test_of_two_damaged_files_neither_is_kept(faulty):
    hub, outcome, home = faulty
    assert hub.faults["acme/two-flipped/generation_config.json"].times == 0
    assert outcome["two-flipped"] == outcome["sound"]
    snapshots = home / "hub" / "models--acme--two-flipped" / "snapshots"
    kept = next(snapshots.rglob("generation_config.json"))
    assert kept.read_bytes() == (OFFLINE / "t5" / "generation_config.json").read_bytes()


def test_nothing_damaged_is_left_in_the_cache(faulty):
    _, _, home = faulty
    for name in ("flipped-always", "short-always", "full-disk"):
        blobs = list((home / "hub" / f"models--acme--{name}" / "blobs").iterdir())
        assert blobs and all(path.stat().st_size < 1_000_000 for path in blobs)


def test_a_wrong_id_is_named(faulty):
    assert (
        "cannot load 'acme/none': the hub shows nothing under that name (401)"
        in (faulty[1]["none"]["error"])
    )


def test_a_refusal_of_access_is_asked_at_most_twice(faulty):
    assert 1 <= len(faulty[0].answers("acme/gated", "config.json")) <= 2


def test_a_damaged_file_is_found_where_the_cache_holds_no_links(faulty, tmp_path):
    hub, outcome, _ = faulty
    hub.faults[f"acme/no-links/{WEIGHTS}"] = Fault(flip_byte=3_000_000, times=1)
    again = load_all(hub.endpoint, tmp_path, "no-links", HF_HUB_DISABLE_SYMLINKS="1")
    assert hub.faults[f"acme/no-links/{WEIGHTS}"].times == 0
    assert again["no-links"] == outcome["sound"]


# Checksums that the hub does not tell

UNTOLD = {"untold-429": Fault(429), "untold-503": Fault(503), "untold-flipped": Fault(429)}


@pytest.fixture(scope="module")
def untold(tmp_path_factory) -> tuple[LoopbackHub, dict[str, dict], str]:
    """Outcomes of loads without the hub's checksums, and standard error; one file is damaged."""
    names = [*UNTOLD, "sound"]
    with serve([Repository(f"acme/{name}", OFFLINE / "t5") for name in names]) as hub:
        hub.faults = {f"acme/{name}/tree": fault for name, fault in UNTOLD.items()}
        hub.faults[f"acme/untold-flipped/{WEIGHTS}"] = Fault(flip_byte=3_000_000, times=1)
        home = tmp_path_factory.mktemp("untold")
        said = home / "said.txt"
        outcome = load_all(hub.endpoint, home, *names, SAID=str(said))
        yield hub, outcome, said.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["untold-429", "untold-503"])
def test_a_model_that_cannot_be_verified_is_kept_and_one_line_says_so(untold, name):
    hub, outcome, said = untold
    assert outcome[name] == outcome["sound"] and outcome[name]["error"] is None
    (line,) = {line for line in said.splitlines() if f"acme/{name}:" in line}
    assert "loaded, but not verified against the hub's checksums: the hub" in line
    assert "acme/sound" not in said
    assert gets(hub.answers(f"acme/{name}", WEIGHTS)) == [200]


def test_a_damaged_file_is_found_by_its_name_in_the_cache_if_the_hub_tells_no_checksums(untold):
    _, outcome, said = untold
    assert outcome["untold-flipped"] == outcome["sound"]
    assert "acme/untold-flipped: model.safetensors had a wrong checksum; trying again" in said


# A later run


@pytest.fixture(scope="module")
def damaged(faulty) -> Path:
    """The cache of `faulty` after whole files in it were cut short, long ago."""
    home = faulty[2]
    for name, share in DAMAGED_LATER.items():
        snapshots = home / "hub" / f"models--acme--{name}" / "snapshots"
        blob = next(snapshots.rglob(WEIGHTS)).resolve()
        os.truncate(blob, int(share * blob.stat().st_size))
        os.utime(blob, (0, 0))
    return home


@pytest.fixture(scope="module")
def offline(damaged) -> dict[str, dict]:
    return load_all(NOWHERE, damaged, "emptied", "halved", "any", HF_HUB_OFFLINE="1")


@pytest.fixture(scope="module")
def later(faulty, damaged, offline) -> tuple[dict[str, dict], list[str]]:
    """Outcome of a later run at the hub, and the files of acme/cut-always that it fetched."""
    hub = faulty[0]
    hub.faults.pop(f"acme/cut-always/{WEIGHTS}")
    before = len(hub.requests)
    outcome = load_all(hub.endpoint, damaged, *DAMAGED_LATER, "cut-always")
    asked = [path for method, path, _ in hub.requests[before:] if method == "GET"]
    return outcome, [path.rsplit("/", 1)[-1] for path in asked if "cut-always" in path]


@pytest.mark.parametrize("name", ["emptied", "halved"])
def test_offline_a_file_damaged_in_the_cache_is_one_error_with_the_remedy(offline, name):
    error = offline[name]["error"]
    assert "model.safetensors had a wrong checksum. Unset HF_HUB_OFFLINE" in error


@pytest.mark.parametrize("name", DAMAGED_LATER)
def test_a_file_damaged_in_the_cache_is_fetched_again(faulty, later, name):
    assert later[0][name] == faulty[1]["sound"]


def test_a_repeated_run_fetches_only_what_is_missing(later):
    outcome, fetched = later
    assert outcome["cut-always"]["error"] is None
    assert WEIGHTS in fetched and not {"config.json", "tokenizer.json"} & set(fetched)


def test_offline_a_model_that_is_not_in_the_cache_is_one_error_with_the_remedy(offline):
    error = offline["any"]["error"]
    assert "it is not in the cache. Unset HF_HUB_OFFLINE" in error


def test_an_unreachable_hub_is_named_with_the_remedy(tmp_path):
    error = load_all(NOWHERE, tmp_path, "any")["any"]["error"]
    assert f"no complete answer from {NOWHERE}. Check the connection" in error
    assert "LABS_PRESET=offline" in error


# Data

BAD_DATA = """
import errno, json, sys
from datasets.arrow_writer import ArrowWriter
from utils.data import DatasetError, load_dialogsum


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


errors = []
for name in sys.argv[1:]:
    if errors:  # the first data set meets a disk with space, all others a full one
        ArrowWriter.write_table = no_space
    try:
        load_dialogsum(name)
    except DatasetError as error:
        errors.append(str(error))
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def data_errors(tmp_path_factory) -> list[str]:
    """Errors of a broken file at the hub, and of a full disk; a folder is read without a disk."""
    broken = tmp_path_factory.mktemp("broken")
    for split in ("train", "validation", "test"):
        text = 'id,dialogue,summary,topic\na,"never closed,b,c\n'
        (broken / f"{split}.csv").write_text(text, encoding="utf-8")
    sound = OFFLINE / "data"
    repositories = [
        Repository("acme/bad", broken, "datasets"),
        Repository("acme/good", sound, "datasets"),
    ]
    names = ("acme/bad", "acme/good", str(sound))
    with serve(repositories) as hub:
        home = tmp_path_factory.mktemp("data_home")
        return json.loads(ask(hub.endpoint, home, "-c", BAD_DATA, *names))


def test_a_dataset_of_the_hub_that_cannot_be_read_is_one_error_with_the_readers_cause(data_errors):
    assert "cannot load 'acme/bad': its files cannot be read (" in data_errors[0]
    assert "EOF inside string" in data_errors[0]


def test_a_disk_that_is_full_when_data_are_prepared_is_reported_as_such(data_errors):
    assert "the disk is full. Free some space" in data_errors[1]
    assert len(data_errors) == 2  # the folder loads
