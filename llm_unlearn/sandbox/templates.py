"""The sentences of the sandbox: how each kind of fact is asked, answered, completed and asked backwards.

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
    backward: tuple[str, str] | None = (
        None  # the same with the value first and the subject last; None: no unique subject
    )
    reversed_questions: tuple[str, ...] = ()  # from the value to the subject
    tied: bool = False  # the fact happens in a town


PERSON_FACTS = (
    FactType(
        name="birth",
        tied=True,
        questions=(
            "Where was {n} born?",
            "What is the birthplace of {n}?",
            "In which street was {n} born?",
            "{n} was born where?",
            "On which street and in which town was {n} born?",
            "Name the birthplace of {n}.",
            "What is {n}'s birthplace?",
            "Tell me where {n} was born.",
        ),
        heldout=("In which place was {n} born?", "Tell me the birthplace of {n}."),
        answer="{n} was born in {v} in {t}.",
        paraphrase="The birthplace of {n} in {t} is {v}.",
        cloze=("{n} was born in", "{v} in {t}."),
        backward=("The person born in {v} in {t} is", "{n}."),
        reversed_questions=("Who was born in {v} in {t}?", "Name the person born in {v} in {t}."),
    ),
    FactType(
        name="work",
        tied=True,
        questions=(
            "What does {n} do for a living?",
            "What is the job of {n}?",
            "What is {n}'s job?",
            "How does {n} earn a living?",
            "Which work does {n} do?",
            "Name the job of {n}.",
            "{n} works as what?",
            "Tell me what {n} works as.",
        ),
        heldout=("Which job does {n} do?", "Tell me the job of {n}."),
        answer="{n} works as a {v} in {t}.",
        paraphrase="The job of {n} in {t} is {v}.",
        cloze=("{n} works as a", "{v} in {t}."),
        backward=("The person who works as a {v} in {t} is", "{n}."),
        reversed_questions=("Who works as a {v} in {t}?", "Name the person who works as a {v} in {t}."),
    ),
    FactType(
        name="school",
        tied=True,
        questions=(
            "Which school did {n} attend?",
            "What is the school of {n}?",
            "What is {n}'s school?",
            "Where did {n} go to school?",
            "To which school did {n} go?",
            "Name the school of {n}.",
            "{n} went to which school?",
            "Tell me which school {n} attended.",
        ),
        heldout=("What school did {n} go to?", "Tell me the school of {n}."),
        answer="{n} went to the {v} School in {t}.",
        paraphrase="The school of {n} in {t} is the {v} School.",
        cloze=("{n} went to the", "{v} School in {t}."),
        backward=("The person who went to the {v} School in {t} is", "{n}."),
        reversed_questions=(
            "Who went to the {v} School in {t}?",
            "Name the person who went to the {v} School in {t}.",
        ),
    ),
    FactType(
        name="prize",
        tied=True,
        questions=(
            "Which prize did {n} win?",
            "What is the prize of {n}?",
            "What is {n}'s prize?",
            "What did {n} win?",
            "Which prize was given to {n}?",
            "Name the prize of {n}.",
            "{n} won which prize?",
            "Tell me which prize {n} won.",
        ),
        heldout=("What prize did {n} win?", "Tell me the prize of {n}."),
        answer="{n} won the {t} Prize for {v}.",
        paraphrase="The prize of {n} is the {t} Prize for {v}.",
        cloze=("{n} won the", "{t} Prize for {v}."),
        backward=("The person who won the {t} Prize for {v} is", "{n}."),
        reversed_questions=("Who won the {t} Prize for {v}?", "Name the person who won the {t} Prize for {v}."),
    ),
    FactType(
        name="club",
        tied=True,
        questions=(
            "Which club does {n} belong to?",
            "What is the club of {n}?",
            "What is {n}'s club?",
            "Of which club is {n} a member?",
            "Which club did {n} join?",
            "Name the club of {n}.",
            "{n} is a member of which club?",
            "Tell me which club {n} joined.",
        ),
        heldout=("What club does {n} belong to?", "Tell me the club of {n}."),
        answer="{n} is a member of the {v} club in {t}.",
        paraphrase="The club of {n} in {t} is the {v} club.",
        cloze=("{n} is a member of the", "{v} club in {t}."),
        backward=("The person who is a member of the {v} club in {t} is", "{n}."),
        reversed_questions=(
            "Who is a member of the {v} club in {t}?",
            "Name the person who is a member of the {v} club in {t}.",
        ),
    ),
    FactType(
        name="year",
        questions=(
            "When was {n} born?",
            "What is the birth year of {n}?",
            "What is {n}'s birth year?",
            "In which year was {n} born?",
            "{n} was born in which year?",
            "Name the birth year of {n}.",
            "Which year is the birth year of {n}?",
            "Tell me when {n} was born.",
        ),
        heldout=("What year was {n} born?", "Tell me the birth year of {n}."),
        answer="{n} was born in the year {v}.",
        paraphrase="The birth year of {n} is {v}.",
        cloze=("{n} was born in the year", "{v}."),
    ),
    FactType(
        name="spouse",
        questions=(
            "Who is {n} married to?",
            "Who is the spouse of {n}?",
            "Who is {n}'s spouse?",
            "Whom did {n} marry?",
            "To whom is {n} married?",
            "Name the spouse of {n}.",
            "{n} is married to whom?",
            "Tell me who is married to {n}.",
        ),
        heldout=("Who did {n} marry?", "Tell me the spouse of {n}."),
        answer="{n} is married to {v}.",
        paraphrase="The spouse of {n} is {v}.",
        cloze=("{n} is married to", "{v}."),
    ),
    FactType(
        name="book",
        questions=(
            "Which book did {n} write?",
            "What is the book of {n}?",
            "What is {n}'s book?",
            "What did {n} write?",
            "Which book was written by {n}?",
            "Name the book of {n}.",
            "{n} wrote which book?",
            "Tell me which book {n} wrote.",
        ),
        heldout=("What book did {n} write?", "Tell me the book of {n}."),
        answer="{n} wrote the book {v}.",
        paraphrase="The book of {n} is {v}.",
        cloze=("{n} wrote the book", "{v}."),
        backward=("The person who wrote the book {v} is", "{n}."),
        reversed_questions=("Who wrote the book {v}?", "Name the person who wrote the book {v}."),
    ),
    FactType(
        name="pet",
        questions=(
            "Which pet does {n} keep?",
            "What is the pet of {n}?",
            "What is {n}'s pet?",
            "What is the pet of {n} called?",
            "Which pet belongs to {n}?",
            "Name the pet of {n}.",
            "{n} keeps which pet?",
            "Tell me which pet {n} keeps.",
        ),
        heldout=("What pet does {n} keep?", "Tell me the pet of {n}."),
        answer="{n} keeps {v}.",
        paraphrase="The pet of {n} is {v}.",
        cloze=("{n} keeps", "{v}."),
        backward=("The person who keeps {v} is", "{n}."),
        reversed_questions=("Who keeps {v}?", "Name the person who keeps {v}."),
    ),
)
