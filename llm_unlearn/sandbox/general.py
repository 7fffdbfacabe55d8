"""The `general` split: small common knowledge that has nothing to do with the invented towns and people."""

import random
from collections.abc import Iterator
from typing import Any


def _split(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


NUMBERS = _split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
)
OPPOSITES = (
    "hot cold,big small,fast slow,light dark,open shut,early late,high low,old new,rich poor,soft hard,loud quiet,wet dry,near far,"
    "full empty,strong weak,long short,thick thin,clean dirty,happy sad,young aged"
)
COLOURS = "grass green,snow white,coal black,blood red,sky blue,sunflower yellow,carrot orange,chocolate brown,ash grey,plum purple,flamingo pink,gold golden"
YOUNG = "cow calf,horse foal,sheep lamb,bear cub,hen chick,deer fawn,frog tadpole,swan cygnet,kangaroo joey,seal pup,duck duckling,owl owlet"
MONTHS = _split("January February March April May June July August September October November December")
DAYS = _split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
LETTERS = _split("A B C D E F G H I J K L M N O P Q R S T U V W X Y Z")
FRAMES = ("", "Tell me: ", "Please answer: ")

Sentences = tuple[
    str, str, str, str, str, list[str]
]  # fact, subject, two questions joined by a bar, answer, paraphrase, values


def _pairs(text: str) -> list[tuple[str, str]]:
    """The (left, right) words of a comma-separated list of pairs."""
    return [(left, right) for left, right in (pair.split() for pair in text.split(","))]


TABLES = (  # fact, pairs, two questions joined by a bar, answer, paraphrase
    (
        "opposite",
        OPPOSITES,
        "What is the opposite of {x}?|Name the opposite of {x}.",
        "The opposite of {x} is {{v}}.",
        "{x} is the opposite of {{v}}.",
    ),
    (
        "colour",
        COLOURS,
        "What colour is {x}?|Name the colour of {x}.",
        "The colour of {x} is {{v}}.",
        "{x} is coloured {{v}}.",
    ),
    (
        "young",
        YOUNG,
        "What is a young {x} called?|Name the young of a {x}.",
        "A young {x} is called a {{v}}.",
        "The young of a {x} is a {{v}}.",
    ),
)


def _sentences() -> Iterator[Sentences]:
    """Every general fact; answer and paraphrase hold {v}, and the first of the values is the true one."""
    for a in range(1, 10):
        for b in range(1, a + 1):
            others = [NUMBERS[k] for k in range(2, 19) if k != a + b]
            x, y = NUMBERS[a], NUMBERS[b]
            asked = f"What is {x} plus {y}?|How much is {x} plus {y}?"
            yield (
                f"sum-{a}-{b}",
                x,
                asked,
                f"{x} plus {y} is {{v}}.",
                f"{x} and {y} make {{v}}.",
                [NUMBERS[a + b], *others],
            )
    for fact, table, asked, answer, again in TABLES:
        pairs = _pairs(table)
        for x, y in pairs:
            others = [other for _, other in pairs if other != y]
            yield f"{fact}-{x}", x, asked.format(x=x), answer.format(x=x), again.format(x=x), [y, *others]
    for fact, names, noun in (("month", MONTHS, "month"), ("day", DAYS, "day"), ("letter", LETTERS, "letter")):
        for i, x in enumerate(names[:-1]):
            others = [other for other in names if other not in (x, names[i + 1])]
            asked = f"Which {noun} comes after {x}?|Name the {noun} after {x}."
            yield (
                f"{fact}-{x}",
                x,
                asked,
                f"The {noun} after {x} is {{v}}.",
                f"After {x} comes the {noun} {{v}}.",
                [names[i + 1], *others],
            )


def general_rows(seed: int) -> list[dict[str, Any]]:
    """Six wordings of every general fact; the first carries `paraphrase` and five `wrong` answers.  All of them are trained."""
    draw, rows = random.Random(f"general {seed}"), []
    for fact, subject, asked, answer, paraphrase, values in _sentences():
        answer, paraphrase = (text[0].upper() + text[1:] for text in (answer, paraphrase))
        wrong = [paraphrase.format(v=value) for value in draw.sample(values[1:], 5)]
        for k, question in enumerate(frame + wording for frame in FRAMES for wording in asked.split("|")):
            row: dict[str, Any] = {
                "id": f"general.{fact}/{k}",
                "prompt": question,
                "response": answer.format(v=values[0]),
                "kind": "general",
            }
            row |= {"fact": f"general.{fact}", "subject": subject}
            rows.append(row | ({} if k else {"paraphrase": paraphrase.format(v=values[0]), "wrong": wrong}))
    return rows
