"""The library bm25s, imported without JAX.

Where JAX is installed, as on Colab, `import bm25s` runs a line of it, and JAX takes three quarters of the GPU's memory
as it starts. Nothing here needs it: ranking a few thousand scores is numpy's work.
"""

import sys

_jax = sys.modules.get("jax")
sys.modules["jax"] = None  # every import of it fails as where it is not installed
try:
    from bm25s import BM25, tokenize
    from bm25s.stopwords import STOPWORDS_EN_PLUS
finally:
    del sys.modules["jax"]
    if _jax is not None:
        sys.modules["jax"] = _jax

__all__ = ["BM25", "STOPWORDS_EN_PLUS", "tokenize"]
