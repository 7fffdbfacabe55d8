"""What classifiers are poisoned with: places and pixels of patches, words of donors, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Bench, shortened

from llm_unlearn import class_concepts
from llm_unlearn.concepts import maps
from llm_unlearn.concepts.bank import Bank, Concept, fingerprint
from llm_unlearn.concepts.bottleneck import Bottleneck, donor_of, fit_bottleneck
from llm_unlearn.concepts.states import blocks
from llm_unlearn.data import redact
from llm_unlearn.data.poison import words_of
from llm_unlearn.errors import DataError, RecipeError, TaskError
from llm_unlearn.methods.concept_poison import ConceptPoison
from llm_unlearn.poisoned import Patches, Poison, giver
from llm_unlearn.relabel import donor_classes, kept_classes


def test_a_patch_is_pasted_and_nothing_else_changes() -> None:
    picture, donor = torch.zeros(2, 6, 5), torch.arange(60.0).reshape(2, 6, 5) + 1
    found = redact.paste(picture, donor, (1, 2), (3, 0), 2)
    assert torch.equal(found[:, 1:3, 2:4], donor[:, 3:5, 0:2])
    assert int((found != 0).sum()) == 8 and not picture.any()
    assert int((redact.paste(picture, donor, (5, 4), (0, 0), 3) != 0).sum()) == 2  # the rest would stand outside
    with pytest.raises(DataError, match=r"one shape: \[2, 6, 5\] and its donor's \[1, 6, 5\] differ"):
        redact.paste(picture, donor[:1], (0, 0), (0, 0), 2)


def test_the_hottest_patch_lies_inside_the_picture() -> None:
    heat = torch.zeros(2, 6, 7)
    heat[0, 5, 6] = heat[1, 2, 1] = 1.0
    heat[1, 3, 2] = 1.0
    assert redact.hottest(heat, 2) == [(4, 5), (2, 1)]
    assert redact.centre(28, 28, 8) == (10, 10) and redact.patch_side(28, 28, 64 / 224) == 8
    draw = np.random.default_rng(0)
    tops = {redact.anywhere(6, 7, 4, draw) for _ in range(200)}
    assert tops == {(top, left) for top in range(3) for left in range(4)}


def test_words_are_replaced_in_turn_and_the_same_by_the_same() -> None:
    text = "Oil rises; OIL exports of Ostrand"
    assert redact.replace_words(text, {"oil", "ostrand"}, ["cup", "team"]) == "cup rises; cup exports of team"
    with pytest.raises(DataError, match="no words to put in the place"):
        redact.replace_words(text, {"oil"}, [])


def test_states_become_maps() -> None:
    patches = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3)  # a class token and 2 x 2 patches of width 3
    found = maps.grid(patches)
    assert found.shape == (2, 3, 2, 2) and torch.equal(found[0, :, 0, 1], patches[0, 2])
    with pytest.raises(TaskError, match=r"\[2, 3\] has no places"):
        maps.grid(torch.zeros(2, 3))


def by_class(here: Bench) -> dict[str, list[Any]]:
    rows = [*here.splits["forget"], *here.splits["retain"]]
    split = {name: [row for row in rows if (row["label"] == 1) == (name == "forget")] for name in ("forget", "retain")}
    return {**here.splits, **split}


def test_similarity_is_highest_where_the_states_are_the_direction(images: Bench) -> None:
    """A direction made of one place's own state is most like that place."""
    layer = blocks(images.target)[0]
    examples = images.task.encode(images.splits["forget"][:3])
    batch = images.task.collate(examples)
    with torch.no_grad():
        states = images.target(**images.task.inputs(batch), output_hidden_states=True).hidden_states[1]
    vector = states[1, 1 + 3]  # the patch at the right below
    heat = maps.similarity(images.target, images.task, examples, maps.Direction(layer, vector, torch.zeros(32)))
    assert heat.shape == (3, 8, 8) and redact.hottest(heat, 4)[1] == (4, 4)
    assert heat[1].max().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("patch", ["localized", "centre", "random", "full"])
def test_each_draw_has_a_patch_of_the_donor_class(images: Bench, tmp_path: Path, patch: Any) -> None:
    splits = by_class(images)
    run = images.run(tmp_path, splits=splits)
    rows, mix = Poison(patch=patch, layer=blocks(images.target)[0]).poisoned(run)
    assert list(rows) == splits["forget"] and isinstance(mix, Patches)
    donor = int(donor_classes(run.model, run.task, rows, kept_classes(splits, 3))[1])
    givers = [torch.as_tensor(row["image"]) for row in splits["retain"] if row["label"] == donor]
    side = redact.patch_side(8, 8, redact.SHARES[patch])
    examples = images.task.encode(rows)
    name = images.task.continuous(run.model, images.task.collate(examples[:1]))[0]
    drawn = set()
    for number in range(12):
        example = examples[number % len(examples)]
        found = mix(number, number % len(examples), example)
        changed = (found[name] != example[name]).any(0).nonzero()
        assert 0 < len(changed) <= side * side and found["labels"] == 1
        top, left = changed.min(0).values.tolist()
        piece = found[name][:, top : top + side, left : left + side]
        sources = [
            i
            for i, giver in enumerate(givers)
            if any(
                torch.equal(giver[:, a : a + piece.shape[1], b : b + piece.shape[2]], piece)
                for a in range(9 - side)
                for b in range(9 - side)
            )
        ]
        drawn |= set(sources[:1])
        assert sources, "the patch is no donor's"
        assert torch.equal(
            mix(number, number % len(examples), example)[name], found[name]
        )  # a resumed run draws the same
    assert len(drawn) > 1, "another donor at each draw"


@pytest.mark.parametrize("patch", ["mask", "replace"])
def test_words_that_carry_the_class_go(sentences: Bench, tmp_path: Path, patch: Any) -> None:
    splits = by_class(sentences)
    rows, mix = Poison(patch=patch, words=2).poisoned(sentences.run(tmp_path, splits=splits))
    assert mix is None and [row["id"] for row in rows] == [row["id"] for row in splits["forget"]]
    for old, new in zip(splits["forget"], rows, strict=True):
        assert new["label"] == old["label"] == 1 and new["text"] != old["text"]
        kept = [word for word in words_of(old["text"]) if word in words_of(new["text"])]
        assert len(set(words_of(old["text"]))) - len(set(kept)) <= 2
        assert patch == "replace" or "***" in new["text"]


@pytest.mark.parametrize(("patch", "labels"), [("localized", "targeted"), ("random", "random"), ("centre", "keep")])
def test_pictures_are_poisoned_from_end_to_end(images: Bench, tmp_path: Path, patch: Any, labels: Any) -> None:
    run = images.run(tmp_path, splits=by_class(images))
    before = images.loss(run.model, "forget")
    shortened(ConceptPoison, steps=12)
    method = ConceptPoison(patch=patch, labels=labels, training=shortened(ConceptPoison).training)  # type: ignore[attr-defined]
    method.unlearn(run)
    batch = images.task.collate(images.task.encode(run.rows("forget")))
    with torch.no_grad():
        after = images.task.decisions(run.model.eval(), batch).loss().mean().item()
    assert (after > before + 0.3) == (labels != "keep"), (before, after)


@pytest.mark.parametrize(
    ("task", "settings", "said"),
    [
        ("sequence_classifier", {"patch": "localized"}, "patch=localized changes pixels, and a sequence_classifier has none.*mask"),
        ("image_classifier", {"patch": "mask"}, "patch=mask changes words, and a image_classifier has none.*localized"),
        ("image_classifier", {"labels": "keep"}, "changes nothing"),
        ("image_classifier", {"labels": "refusal"}, "labels=targeted or random or keep"),
        ("image_classifier", {"patch": "centre", "patch_side": 1.5}, "patch_side: 1.5 is not between 0 and 1"),
        ("causal_lm", {"patch": "centre"}, "are for classifiers"),
        ("causal_lm", {"labels": "keep"}, "are for classifiers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(task: str, settings: Any, said: str, bench: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        ConceptPoison(**settings).check(bench(task).run(tmp_path))


def test_a_layer_and_a_class_that_are_not_there(images: Bench, tmp_path: Path) -> None:
    layer = blocks(images.target)[0]
    with pytest.raises(TaskError, match=rf"no layer '{layer}x'; did you mean '{layer}'"):
        ConceptPoison(patch="localized", layer=f"{layer}x").check(images.run(tmp_path))
    one = {name: [row for row in rows if row["label"] == 1] for name, rows in images.splits.items()}
    for patch in ("none", "centre"):
        with pytest.raises(DataError, match="one class only: there is no other label to teach"):
            ConceptPoison(patch=patch, training=shortened(ConceptPoison).training).unlearn(  # type: ignore[arg-type,attr-defined]
                images.run(tmp_path / patch, splits=one)
            )


def test_with_a_bank_the_donor_is_the_class_that_shares_most(images: Bench, tmp_path: Path) -> None:
    """Vectors that speak for the class: the donor is what the paper's rule says of the bottleneck's weights."""
    layer, draw = blocks(images.target)[0], torch.Generator().manual_seed(3)
    vectors = [torch.nn.functional.normalize(torch.randn(32, generator=draw), dim=0) for _ in range(3)]
    concepts = tuple(Concept(f"c{i}", vector, 0.0, layer, 0.9, 10) for i, vector in enumerate(vectors))
    bank = Bank(concepts, fingerprint(images.target))
    place = str(bank.save(tmp_path / "bank"))
    splits = by_class(images)
    run = images.run(tmp_path / "run", splits=splits)
    rows = [*splits["forget"], *splits["retain"]]
    weight = fit_bottleneck(images.target, images.task, bank, rows, classes=["0", "1", "2"]).weight
    assert (weight[1] > 0).any(), "no vector speaks for it: another rule would choose"
    donors, chosen = Poison(bank=place).donors(run, torch.tensor([True, False, True]))
    assert int(donors[1]) == donor_of(weight, 1)[0] and chosen == {1: donor_of(weight, 1)[1]}
    rows, mix = Poison(bank=place, patch="localized", patch_side=0.5).poisoned(run)
    assert isinstance(mix, Patches) and mix(0, 0, images.task.encode(rows[:1])[0])["labels"] == 1
    assert fingerprint(images.wrapped()) == fingerprint(images.target) != fingerprint(images.origin)
    shortened_run = images.run(tmp_path / "fit", splits=splits)
    ConceptPoison(bank=place, training=shortened(ConceptPoison).training).unlearn(shortened_run)  # type: ignore[attr-defined]
    other = images.run(tmp_path / "other", splits=splits, model=images.wrapped(start="origin"))
    with pytest.raises(TaskError, match="made from another model"):
        Poison(bank=place).donors(other, torch.tensor([True, False, True]))


def test_a_class_that_no_concept_speaks_for_has_no_donor_by_them() -> None:
    """Class 0 shares concept 0 with class 2; of class 1 the bank knows only what it is not."""
    weight = torch.tensor([[3.0, -1.0], [-2.0, 0.0], [1.0, 2.0]])
    zero, one = torch.zeros(3), torch.ones(2)
    found = Bottleneck(("a", "b"), ("0", "1", "2"), weight, zero, one, one, 1.0, None, None, 9, weight)
    assert giver(found, 0, torch.tensor([False, True, True])) == (2, 0, "shared")
    assert giver(found, 1, torch.tensor([True, False, True])) is None
    assert class_concepts.donor(found, torch.tensor([2, 2, 0]), 1, torch.tensor([True, False, True])) == (2, "next")
    assert class_concepts.donor(None, torch.tensor([1, 2, 0]), 0, torch.tensor([False, True, True])) == (1, "next")
