"""Exercises of the labs: the check says how far a reader's answer is, and the notebook goes on either way."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exercise(number: int) -> Iterator[None]:
    """Run the checks of one exercise and print what came of them.

    An answer that still raises NotImplementedError is open; whatever else the answer or a check raises is shown.
    """
    try:
        yield
    except NotImplementedError:
        print(f"✎ exercise {number} is open")
    except Exception as error:  # an answer may fail in any way, and the reader is told how
        print(f"✗ exercise {number}: {type(error).__name__}: {error}")
    else:
        print(f"✓ exercise {number} is solved")
