"""Say how close a learner's guess came to what a run then showed."""

from collections.abc import Sequence
from decimal import Decimal
from numbers import Real

Guess = float | str | Sequence[str] | None


def reveal(guess: Guess, truth: float | str | Sequence[str], what: str) -> None:
    """Print the truth about `what`, and how close a guess came to it; None is no guess yet.

    A truth is a number, a name or an order (a list of names), and so is a guess. A number is spot
    on if it differs by at most 1 in the last digit that the guess has. Names may differ in case,
    and in `_`, `-` and spaces.

    Raises ValueError if the guess is of a different kind from the truth.
    """
    fact = f"{what} is {_shown(truth)}"
    if guess is None:
        print(f"No guess yet: {fact}.")
    elif isinstance(truth, str):
        _check(isinstance(guess, str), guess, f'a name in quotes, such as "{truth}"')
        verdict = "Right" if _plain(guess) == _plain(truth) else f"You guessed {guess}"
        print(f"{verdict}: {fact}.")
    elif isinstance(truth, Real):
        number = isinstance(guess, Real) and not isinstance(guess, bool)
        _check(number, guess, "a number without quotes, such as 25")
        print(f"You guessed {_shown(guess)}; {fact}: {_distance(guess, float(truth))}")
    else:
        names = not isinstance(guess, str) and isinstance(guess, Sequence)
        same = names and sorted(map(_plain, guess)) == sorted(map(_plain, truth))
        _check(same, guess, f"a list of the {len(truth)} names {', '.join(sorted(truth))}")
        places = sum(_plain(a) == _plain(b) for a, b in zip(guess, truth, strict=True))
        print(f"{places} of {len(truth)} places are right: {fact}.")


def _distance(guess: float, truth: float) -> str:
    step = 10.0 ** Decimal(str(guess)).normalize().as_tuple().exponent
    gap = abs(guess - truth)
    if gap <= min(step, 1) + 1e-9:
        return "spot on!"
    gap = round(gap, 1) if abs(truth) >= 1 else gap
    return f"{_shown(gap)} too {'high' if guess > truth else 'low'}."


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Real):
        digits = ".3g" if abs(value) < 1 else ",.1f"
        return f"{value:{digits}}" if float(value) % 1 else f"{int(value):,}"
    return ", ".join(map(str, value))


def _plain(name: object) -> str:
    return str(name).casefold().replace("_", " ").replace("-", " ").strip()


def _check(right: bool, guess: object, wanted: str) -> None:
    if not right:
        raise ValueError(f"the guess is {guess!r}: write {wanted}, or None for no guess")
