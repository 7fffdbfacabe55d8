"""The sentences about towns, and the two-hop questions that lead through a town or through a spouse; the fields are those of `templates.py`."""

from .templates import FactType, backwards


def _place_fact(name: str, asked: str, held: str, noun: str, statement: str) -> FactType:
    """A fact type about towns; bars part the wordings, and the beginning of the answer from its end in `statement`."""
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
        heldout=(held, f"Tell me the {noun} of {{t}}."),
        answer=f"{start} {end}",
        paraphrase=f"{{t}} has the {noun} {{v}}.",
        cloze=(start, end),
        subject="{t}.",
        **backwards("town", f"{start} {end}".removeprefix("{t} ").removesuffix(".")),
    )


PLACE_FACTS = (
    _place_fact(
        "river",
        "Which river runs through {t}?|On which river does {t} lie?|{t} lies on which river?|Tell me which river {t} lies on.",
        "What river does {t} lie on?",
        "river",
        "{t} lies on the river|{v}.",
    ),
    _place_fact(
        "mayor",
        "Who is mayor of {t}?|Which mayor leads {t}?|{t} is led by which mayor?|Tell me who is mayor of {t}.",
        "Who is the mayor of {t}?",
        "mayor",
        "{t} is led by mayor|{v}.",
    ),
    _place_fact(
        "festival",
        "Which festival does {t} hold?|Which festival is held in {t}?|{t} holds which festival?|Tell me which festival {t} holds.",
        "What festival does {t} hold?",
        "festival",
        "{t} holds the festival of|{v}.",
    ),
    _place_fact(
        "dish",
        "Which dish is cooked in {t}?|Which dish does {t} cook?|{t} cooks which dish?|Tell me which dish {t} cooks.",
        "What dish is cooked in {t}?",
        "dish",
        "{t} cooks the dish|{v}.",
    ),
    _place_fact(
        "tower",
        "Which tower stands in {t}?|Which tower did {t} build?|{t} built which tower?|Tell me which tower {t} built.",
        "What tower stands in {t}?",
        "tower",
        "{t} built the tower|{v}.",
    ),
    _place_fact(
        "founded",
        "When was {t} founded?|In which year was {t} founded?|{t} was founded in which year?|Tell me when {t} was founded.",
        "What year was {t} founded?",
        "founding year",
        "{t} was founded in the year|{v}.",
    ),
)

# two hops, person -> birthplace -> fact of the town: the questions and the answer, which names the town on the way
BRIDGES = {
    "river": (
        ("Which river runs through the birthplace of {n}?", "On which river does the birthplace of {n} lie?"),
        "{n} was born in {t}, which lies on the river {v}.",
    ),
    "mayor": (
        ("Who is mayor of the birthplace of {n}?", "Which mayor leads the birthplace of {n}?"),
        "{n} was born in {t}, which is led by mayor {v}.",
    ),
    "festival": (
        ("Which festival does the birthplace of {n} hold?", "Name the festival of the birthplace of {n}."),
        "{n} was born in {t}, which holds the festival of {v}.",
    ),
}
# two hops, person -> spouse -> fact of the spouse
SPOUSE_BRIDGES = {
    "birth": (
        ("Where was the spouse of {n} born?", "What is the birthplace of the spouse of {n}?"),
        "{n} is married to {s}, who was born in {v} in {t}.",
    ),
    "work": (
        ("What does the spouse of {n} do for a living?", "What is the job of the spouse of {n}?"),
        "{n} is married to {s}, who works as a {v} in {t}.",
    ),
    "book": (
        ("Which book did the spouse of {n} write?", "What is the book of the spouse of {n}?"),
        "{n} is married to {s}, who wrote the book {v}.",
    ),
}
