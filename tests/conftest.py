"""What several tests share: tiny random models, the embedded default, and the real data where it is at hand."""

import os

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # before any import of the hub's client: no test may reach for the network
)

from pathlib import Path

import pytest
import torch
from datasets.utils.logging import disable_progress_bar
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from tools.small_world.build import make_t5_tokenizer
from utils.settings import OFFLINE

disable_progress_bar()
for name in [name for name in os.environ if name.startswith("LABS_")]:
    del os.environ[
        name
    ]  # a setting from outside would change what is tested, in child processes too

REAL_DATA = Path(__file__).parents[2] / "shared" / "data" / "dialogsum"
WORDS = "#Person1#: Anna asks #Person2# for the ladder on Friday. good bad nice ugly hello world"


@pytest.fixture(scope="session")
def real_data() -> str:
    """Folder of the real DialogSum; the test is skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real DialogSum is not beside the project")
    return str(REAL_DATA)


@pytest.fixture(scope="session")
def offline_t5() -> str:
    """Folder of the embedded T5."""
    return str(OFFLINE / "t5")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer of a few words."""
    return make_t5_tokenizer([WORDS])


@pytest.fixture
def tiny_t5(tiny_tokenizer) -> T5ForConditionalGeneration:
    """An untrained T5 of a few thousand parameters, with dropout, in eval mode; always the same weights."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tiny_tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.1,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).eval()
