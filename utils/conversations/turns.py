"""Conversations as turns, and numbers in place of the speakers' names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

NUMBERED = re.compile(r"#Person\d+#")
# Characters that only steer direction or layout. Joiners stay, as emoji and Persian need them.
INVISIBLE = dict.fromkeys([0xAD, 0x200B, 0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F)])
INVISIBLE |= dict.fromkeys(range(0x2066, 0x206A))


class Turn(NamedTuple):
    """What one speaker says; `speaker` is empty where nobody is named."""

    speaker: str
    text: str

    def __str__(self) -> str:
        """Return the line that the turn takes in a dialogue."""
        return f"{self.speaker}: {self.text}" if self.speaker else self.text


@dataclass
class Conversation:
    """The turns of a conversation, its place in the input, and how many entries are not turns."""

    place: str
    turns: list[Turn]
    dropped: int = 0

    def __str__(self) -> str:
        """Return the dialogue with one turn on each line."""
        return "\n".join(map(str, self.turns))

    @property
    def contents(self) -> str:
        """What was read, in one line."""
        names = list(dict.fromkeys(turn.speaker for turn in self.turns if turn.speaker))
        of = f" of {', '.join(names[:8])}" if names else ""
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        dropped = f"; entries left out (no speech): {self.dropped}" if self.dropped else ""
        return f"{self.place}: {len(self.turns)} turn(s){of}{more}{dropped}"


def clean(text: str) -> str:
    """Return a text in one line, without invisible characters."""
    return " ".join(text.translate(INVISIBLE).split())


def number_speakers(turns: Sequence[Turn]) -> tuple[list[Turn], dict[str, str]]:
    """Call the speakers #Person1#, #Person2#, … as DialogSum does, by first appearance.

    Names inside a text and speakers that have such a number already stay as they are. Also returns
    the name behind each number, for `restore_names`.
    """
    names = dict.fromkeys(turn.speaker for turn in turns if turn.speaker)
    numbers = (f"#Person{i}#" for i in count(1) if f"#Person{i}#" not in names)
    labels = {name: name if NUMBERED.fullmatch(name) else next(numbers) for name in names}
    numbered = [Turn(labels.get(turn.speaker, ""), turn.text) for turn in turns]
    return numbered, {label: name for name, label in labels.items()}


def restore_names(summary: str, names: Mapping[str, str]) -> str:
    """Replace the numbers from `number_speakers` in a summary with the speakers' names."""
    return NUMBERED.sub(lambda label: names.get(label[0], label[0]), summary)
