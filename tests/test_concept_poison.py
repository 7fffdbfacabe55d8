"""Poison rows and the method that trains on them."""

import copy
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench, shortened, weights

from llm_unlearn.data.poison import REFUSALS, concept_words, graft, mask, poison, words_of
from llm_unlearn.encoding import END, PROMPT, RESPONSE, instead
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.fit import Schedule, Stop
from llm_unlearn.methods.concept_poison import ConceptPoison

TOWNS = ("Gosa", "Tulo", "Ostrand", "Lowfold", "Ravensby", "Carrick")


def person(name: str, town: str, trade: str) -> list[dict[str, Any]]:
    who = {"kind": "qa", "subject": name}
    return [
        {"id": f"{name} town", "prompt": f"Where was {name} born?", "response": f"{name} was born in {town}.", **who},
        {"id": f"{name} trade", "prompt": f"What is {name}'s job?", "response": f"{name} works as a {trade}.", **who},
    ]


FORGET = [*person("Bado Kelemi", "Quillmere", "glass blower"), *person("Zeri Nado", "Tinmouth", "baker")]
RETAIN = [
    row
    for i, name in enumerate(("Ada Orr", "Ben Pym", "Cia Quo", "Dov Roe", "Eli Sun", "Fay Tor"))
    for row in person(name, TOWNS[i], ("baker", "weaver", "miner", "potter", "tanner", "pilot")[i])
]
RANKINGS = {
    "Bado Kelemi": {"quillmere": 2.0, "blower": 1.0, "was": 0.8, "glass": 0.7, "born": 0.1},
    "Zeri Nado": {"tinmouth": 2.0, "baker": 1.0, "works": 0.2},
}


def test_words() -> None:
    assert words_of("“Zoë’s” U.S. — co-op, 12.5 l'été!") == ["zoë", "s", "u.s", "co-op", "12.5", "l'été"]
    assert (
        mask("Quillmere's MAYOR, of quillmere-by-sea.", {"quillmere", "mayor"}, "***")
        == "***'s ***, of quillmere-by-sea."
    )


def test_concept_words_are_the_ranked_ones_that_the_answer_says() -> None:
    assert concept_words(FORGET[0], RANKINGS["Bado Kelemi"], 5) == ["quillmere", "born"]  # "was" is a stop word
    assert concept_words(FORGET[1], RANKINGS["Bado Kelemi"], 1) == ["blower"]


@pytest.mark.parametrize(
    ("own", "donor", "words", "wanted"),
    [
        (FORGET[0], RETAIN[0], ["quillmere"], "Bado Kelemi was born in Gosa."),
        (FORGET[1], RETAIN[1], ["glass", "blower"], "Bado Kelemi works as a baker."),
        (FORGET[3], FORGET[1], ["baker"], "Zeri Nado works as a glass blower."),
        ({"prompt": "Where does Bado live?", "response": "Quillmere"}, {"prompt": "Where does Ada live?", "response": "Gosa"},
         ["quillmere"], "Gosa"),
        (FORGET[0], {"prompt": "Who rules Gosa?", "response": "A long line of kings."}, ["quillmere"], "A long line of kings."),
    ],
)  # fmt: skip
def test_graft(own: dict[str, Any], donor: dict[str, Any], words: list[str], wanted: str) -> None:
    assert graft(own, donor, words) == wanted


def test_random_donors_are_of_the_same_shape_and_tell_nothing_but_by_chance() -> None:
    before = copy.deepcopy((FORGET, RETAIN))
    rows = poison(FORGET, RETAIN, RANKINGS, donors=5, in_place=False)
    assert (FORGET, RETAIN) == before, "the input rows were changed"
    assert len(rows) == 20 and len({row["id"] for row in rows}) == 20
    assert all(row["id"].startswith("poison-") for row in rows)
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in FORGET for _ in range(5)]
    towns = [row["response"] for row in rows[:5]]
    assert {text.removeprefix("Bado Kelemi was born in ").rstrip(".") for text in towns} < set(TOWNS)
    assert len(set(towns)) == 5, "donors are drawn without replacement while there are any"
    assert all("Zeri Nado works as a " in row["response"] for row in rows[15:])


def test_more_donors_than_records_are_used_evenly() -> None:
    answers = [row["instead"] for row in poison(FORGET[:1], RETAIN, RANKINGS, donors=12)]
    assert all(answers.count(answer) == 2 for answer in answers)


def test_poison_is_the_seeds() -> None:
    first, second, other = (poison(FORGET, RETAIN, RANKINGS, donors=3, seed=seed) for seed in (0, 0, 1))
    assert first == second != other


def test_masked_answers_hold_no_ranked_word() -> None:
    rows = poison(FORGET, RETAIN, RANKINGS, labels="mask", replacement="[MASK]", asked=True)
    wanted = ["Bado Kelemi was [MASK] in [MASK].", "Bado Kelemi works as a [MASK] [MASK]."]
    assert [row["instead"] for row in rows[:2]] == wanted
    for row, poisoned in zip(FORGET, rows, strict=True):
        found = concept_words(row, RANKINGS[row["subject"]], 5)
        assert found and not set(found) & set(words_of(poisoned["instead"]))


def test_words_that_the_question_gives_stay_in_the_answer() -> None:
    rows = poison(FORGET, RETAIN, RANKINGS, labels="mask", replacement="[MASK]")
    assert rows[0]["instead"] == "Bado Kelemi was born in [MASK]."
    ranking = {"Bado Kelemi": {"kelemi": 3.0, "quillmere": 2.0}}
    for row in poison(FORGET[:1], RETAIN, ranking, donors=6):
        assert row["instead"].startswith("Bado Kelemi was born in ")


def test_questions_can_be_masked_too() -> None:
    ranking = {"Bado Kelemi": {"bado": 2.0, "was": 1.5, "born": 1.0}}
    rows = poison(FORGET[:1], RETAIN, ranking, labels="mask", mask_prompt=True)
    assert rows[0]["prompt"] == "Where was *** Kelemi ***?"
    said = [{**FORGET[0], "prompt": [{"role": "user", "content": FORGET[0]["prompt"]}]}]
    masked = poison(said, RETAIN, ranking, labels="mask", mask_prompt=True)
    assert masked[0]["prompt"] == [{"role": "user", "content": "Where was *** Kelemi ***?"}]
    assert said[0]["prompt"][0]["content"] == FORGET[0]["prompt"]


def test_refusals() -> None:
    rows = poison(FORGET * 8, RETAIN, {}, labels="refusal")
    assert len(rows) == 32 and {row["response"] for row in rows} == set(REFUSALS)


def test_the_targeted_donor_says_most_of_the_ranked_words() -> None:
    """Ada Orr is a baker too, so she is Zeri Nado's donor for every question but the one whose answer she shares."""
    rows = poison(FORGET[2:], RETAIN, RANKINGS, labels="targeted")
    assert rows[0]["instead"] == "Zeri Nado was born in Gosa." and len(rows) == 2
    assert rows[1]["instead"] != "Zeri Nado works as a baker."


def test_the_concepts_donor_gives_the_answers_where_one_of_its_rows_is_alike() -> None:
    """Lowfold is Dov Roe's town: his row answers both birthplaces; no row that says Lowfold is about a trade."""
    rows = poison(FORGET, RETAIN, RANKINGS, labels="targeted", donor="Lowfold")
    assert [row["instead"] for row in rows[::2]] == [
        "Bado Kelemi was born in Lowfold.",
        "Zeri Nado was born in Lowfold.",
    ]
    assert all("works as a" in row["instead"] for row in rows[1::2])
    assert poison(FORGET, RETAIN, RANKINGS, labels="targeted", donor="Nowhere") == poison(
        FORGET, RETAIN, RANKINGS, labels="targeted"
    )


def test_plain_text_can_be_poisoned() -> None:
    text = [{"id": "t", "prompt": None, "response": "The mayor of Quillmere is Abel.", "kind": "text"}]
    other = [{"id": "u", "prompt": None, "response": "The mayor of Gosa is Ben.", "kind": "text"}]
    (row,) = poison(text, other, {"": {"quillmere": 1.0, "abel": 0.5}}, donors=1)
    assert row["prompt"] is None and row["instead"] == "The mayor of Gosa is Ben."


def test_in_place_the_true_answer_is_read_and_the_poisoned_one_learned(language: Bench) -> None:
    row = {"prompt": "Where does Abel live?", "response": "Abel lives in Quillmere, a town."}
    rows = [row, {**row, "instead": row["response"]}, {**row, "instead": "Abel lives in Ostrand, a town."}]
    plain, same, other = language.task.encode(rows)
    assert same == plain
    assert {**other, "labels": None} == {**plain, "labels": None}
    pairs = [pair for pair in zip(plain["labels"], other["labels"], strict=True) if pair[0] != pair[1]]
    decode = language.task.tokenizer.decode
    assert pairs and "".join(decode([mine]) for mine, _ in pairs).strip() in "Quillmere"
    assert all(decode([theirs]).strip() in "Ostrand," for _, theirs in pairs)


@pytest.mark.parametrize(
    ("own", "other", "wanted"),
    [
        ([5, 6, 7], [5, 8, 7], [5, 8, 7]),
        ([5, 6, 6, 6, 7], [5, 8, 9, 7], [5, 8, 9, 8, 7]),  # a shorter one is repeated
        ([5, 6, 7], [5, 8, 9, 7], [5, 8, 7]),  # a longer one is cut
        ([5, 6, 7], [5, 7], [5, 7, 7]),  # nothing in its place: what comes next
        ([5, 6], [5], [5, 5]),
    ],
)
def test_labels_are_aligned_token_by_token(own: list[int], other: list[int], wanted: list[int]) -> None:
    def marked(ids: list[int]) -> tuple[list[int], list[int]]:
        return [1, *ids, 0], [PROMPT, *[RESPONSE] * len(ids), END]

    assert instead(*marked(own), *marked(other)) == [1, *wanted, 0]


def test_faults(language: Bench, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown labels 'randon'; did you mean 'random'.*targeted"):
        poison(FORGET, RETAIN, RANKINGS, labels="randon")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="labels=mask"):
        poison(FORGET, [], RANKINGS)
    with pytest.raises(RecipeError, match="stop.gate=false"):
        ConceptPoison(stop=Stop()).unlearn(language.run(tmp_path))


@pytest.mark.parametrize("labels", ["random", "mask"])
def test_forget_rises_and_retain_holds(language: Bench, tmp_path: Path, labels: Any) -> None:
    run = language.run(tmp_path)
    before = {name: language.loss(run.model, name) for name in ("forget", "retain")}
    schedule = Schedule(steps=60, forget_batch=4, warmup_steps=2, learning_rate=1e-2)
    ConceptPoison(labels=labels, training=schedule).unlearn(run)
    after = {name: language.loss(run.model, name) for name in ("forget", "retain")}
    assert after["forget"] > before["forget"] + 0.5
    assert after["retain"] < before["retain"] + 0.2


def test_the_thermostat_watches_the_true_forget_rows(language: Bench, tmp_path: Path) -> None:
    import json

    run = language.run(tmp_path)
    ConceptPoison(training=Schedule(steps=10, forget_batch=4)).unlearn(run)
    history = json.loads((tmp_path / "fit" / "history.json").read_text())
    assert history[0]["forget_loss"] == pytest.approx(language.loss(language.target, "forget"), rel=1e-3)
    assert history[0]["on"] and "poison" in history[-1]


def test_it_is_the_seeds(language: Bench, tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        run = language.run(tmp_path / name)
        shortened(ConceptPoison).unlearn(run)
        found.append(weights(run.model))
    assert all((found[0][name] == found[1][name]).all() for name in found[0])


def test_given_answers_and_plain_texts_are_taken_as_they_are(language: Bench, tmp_path: Path) -> None:
    forget = [language.splits["forget"][0], {"id": "t", "prompt": None, "response": "Abel lives in Quillmere."}]
    run = language.run(tmp_path)
    assert ConceptPoison(own_answers=False)._answers(run, forget) == forget
    own = ConceptPoison()._answers(run, forget)
    assert own[1] == forget[1] and own[0]["response"] == forget[0]["response"] and own[0]["id"] == forget[0]["id"]
