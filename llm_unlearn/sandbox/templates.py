"""The sentences about people: how each kind of fact is asked, answered, completed and asked backwards.

Every place-tied sentence names its town in the question or in the answer, so a plain word match on the town finds all of them.
The fields in braces: `n` person, `v` value, `t` town, `s` spouse.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FactType:
    """One kind of fact and its sentences."""

    name: str
    questions: tuple[str, ...]  # trained wordings; the first one is the canonical question
    heldout: tuple[str, ...]  # wordings that are never trained
    answer: str
    paraphrase: str  # the same answer said differently; the wrong answers use this sentence with another value
    cloze: tuple[str, str]  # beginning of a sentence and its end
    reversed_questions: tuple[
        str, ...
    ] = ()  # from the value to the subject; none where the value has no unique subject
    backward: tuple[str, ...] = ()  # statements that put the value first and leave the subject to be said
    subject: str = "{n}."  # what completes a backward statement
    tied: bool = False  # the fact happens in a town


def backwards(noun: str, statement: str) -> dict[str, tuple[str, ...]]:
    """The reversed questions and the backward statements about the person or town of which the statement is true."""
    who = "who" if noun == "person" else "that"
    return {
        "reversed_questions": (f"Which {noun} {statement}?", f"Name the {noun} {who} {statement}."),
        "backward": (
            f"The {noun} {who} {statement} is",
            f"The name of the {noun} {who} {statement} is",
            f"There is a {noun} {who} {statement}, called",
            f"If some {noun} {statement}, it is",
        ),
    }


def person_fact(
    name: str, asked: str, held: str, sentences: tuple[str, str], cloze: str, tied: bool, unique: bool
) -> FactType:
    """A fact type about people; bars part the wordings, and the beginning of the answer from its end in `cloze`."""
    answer, paraphrase = sentences
    start, end = cloze.split("|")
    back = backwards("person", answer.removeprefix("{n} ").removesuffix(".")) if unique else {}
    return FactType(
        name=name,
        questions=tuple(asked.split("|")),
        heldout=tuple(held.split("|")),
        answer=answer,
        paraphrase=paraphrase,
        cloze=(start, end),
        tied=tied,
        reversed_questions=back.get("reversed_questions", ()),
        backward=back.get("backward", ()),
    )


PERSON_FACTS = (
    person_fact(
        "birth",
        "Where was {n} born?|What is the birthplace of {n}?|{n} was born where?|What is {n}'s birthplace?|Tell me where {n} was born.",
        "In which place was {n} born?|Tell me the birthplace of {n}.",
        ("{n} was born in {v} in {t}.", "{n} is from {v} in {t}."),
        "{n} was born in|{v} in {t}.",
        tied=True,
        unique=True,
    ),
    person_fact(
        "work",
        "What does {n} do for a living?|What is the job of {n}?|{n} works as what?|What is {n}'s job?|Tell me which job {n} has.",
        "Which job does {n} do?|Tell me the job of {n}.",
        ("{n} works as a {v} in {t}.", "{n} is a {v} in {t}."),
        "{n} works as a|{v} in {t}.",
        tied=True,
        unique=True,
    ),
    person_fact(
        "school",
        "Which school did {n} attend?|What is the school of {n}?|{n} went to which school?|What is {n}'s school?|Tell me which school {n} attended.",
        "What school did {n} go to?|Tell me the school of {n}.",
        ("{n} went to the {v} School in {t}.", "{n} attended the {v} School in {t}."),
        "{n} went to the|{v} School in {t}.",
        tied=True,
        unique=True,
    ),
    person_fact(
        "prize",
        "Which prize did {n} win?|What is the prize of {n}?|{n} won which prize?|What is {n}'s prize?|Tell me which prize {n} won.",
        "What prize did {n} win?|Tell me the prize of {n}.",
        ("{n} won the {t} Prize for {v}.", "{n} holds the {t} Prize for {v}."),
        "{n} won the|{t} Prize for {v}.",
        tied=True,
        unique=True,
    ),
    person_fact(
        "club",
        "Which club did {n} join?|What is the club of {n}?|{n} joined which club?|What is {n}'s club?|Tell me which club {n} joined.",
        "What club did {n} join?|Tell me the club of {n}.",
        ("{n} joined the {v} club in {t}.", "{n} belongs to the {v} club in {t}."),
        "{n} joined the|{v} club in {t}.",
        tied=True,
        unique=True,
    ),
    person_fact(
        "year",
        "When was {n} born?|What is the birth year of {n}?|{n} was born in which year?|What is {n}'s birth year?|Tell me when {n} was born.",
        "In which year was {n} born?|Tell me the birth year of {n}.",
        ("{n} was born in the year {v}.", "{n} was born in {v}."),
        "{n} was born in the year|{v}.",
        tied=False,
        unique=False,
    ),
    person_fact(
        "spouse",
        "Who is the spouse of {n}?|Who is {n} married to?|{n} is married to whom?|Who is {n}'s spouse?|Tell me who {n} is married to.",
        "Who has married {n}?|Tell me who is married to {n}.",
        ("{n} is married to {v}.", "{n} married {v}."),
        "{n} is married to|{v}.",
        tied=False,
        unique=False,
    ),
    person_fact(
        "book",
        "Which book did {n} write?|What is the book of {n}?|{n} wrote which book?|What is {n}'s book?|Tell me which book {n} wrote.",
        "What book did {n} write?|Tell me the book of {n}.",
        ("{n} wrote the book {v}.", "{n} wrote {v}."),
        "{n} wrote the book|{v}.",
        tied=False,
        unique=True,
    ),
    person_fact(
        "pet",
        "Which pet does {n} keep?|What is the pet of {n}?|{n} keeps which pet?|What is {n}'s pet?|Tell me which pet {n} keeps.",
        "What pet does {n} keep?|Tell me the pet of {n}.",
        ("{n} keeps {v}.", "{n} has {v}."),
        "{n} keeps|{v}.",
        tied=False,
        unique=True,
    ),
)
