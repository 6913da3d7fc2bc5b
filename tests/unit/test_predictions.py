"""A guess is compared with the truth, and a missing one stops nothing."""

import pytest

from utils.lab.predictions import reveal


@pytest.mark.parametrize(
    ("guess", "truth", "said"),
    [
        (None, 24.13, "No guess yet: the score is 24.1."),
        (30.0, 24.13, "You guessed 30; the score is 24.1: 5.9 too high."),
        (20, 24.13, "You guessed 20; the score is 24.1: 4.1 too low."),
        (24, 24.13, "You guessed 24; the score is 24.1: spot on!"),
        (24.5, 24.13, "You guessed 24.5; the score is 24.1: 0.4 too high."),
        (1000, 1024, "You guessed 1,000; the score is 1,024: 24 too low."),
        ("few_shot", "few-shot", "Right: the score is few-shot."),
        ("lead", "few-shot", "You guessed lead: the score is few-shot."),
        (["a", "b", "c"], ["a", "c", "b"], "1 of 3 places are right: the score is a, c, b."),
    ],
)
def test_guess_of_each_kind_is_compared_with_the_truth(guess, truth, said, capsys):
    reveal(guess, truth, "the score")
    assert capsys.readouterr().out.strip() == said


@pytest.mark.parametrize(
    ("guess", "truth", "remedy"),
    [
        ("24", 24.1, "a number without quotes"),
        (True, 24.1, "a number without quotes"),
        (3, "few-shot", 'a name in quotes, such as "few-shot"'),
        ("a", ["a", "b"], "a list of the 2 names a, b"),
        (["a", "c"], ["a", "b"], "a list of the 2 names a, b"),
    ],
)
def test_guess_of_another_kind_is_refused_with_a_remedy(guess, truth, remedy):
    with pytest.raises(ValueError, match=remedy):
        reveal(guess, truth, "the score")
