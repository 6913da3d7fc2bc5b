"""The contents of the small world's dialogues: requests, small talk, outcomes and insults."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One everyday request, worded as people say it and as the three styles of summary report it.

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


SCENARIOS = (
    Scenario(
        "borrow a tool",
        ("ladder", "drill", "saw", "hammer", "lawn mower", "wheelbarrow", "paint brush", "spade"),
        (
            "Could I borrow your {thing}?",
            "Would you lend me your {thing}?",
            "Can I have your {thing} for a while?",
            "I need a {thing}. You have one, right?",
        ),
        (
            "asks {b} for the {thing}",
            "wants to borrow the {thing} from {b}",
            "would like {b} to lend the {thing}",
        ),
        "asked for a loan of the {thing}",
        (
            ("My roof leaks.", "the roof leaks"),
            ("My fence fell down.", "the fence fell down"),
            ("My shed needs work.", "the shed needs work"),
            ("I am building a bench.", "a bench must be built"),
        ),
    ),
    Scenario(
        "repair at home",
        ("sink", "shower", "heater", "window", "door", "oven", "light", "lock"),
        (
            "My {thing} needs a repair. Can you do it?",
            "Could you fix my {thing}?",
            "Can you take a look at my {thing}?",
            "I want you to repair the {thing}.",
        ),
        (
            "asks {b} to fix the {thing}",
            "wants {b} to repair the {thing}",
            "would like {b} to look at the {thing}",
        ),
        "asked for help with the {thing}",
        (
            ("My parents are coming.", "the parents are coming"),
            ("It makes a loud noise.", "it makes a loud noise"),
            ("The house is cold.", "the house is cold"),
            ("My landlord is away.", "the landlord is away"),
        ),
    ),
    Scenario(
        "buy clothes",
        ("coat", "dress", "shirt", "hat", "scarf", "suit", "skirt", "sweater"),
        (
            "I would like to buy this {thing}.",
            "Do you sell this {thing} in my size?",
            "Can I get this {thing} at a lower price?",
            "I am looking for a {thing}.",
        ),
        (
            "asks {b} about buying the {thing}",
            "wants to buy the {thing} from {b}",
            "would like {b} to sell the {thing}",
        ),
        "went shopping for the {thing}",
        (
            ("My sister is getting married.", "the sister is getting married"),
            ("Winter is coming.", "winter is coming"),
            ("I start a new job.", "a new job starts"),
            ("My old one is torn.", "the old one is torn"),
        ),
    ),
    Scenario(
        "invitation",
        ("concert", "picnic", "party", "dinner", "barbecue", "wedding", "movie", "dance"),
        (
            "Would you like to come to the {thing}?",
            "Do you want to go to the {thing} with me?",
            "I am going to the {thing}. Will you join me?",
            "Come with me to the {thing}!",
        ),
        (
            "asks {b} to come to the {thing}",
            "invites {b} to the {thing}",
            "would like {b} to join the {thing}",
        ),
        "sent an invitation to the {thing}",
        (
            ("I have a spare ticket.", "there is a spare ticket"),
            ("It is my birthday.", "it is a birthday"),
            ("All our friends will be there.", "all the friends will be there"),
            ("I passed my exam.", "the exam is passed"),
        ),
    ),
    Scenario(
        "book a room",
        (
            "single room",
            "double room",
            "suite",
            "cabin",
            "garden room",
            "family room",
            "studio",
            "apartment",
        ),
        (
            "I would like to book a {thing}.",
            "Do you have a {thing} free?",
            "Can I reserve a {thing}?",
            "We need a {thing}, please.",
        ),
        (
            "asks {b} for a {thing}",
            "wants to book a {thing} with {b}",
            "would like {b} to reserve a {thing}",
        ),
        "tried to reserve a {thing}",
        (
            ("There is a trade fair in town.", "there is a trade fair in town"),
            ("My train was cancelled.", "the train was cancelled"),
            ("We are on our honeymoon.", "it is a honeymoon"),
            ("My flat is being painted.", "the flat is being painted"),
        ),
    ),
    Scenario(
        "refund",
        ("lamp", "phone", "camera", "toaster", "radio", "kettle", "watch", "printer"),
        (
            "I want my money back for this {thing}.",
            "Can I return this {thing}?",
            "I would like a refund for the {thing}.",
            "Please take this {thing} back.",
        ),
        (
            "asks {b} for a refund on the {thing}",
            "wants to return the {thing} to {b}",
            "would like {b} to take back the {thing}",
        ),
        "brought the {thing} back for a refund",
        (
            ("It broke after a day.", "it broke after a day"),
            ("It is the wrong color.", "it is the wrong color"),
            ("It does not switch on.", "it does not switch on"),
            ("I already have one.", "there already is one"),
        ),
    ),
    Scenario(
        "office work",
        ("report", "budget", "contract", "schedule", "survey", "newsletter", "invoice", "proposal"),
        (
            "Could you finish the {thing}?",
            "I need you to write the {thing}.",
            "Can you check the {thing} for me?",
            "Would you take over the {thing}?",
        ),
        (
            "asks {b} to finish the {thing}",
            "wants {b} to do the {thing}",
            "would like {b} to take care of the {thing}",
        ),
        "asked a colleague to do the {thing}",
        (
            ("The boss is waiting.", "the boss is waiting"),
            ("Our client is worried.", "the client is worried"),
            ("I will be on holiday.", "a holiday is near"),
            ("My computer crashed.", "the computer crashed"),
        ),
    ),
    Scenario(
        "order food",
        ("pizza", "soup", "salad", "steak", "curry", "pasta", "fish", "sandwich"),
        (
            "I would like to order the {thing}.",
            "Can I have the {thing}, please?",
            "Do you still serve the {thing}?",
            "Could you bring me the {thing}?",
        ),
        (
            "asks {b} for the {thing}",
            "orders the {thing} from {b}",
            "would like {b} to bring the {thing}",
        ),
        "ordered the {thing}",
        (
            ("I skipped lunch.", "lunch was skipped"),
            ("My doctor says I must eat better.", "the doctor says so"),
            ("I heard it is the best in town.", "it is the best in town"),
            ("My guests are hungry.", "the guests are hungry"),
        ),
    ),
    Scenario(
        "school help",
        ("essay", "homework", "project", "exam", "poster", "speech", "poem", "math test"),
        (
            "Can you help me with my {thing}?",
            "Would you help me prepare the {thing}?",
            "I need help with the {thing}.",
            "Could you explain the {thing} to me?",
        ),
        (
            "asks {b} for help with the {thing}",
            "wants {b} to help with the {thing}",
            "would like {b} to explain the {thing}",
        ),
        "looked for help with the {thing}",
        (
            ("I missed two classes.", "two classes were missed"),
            ("The teacher is strict.", "the teacher is strict"),
            ("I was sick.", "there was an illness"),
            ("My grades are bad.", "the grades are bad"),
        ),
    ),
    Scenario(
        "ride in a car",
        ("airport", "station", "hospital", "harbor", "stadium", "museum", "library", "market"),
        (
            "Can you drive me to the {thing}?",
            "Could you give me a ride to the {thing}?",
            "I need a lift to the {thing}.",
            "Would you take me to the {thing}?",
        ),
        (
            "asks {b} for a ride to the {thing}",
            "wants {b} to drive to the {thing}",
            "would like {b} to give a lift to the {thing}",
        ),
        "asked for a lift to the {thing}",
        (
            ("My car broke down.", "the car broke down"),
            ("The buses are on strike.", "the buses are on strike"),
            ("I hurt my foot.", "a foot is hurt"),
            ("It is going to rain.", "it is going to rain"),
        ),
    ),
    Scenario(
        "look after a pet",
        ("dog", "cat", "parrot", "rabbit", "pony", "hamster", "goat", "turtle"),
        (
            "Could you look after my {thing}?",
            "Would you feed my {thing} for me?",
            "Can my {thing} stay with you?",
            "I need someone to watch my {thing}.",
        ),
        (
            "asks {b} to look after the {thing}",
            "wants {b} to feed the {thing}",
            "would like {b} to watch the {thing}",
        ),
        "looked for a sitter for the {thing}",
        (
            ("I am going abroad.", "there is a trip abroad"),
            ("My neighbor moved away.", "the neighbor moved away"),
            ("I have to see my uncle.", "there is an uncle to see"),
            ("My flat is too small.", "the flat is too small"),
        ),
    ),
    Scenario(
        "doctor",
        ("headache", "cough", "fever", "back pain", "sore throat", "rash", "toothache", "bad knee"),
        (
            "I have a {thing}. Can you see me?",
            "Could you check my {thing}?",
            "I would like something for my {thing}.",
            "Can you do anything about my {thing}?",
        ),
        (
            "asks {b} about the {thing}",
            "wants {b} to treat the {thing}",
            "would like {b} to check the {thing}",
        ),
        "went to see someone about the {thing}",
        (
            ("I cannot sleep.", "sleep is impossible"),
            ("It gets worse every night.", "it gets worse every night"),
            ("I have a race to run.", "there is a race to run"),
            ("My tea did not help.", "tea did not help"),
        ),
    ),
)

NAMES = (
    "Anna", "Tom", "Mary", "Peter", "Susan", "David", "Linda", "Mark", "Helen", "Steven", "Alice", "Frank",
    "Julia", "Kevin", "Laura", "Brian", "Nancy", "Oscar", "Rose", "Victor", "Grace", "Henry", "Emma", "Paul",
)  # fmt: skip
DAYS = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
    "Christmas Eve", "New Year's Day", "Easter Monday", "the first of May", "the last day of June",
)  # fmt: skip

GREETINGS = ("Hello", "Hi", "Good morning", "Good evening", "Hey")
OPENERS = (
    "{hi}. How can I help you?",
    "{hi}. What is new?",
    "{hi}. You look busy.",
    "{hi}. Nice to see you.",
    "{hi}. What can I do for you?",
)
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
SMALL_TALK = (
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
)

OUTCOMES = {
    "yes": (
        (
            "Sure, no problem{name}.",
            "Of course{name}.",
            "Yes, I can do that{name}.",
            "With pleasure{name}.",
            "That is fine with me{name}.",
        ),
        ("agrees", "accepts", "says yes"),
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
        ("refuses", "declines", "says no"),
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
        ("will think about it", "is not sure", "wants more time"),
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

INSULT_ADJECTIVES = ("lazy", "stupid", "silly", "useless", "rude", "clumsy", "greedy", "foolish")
INSULT_NOUNS = ("fool", "clown", "liar", "donkey", "snob", "cheat", "blockhead", "crook")
INSULTS = (
    "You {adjective} {noun}!",
    "You are such a {adjective} {noun}!",
    "What a {adjective} {noun} you are!",
    "Only a {adjective} {noun} talks like that!",
)
INSULT_REPLIES = (
    "Watch your mouth.",
    "There is no need to shout.",
    "How dare you!",
    "Please calm down.",
    "That was not nice.",
)
COOL_REPORTS = ("{a} gets angry with {b}", "{a} is upset with {b}", "{a} loses patience with {b}")
HARMLESS = (  # words used in insults, but no one is insulted
    "The {adjective} {thing} broke again.", "What a {adjective} {thing}!", "This {thing} is {adjective}.", "The {noun} is here.",
    "There was a {noun} in the movie.", "I saw a {noun} on the street.", "The story is about a {noun} and a {thing}.", "It was a {adjective} idea.",
)  # fmt: skip
