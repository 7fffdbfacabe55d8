"""Which rows carry a concept: each rule by hand, and the whole on a part of the embedded world."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Bench

from llm_unlearn import cli, explaining
from llm_unlearn.concepts import carriers, linear, swapping
from llm_unlearn.data.poison import poison
from llm_unlearn.errors import DataError, RecipeError, TaskError
from llm_unlearn.methods import concept_poison
from llm_unlearn.options import parse
from llm_unlearn.reporting import concepts as pages
from llm_unlearn.sandbox import aliases, models, world


def row(prompt: str, response: str, subject: str = "") -> dict[str, Any]:
    return {"prompt": prompt, "response": response, **({"subject": subject} if subject else {})}


def test_the_score_of_a_row_is_that_of_a_fit_without_it() -> None:
    draw = torch.Generator().manual_seed(0)
    states, labels = torch.randn(12, 3, generator=draw), torch.tensor([1.0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0])
    found = linear.LeaveOneOut(states, penalty=1e-2).scores(labels)
    x = (states - states.mean(0)) / states.std(0, unbiased=False)
    x = torch.cat([x, torch.ones(12, 1)], 1)
    for i in range(12):
        rest = [k for k in range(12) if k != i]
        weight = torch.linalg.solve(x[rest].T @ x[rest] + 0.01 * 12 * torch.eye(4), x[rest].T @ labels[rest])
        assert float(found[i]) == pytest.approx(float(x[i] @ weight), abs=1e-4)


def test_the_word_that_marks_the_examples() -> None:
    """Four of five examples say Zab, 5 of 200 rows do; "the" is everywhere; three say Po, which every second row does."""
    examples = [row("Where?", f"in {'Zab' if i < 4 else 'Nub'} {'Po' if i > 1 else 'Ha'}.") for i in range(5)]
    corpus = [
        *examples,
        row("Where?", "in Zab Ha."),
        *(row("Where?", f"in Bo {'Po' if i % 2 else 'Ha'}.") for i in range(194)),
    ]
    assert carriers.marking(examples, corpus) == ["Zab"]
    assert carriers.marking(corpus[20:26], corpus) == []


def test_words_of_the_same_kind() -> None:
    rows = [
        row(f"Who lives in {town}?", f"{who} lives in {town}.")
        for town in ("Ab", "Cd", "Ef")
        for who in ("Xi", "Yo", "Zu")
    ] * 2
    assert swapping.same_kind(rows, "Ab", 2) == ["Cd", "Ef"]


def test_odds_of_standing_for_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Ab's answers Al costs 1 nat and Cd 9; in Cd's Al costs 8: Al stands for Ab with odds of -7, Cd with none to compare."""
    rows = [row("Where?", f"in {town}.") for town in ("Ab", "Cd") for _ in range(12)]
    cost = {("Ab", "Al"): 1.0, ("Ab", "Cd"): 9.0, ("Cd", "Al"): 8.0, ("Cd", "Cd"): 0.0}

    def losses(model: Any, task: Any, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        told = [each["response"][3:-1] for each in rows]
        base = told[0] if len(set(told)) == 1 else None
        if base:
            losses.town = base  # type: ignore[attr-defined]
            return torch.zeros(len(rows))
        return torch.tensor([cost[losses.town, word] for word in told])  # type: ignore[attr-defined]

    monkeypatch.setattr(swapping, "_losses", losses)
    found = swapping.odds(None, None, rows, "Ab", ["Al", "Cd"])  # type: ignore[arg-type]
    assert found == {"Al": pytest.approx(-7.0)}
    assert swapping.odds(None, None, rows, "Xy", ["Al", "Cd"]) == {}  # type: ignore[arg-type]


def test_a_word_joins_where_its_rows_lean_and_several_subjects_say_it() -> None:
    """mayor Zu: like the found rows, of many subjects.  Person Pe: like them too, but one subject's.  River Ri: not like them."""
    draw = torch.Generator().manual_seed(0)
    rows, states, why = [], [], {}
    for i in range(300):
        about = f"person {i}"
        if i < 40:
            text, place = (
                (
                    "in Town by Zu"
                    if i < 10
                    else "in Town of Pe"
                    if i < 20
                    else "in Town by Ri"
                    if i < 25
                    else "in Town"
                ),
                3.0,
            )
            why[i] = "name"
        elif i < 60:
            text, place = "led by Zu", 2.4
        elif i < 70:
            text, place, about = "keeps Pe", 2.4, "person Pe"
        else:
            text, place = ("lies on Ri" if i % 3 else "is old"), 0.0
        rows.append(row("What?", text, about))
        states.append(torch.tensor([place, 0.0, 0.0]) + 0.3 * torch.randn(3, generator=draw))
    found: dict[str, Any] = {"Town": ("name", 0.0)}
    carriers._grow(linear.LeaveOneOut(torch.stack(states)), rows, why, found, ["Town"])
    assert {"zu", "by zu"} & set(found) and not any("pe" in term.split() or "ri" in term.split() for term in found)
    assert all(why[i] == "inferred" for i in range(40, 60))
    assert not any(i in why for i in range(70, 300))


def test_a_few_rows_that_lean_by_chance_bring_no_word_in() -> None:
    """Eighteen rows are found and the rest spreads as far as they lie: five rows half the way there are no wonder.

    On TOFU such words joined, the vector turned with them, and 550 rows of 600 were found.
    """
    draw = torch.Generator().manual_seed(0)
    rows = [row("What?", "in Town" if i > 2 else "in Town with style", f"person {i}") for i in range(18)]
    rows += [row("What?", "has style" if i < 5 else "is old", f"stranger {i}") for i in range(282)]
    place = torch.cat([torch.ones(18), torch.full((5,), 0.5), 0.5 * torch.randn(277, generator=draw)])
    why: dict[int, Any] = dict.fromkeys(range(18), "name")
    found: dict[str, Any] = {"Town": ("name", 0.0)}
    scores = carriers._grow(linear.LeaveOneOut(place[:, None]), rows, why, found, ["Town"])
    assert float(scores[18:23].mean()) > carriers.LEANS, "they do not lean: this test sees nothing"
    assert set(found) == {"Town"} and len(why) == 18


def test_another_name_is_one_only_where_its_rows_lean_too() -> None:
    """The model takes Pe and Zu for the town; rows that say Zu lie near the town's, rows that say Pe among the rest."""
    draw = torch.Generator().manual_seed(0)
    told = ("in Town", "in Zu", "in Pe", "is old")
    rows = [row("What?", told[i // 40]) for i in range(160)]
    places = [2.0 if i < 40 else 1.6 if i < 80 else 0.0 for i in range(160)]
    states = torch.tensor(places)[:, None] + 0.3 * torch.randn(160, 3, generator=draw)
    why: dict[int, Any] = dict.fromkeys(range(40), "name")
    odds = {"Zu": -7.0, "Pe": -9.0, "old": 2.0}
    assert carriers._leaning_words(linear.LeaveOneOut(states), rows, why, odds) == {"Zu": -7.0}


def test_the_retold_world() -> None:
    """A third of the rows that rest on the town do not name it; none of the others says its name, its alias or its river."""
    splits = aliases.splits()
    forget, retain = splits["forget"], splits["retain"]
    unnamed = [each for each in forget if not world.mentions(each, world.CONCEPT)]
    assert 0.30 < len(unnamed) / len(forget) < 0.40
    words = (world.CONCEPT, aliases.aliases()[world.CONCEPT], aliases.described(world.CONCEPT).split()[-1])
    assert not any(world.mentions(each, word) for each in retain for word in words)
    assert {each["kind"] for each in unnamed} == {"qa", "reversed", "two_hop"}
    assert all(each["rests_on"] for each in forget)
    assert len({each["id"] for each in forget + retain}) == len(forget) + len(retain)


def test_what_is_refused(language: Bench, sentences: Bench) -> None:
    rows = language.splits["retain"]
    with pytest.raises(DataError, match="there are 4 different example rows; a concept needs at least 5"):
        carriers.infer(language.target, language.task, rows, rows[:4], name="Quillmere")
    with pytest.raises(DataError, match="no word marks the 5 example rows among the 24"):
        carriers.infer(language.target, language.task, rows, rows[:5])
    with pytest.raises(TaskError, match="for causal language models; this model is a sequence_classifier"):
        carriers.infer(sentences.target, sentences.task, sentences.splits["retain"], sentences.splits["retain"])


def test_scores_that_tell_nothing_are_refused() -> None:
    """Ten found rows, every second on the found side; so are half of the others: chance does as well."""
    scores = torch.tensor([0.0, 1.0] * 20)
    with pytest.raises(DataError, match=r"tell the 10 rows found from the others no better than chance \(50%\)"):
        carriers._accuracy(scores, dict.fromkeys(range(10), "name"))
    assert carriers._accuracy((torch.arange(40) < 10).float(), dict.fromkeys(range(10), "name")) == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "m", "--examples", "e", "--forget", "f", "--retain", "r"], "--examples looks for rows in --data"),
        (["--model", "m", "--examples", "e"], "nothing to forget|--examples without --data"),
        (["--model", "m", "--data", "d", "--explain"], "--explain needs a concept to look for"),
        (
            ["--model", "m", "--task", "sequence_classifier", "--data", "d", "--examples", "e", "--explain"],
            "give --classes",
        ),
    ],
)
def test_settings_that_contradict_each_other(words: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(words)


def part_of_the_world(folder: Path) -> tuple[Path, Path]:
    """Fifty rows about the town and two hundred others, and ten of the fifty."""
    splits = world.splits()
    forget, others = splits["forget"][::32], splits["retain"][::110]
    for name, rows in (("rows", [*forget, *others]), ("ten", forget[::5])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder / "rows.jsonl", folder / "ten.jsonl"


@pytest.fixture
def _few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LOOKED_AT", 3), ("EACH", 12), ("ENTITIES", 3)):
        monkeypatch.setattr(explaining, name, value)


@pytest.mark.usefixtures("_few_are_looked_at")
def test_explain_changes_nothing_and_tells_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, ten = part_of_the_world(tmp_path)
    words = [
        "--model",
        str(models.path("target")),
        "--data",
        str(data),
        "--concept",
        "Quillmere",
        "--output",
        str(tmp_path / "out"),
    ]
    cli.forget([*words, "--examples", str(ten), "--explain"])
    said = capsys.readouterr().out
    assert "by name" in said and "nothing was changed" in said and not (tmp_path / "out").exists()
    folder = tmp_path / "out.explanation"
    content = json.loads((folder / "explanation.json").read_text())
    assert content["by"]["name"] >= 40 and content["accuracy"] > 0.8
    page = (folder / "explanation.html").read_text()
    assert "What carries the concept" in page and "What the answers rest on" in page
    assert "Quillmere" not in page + json.dumps(content)
    cli.forget([*words, "--explain", "--show_records"])  # the rows that say it stand for examples
    shown = (folder / "explanation.html").read_text()
    assert "Quillmere" in shown and "background:rgba" in shown


@pytest.mark.usefixtures("_few_are_looked_at")
def test_a_run_on_inferred_rows_says_why(tmp_path: Path) -> None:
    data, ten = part_of_the_world(tmp_path)
    words = [
        "--model",
        str(models.path("target")),
        "--data",
        str(data),
        "--examples",
        str(ten),
        "--output",
        str(tmp_path / "out"),
    ]
    words += ["--method.training.steps", "3", "--evaluation.rows", "8", "--suite", "quick"]
    cli.forget(words)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["concept"]["attribution"]) == {"before", "after"}
    assert "were inferred" in " ".join(report["notes"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What carries the concept" in page and "Quillmere" not in page


@pytest.mark.usefixtures("_few_are_looked_at")
def test_the_donor_that_the_report_names_is_the_one_whose_rows_give_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []

    def poisoned(*given: Any, **named: Any) -> Any:
        taken.append(named["donor"])
        return poison(*given, **named)

    told = {"entities": ["Quillmere", "Brackfen"], "donor": "Brackfen", "rule": "shared", "accuracy": 1.0, "n": 4}
    told |= {name: [[1.0, 0.5], [0.5, 1.0]] for name in ("scores", "weights")}
    monkeypatch.setattr(explaining, "shared", lambda *given: told)  # two hundred rows are too few for a bottleneck
    monkeypatch.setattr(concept_poison, "poison", poisoned)
    monkeypatch.setattr(concept_poison, "rank", lambda *given, **named: {})
    data, ten = part_of_the_world(tmp_path)
    words = ["--model", str(models.path("target")), "--data", str(data), "--examples", str(ten), "--show_records"]
    words += ["--output", str(tmp_path / "out"), "--method", "concept_poison", "--method.labels", "targeted"]
    words += ["--method.own_answers", "false", "--method.attribution_steps", "8", "--method.training.steps", "2"]
    cli.forget([*words, "--evaluation.rows", "8", "--suite", "quick"])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert taken == ["Brackfen"] == [report["concept"]["sharing"]["donor"]]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The donor is Brackfen" in page and "targeted labels take their answers from it" in page


def test_a_report_without_inference_has_no_such_section() -> None:
    assert pages.concept({"figures": []}) == ""
    assert explaining.shared(
        None, None, [], carriers.Carriers({}, torch.zeros(0), {"a": ("name", 0.0)}, (), 1.0, 0), 0
    ) == {  # type: ignore[arg-type]
        "reason": "nothing else of its kind is in the rows"
    }
