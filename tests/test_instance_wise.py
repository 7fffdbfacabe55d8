"""Instance-wise unlearning: its loss by hand, its labels, when it stops, and that it looks at the forget rows alone."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Bench, logits, progress, shortened, weights
from torch import nn

from llm_unlearn.adversary import Attack, anchors
from llm_unlearn.decisions import Decisions
from llm_unlearn.errors import DataError, RecipeError, TaskError
from llm_unlearn.fit import fit
from llm_unlearn.head import trainable
from llm_unlearn.methods.instance_wise import InstanceWise
from llm_unlearn.other_answers import (
    aims,
    at_most,
    behind_own,
    right_share,
    said_classes,
    short_of,
    with_other_labels,
)
from llm_unlearn.run import Run
from llm_unlearn.schedule import Schedule
from llm_unlearn.stand_ins import Outputs, stand_ins
from llm_unlearn.weights.held import held, pull, scaled

ROOM = Schedule(steps=100, forget_batch=4, retain_per_forget=4, warmup_steps=0, learning_rate=6e-3, decay="constant")


def finished(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "method.json").read_text())
    return found


# --- the loss ---


def test_the_loss_before_the_first_step_is_the_equation(images: Bench, tmp_path: Path) -> None:
    """f = 1/5 with four adversarial rows a forget row: L = -CE(x, y)/5 + 4 CE(x', y')/5, and nothing has moved."""
    method = InstanceWise(
        keep="labels", push="cross_entropy", limit=99.0, training=ROOM, attack=Attack(examples=4, pixel_radius=0.3)
    )
    run = images.run(tmp_path)
    near = anchors(run.model, run.task, run.rows("forget"), method.attack, run.seed + 1)
    examples = {"forget": run.task.encode(run.rows("forget")[:2]), "stand_ins": near.examples[:8]}
    batch = run.task.collate_streams(examples)
    run.model.eval()
    found = method.objective(run, "misclassify", near)(run.model, batch, progress())

    def mean_loss(pixels: torch.Tensor, labels: torch.Tensor) -> float:
        with torch.no_grad():
            return F.cross_entropy(images.target(pixel_values=pixels).logits, labels).item()

    own = mean_loss(batch["forget"]["pixel_values"], batch["forget"]["labels"])
    moved = batch["stand_ins"]["pixel_values"] + near.table[:8].float()
    other = mean_loss(moved, batch["stand_ins"]["labels"])
    assert found["forget"].item() == pytest.approx(-own / 5, rel=1e-4)
    assert found["adversarial"].item() == pytest.approx(0.8 * other, rel=1e-4)
    assert found["held"].item() == 0.0 and set(found) == {"forget", "adversarial", "held"}
    relabelled = method.objective(run, "relabel", near)(run.model, batch, progress())
    assert relabelled["forget"].item() == pytest.approx(
        own / 5, rel=1e-4
    )  # the same rows: their labels are the stream's


def test_without_adversarial_examples_it_is_negative_gradient(images: Bench, tmp_path: Path) -> None:
    method = InstanceWise(keep="nothing", importance=False, push="cross_entropy", limit=99.0, training=ROOM)
    run = images.run(tmp_path)
    batch = {"forget": images.batch("forget")}
    found = method.objective(run, "misclassify", None)(run.model.eval(), batch, progress())
    with torch.no_grad():
        expected = -images.task.decisions(images.target, batch["forget"]).nll().mean().item()
    assert set(found) == {"forget"} and found["forget"].item() == pytest.approx(expected, rel=1e-4)


def test_the_margin_by_hand() -> None:
    """Logits (3, 1, 0) with label 0: 0.5 + 3 - 1 = 2.5; with label 1: 0.5 + 1 - 3 < 0, so 0 and no gradient."""
    scores = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]], requires_grad=True)
    every = torch.arange(2)
    scored = torch.ones(2, dtype=torch.bool)
    decided = Decisions(labels=every, owner=every, scored=scored, batch_size=2, scores=scores)
    found = short_of(decided, 0.5, towards=False)
    assert found.tolist() == [2.5, 0.0]
    found.sum().backward()
    assert scores.grad is not None and scores.grad.tolist() == [[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]


def test_what_the_rows_do_not_use_is_held(images: Bench) -> None:
    """After every weight moved by 0.1: pull = sum of (1 - importance) * 0.01 / 2."""
    model = images.wrapped()
    found = held(model, images.task, images.task.encode(images.splits["forget"]))
    assert pull(model, found).item() == 0.0
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter += 0.1
    expected = sum(0.005 * much.sum().item() for much, _ in found.values())
    assert pull(model, found).item() == pytest.approx(expected, rel=1e-3) and expected > 0
    assert all(0 <= much.min() and much.max() <= 1 and much.min() == 0 for much, _ in found.values())


def test_a_fresh_adapter_s_unreached_factors_are_left_out(images: Bench) -> None:
    """B = 0, so no gradient reaches A: what is not known is not held; B is."""
    names = held(images.wrapped(), images.task, images.task.encode(images.splits["forget"]))
    assert any("lora_B" in name for name in names) and not any("lora_A" in name for name in names)


def test_a_constant_importance_is_zero_not_nan() -> None:
    assert scaled(torch.full((3,), 0.7)).tolist() == [0.0] * 3
    assert scaled(torch.tensor([1.0, 2.0, 3.0])).tolist() == [0.0, 0.5, 1.0]


# --- the labels ---


def test_other_labels_are_uniform_over_the_others(images: Bench) -> None:
    """The authors' fallback gave C // 2 too often, at times the row's own label."""
    rows = [{**row, "label": i % 3} for i, row in enumerate(images.splits["forget"])]
    found = with_other_labels(images.target, images.task, rows, times=300)
    assert len(found) == 300 * len(rows)
    for own in range(3):
        drawn = Counter(
            each["label"]
            for row, each in zip([row for row in rows for _ in range(300)], found, strict=True)
            if row["label"] == own
        )
        assert own not in drawn and len(drawn) == 2
        assert all(abs(count / sum(drawn.values()) - 0.5) < 0.05 for count in drawn.values())


def test_other_answers_are_other_rows(language: Bench) -> None:
    rows = language.splits["forget"]
    found = with_other_labels(language.target, language.task, rows, times=3)
    said = {row["response"] for row in rows}
    assert all(new["response"] in said for new in found)
    assert not any(
        new["response"] == old["response"] for new, old in zip(found, [r for r in rows for _ in range(3)], strict=True)
    )
    given = with_other_labels(language.target, language.task, rows, answer="I don't know.")
    assert {row["response"] for row in given} == {"I don't know."}
    with pytest.raises(DataError, match="every forget row has the same response.*method.answer"):
        with_other_labels(language.target, language.task, [{**row, "response": "Ostrand"} for row in rows])


def test_rows_with_several_labels_are_refused(images: Bench, tmp_path: Path) -> None:
    rows = [{**row, "label": [1, 0, 1]} for row in images.splits["forget"]]
    with pytest.raises(DataError, match="several labels each.*give single-label rows, or choose another method"):
        shortened(InstanceWise).unlearn(images.run(tmp_path, splits={"forget": rows}))


# --- where it ends ---


@pytest.mark.parametrize("goal", ["misclassify", "relabel"])
def test_it_stops_with_the_step_that_reaches_the_goal(goal: Any, images: Bench, tmp_path: Path) -> None:
    run = images.run(tmp_path)
    plain = InstanceWise(goal=goal, keep="nothing", importance=False, margin=0.5)
    replace(plain, training=ROOM).unlearn(run)
    said = finished(run)
    assert said["goal"] == goal and 0 < said["finished_after_steps"] < said["most_steps"] == 100
    now = logits(images.task, run.model, images.batch("forget")).argmax(-1)
    other = with_other_labels(images.target, images.task, images.splits["forget"], seed=run.seed)
    if goal == "misclassify":
        assert not (now == images.batch("forget")["labels"]).any()
    else:
        assert now.tolist() == [row["label"] for row in other]
    one_less = replace(ROOM, steps=said["finished_after_steps"] - 1)
    before = images.run(tmp_path / "before")
    replace(plain, training=one_less).unlearn(before)
    assert finished(before)["finished_after_steps"] is None


def test_an_interrupted_fit_ends_at_the_same_step(images: Bench, tmp_path: Path) -> None:
    method = InstanceWise(
        keep="labels", margin=0.5, attack=Attack(examples=1, pixel_radius=0.3), importance=False, training=ROOM
    )

    def run(folder: str) -> Run:
        return replace(images.run(tmp_path / folder), trainer={"save_steps": 1})

    whole, broken = run("whole"), run("broken")
    method.unlearn(whole)
    steps = finished(whole)["finished_after_steps"]
    assert steps > 3
    asked: list[int] = []
    done = method.done(broken, "misclassify", broken.rows("forget"))

    def interrupted(model: nn.Module) -> bool:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return done(model)

    near = anchors(broken.model, broken.task, broken.rows("forget"), method.attack, broken.seed + 1)
    with pytest.raises(KeyboardInterrupt):
        fit(
            broken,
            {"forget": broken.rows("forget")},
            method.objective(broken, "misclassify", near),
            schedule=ROOM,
            encoded={"stand_ins": near.examples},
            done=interrupted,
        )
    again = run("broken")
    method.unlearn(again)
    assert finished(again)["finished_after_steps"] == steps
    for name, weight in weights(whole.model).items():
        torch.testing.assert_close(weights(again.model)[name], weight, rtol=0, atol=1e-6)


def test_a_language_model_s_rows_say_another_row_s_answer(language: Bench, tmp_path: Path) -> None:
    """As a text of its own, and behind every beginning of the true one; without a holdout until every word is right."""
    run = language.run(tmp_path, splits={"forget": language.splits["forget"][:4]})
    InstanceWise(attack=Attack(examples=2, word_radius=1.0), training=replace(ROOM, steps=300)).unlearn(run)
    assert finished(run)["goal"] == "relabel" and finished(run)["finished_after_steps"] is not None
    rows = run.rows("forget")
    other = with_other_labels(run.model, run.task, rows, seed=run.seed)
    assert right_share(run.model, run.task, run.task.encode(other)) == 1.0
    behind = behind_own(rows, other)
    assert [row["response"] for row in behind] == [row["response"] for row in rows]
    assert right_share(run.model, run.task, run.task.encode(behind)) == 1.0


@pytest.mark.parametrize("goal", ["misclassify", "relabel"])
def test_a_language_model_is_pushed_down_to_unseen_rows_only(goal: Any, language: Bench, tmp_path: Path) -> None:
    run = language.run(tmp_path)
    unseen = right_share(language.target, run.task, run.task.encode(run.rows("holdout")))
    InstanceWise(goal=goal, keep="nothing", training=ROOM).unlearn(run)
    left = right_share(run.model, run.task, run.task.encode(run.rows("forget")))
    assert finished(run)["finished_after_steps"] is not None and left <= unseen < 0.8


def test_counting_ends_early_and_right(images: Bench) -> None:
    examples = images.task.encode(images.splits["forget"])
    batches: list[int] = []
    hook = images.target.register_forward_hook(lambda module, args, out: batches.append(len(out.logits)))
    assert not at_most(images.target, images.task, examples, 3, batch_size=4)
    assert batches == [4]  # four rows are right, three may be
    assert at_most(images.target, images.task, examples, 12, batch_size=4)
    assert at_most(images.target, images.task, examples, 0, wrong=True)
    hook.remove()
    assert right_share(images.target, images.task, examples) == 1.0


# --- what it looks at ---


class Untouchable(list):  # type: ignore[type-arg]
    """Rows that must not be read."""

    def __iter__(self) -> Any:
        raise AssertionError("retain was read")

    def __getitem__(self, place: Any) -> Any:
        raise AssertionError("retain was read")


@pytest.mark.parametrize("name", ["language", "sentences", "images"])
def test_it_never_reads_what_is_kept(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    here: Bench = request.getfixturevalue(name)
    splits = {**here.splits, "retain": Untouchable([1]), "neighbour": Untouchable([1]), "general": Untouchable([1])}
    run = here.run(tmp_path, splits=splits)
    method = InstanceWise(
        outputs=Outputs(pictures=40), attack=Attack(examples=2, word_radius=1.0), training=replace(ROOM, steps=2)
    )
    assert method.needs == {"forget"}
    method.unlearn(run)
    with pytest.raises(AssertionError):  # non-vacuity
        list(run.rows("retain"))


def test_attacks_that_all_miss_are_an_error(images: Bench, tmp_path: Path) -> None:
    method = InstanceWise(keep="labels", attack=Attack(examples=1, pixel_radius=1e-6, steps=1), training=ROOM)
    with pytest.raises(RecipeError, match="none of 12 adversarial examples.*attack.pixel_radius"):
        method.unlearn(images.run(tmp_path))


def test_only_attacks_that_hit_are_kept(images: Bench, tmp_path: Path) -> None:
    run = images.run(tmp_path)
    near = anchors(run.model, run.task, run.rows("forget"), Attack(examples=4, pixel_radius=0.012), 1)
    assert 0 < len(near.examples) < near.tried == 48  # some miss
    batch = near.join(run.model, run.task, run.task.collate_streams({"near": near.examples}), "near")["near"]
    assert (logits(run.task, run.model, batch).argmax(-1) == batch["labels"]).all()


def test_unseen_rows_are_asked_for_where_they_are_needed(images: Bench, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs the split 'holdout'"):
        run = images.run(tmp_path, splits={"forget": images.splits["forget"]})
        InstanceWise(stop_at="holdout", keep="nothing").unlearn(run)


# --- what stands in for other rows ---


def test_stand_ins_are_made_of_the_rows_and_named_by_the_model(images: Bench) -> None:
    rows = images.splits["forget"]
    made = images.target, images.task, rows, 60, Attack(pixel_radius=0.3, steps=3), 1, images.target
    found, again = stand_ins(*made).examples, stand_ins(*made).examples
    assert len(found) == 60 and all(
        torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(found, again, strict=True)
    )
    said = logits(images.task, images.target, images.task.collate(found)).argmax(-1).tolist()
    assert [example["labels"] for example in found] == said
    own = torch.stack([example["pixel_values"] for example in images.task.encode(rows)])
    low, high = own.amin((0, 2, 3)) - 1e-3, own.amax((0, 2, 3)) + 1e-3
    blends = torch.stack([example["pixel_values"] for example in found[9:30]])
    assert (blends.amin((0, 2, 3)) >= low).all() and (blends.amax((0, 2, 3)) <= high).all()
    assert not any((blends[:, None] == own[None]).flatten(2).all(-1).any(1).tolist()) or len(rows) < 2


def test_before_the_first_step_nothing_has_moved_and_the_rows_left_share_the_weight(
    images: Bench, tmp_path: Path
) -> None:
    """KL(before || now) = 0; the forget term is the mean over the rows whose margin is not lost yet."""
    method = InstanceWise(outputs=Outputs(pictures=20), importance=False, margin=0.5)
    run = images.run(tmp_path)
    made = stand_ins(run.model, run.task, run.rows("forget"), 20, Attack(steps=2), 1)
    batch = run.task.collate_streams({"forget": run.task.encode(run.rows("forget")), "stand_ins": made.examples})
    found = method.objective(run, "misclassify", made)(run.model.eval(), batch, progress())
    assert set(found) == {"forget", "kept"} and found["kept"].item() == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        far = short_of(run.task.decisions(images.target, batch["forget"], logits=True), 0.5, towards=False)
    assert found["forget"].item() == pytest.approx(far[far > 0].mean().item(), rel=1e-4)


def test_what_is_held_weighs_less_in_the_second_half() -> None:
    """40 until step 50 of 100, then down to 0.04 of it: sqrt(0.04) = 0.2 of it halfway there."""
    held = Outputs(weight=40.0, eased=0.04)
    found = [held.weight_now(replace(progress(steps=100), step=step)) for step in (0, 50, 75, 100)]
    assert found == pytest.approx([40.0, 40.0, 8.0, 1.6])
    assert Outputs(weight=40.0, eased=1.0).weight_now(replace(progress(steps=100), step=99)) == 40.0
    with pytest.raises(RecipeError, match="eased=0: the weight's share"):
        Outputs(eased=0.0)


def test_the_margin_to_a_new_label_by_hand() -> None:
    """Logits (3, 1, 0) with label 1: 0.5 + 3 - 1 = 2.5; with label 0: 0.5 + 1 - 3 < 0, so 0."""
    scores, labels = torch.tensor([[3.0, 1.0, 0.0]] * 2), torch.tensor([1, 0])
    every, scored = torch.arange(2), torch.ones(2, dtype=torch.bool)
    decided = Decisions(labels=labels, owner=every, scored=scored, batch_size=2, scores=scores)
    assert short_of(decided, 0.5, towards=True).tolist() == [2.5, 0.0]


def test_pictures_do_not_stand_in_for_texts(sentences: Bench, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"this run is a sequence_classifier: set method\.keep=labels"):
        InstanceWise(keep="outputs", training=ROOM).unlearn(sentences.run(tmp_path))


def test_stand_ins_are_held_at_what_the_model_before_said(images: Bench) -> None:
    """An adapter that has changed the model, as that of an earlier request has, changes neither what is said nor by whom."""
    model = images.wrapped()
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter += 0.1
    made = stand_ins(model, images.task, images.splits["forget"], 20, Attack(steps=2), 1)
    batch = images.task.collate(made.examples[4:12])
    before, now = logits(images.task, images.target, batch), images.task.decisions(model, batch, logits=True)
    torch.testing.assert_close(made.logits[4:12], before, rtol=1e-4, atol=1e-5)
    expected = F.kl_div(now.logits.log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="batchmean")
    assert made.moved(batch, now).item() == pytest.approx(expected.item(), rel=1e-4) and expected > 0.01


# --- one request after the other ---


def test_earlier_rows_are_to_lose_their_labels_too(images: Bench) -> None:
    new, earlier = images.splits["forget"][:2], images.splits["forget"][2:5]
    asked = images.target, images.task, new, earlier
    assert aims(*asked, relabel=False) == [*new, *earlier]
    assert aims(*asked[:3], relabel=True) == with_other_labels(*asked[:3])


def test_earlier_rows_keep_the_new_labels_that_they_have(images: Bench) -> None:
    """The target says a row's own label: rows whose label is another stand for relabelled ones, the last one is right again."""
    earlier = [{**row, "label": (row["label"] + 1) % 3} for row in images.splits["forget"][2:5]]
    earlier.append(images.splits["forget"][5])
    found = aims(images.target, images.task, images.splits["forget"][:2], earlier, relabel=True)[2:]
    said = said_classes(images.target, images.task, images.task.encode(earlier))
    assert [row["label"] for row in found[:3]] == said[:3] != [row["label"] for row in earlier[:3]]
    assert found[3]["label"] != earlier[3]["label"] == said[3]
    assert [row["id"] for row in found] == [row["id"] for row in earlier]


def test_a_language_model_s_earlier_rows_get_another_answer(language: Bench) -> None:
    rows = language.splits["forget"]
    found = aims(language.target, language.task, rows[:3], rows[3:6], relabel=True)
    assert all(new["response"] != old["response"] for new, old in zip(found[:6], rows[:6], strict=True))
    assert found[6:] == behind_own(rows[:6], found[:6])


@pytest.mark.parametrize("goal", ["misclassify", "relabel"])
def test_a_request_ends_when_the_earlier_ones_are_forgotten_too(goal: Any, images: Bench, tmp_path: Path) -> None:
    rows = images.splits["forget"]
    splits = {**images.splits, "forget": rows[:4], "forgotten": rows[4:8]}
    run = images.run(tmp_path, splits=splits)
    assert right_share(run.model, run.task, run.task.encode(rows[4:8])) == 1.0  # as if they had come back
    InstanceWise(goal=goal, keep="nothing", importance=False, margin=0.5, training=ROOM).unlearn(run)
    assert finished(run)["finished_after_steps"] is not None
    assert right_share(run.model, run.task, run.task.encode(rows[:8])) == 0.0


def test_many_rows_are_seen_more_at_a_time(images: Bench, tmp_path: Path) -> None:
    run, plain = images.run(tmp_path), InstanceWise()
    sizes = {rows: plain.schedule(run, rows) for rows in (16, 127, 128, 256, 1000)}
    found = {rows: (each.forget_batch, each.retain_per_forget) for rows, each in sizes.items()}
    assert found == {16: (16, 8), 127: (16, 8), 128: (32, 4), 256: (64, 2), 1000: (64, 2)}
    assert InstanceWise(keep="labels").schedule(run, 256).forget_batch == 16  # its weight hangs on the ratio
    steps = {rows: each.step_count(rows) for rows, each in sizes.items()}
    assert steps == {16: 400, 127: 2000, 128: 1200, 256: 1200, 1000: 2000}  # no more than 2000
    asked = replace(plain, training=replace(plain.training, steps=5000)).schedule(run, 1000)
    assert asked.step_count(1000) == 5000
