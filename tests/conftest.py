"""Fixtures that several tests share: tiny random models, the small world and the real data."""

import gc
import os

# Before any import that reads them: no test asks the network, and each worker has one thread,
# with which models this small are fastest and sums are repeatable. Child processes inherit both.
os.environ["HF_HUB_OFFLINE"] = os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest
import tiny_models
import torch
from datasets import DatasetDict
from datasets.utils.logging import disable_progress_bar
from transformers import T5ForConditionalGeneration, T5Tokenizer

from utils.data import load_dialogsum
from utils.models import load_model
from utils.settings import OFFLINE

disable_progress_bar()
torch.set_num_threads(1)
# A setting from outside would change what is tested.
for name in [name for name in os.environ if name.startswith("LABS_")]:
    del os.environ[name]

REAL_DATA = Path(__file__).parents[2] / "shared" / "data" / "dialogsum"


@pytest.fixture(autouse=True, scope="module")
def frozen_imports() -> None:
    """Spare the garbage collector what is imported: each training run ends with a collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> str:
    """Folder of the real DialogSum; skips the test where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real DialogSum is not beside the project")
    return str(REAL_DATA)


@pytest.fixture(scope="session")
def dialogsum(real_data) -> DatasetDict:
    """The real DialogSum, loaded; skips the test where it is absent."""
    return load_dialogsum(real_data)


@pytest.fixture(scope="session")
def offline_t5() -> str:
    """Folder of the small world's T5."""
    return str(OFFLINE / "t5")


@pytest.fixture(scope="session")
def offline_model(offline_t5) -> tuple[T5ForConditionalGeneration, T5Tokenizer]:
    """The small world's T5 on the CPU and its tokenizer; tests that change the model copy it."""
    return load_model(offline_t5, "cpu")


@pytest.fixture(scope="session")
def offline_data() -> DatasetDict:
    """The small world's dialogues, loaded."""
    return load_dialogsum(str(OFFLINE / "data"))


@pytest.fixture(scope="session")
def tiny_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer of a few words."""
    return tiny_models.tiny_tokenizer()


@pytest.fixture
def tiny_t5() -> T5ForConditionalGeneration:
    """An untrained T5 of a few thousand parameters with dropout 0.1, in eval mode."""
    return tiny_models.tiny_model("t5")
