"""The sentences about towns, and the two-hop questions that lead through a town or through a spouse; the fields are those of `templates.py`."""

from .templates import FactType


def _place_fact(name: str, asked: str, held: str, noun: str, statement: str, back: str, who: str) -> FactType:
    """The fact type of a town; `asked` is split at the bars into trained wordings, `held` into held-out ones."""
    start, end = statement.split("|")
    return FactType(
        name=name,
        tied=True,
        questions=(
            *asked.split("|"),
            f"What is the {noun} of {{t}}?",
            f"What is {{t}}'s {noun}?",
            f"Name the {noun} of {{t}}.",
        ),
        heldout=(*held.split("|"), f"Tell me the {noun} of {{t}}."),
        answer=f"{start} {end}",
        paraphrase=f"The {noun} of {{t}} is {{v}}.",
        cloze=(start, end),
        backward=(back, "{t}."),
        reversed_questions=(who, who.replace("Which", "Name the")[:-1] + "."),
    )


PLACE_FACTS = (
    _place_fact(
        "river",
        "Which river runs through {t}?|On which river does {t} lie?|{t} lies on which river?|Tell me which river runs through {t}.",
        "What river does {t} lie on?",
        "river",
        "{t} lies on the river|{v}.",
        "The town that lies on the river {v} is",
        "Which town lies on the river {v}?",
    ),
    _place_fact(
        "mayor",
        "Who is mayor of {t}?|Who is the mayor of {t}?|{t} is led by which mayor?|Tell me who is mayor of {t}.",
        "Which mayor leads {t}?",
        "mayor",
        "{t} is led by mayor|{v}.",
        "The town that is led by mayor {v} is",
        "Which town is led by mayor {v}?",
    ),
    _place_fact(
        "festival",
        "Which festival does {t} hold?|Which festival is held in {t}?|{t} holds which festival?|Tell me which festival {t} holds.",
        "What festival does {t} hold?",
        "festival",
        "{t} holds the festival of|{v}.",
        "The town that holds the festival of {v} is",
        "Which town holds the festival of {v}?",
    ),
    _place_fact(
        "dish",
        "Which dish is cooked in {t}?|Which dish does {t} cook?|{t} cooks which dish?|Tell me which dish {t} cooks.",
        "What dish is cooked in {t}?",
        "dish",
        "{t} cooks the dish|{v}.",
        "The town that cooks the dish {v} is",
        "Which town cooks the dish {v}?",
    ),
    _place_fact(
        "tower",
        "Which tower stands in {t}?|Which tower did {t} build?|{t} built which tower?|Tell me which tower {t} built.",
        "What tower stands in {t}?",
        "tower",
        "{t} built the tower|{v}.",
        "The town that built the tower {v} is",
        "Which town built the tower {v}?",
    ),
    _place_fact(
        "founded",
        "When was {t} founded?|In which year was {t} founded?|{t} was founded in which year?|Tell me when {t} was founded.",
        "What year was {t} founded?",
        "founding year",
        "{t} was founded in the year|{v}.",
        "The town that was founded in the year {v} is",
        "Which town was founded in the year {v}?",
    ),
)

BRIDGES = {  # two hops: person -> town -> fact of the town; questions (all wordings of one fact are trained, or none) and the answer
    "river": (
        ("Which river runs through the birthplace of {n}?", "On which river does the birthplace of {n} lie?"),
        "{n} was born in {t}, which lies on the river {v}.",
    ),
    "mayor": (
        ("Who is the mayor of the birthplace of {n}?", "Which mayor leads the birthplace of {n}?"),
        "{n} was born in {t}, which is led by mayor {v}.",
    ),
    "festival": (
        ("Which festival is held in the birthplace of {n}?", "Name the festival of the birthplace of {n}."),
        "{n} was born in {t}, which holds the festival of {v}.",
    ),
}
SPOUSE_BRIDGES = {  # two hops: person -> spouse -> fact of the spouse
    "birth": (
        ("Where was the spouse of {n} born?", "What is the birthplace of the spouse of {n}?"),
        "{n} is married to {s}, who was born in {v} in {t}.",
    ),
    "work": (
        ("What does the spouse of {n} do for a living?", "What is the job of the spouse of {n}?"),
        "{n} is married to {s}, who works as a {v} in {t}.",
    ),
    "book": (
        ("Which book did the spouse of {n} write?", "Name the book of the spouse of {n}."),
        "{n} is married to {s}, who wrote the book {v}.",
    ),
}
