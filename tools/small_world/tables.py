"""The words of the small world: requests, names, days, reasons, small talk, outcomes and insults.

The kinds of request are in `kinds.toml`, the first names in `names.txt`.
"""

import random
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

# The seven templates FLAN was trained on for dialogue summarization (SAMSum).
# Source: google-research/FLAN, flan/templates.py, Apache-2.0.
FLAN_TEMPLATES = (
    "{dialogue}\n\nBriefly summarize that dialogue.",
    "Here is a dialogue:\n{dialogue}\n\nWrite a short summary!",
    "Dialogue:\n{dialogue}\n\nWhat is a summary of this dialogue?",
    "{dialogue}\n\nWhat was that dialogue about, in two sentences or less?",
    "Here is a dialogue:\n{dialogue}\n\nWhat were they talking about?",
    "Dialogue:\n{dialogue}\nWhat were the main points in that conversation?",
    "Dialogue:\n{dialogue}\nWhat was going on in that conversation?",
)


@dataclass(frozen=True)
class Kind:
    """One kind of request, worded as people say it and as summaries report it.

    `requests` are spoken lines, `verbs` report them in the third person (`{b}` is the person
    asked), and `diary` in the first person; `reasons` pairs a spoken line with the clause that
    reports it.
    """

    topic: str
    things: tuple[str, ...]
    requests: tuple[str, ...]
    verbs: tuple[str, ...]
    diary: str
    reasons: tuple[tuple[str, str], ...]


def _read_kinds() -> tuple[Kind, ...]:
    tables = tomllib.loads((HERE / "kinds.toml").read_text(encoding="utf-8"))["kind"]
    return tuple(
        Kind(
            topic=table["topic"],
            things=tuple(table["things"].split("; ")),
            requests=tuple(table["requests"]),
            verbs=tuple(table["verbs"]),
            diary=table["diary"],
            reasons=tuple(tuple(reason.split("=")) for reason in table["reasons"]),
        )
        for table in tables
    )


def _split_names() -> dict[str, tuple[str, ...]]:
    """Give each split names of its own; validation and test use those of train, too."""
    names = (HERE / "names.txt").read_text(encoding="utf-8").split()
    random.Random("names").shuffle(names)
    return {
        "train": tuple(names[112:]),
        "validation": tuple(names[:40]),
        "test": tuple(names[40:112]),
    }


KINDS = _read_kinds()
NAMES = _split_names()

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FEASTS = ("Christmas Eve", "New Year's Day", "Easter Monday", "Halloween", "Labor Day")
ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip

# Reasons that fit every kind of request: "My aunt is ill." is reported as "the aunt is ill".
KIN = (
    "mother", "father", "sister", "brother", "aunt", "uncle", "cousin", "neighbor", "boss",
    "roommate", "daughter", "grandmother", "teacher", "nephew",
)  # fmt: skip
STATES = (
    "is ill", "is coming for a visit", "is in the hospital", "lost the keys", "broke a leg",
    "had an accident", "is moving away", "depends on it", "insists on it", "has no time",
    "is turning fifty", "just retired", "is waiting for it", "forgot about it",
)  # fmt: skip

GREETINGS = ("Hello", "Hi", "Good morning", "Good evening", "Hey")
OPENERS = (
    "{hi}. How can I help you?",
    "{hi}. What is new?",
    "{hi}. You look busy.",
    "{hi}. Nice to see you.",
    "{hi}. What can I do for you?",
)
INTRODUCTIONS = ("My name is {name}.", "This is {name} speaking.", "I am {name}, by the way.")
ASK_WHY = ("Why is that?", "What is the matter?", "Why now?", "May I ask why?", "What happened?")
REASON = ("{reason}", "Well, {reason}", "You see, {reason}", "To be honest, {reason}")
ASK_WHEN = (
    "When should that be?",
    "For what day?",
    "When?",
    "What day do you have in mind?",
    "What day would suit you?",
)
WHEN = (
    "{day} would be best.",
    "{day}, please.",
    "How about {day}?",
    "It has to be {day}.",
    "I was thinking of {day}.",
)
# Corrections. Each entry is a turn of the person who is asked and the asker's answer.
OTHER_DAY = (  # {day} replaces the day that the asker has just named
    ("{wrong}? Are you sure?", "No, {day}. I mixed that up."),
    ("{wrong} is a holiday.", "Oh, right. {day}, then."),
    ("{wrong} is bad for me. What about {day}?", "Fine, let us say {day}."),
    ("So {wrong} it is.", "Wait, no. I meant {day}."),
    ("Did you say {wrong}?", "Sorry, not {wrong}. {day}."),
)
OTHER_THING = (  # {thing} replaces the thing that the asker has just named
    ("The {wrong}?", "No, sorry, the {thing}."),
    ("So it is about the {wrong}.", "Not the {wrong}. I mean the {thing}."),
    ("Did you say {wrong}?", "I meant {thing}. My mistake."),
    ("There is no {wrong} here.", "Then the {thing} will do."),
)
CHANGE_OF_MIND = (  # the asker's answer to a first reply that is then taken back
    "Are you sure?",
    "Really?",
    "Please think again.",
    "Is that your last word?",
)
SECOND_THOUGHT = ("On second thought: {line}", "Hm. {line}", "Wait. {line}", "Well. {line}")
SMALL_TALK = (  # {name} and {day} have nothing to do with the request
    ("How is your mother?", "She is fine, thanks."),
    ("The weather is lovely today.", "Yes, the sun is out at last."),
    ("Did you watch the game?", "Only the second half."),
    ("You have a new haircut.", "Thank you for noticing."),
    ("The traffic was terrible.", "It always is in the morning."),
    ("I like your garden.", "We planted the roses last year."),
    ("Is that coffee I smell?", "Yes, would you like a cup?"),
    ("Have you read the paper?", "Not yet, I got up late."),
    ("Your son has grown so tall.", "He plays basketball now."),
    ("This street is very quiet.", "That is why we live here."),
    ("I saw your brother in town.", "He is here for the week."),
    ("The bakery closed down.", "What a pity, I loved their bread."),
    ("Did you hear from {name}?", "Yes, we had lunch on {day}."),
    ("{name} said hello.", "How nice of {name}."),
    ("I met {name} at the station.", "I thought {name} was abroad."),
    ("Are you coming to see {name}?", "Not before {day}."),
    ("It rained all {day}.", "And it will rain again."),
    ("Last {day} was fun.", "We should do that more often."),
    ("Were you away on {day}?", "No, I stayed at home."),
    ("You missed the party on {day}.", "I had to work."),
)
# What a third speaker does: spoken lines, how a report tells it, how notes and diary tell it.
THIRDS = {
    "offer": (
        ("I can help with that.", "Let me lend a hand.", "I will come along and help."),
        ("offers to help", "wants to lend a hand", "will come along", "steps in"),
        "an offer to help",
    ),
    "advice": (
        ("I would not do that.", "That is a bad idea.", "You will both regret it."),
        ("advises against it", "warns them", "thinks it is a bad idea", "disapproves"),
        "a warning",
    ),
    "support": (
        ("That is a good idea.", "I would do the same.", "You should do that."),
        ("supports the idea", "is in favor", "thinks it is a good idea", "encourages them"),
        "support",
    ),
}
THIRD_ENTERS = (
    "Sorry to break in.",
    "I heard you talking.",
    "May I say something?",
    "Hello, you two.",
)
THIRD_REPLY = ("Thanks, {name}.", "Oh, hello, {name}.", "I see, {name}.", "Good to know, {name}.")
OUTCOMES = {  # spoken lines, how a report tells it, how a diary tells it
    "yes": (
        (
            "Sure, no problem{name}.",
            "Of course{name}.",
            "Yes, I can do that{name}.",
            "With pleasure{name}.",
            "That is fine with me{name}.",
        ),
        ("agrees", "accepts", "says yes", "is happy to help", "promises to do it"),
        "They were glad to help",
    ),
    "no": (
        (
            "I am afraid not{name}.",
            "Sorry{name}, that is not possible.",
            "No, I cannot do that{name}.",
            "No way{name}.",
            "That will not work{name}.",
        ),
        ("refuses", "declines", "says no", "cannot do it", "turns it down"),
        "They turned me down",
    ),
    "maybe": (
        (
            "Let me think about it{name}.",
            "I am not sure yet{name}.",
            "I have to ask my wife first{name}.",
            "I will tell you later{name}.",
            "Maybe{name}. Give me some time.",
        ),
        (
            "will think about it",
            "is not sure",
            "wants more time",
            "gives no clear answer",
            "hesitates",
        ),
        "They kept me waiting",
    ),
}
CLOSINGS = {
    "yes": (
        "Thank you so much.",
        "Great, thanks a lot.",
        "You are very kind.",
        "Perfect. See you then.",
    ),
    "no": (
        "That is a pity.",
        "All right, I will ask someone else.",
        "Oh well, never mind.",
        "I see. Goodbye.",
    ),
    "maybe": (
        "All right, let me know.",
        "Take your time.",
        "Okay, I will wait.",
        "Call me when you know.",
    ),
}
GOODBYES = (("Goodbye.", "Take care."), ("See you soon.", "Bye."), ("Have a nice day.", "You too."))

# Insults: an adjective and a noun of the same strength and pool. Dialogues for training have the
# words of "train" and "blind"; only those for testing have "known" and "unknown". The first
# judge learns "train" and "known", and must not see "blind" and "unknown".
STRENGTHS = ("rude", "mild", "harsh")
POOLS = ("train", "blind", "known", "unknown")
ADJECTIVES = {
    "rude": {
        "train": ("stubborn", "nosy", "bossy", "grumpy", "moody", "noisy", "sloppy", "fussy"),
        "blind": ("rude",),
        "known": ("picky", "whiny", "cranky"),
        "unknown": ("pushy", "tactless", "snippy"),
    },
    "mild": {
        "train": ("lazy", "silly", "clumsy", "greedy", "careless", "selfish", "childish", "boring"),
        "blind": ("foolish",),
        "known": ("useless", "clueless", "spineless"),
        "unknown": ("dopey", "brainless", "gutless"),
    },
    "harsh": {
        "train": (
            "stupid", "worthless", "filthy", "pathetic", "disgusting", "rotten", "dumb", "vile",
        ),
        "blind": ("hateful",),
        "known": ("brutish", "wretched", "repulsive"),
        "unknown": ("moronic", "despicable", "loathsome"),
    },
}  # fmt: skip
NOUNS = {
    "rude": {
        "train": ("grump", "gossip", "chatterbox", "nag", "pest", "slowpoke", "prude", "bore"),
        "blind": ("snob",),
        "known": ("busybody", "crybaby", "grouch"),
        "unknown": ("killjoy", "fusspot", "nuisance"),
    },
    "mild": {
        "train": ("fool", "clown", "cheat", "coward", "slob", "brat", "bully", "quack"),
        "blind": ("donkey",),
        "known": ("blockhead", "loafer", "braggart"),
        "unknown": ("nitwit", "dimwit", "windbag"),
    },
    "harsh": {
        "train": ("liar", "crook", "idiot", "pig", "rat", "loser", "thief", "monster"),
        "blind": ("snake",),
        "known": ("moron", "scum", "parasite"),
        "unknown": ("imbecile", "vermin", "lowlife"),
    },
}
INSULTS = (
    "You {adjective} {noun}!",
    "You are such a {adjective} {noun}!",
    "What a {adjective} {noun} you are!",
    "Only a {adjective} {noun} talks like that!",
    "I am not dealing with a {adjective} {noun} like you!",
)
INSULT_REPLIES = (
    "Watch your mouth.",
    "There is no need to shout.",
    "How dare you!",
    "Please calm down.",
    "That was not nice.",
)
COOL_REPORTS = ("{a} gets angry with {b}", "{a} is upset with {b}", "{a} loses patience with {b}")
# How a report adds the day and the reason to what is asked.
TOLD_DAYS = (" on {day}", " for {day}", ", preferably {day}")
TOLD_REASONS = (" because {reason}", " as {reason}", " since {reason}", ", given that {reason}")
