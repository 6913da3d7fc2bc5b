"""The check of an exercise says how far an answer is, and never stops the notebook."""

import pytest

from utils.lab.exercises import exercise


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "✓ exercise 3 is solved"),
        (NotImplementedError(), "✎ exercise 3 is open"),
        (AssertionError("count twice"), "✗ exercise 3: AssertionError: count twice"),
        (KeyError("rouge1"), "✗ exercise 3: KeyError: 'rouge1'"),
    ],
)
def test_a_check_says_how_far_the_answer_is(error, said, capsys):
    with exercise(3):
        if error:
            raise error
    assert capsys.readouterr().out.strip() == said


def test_an_interrupt_is_not_held_back():
    with pytest.raises(KeyboardInterrupt), exercise(1):
        raise KeyboardInterrupt
