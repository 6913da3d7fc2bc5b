"""The check of an exercise reports on the answer and never stops the notebook."""

import pytest

from utils.lab.exercises import exercise


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "✓ exercise 3 is solved"),
        (NotImplementedError(), "✎ exercise 3 has no answer yet"),
        (AssertionError("count twice"), "✗ exercise 3 is not solved yet: count twice"),
        (KeyError("rouge1"), "✗ exercise 3: KeyError: 'rouge1'"),
    ],
)
def test_check_reports_whether_the_answer_is_open_wrong_or_right(error, said, capsys):
    with exercise(3):
        if error:
            raise error
    assert capsys.readouterr().out.strip() == said


def test_interrupt_still_stops_the_notebook():
    with pytest.raises(KeyboardInterrupt), exercise(1):
        raise KeyboardInterrupt
