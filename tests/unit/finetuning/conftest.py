"""Fixtures of the fine-tuning tests."""

import gc

import pytest
from tiny_training import PAIRS, SMALL

from utils.finetuning import fine_tune


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """Leave what was imported out of Python's garbage collections, of which every run makes two."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def train(tiny_t5, tiny_tokenizer, tmp_path):
    """`fine_tune` with tiny numbers: one epoch of two steps, both logged."""

    def run(
        method="full", model=tiny_t5, rows=PAIRS, validation=PAIRS, output_dir=tmp_path, **changes
    ):
        arguments = SMALL | changes
        return fine_tune(
            model, tiny_tokenizer, rows, validation, method, str(output_dir), **arguments
        )

    return run
