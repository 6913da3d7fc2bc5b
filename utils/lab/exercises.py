"""Check the answers to the labs' exercises without stopping the notebook."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exercise(number: int) -> Iterator[None]:
    """Run the checks of one exercise and print the result.

    NotImplementedError means that there is no answer yet. A failed check prints its hint, and
    any other error is printed with its type.
    """
    try:
        yield
    except NotImplementedError:
        print(f"✎ exercise {number} has no answer yet")
    except AssertionError as hint:
        print(f"✗ exercise {number} is not solved yet: {hint}")
    except Exception as error:  # an answer can fail in any way; show the learner how
        print(f"✗ exercise {number}: {type(error).__name__}: {error}")
    else:
        print(f"✓ exercise {number} is solved")
