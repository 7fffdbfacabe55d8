"""Feature unlearning: annotations, the adversary's bound, groups of units, both methods on every task, and the job."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Bench, logits, reloaded, shortened
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor

from llm_unlearn import cli, invariant
from llm_unlearn.concepts import groups as grouping
from llm_unlearn.concepts.explained import RIDGE, Explained, explained
from llm_unlearn.concepts.groups import chosen_by, clusters, discover, eigengap, spectrum
from llm_unlearn.concepts.inferred import inferred, merged
from llm_unlearn.concepts.states import blocks, later_half
from llm_unlearn.data.annotations import annotations, balanced, load_annotated
from llm_unlearn.errors import DataError, RecipeError, TaskError
from llm_unlearn.features import embedded
from llm_unlearn.features.judged import figures, verdict
from llm_unlearn.features.measured import Measured, measure
from llm_unlearn.features.request import Feature
from llm_unlearn.head import trainable
from llm_unlearn.invariant import parts
from llm_unlearn.judging import Judge, Judgement
from llm_unlearn.method import available, find
from llm_unlearn.moments import moments
from llm_unlearn.remover import PixelsAdversary, Remover, TokenGate, WordsAdversary, new_remover
from llm_unlearn.schedule import Schedule
from llm_unlearn.telling import telling

TASKS = ("causal_lm", "sequence_classifier", "image_classifier")
METHODS = [name for name in available() if find(name).removes == "feature"]


def featured(bench: Bench) -> list[dict[str, Any]]:
    """Return the bench's known rows with a feature."""
    rows = [*bench.splits["forget"], *bench.splits["retain"]]
    return [{**row, "feature": "ab"[number % 2]} for number, row in enumerate(rows)]


# --- annotations ---


@pytest.mark.parametrize(
    ("rows", "column", "said"),
    [
        ([{"text": "x", "gendr": "a"}] * 20, "gender", r"has the annotation column 'gender'; did you mean 'gendr'\?"),
        ([{"g": "a"}] * 20 + [{"g": None}, {"g": ""}], "g", r"2 of 22 rows have no value .*first is row 21"),
        ([{"g": "a"}] * 20, "g", "one value in all 20 rows"),
        ([{"g": "a"}] * 20 + [{"g": "b"}], "g", r"2 values in 21 rows, one of them in 1 rows only \(at least 10\)"),
    ],
)
def test_what_is_wrong_with_annotations_is_said(rows: list[dict[str, Any]], column: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        annotations(rows, column)


def test_annotations_are_read_from_a_file(tmp_path: Path) -> None:
    lines = [{"text": f"t{i}", "label": i % 2, "sex": "mf"[i % 2], "counterfactual": f"u{i}"} for i in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    rows = load_annotated(str(path), "sex")
    assert [row["feature"] for row in rows] == ["m", "f", "m", "f"]
    assert rows[1]["text"] == "t1" and rows[1]["counterfactual"] == "u1"
    with pytest.raises(DataError, match=r"column 'sexx'; did you mean 'sex'\?"):
        load_annotated(str(path), "sexx")


def test_balanced_rows_have_the_feature_whatever_their_target() -> None:
    """0.9 of each class has its usual value: after the draw each of the four cells has a quarter, within one row a cell."""
    rows = [{"label": i % 2, "feature": i % 2 if i % 20 > 1 else 1 - i % 2} for i in range(400)]
    assert Counter((row["label"], row["feature"]) for row in rows)[0, 1] == 20
    drawn = [rows[i] for i in balanced(rows, annotations(rows), seed=0)]
    counts = Counter((row["label"], row["feature"]) for row in drawn)
    assert len(drawn) == 400 and all(95 <= counts[cell] <= 105 for cell in ((0, 0), (0, 1), (1, 0), (1, 1)))


# --- the adversaries ---


def test_the_explained_share_of_one_number_is_the_variance_between_values() -> None:
    """States 0, 2 (value 0) and 4, 6 (value 1): mean 3, variance 5, of which between the means 1 and 5 there is 4: 4 / 5."""
    states, values = torch.tensor([[0.0], [2.0], [4.0], [6.0]], dtype=torch.double), torch.tensor([0, 0, 1, 1])
    assert explained(states, values, 2).item() == pytest.approx(0.8 / (1 + RIDGE))
    assert explained(states, torch.tensor([0, 1, 1, 0]), 2).item() == pytest.approx(0.0, abs=1e-9)


def test_its_gradient_is_that_of_the_means_with_the_spread_held() -> None:
    """d/dx of p (mean - m)^2 / s summed over both values: of the first row 2 * 1/2 * (1 - 3) * 1/2 / (5 (1 + ridge))."""
    states = torch.tensor([[0.0], [2.0], [4.0], [6.0]], dtype=torch.double, requires_grad=True)
    explained(states, torch.tensor([0, 0, 1, 1]), 2).backward()
    assert states.grad is not None
    assert states.grad[0].item() == pytest.approx(-1.0 / (5 * (1 + RIDGE)))


def test_a_batch_is_judged_among_the_states_that_are_kept() -> None:
    left, draw = Explained(2, memory=6), torch.Generator().manual_seed(0)
    values = torch.tensor([0, 0, 1, 1])
    states = torch.randn(4, 3, generator=draw)
    alone = left.share("x", states, values)
    assert left.share("x", states, values).item() == pytest.approx(alone.item(), rel=1e-6)  # the same states twice
    assert len(left.past["x"][0]) == 6


def test_a_gate_begins_open_and_is_told_nothing_by_rows_that_are_guessed() -> None:
    torch.manual_seed(0)
    remover = Remover(TokenGate(torch.zeros(8)), WordsAdversary(8, 2))
    values, mask = torch.randn(4, 5, 8), torch.ones(4, 5)
    gated, gate, loss = remover(values, mask, torch.tensor([0, 0, 1, 1]), 1.0)
    assert gate.mean().item() == pytest.approx(0.93, abs=0.04) and gated.shape == values.shape
    torch.nn.init.zeros_(remover.adversary.last.weight)  # type: ignore[union-attr, arg-type]
    for wanted, moved in ((0, True), (1, False)):  # logits (1, 0): value 0 is told, value 1 is not
        remover.zero_grad()
        with torch.no_grad():
            remover.adversary.last.bias.copy_(torch.tensor([1.0, 0.0]))  # type: ignore[union-attr, operator]
            remover.adversary.last.weight.copy_(torch.randn(2, 64) * 0.01)  # type: ignore[union-attr, operator]
        _, _, loss = remover(values, mask, torch.full((4,), wanted), 1.0)
        loss.sum().backward()
        pulls = [p.grad.abs().max().item() for p in remover.gate.parameters() if p.grad is not None]
        assert (max(pulls) > 1e-9) == moved
        assert remover.adversary.last.bias.grad is not None  # type: ignore[union-attr]


def test_pixels_have_a_gate_of_their_own(images: Bench) -> None:
    batch = images.task.collate(images.task.encode(images.splits["forget"][:4]))
    remover = new_remover(images.target, images.task, batch, 3, seed=0)
    assert isinstance(remover.adversary, PixelsAdversary)
    values = images.task.continuous(images.target, batch)[1]
    gated, gate, loss = remover(values, torch.ones(4, 1), torch.tensor([0, 1, 2, 0]), 1.0)
    assert gate.shape == (4, 1, 8, 8) and loss.shape == (4,) and gated.shape == values.shape


def test_a_new_adversary_is_drawn_from_its_seed() -> None:
    remover = Remover(TokenGate(torch.zeros(8)), WordsAdversary(8, 2))
    drawn = []
    for seed in (1, 2, 1):
        remover.restart(seed)
        drawn.append(remover.adversary.last.weight.detach().clone())  # type: ignore[union-attr, operator]
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


# --- another value, and values that nobody annotated ---


def test_a_colour_laid_over_grey_pictures_is_moved_exactly() -> None:
    """x = c + l (1 - c): mean and spread are c + mean(l) (1 - c) and spread(l) (1 - c), so the map from a to b is exact."""
    grey = torch.rand(200, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    colours = torch.tensor([[0.1, 0.8, 0.3], [0.6, 0.2, 0.9]])

    def laid(values: Tensor) -> Tensor:
        over = colours[values][..., None, None]
        return over + grey * (1 - over)

    every = torch.cat([laid(torch.full((200,), value)) for value in (0, 1)])  # the same pictures in both colours
    values = torch.tensor([0, 1]).repeat_interleave(200)
    found = moments(every.mean((2, 3)), every.square().mean((2, 3)), values, torch.ones(400), 2)
    torch.testing.assert_close(found.moved(every[:200], values[:200], values[200:]), every[200:], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.moved(every, values, values), every)


def test_moments_weigh_rows_as_if_target_and_value_were_independent() -> None:
    """Value 0: nine bright rows of its class, one dark of the other, 9 : 1; with weights 1 / 9 and 1 their mean is in the middle."""
    bright = torch.tensor([1.0] * 9 + [0.0, 0.5, 0.5])[:, None]
    values = torch.tensor([0] * 10 + [1, 1])
    found = moments(bright, bright.square(), values, torch.tensor([1 / 9] * 9 + [1.0, 1.0, 1.0]), 2)
    assert found.mean[:, 0].tolist() == pytest.approx([0.5, 0.5])


def test_words_tell_a_value_that_they_go_with_whatever_the_target() -> None:
    """Values go with targets nine times of ten.  Words 10 and 11 are each value's own, 20 and 21 each target's, 30 is in all rows.

    Word 40 has value 0 in six of ten of its rows: it is sure of it, but (0.6 - 0.5) / (1 - 0.5) is less than half.
    """
    targets = [i % 2 for i in range(4000)]
    values = [target if i // 2 % 10 else 1 - target for i, target in enumerate(targets)]
    rows = [[10 + a, 20 + y, 30] + ([40] if i // 20 % 10 < (6 if a == 0 else 4) else [])
            for i, (a, y) in enumerate(zip(values, targets, strict=True))]  # fmt: skip
    assert telling(rows, values, [str(target) for target in targets]) == [10, 11]
    assert telling(rows, values, [""] * 4000) == [10, 11, 20, 21]  # where no target is told apart
    assert telling(rows[:8], values[:8], ["x"] * 8) == []  # too few to tell
    assert telling([[], []], [0, 1], ["x", "y"]) == []  # texts without a prompt


def test_words_that_tell_are_closed_in_what_is_given_not_in_what_is_answered(language: Bench, tmp_path: Path) -> None:
    task, rows = language.task, featured(language) * 4
    rows = [{**row, "prompt": f"{row['prompt']} {'yes' if row['feature'] == 'a' else 'no'}"} for row in rows]
    cut = parts(language.run(tmp_path), rows, annotations(rows), 0.25)
    view = cut.view(language.run(tmp_path))
    part = task.collate(cut.examples[:6])
    kind, values = task.continuous(language.target, part)
    changed, shown = view.change(part, values)
    other = (changed != values).any(-1)
    mean = language.target.get_input_embeddings().weight.mean(0)  # type: ignore[operator]
    assert not view.swaps and torch.equal(shown, part["annotation"].long())
    assert bool(other.any(1).all()) and torch.allclose(changed[other], mean.expand(int(other.sum()), -1))
    decided = task.decisions(language.target, {**part, kind: changed})
    answers = part["labels"] >= 0
    assert not (other & answers).any() and len(decided.labels) == int(answers[:, 1:].sum())


def test_pictures_are_given_values_and_texts_without_telling_words_stay(
    images: Bench, sentences: Bench, tmp_path: Path
) -> None:
    for bench, swaps in ((images, True), (sentences, False)):
        rows = [{**row, "feature": value} for value in "abab" for row in featured(bench)]  # each text with both values
        cut = parts(bench.run(tmp_path), rows, annotations(rows), 0.25)
        view = cut.view(bench.run(tmp_path))
        part = bench.task.collate(cut.examples[:8])
        values = bench.task.continuous(bench.target, part)[1]
        assert view.swaps == swaps
        assert torch.equal(view.change(part, values)[0], values) != swaps


def test_the_loss_is_that_of_the_input_without_the_feature_alone(sentences: Bench, tmp_path: Path) -> None:
    """With x~ = x nothing is to be agreed on, and the task's term is c times the mean loss; with x~ = 0 there is both."""
    rows = featured(sentences) * 4
    run = sentences.run(tmp_path)
    cut = parts(run, rows, annotations(rows), 0.25)
    settings = invariant.Removal(
        layers=later_half(run.model), task_weight=3, clear_weight=2, agree_weight=5, memory=8, rounds=1,
        training=Schedule(),
    )  # fmt: skip
    part = sentences.task.collate(cut.examples[:8])
    for factor in (1, 0):
        view = invariant.View(
            lambda part, values, factor=factor: (factor * values, invariant.values_of(part)), swaps=False
        )  # type: ignore[misc]
        terms = invariant.objective(run, view, settings, 2.0, 2)(run.model, {"rows": part}, None)  # type: ignore[arg-type]
        kind, values = sentences.task.continuous(run.model, part)
        with torch.no_grad():
            raw, less = (
                sentences.task.decisions(run.model, {**part, kind: f * values}, logits=True) for f in (1, factor)
            )
        agreed = torch.nn.functional.kl_div(
            raw.logits.log_softmax(-1), less.logits.log_softmax(-1), log_target=True, reduction="batchmean"
        )
        assert terms["task"].item() == pytest.approx(3 * less.mean_nll().mean().item(), rel=1e-4)
        assert terms["agree"].item() == pytest.approx(15 * agreed.item(), rel=1e-3, abs=1e-5)
        assert (terms["agree"].item() > 1e-3) == (factor == 0)


def test_examples_whose_rows_have_the_same_targets_show_one_value() -> None:
    """Values 0 and 2 go with x, 1 and 3 with y, nine times of ten."""
    values = [i % 4 for i in range(400)]
    targets = ["xy"[(i + (i // 4 % 10 == 0)) % 2] for i in range(400)]
    assert merged(values, targets) == [[0, 2], [1, 3]]
    assert merged([0, 1] * 50, ["x"] * 100) == [[0], [1]]  # nothing to tell by
    assert merged([0, 1] * 50, ["x", "x", "y", "y"] * 25) == [[0], [1]]  # all would be one


def test_rows_get_the_value_of_the_example_they_are_most_like(images: Bench) -> None:
    rows = [*images.splits["forget"], *images.splits["retain"]]
    rows = [row for row in rows for _ in range(4)]
    examples = [next(row for row in rows if row["label"] == label) for label in sorted({row["label"] for row in rows})]
    groups = discover(images.target, images.task, rows, blocks(images.target)[0], count=2)
    found = inferred(groups, (0, 1), images.target, images.task, examples, rows)
    assert len(found.numbers) == len(rows) and min(found.sizes) >= 10
    with pytest.raises(DataError, match="most like the same example .* give examples of several values"):
        inferred(groups, (0, 1), images.target, images.task, examples[:1] * 3, rows)


# --- what a method tells of itself ---


def test_rows_are_held_out_evenly_and_named(sentences: Bench, tmp_path: Path) -> None:
    rows = featured(sentences) * 4
    cut = parts(sentences.run(tmp_path), rows, annotations(rows), 0.25)
    assert len(cut.held) == len(rows) // 4 and len(cut.fitted) == len(cut.examples) == len(rows) - len(cut.held)
    assert max(cut.found.sizes) - min(cut.found.sizes) <= 2
    assert [rows[int(each["place"])]["text"] for each in cut.examples] == [row["text"] for row in cut.fitted]
    with pytest.raises(RecipeError, match="held_share=0.8: some rows are needed to judge by"):
        parts(sentences.run(tmp_path), rows, annotations(rows), 0.8)


def test_what_is_left_is_the_worse_of_probe_and_gap() -> None:
    before = Judgement(1.0, 0.4, 0.8)
    assert Judgement(0.1, 0.2, 0.8).left(before) == pytest.approx(0.5)
    assert Judgement(0.3, 0.02, 0.8).left(before) == pytest.approx(0.3)
    assert Judgement(0.3, 0.2, 0.8).left(Judgement(1.0, 0.0, 0.8)) == pytest.approx(0.3)  # nothing to be a share of


def test_the_gap_is_that_to_the_twin_and_without_one_to_the_input_without_the_feature(sentences: Bench) -> None:
    rows = featured(sentences) * 2
    known = annotations(rows)
    texts = [row["text"] for row in rows]
    twins = [{**row, "counterfactual": other} for row, other in zip(rows, texts[1:] + texts[:1], strict=True)]
    changes: list[Any] = [lambda part, values: (values, part["annotation"]), lambda part, values: (0 * values, None)]
    alone, paired = (Judge(each, known, each, known, seed=0) for each in (rows, twins))
    asked = (sentences.target, sentences.task, later_half(sentences.target))
    same, blank = (alone(*asked, change).gap for change in changes)
    assert same == 0.0 and blank > 0.01
    one, other = (paired(*asked, change).gap for change in changes)
    assert one == other and one > 0.01


@pytest.mark.parametrize(("lefts", "kept", "down"), [((0.9, 0.5, 0.7), 1, False), ((0.9, 0.1), 1, True)])
def test_rounds_go_on_until_the_feature_is_down_and_the_best_is_kept(
    lefts: tuple[float, ...], kept: int, down: bool, sentences: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge says what is left; each fit writes its number into every weight, and asks for twice the clearing."""
    said, weights = iter([1.0, *lefts]), list[float]()
    run = sentences.run(tmp_path, splits={"annotated": featured(sentences)})

    def fitted(run: Any, *args: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            for parameter in trainable(run.model).values():
                parameter.fill_(len(weights) - 1)

    def terms(run: Any, view: Any, settings: Any, weight: float, values: int) -> None:
        weights.append(weight)

    monkeypatch.setattr(invariant, "fit", fitted)
    monkeypatch.setattr(invariant, "objective", terms)
    settings = invariant.Removal(
        layers=(), task_weight=1, clear_weight=2, agree_weight=1, memory=8, rounds=3, training=Schedule()
    )
    cut = parts(run, featured(sentences), annotations(featured(sentences)), 0.25)
    judge: Any = lambda *args: Judgement(next(said), 0.0, 0.5)
    view = invariant.View(lambda part, values: (values, values), swaps=False)
    told = invariant.make_invariant(run, cut, judge, view, settings)
    assert weights == [2 * 2**number for number in range(len(lefts))]
    assert told["down"] is down and told["left"] == lefts[kept] and len(told["rounds"]) == 1 + len(lefts)
    assert all(bool((each == kept).all()) for each in trainable(run.model).values())


# --- groups ---


def planted() -> Tensor:
    """Return 600 states of 12 units in three groups of 6, 4 and 2 that fire together, one of them with its sign turned."""
    draw = torch.Generator().manual_seed(0)
    sources = torch.randn(600, 3, generator=draw)
    states = sources.repeat_interleave(torch.tensor([6, 4, 2]), 1) + 0.3 * torch.randn(600, 12, generator=draw)
    states[:, 1] *= -1
    return states.double()


def test_planted_groups_are_found_and_counted() -> None:
    values, vectors = spectrum(torch.corrcoef(planted().T).square())
    assert values[0].item() == pytest.approx(0.0, abs=1e-9) and bool((values.diff() > -1e-9).all())
    assert eigengap(values) == 3
    found = clusters(vectors[:, :3], 3, torch.Generator().manual_seed(1))
    assert found.tolist() == [0] * 6 + [1] * 4 + [2] * 2


def test_groups_of_a_layer_and_how_they_are_chosen(sentences: Bench) -> None:
    model, task, rows = sentences.target, sentences.task, sentences.splits["retain"]
    found = discover(model, task, rows, blocks(model)[0], count=4)
    assert len(found) == 4 and sum(found.sizes()) == 32 and len(found.rows[0]) == 8
    assert found.checked((0, 3)) == (0, 3)
    with pytest.raises(RecipeError, match="no group 4: the layer .* has 4 groups, 0 to 3"):
        found.checked((4,))
    with pytest.raises(DataError, match="2 examples are too few .* at least 3"):
        chosen_by(found, model, task, rows[:2])
    chosen, votes = chosen_by(found, model, task, rows[:5])
    assert chosen and sum(votes) == pytest.approx(1.0)
    with pytest.raises(TaskError, match=r"no layer 'bert\.encoder\.layer\.7'; did you mean"):
        discover(model, task, rows, "bert.encoder.layer.7")


def test_a_layer_that_never_changes_has_no_groups(sentences: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "positions", lambda *args: [torch.ones(5, 4)])
    with pytest.raises(DataError, match="0 units that change"):
        discover(sentences.target, sentences.task, [], "x")


# --- the methods on every task ---


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", METHODS)
def test_a_feature_method_changes_the_model_and_leaves_nothing_of_its_own(
    name: str, task: str, lora: bool, bench: Callable[[str], Bench], tmp_path: Path
) -> None:
    here, rows = bench(task), featured(bench(task))
    method = shortened(find(name), **({} if lora else {"learning_rate": 1e-3}))
    method = replace(method, rounds=1)  # type: ignore[call-arg]
    splits = {"annotated": rows, "retain": rows, "examples": rows[:4]}
    run = here.run(tmp_path / "work", lora=lora, splits=splits)
    names = set(run.model.state_dict())
    still = {key: p.detach().clone() for key, p in run.model.named_parameters() if not p.requires_grad}
    method.unlearn(run)
    assert set(run.model.state_dict()) == names
    for key, parameter in run.model.named_parameters():
        assert key not in still or torch.equal(parameter, still[key]), f"{key} was to be left alone"
    batch = here.batch("retain")
    expected = logits(here.task, run.model, batch)
    assert torch.isfinite(expected).all()
    assert not torch.allclose(expected, logits(here.task, here.target, batch), atol=1e-3)
    back = reloaded(run.model, here.target, tmp_path / "saved")
    torch.testing.assert_close(logits(here.task, back, batch), expected, rtol=0, atol=1e-6)
    if isinstance(run.model, PeftModel):
        with safe_open(tmp_path / "saved" / "adapter_model.safetensors", "pt") as saved:
            assert all(
                "lora_" in key or "modules_to_save" in key or "score" in key or "classifier" in key
                for key in saved.keys()  # noqa: SIM118 - safe_open is no mapping
            )
    assert (run.folder / "method.json").exists()


def test_without_annotations_somebody_must_choose(sentences: Bench, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"which of the \d+ groups of bert.encoder.layer.0 is it\? Give method.group"
    ):
        shortened(find("feature_activation")).unlearn(sentences.run(tmp_path))


def test_a_layer_that_does_not_exist_is_named(sentences: Bench, tmp_path: Path) -> None:
    run = sentences.run(tmp_path, splits={"annotated": featured(sentences)})
    with pytest.raises(
        TaskError, match=r"no layer 'bert\.encoder\.layer\.9'; did you mean 'bert\.encoder\.layer\.[01]'"
    ):
        find("feature_adversarial")(layers=("bert.encoder.layer.9",)).unlearn(run)  # type: ignore[call-arg]


# --- figures and verdict ---


def measured(right: float, change: float, probe: float) -> Measured:
    annotation = torch.tensor([0, 1] * 50)

    def share(value: float) -> Tensor:
        return torch.arange(100) < round(100 * value)

    return Measured({"penultimate": share(probe)}, share(right), torch.full((100,), change), annotation)


def test_the_verdict_is_by_probe_gap_and_task() -> None:
    before, gold = measured(0.8, -0.3, 0.9), measured(0.8, 0.03, 0.6)
    good = verdict(figures({"before": before, "after": measured(0.8, 0.05, 0.64), "gold": gold}))
    assert good["forgot"] is True and good["utility_kept"] is True and "The feature is gone" in good["in_words"]
    seen = verdict(figures({"before": before, "after": measured(0.8, 0.05, 0.7), "gold": gold}))
    assert seen["forgot"] is False and "0.700 is above gold's 0.600 + 0.05" in seen["reasons"][0]
    used = verdict(figures({"before": before, "after": measured(0.7, 0.2, 0.6), "gold": gold}))
    assert used["forgot"] is False and used["utility_kept"] is False
    alone = figures({"before": before, "after": measured(0.8, 0.05, 0.6), "gold": None})
    assert verdict(alone)["forgot"] is True and all(figure.gold is None for figure in alone)
    table = {figure.name: figure for figure in figures({"before": before, "after": gold, "gold": gold})}
    assert table["counterfactual_gap"].gap == 0.0 and table["equal_opportunity"].gap == 0.0


def test_what_is_not_measured_is_absent(sentences: Bench) -> None:
    found = measure(sentences.target, sentences.task, sentences.splits["retain"], None)
    assert found.value("counterfactual_gap") is None and found.value("equal_opportunity") is None
    assert found.value("task_accuracy") == 1.0 and "feature_probe penultimate" not in found.names
    lines = figures({"before": found, "after": found, "gold": None})
    assert verdict(lines)["forgot"] is None and "cannot tell" in verdict(lines)["reasons"][0]


# --- the job ---


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": "m"}, "--data is missing"),
        ({"model": "m", "data": "d", "feature": "gender"}, "which column of --data holds gender"),
        ({"group": (1,)}, "--group goes with --feature auto"),
        ({"feature": "auto", "group": (1,), "examples": "e"}, "--group and --examples are both given"),
        ({"method": "npo"}, "npo forgets rows, not a feature"),
        ({"data": "d"}, "go with --model"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Feature(**values)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded default at toy size."""
    monkeypatch.setattr(embedded, "COUNTS", {"train": 120, "test": 100})
    short = {task: replace(each, steps=4) for task, each in embedded.SCHEDULES.items()}
    monkeypatch.setattr(embedded, "SCHEDULES", short)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.usefixtures("tiny")
def test_the_recipe_leaves_adapter_report_and_certificate(task: str, tmp_path: Path) -> None:
    words = [
        "--task",
        task,
        "--output",
        str(tmp_path / "out"),
        "--method.training.steps=3",
        "--method.gate_training.steps=2",
    ]
    cli.forget_feature(words)
    folder = tmp_path / "out"
    report = json.loads((folder / "report.json").read_text())
    names = {figure["name"] for figure in report["figures"]}
    assert {"feature_probe penultimate", "counterfactual_gap", "equal_opportunity", "task_accuracy"} <= names
    assert all(figure["gold"] is not None and figure["n"] == 100 for figure in report["figures"])
    assert (folder / "report.html").exists() and (folder / "adapter" / "unlearning.json").exists()
    assert not (folder / "work").exists()
    assert cli.forget_feature(words) in (0, 1)  # a finished run shows its report again


@pytest.mark.usefixtures("tiny")
def test_groups_are_shown_and_nothing_is_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--feature", "auto", "--layer", "bert.encoder.layer.0.intermediate", "--output", str(tmp_path / "out")]
    assert cli.forget_feature(words) == 0
    said = capsys.readouterr().out
    assert "groups of units that fire together" in said and "choose with --group N" in said
    assert (tmp_path / "out" / "groups.png").stat().st_size > 1000
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"groups.png", "groups.json"}
    cli.forget_feature([*words, "--group", "0", "--method.training.steps=3", "--output", str(tmp_path / "other")])
    assert json.loads((tmp_path / "other" / "report.json").read_text())["learned"]["chosen"] == [0]
