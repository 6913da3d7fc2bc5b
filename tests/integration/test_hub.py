"""The true clients against a hub on this machine: checkpoints of the real ids' shape load, and faults end as told.

Files travel over plain HTTP, as they do where hf_xet is not installed: its protocol has no stand-in here.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hub_checkpoints import DATASET, SECOND_JUDGE, WIDTHS, write_repositories
from loopback_hub import Fault, LoopbackHub, Repository, serve
from processes import clean_environment

from utils.data import load_dialogsum
from utils.lab.notebooks import ROOT
from utils.settings import OFFLINE

LOAD = """
import json
from utils.data import load_dialogsum
from utils.models import load_model, parameter_counts
from utils.settings import load_settings
from utils.toxicity import HateScorer

seen = {}
for name in ("google/flan-t5-small", load_settings("cpu").model):
    model, tokenizer = load_model(name, "cpu")
    seen[name] = {
        "tokenizer": type(tokenizer).__name__,
        "untied": model.get_input_embeddings().weight.data_ptr() != model.lm_head.weight.data_ptr(),
        "head": list(model.lm_head.weight.shape),
        "parameters": parameter_counts(model)["total"],
        "text": tokenizer.decode(tokenizer("#Person1#: Hello, world!")["input_ids"], skip_special_tokens=True),
    }
scorer = HateScorer(load_settings("cpu").reward_model, "cpu")
seen["classifier"] = {"labels": scorer.label_ids, "tokens": scorer.max_tokens, "p": scorer.probability(["a b"]).item()}
dataset = load_dialogsum(load_settings("cpu").dataset)
seen["dataset"] = {split: rows["dialogue"][:] for split, rows in dataset.items()}
print(json.dumps(seen))
"""


def ask(endpoint: str, home: Path, *arguments: str, **variables: str) -> str:
    """What Python prints with these arguments, its hub at `endpoint` and its caches under `home`."""
    place = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    environment = clean_environment(**place | variables)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with serve(write_repositories(tmp_path_factory.mktemp("hub"))) as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def loaded(hub, home) -> dict:
    return json.loads(ask(hub.endpoint, home, "-c", LOAD))


# The real ids


@pytest.mark.parametrize("name", WIDTHS)
def test_a_checkpoint_in_flan_t5s_shape_keeps_its_own_head_and_tokenizer(loaded, name):
    width = WIDTHS[name]["d_model"]
    assert loaded[name]["untied"] and loaded[name]["head"] == [32_128, width]
    assert loaded[name]["parameters"] > 2 * 32_128 * width
    assert (
        loaded[name]["tokenizer"] == "T5Tokenizer"
        and loaded[name]["text"] == "#Person1#: Hello, world!"
    )


def test_the_classifier_loads_from_vocab_and_merges_with_its_labels(loaded):
    assert loaded["classifier"]["labels"] == {"nothate": 0, "hate": 1}
    assert loaded["classifier"]["tokens"] == 512 and 0 < loaded["classifier"]["p"] < 1


def test_the_hubs_csv_files_give_the_rows_that_the_folder_gives(loaded):
    folder = load_dialogsum(str(OFFLINE / "data"))
    assert loaded["dataset"] == {split: rows["dialogue"][:] for split, rows in folder.items()}


def test_a_second_run_fetches_no_file_again(hub, home, loaded):
    before = len(hub.requests)
    assert json.loads(ask(hub.endpoint, home, "-c", LOAD)) == loaded
    fetched = [
        path
        for method, path, status in hub.requests[before:]
        if method == "GET" and "/api/" not in path
    ]
    assert not fetched


def test_a_warm_cache_needs_no_hub(home, loaded):
    assert json.loads(ask("http://127.0.0.1:9", home, "-c", LOAD, HF_HUB_OFFLINE="1")) == loaded


# The labs

FEW = {
    "TRAIN_DIALOGUES": 48,
    "SEARCHED_DIALOGUES": 48,
    "VALIDATION_DIALOGUES": 6,
    "TEST_DIALOGUES": 6,
    "SWEEP_STEPS": 1,
    "SWEEP_SEEDS": 1,
    "PPO_STEPS": 2,
    "PPO_BATCH_SIZE": 4,
    "PPO_SEEDS": 1,
    "PPO_GENERATIONS": 2,
    "JUDGED_DIALOGUES": 4,
    "MAX_NEW_TOKENS": 8,
}


@pytest.fixture(scope="module")
def labs_results(hub, home, loaded, tmp_path_factory) -> dict[str, dict]:
    """Results of the three labs, run through the hub with a cold cache and, beside it, from the warm one."""
    folders = {cache: tmp_path_factory.mktemp(cache) for cache in ("cold", "warm")}
    few = {f"LABS_{name}": str(value) for name, value in FEW.items()} | {"OMP_NUM_THREADS": "1"}

    def run(cache: str) -> dict:
        labs = (
            "-m",
            "utils",
            "labs",
            "--preset",
            "cpu",
            "--output-dir",
            str(folders[cache] / "out"),
        )
        if cache == "cold":
            ask(hub.endpoint, folders[cache] / "home", *labs, **few, LABS_SECOND_JUDGE=SECOND_JUDGE)
        else:
            ask("http://127.0.0.1:9", home, *labs, **few, HF_HUB_OFFLINE="1")
        return json.loads((folders[cache] / "out" / "results.json").read_text())

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(folders, pool.map(run, folders), strict=True))


@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_the_three_labs_run_with_the_real_ids_of_the_cpu_preset(labs_results, cache):
    results = labs_results[cache]
    assert set(results) == {"lab1", "lab2", "lab3"}
    assert all(results[lab]["run"]["preset"] == "cpu" for lab in results)
    assert abs(results["lab3"]["kl_first_step"]) < 1e-4


def test_a_second_classifier_by_its_id_judges_every_system_of_lab_3(labs_results):
    lab3 = labs_results["cold"]["lab3"]
    assert lab3["second_judge"].keys() == lab3["toxicity"].keys() != set()
    assert "second_judge" not in labs_results["warm"]["lab3"]


# Faults

BOTH = ("HEAD", "GET")
WEIGHTS = "model.safetensors"
FAULTS = {  # the file, its fault, and what the error says, if there is one
    "gated": (
        "config.json",
        Fault(403, "GatedRepo", methods=BOTH),
        "refuses access (403). Ask for access",
    ),
    "private": (
        "config.json",
        Fault(401, "RepoNotFound", methods=BOTH),
        "none of that name (401). Check the id",
    ),
    "busy": ("config.json", Fault(429, methods=BOTH, times=3), None),
    "too-busy": (
        "config.json",
        Fault(429, methods=BOTH),
        "too many requests from here (429). Wait some minutes",
    ),
    "unwell": ("config.json", Fault(503, methods=BOTH, times=3), None),
    "weights-unwell": (WEIGHTS, Fault(503, times=2), None),
    "weights-ill": (WEIGHTS, Fault(500), "answered 500 for model.safetensors. Run again later"),
    "cut": (WEIGHTS, Fault(cut_after=2_000_000, times=2), None),
    "cut-always": (WEIGHTS, Fault(cut_after=0), "no whole answer from http://127.0.0.1"),
    "short": (WEIGHTS, Fault(short_by=1000, times=1), None),
    "short-always": (WEIGHTS, Fault(short_by=1000), "Consistency check failed"),
    "flipped": (WEIGHTS, Fault(flip_byte=3_000_000, times=1), None),
    "flipped-always": (
        WEIGHTS,
        Fault(flip_byte=3_000_000),
        "model.safetensors had a wrong checksum",
    ),
    "reset": (WEIGHTS, Fault(reset_after=2_000_000, times=1), None),
    "flipped-tokenizer": ("tokenizer.json", Fault(flip_byte=0, times=1), None),
    "flipped-config": ("config.json", Fault(flip_byte=5, times=1), None),
    "full-disk": (WEIGHTS, Fault(), "the disk is full. Free some space"),
}
LOAD_ALL = """
import errno, json, sys, types
import huggingface_hub.file_download as download
import huggingface_hub.utils._http as http
from utils import hub
from utils.models import load_model

asleep = types.SimpleNamespace(sleep=lambda seconds: None, time=hub.time.time, perf_counter=hub.time.perf_counter)
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
        outcome[name] = {"error": None, "sum": sum(p.double().sum().item() for p in model.parameters())}
    except hub.UnavailableError as error:
        outcome[name] = {"error": str(error)}
print(json.dumps(outcome))
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> tuple[LoopbackHub, dict[str, dict], Path]:
    """Every fault met once by a repository of its own, and a repository without a fault."""
    home = tmp_path_factory.mktemp("faults")
    with serve(
        [Repository(f"acme/{fault}", OFFLINE / "t5") for fault in (*FAULTS, "two-flipped", "sound")]
    ) as hub:
        hub.faults = {f"acme/{name}/{file}": fault for name, (file, fault, _) in FAULTS.items()}
        hub.faults["acme/two-flipped/model.safetensors"] = Fault(flip_byte=3_000_000, times=1)
        hub.faults["acme/two-flipped/generation_config.json"] = Fault(flip_byte=9, times=1)
        names = [r.name for r in hub.repositories]
        yield hub, json.loads(ask(hub.endpoint, home, "-c", LOAD_ALL, *names, "acme/none")), home


@pytest.mark.parametrize("name", [name for name, (*_, error) in FAULTS.items() if error is None])
def test_a_fault_that_passes_is_waited_out_and_the_weights_are_right(faulty, name):
    hub, outcome, _ = faulty
    assert hub.faults[f"acme/{name}/{FAULTS[name][0]}"].times == 0  # it was met
    assert outcome[f"acme/{name}"] == outcome["acme/sound"]


@pytest.mark.parametrize(
    "name", [name for name, (*_, error) in FAULTS.items() if error is not None]
)
def test_a_fault_that_stays_is_one_error_with_id_cause_and_remedy(faulty, name):
    _, outcome, _ = faulty
    error = outcome[f"acme/{name}"]["error"]
    assert f"cannot load 'acme/{name}': " in error and FAULTS[name][2] in error
    assert "LABS_PRESET=offline" in error and "\n" not in error


def test_of_two_damaged_files_neither_is_kept(faulty):
    hub, outcome, home = faulty
    assert hub.faults["acme/two-flipped/generation_config.json"].times == 0
    assert outcome["acme/two-flipped"] == outcome["acme/sound"]
    kept = next(
        (home / "hub" / "models--acme--two-flipped" / "snapshots").rglob("generation_config.json")
    )
    assert kept.read_bytes() == (OFFLINE / "t5" / "generation_config.json").read_bytes()


def test_a_damaged_file_is_found_where_the_cache_holds_no_links(faulty, tmp_path):
    hub, outcome, _ = faulty
    hub.faults[f"acme/sound/{WEIGHTS}"] = Fault(flip_byte=3_000_000, times=1)
    again = ask(hub.endpoint, tmp_path, "-c", LOAD_ALL, "acme/sound", HF_HUB_DISABLE_SYMLINKS="1")
    assert hub.faults[f"acme/sound/{WEIGHTS}"].times == 0
    assert json.loads(again)["acme/sound"] == outcome["acme/sound"]


@pytest.mark.parametrize("content", [b"", b"half"], ids=["emptied", "cut in half"])
def test_a_file_that_was_damaged_in_the_cache_long_ago_is_fetched_again(faulty, tmp_path, content):
    hub, outcome, _ = faulty
    ask(hub.endpoint, tmp_path, "-c", LOAD_ALL, "acme/sound")
    blob = next((tmp_path / "hub" / "models--acme--sound" / "snapshots").rglob(WEIGHTS)).resolve()
    blob.write_bytes(content and blob.read_bytes()[: blob.stat().st_size // 2])
    os.utime(blob, (0, 0))
    offline = json.loads(
        ask(hub.endpoint, tmp_path, "-c", LOAD_ALL, "acme/sound", HF_HUB_OFFLINE="1")
    )["acme/sound"]
    assert "model.safetensors had a wrong checksum. Unset HF_HUB_OFFLINE" in offline["error"]
    assert (
        json.loads(ask(hub.endpoint, tmp_path, "-c", LOAD_ALL, "acme/sound"))["acme/sound"]
        == outcome["acme/sound"]
    )


def test_a_file_that_was_damaged_is_fetched_again_by_the_run_that_finds_it(faulty, tmp_path):
    hub, outcome, _ = faulty
    ask(hub.endpoint, tmp_path, "-c", LOAD_ALL, "acme/sound")
    blob = next((tmp_path / "hub" / "models--acme--sound" / "snapshots").rglob(WEIGHTS)).resolve()
    blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    os.utime(blob, (0, 0))
    assert (
        json.loads(ask(hub.endpoint, tmp_path, "-c", LOAD_ALL, "acme/sound"))["acme/sound"]
        == outcome["acme/sound"]
    )


BAD_DATA = """
import sys
from utils.data import DatasetError, load_dialogsum
if sys.argv[2:]:
    import errno
    from datasets.arrow_writer import ArrowWriter
    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")
    ArrowWriter.write_table = no_space
try:
    load_dialogsum(sys.argv[1])
except DatasetError as error:
    print(error)
"""


def test_a_dataset_of_the_hub_that_cannot_be_read_is_one_error_with_the_readers_cause(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        (folder / f"{split}.csv").write_text(
            'id,dialogue,summary,topic\na,"never closed,b,c\n', encoding="utf-8"
        )
    with serve([Repository("acme/bad", folder, "datasets")]) as hub:
        error = ask(hub.endpoint, tmp_path / "home", "-c", BAD_DATA, "acme/bad")
    assert (
        "cannot load 'acme/bad': its files cannot be read (" in error
        and "EOF inside string" in error
    )


def test_a_disk_that_is_full_when_data_are_prepared_is_told_as_such(hub, tmp_path):
    assert "the disk is full. Free some space" in ask(
        hub.endpoint, tmp_path, "-c", BAD_DATA, DATASET, "full"
    )
    folder = str(OFFLINE / "data")
    assert "the disk is full: free some space" in ask(
        hub.endpoint, tmp_path, "-c", BAD_DATA, folder, "full"
    )


def test_offline_a_model_that_is_not_in_the_cache_is_told_as_such(tmp_path):
    error = json.loads(
        ask("http://127.0.0.1:9", tmp_path, "-c", LOAD_ALL, "acme/any", HF_HUB_OFFLINE="1")
    )
    assert (
        "HF_HUB_OFFLINE is set, and it is not in the cache. Unset it" in error["acme/any"]["error"]
    )


def test_a_wrong_id_is_named(faulty):
    assert (
        "cannot load 'acme/none': the hub shows none of that name (401)"
        in faulty[1]["acme/none"]["error"]
    )


def test_a_connection_cut_in_the_middle_goes_on_from_there(hub, tmp_path):
    hub.faults[f"google/flan-t5-small/{WEIGHTS}"] = Fault(
        cut_after=25_000_000, times=2
    )  # the client writes ten at once
    before = len(hub.answers("google/flan-t5-small", WEIGHTS))
    code = "from utils.models import load_model; load_model('google/flan-t5-small', 'cpu')"
    ask(hub.endpoint, tmp_path, "-c", code)
    answers = hub.answers("google/flan-t5-small", WEIGHTS)[before:]
    assert [status for method, status in answers if method == "GET"] == [200, 206, 206]


def test_a_refusal_of_access_is_not_asked_again(faulty):
    hub, _, _ = faulty
    assert 1 <= len(hub.answers("acme/gated", "config.json")) <= 2


def test_a_repeated_run_fetches_only_what_had_not_come(faulty):
    hub, _, home = faulty
    hub.faults.pop(f"acme/cut-always/{WEIGHTS}")
    before = len(hub.requests)
    again = json.loads(ask(hub.endpoint, home, "-c", LOAD_ALL, "acme/cut-always"))
    assert again["acme/cut-always"]["error"] is None
    fetched = [
        path.rsplit("/", 1)[-1] for method, path, _ in hub.requests[before:] if method == "GET"
    ]
    assert WEIGHTS in fetched and not {"config.json", "tokenizer.json"} & set(fetched)


def test_nothing_damaged_is_left_in_the_cache(faulty):
    _, _, home = faulty
    for name in ("flipped-always", "short-always", "full-disk"):
        blobs = list((home / "hub" / f"models--acme--{name}" / "blobs").iterdir())
        assert blobs and all(path.stat().st_size < 1_000_000 for path in blobs)


def test_an_unreachable_hub_is_named_with_the_remedy(tmp_path):
    error = json.loads(ask("http://127.0.0.1:9", tmp_path, "-c", LOAD_ALL, "acme/any"))["acme/any"][
        "error"
    ]
    assert (
        "no whole answer from http://127.0.0.1:9. Check the connection" in error
        and "LABS_PRESET=offline" in error
    )


def test_a_damaged_file_of_a_dataset_is_fetched_again(hub, tmp_path):
    hub.faults[f"{DATASET}/test.csv"] = Fault(flip_byte=2_000, times=1)
    before = len(hub.requests)
    code = f"from utils.data import load_dialogsum; print(load_dialogsum({DATASET!r})['test']['dialogue'][:])"
    assert (
        ask(hub.endpoint, tmp_path, "-c", code)
        .strip()
        .endswith(str(load_dialogsum(str(OFFLINE / "data"))["test"]["dialogue"][:]))
    )
    fetched = [
        path
        for method, path, status in hub.requests[before:]
        if path.endswith("test.csv") and method == "GET"
    ]
    assert len(fetched) == 2
