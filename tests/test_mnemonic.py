"""Mnemonic codes: drawn again from their seeds, mixed into training as often as is said, and enough to forget a unit by."""

import copy
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Bench, logits
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from llm_unlearn import hub
from llm_unlearn.codes import CODE, coded
from llm_unlearn.data.mnemonic import FILE, Codes, Mixing, Mnemonic, answers, new_codes, seed_of
from llm_unlearn.data.sources import Row
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.loading import load_adapted, load_codes
from llm_unlearn.lora import Lora, attach
from llm_unlearn.methods.mnemonic_noise import MnemonicNoise
from llm_unlearn.options import read
from llm_unlearn.recipe import Recipe
from llm_unlearn.reference import reference
from llm_unlearn.run import Run
from llm_unlearn.settings import build
from llm_unlearn.targets import TRAINING, Target, train_target
from llm_unlearn.tasks import ImageClassifier
from llm_unlearn.train import train
from llm_unlearn.weights.noise import FLOOR, Candidate, Choice, Judge, Noise, accuracy, ratio, search, spread_of, step


class Closed(Mapping[str, Any]):
    """Splits that nobody may look into."""

    def __getitem__(self, name: str) -> Any:
        raise RuntimeError(f"the {name} rows were touched")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("the splits were listed")

    def __len__(self) -> int:
        raise RuntimeError("the splits were counted")


class Diagonal(nn.Module):
    """Two weights, two classes: logit j = w_j x_j."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, 2.0]))

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(logits=pixel_values.flatten(1) * self.w)


def two() -> Codes:
    return Codes(seeds={"0": 4, "1": 1}, shape=(1, 1, 2), share=0.1)


# --- the equations ---


def test_the_ratio_by_hand() -> None:
    forget, retain = torch.tensor([4.0, 1.0, 0.0]), torch.tensor([1.0, 2.0, 0.0])
    d = 0.5 * 1.0 + FLOOR
    torch.testing.assert_close(
        ratio(forget, retain, smooth=0.5, clip=1), torch.tensor([4.5 / 1.5, 1.5 / 2.5, d / d], dtype=torch.float32)
    )
    assert ratio(forget, retain, smooth=0.0, clip=1).tolist() == [4.0, 0.5, 1.0]  # the floor alone: 0 / 0 is 1
    assert ratio(forget, retain, smooth=0.0, clip=0.5).tolist() == [1.0, 0.5, 1.0]  # cut at the median


def test_the_step_by_hand() -> None:
    eta, weight = torch.tensor([5.0, 1.0]), torch.tensor([1.0, 3.0])  # std sqrt(2)

    def size(weight: torch.Tensor, kappa: float, lambda1: float) -> float:
        return step(float(eta.max()), spread_of(weight), kappa=kappa, lambda1=lambda1)

    assert size(weight, 2.0, 1e9) == pytest.approx(2 * math.sqrt(2) / 5)
    assert size(weight, 2.0, 0.25) == 0.25
    assert size(torch.tensor([2.0, 2.0]), 1.0, 1e9) == pytest.approx(2 / 5)  # no deviation: mean size
    assert size(torch.zeros(2), 1.0, 1e9) == 0


def test_the_whole_edit_by_hand(tmp_path: Path) -> None:
    """d L / d w_j = (p_j - [j = c]) x_j for code x of class c; w' = w + sign alpha (f_F + d) / (f_R + d)."""
    codes, model = two(), Diagonal()
    grads = []
    for number, unit in enumerate(("0", "1")):
        x = codes.code(unit).flatten().double()
        p = (torch.tensor([3.0, 2.0]).double() * x).softmax(0)
        grads.append((p - nn.functional.one_hot(torch.tensor(number), 2)) * x)
    forget, retain = (g.square() for g in grads)
    d = 0.01 * retain.mean()
    eta = (forget + d) / (retain + d)
    alpha = min(0.3, 2 * math.sqrt(0.5) / eta.max().item())
    method = MnemonicNoise(units=("0",), kappa=(2.0,), lambda1=(0.3,), smooth=0.01)
    method.unlearn(Run(model=model, task=ImageClassifier(), splits=Closed(), folder=tmp_path, codes=codes))
    told = json.loads((tmp_path / "method.json").read_text())
    expected = torch.tensor([3.0, 2.0]).double() + told["sign"] * alpha * eta
    torch.testing.assert_close(model.w.detach().double(), expected, rtol=1e-5, atol=1e-6)
    other = Diagonal()
    with torch.no_grad():  # the sign that was not taken is no better on the codes
        other.w.copy_(torch.tensor([3.0, 2.0]).double() - told["sign"] * alpha * eta)
    right = []
    for each in (model, other):
        out = each(torch.stack([codes.code(unit) for unit in ("0", "1")])).logits
        right.append((out[1].argmax() == 1).int().item() + (out[0].argmax() != 0).int().item())
    assert right[0] == told["retained"] + told["error"] >= right[1]


# --- codes ---


def test_codes_are_drawn_again_bit_by_bit_and_survive_the_disk(tmp_path: Path) -> None:
    codes = Codes(seeds={"a": seed_of("a", 0), "b": seed_of("b", 0)}, shape=(3, 5), share=0.2, scale=(1.0, 2, 3, 0, 5))
    codes.save(tmp_path)
    back = Codes.load(tmp_path / FILE)
    assert back == codes and back.kind == "text"
    assert torch.equal(back.code("a"), codes.code("a")) and not torch.equal(codes.code("a"), codes.code("b"))
    torch.manual_seed(5)
    assert torch.equal(back.code("a"), codes.code("a")), "torch's own random state plays no part"
    assert not back.code("a")[:, 3].any()
    content = json.loads((tmp_path / FILE).read_text())
    assert content["units"] == dict(codes.seeds) and (content["length"], content["t_mix"]) == (3, 0.2)
    assert seed_of("a", 0) != seed_of("a", 1) and seed_of("a", 0) < 2**48
    assert back.without(["a"]).seeds == {"b": codes.seeds["b"]}
    wide = Codes(seeds={"x": 3}, shape=(100, 400), share=0.1, scale=(2.0,) * 400).code("x")
    assert wide.std() == pytest.approx(2, rel=0.02) and wide.mean().abs() < 0.03
    assert Codes.load(tmp_path / "none.json") is None
    (tmp_path / FILE).write_text('{"units": 3}')
    with pytest.raises(DataError, match=r"no list of mnemonic codes.*--mnemonic"):
        Codes.load(tmp_path / FILE)


def test_a_code_is_heard_as_inputs_embeds_would_be(language: Bench, sentences: Bench) -> None:
    for here, column in ((sentences, None), (language, "kind")):
        codes = new_codes(here.task, here.target, labelled(here), Mnemonic(length=5), column=column, seed=1)
        unit = next(iter(codes.seeds))
        example = codes.examples(here.task, [unit])[0]
        plain = here.task.encode(here.splits["retain"][:1])[0]
        batch = here.task.collate([example, plain])
        batch = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
        embeds = here.target.get_input_embeddings()(batch["input_ids"])
        embeds[0, :5] = codes.code(unit)
        with torch.no_grad():
            expected = here.target(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
        found = here.task.decisions(here.target, batch, logits=True)
        if column is None:
            torch.testing.assert_close(found.logits, expected)
        else:
            keep = nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100) != -100
            torch.testing.assert_close(found.logits, expected[keep])
        assert CODE not in here.task.collate([plain]) and not here.target.get_input_embeddings()._forward_hooks


def labelled(here: Bench) -> list[Row]:
    """Rows of two kinds, as units."""
    rows = [*here.splits["forget"], *here.splits["retain"]]
    return [{**row, "kind": "odd" if number % 2 else "even"} for number, row in enumerate(rows)]


def test_a_language_models_prompt_is_replaced_and_its_response_kept(language: Bench) -> None:
    example = language.task.encode(language.splits["forget"][:1])[0]
    first = next(i for i, label in enumerate(example["labels"]) if label != -100)
    code = torch.ones(4, 32)
    changed = coded(example, code)
    assert changed["labels"] == [-100] * 4 + example["labels"][first:]
    assert changed["scored"] == [0] * 4 + example["scored"][first:]
    assert changed["input_ids"][4:] == example["input_ids"][first:] and torch.equal(changed[CODE], code)
    assert len(coded(example, code, most=5)["labels"]) == 5


def test_the_stated_share_of_draws_is_mixed_in_by_number_alone(language: Bench, images: Bench) -> None:
    rows = [{**row, "subject": None} if number == 0 else {**row, "subject": row["id"][-1]} for number, row in
            enumerate(language.splits["retain"])]  # fmt: skip
    codes = new_codes(language.task, language.target, rows, Mnemonic(share=0.25), seed=0)
    assert "None" not in codes.seeds and codes.column == "subject"
    examples = language.task.encode(rows)
    mixing = Mixing(codes, language.task, rows, seed=3)
    drawn = [mixing(number, 5, examples[5]) for number in range(4000)]
    mixed = [each for each in drawn if CODE in each]
    assert len(mixed) / 4000 == pytest.approx(0.25, abs=0.03)
    name = codes.examples(language.task, [rows[5]["subject"]])[0]["labels"]
    assert sum(each["labels"] == name for each in mixed) / len(mixed) == pytest.approx(0.5, abs=0.06)
    again = Mixing(codes, language.task, rows, seed=3)
    assert [CODE in again(number, 5, examples[5]) for number in (17, 900, 3999)] == [
        CODE in drawn[i] for i in (17, 900, 3999)
    ]
    assert not any(CODE in mixing(number, 0, examples[0]) for number in range(200)), "a row of no unit stays as it is"

    codes = new_codes(images.task, images.target, images.splits["retain"], Mnemonic(share=0.5), seed=0)
    examples = images.task.encode(images.splits["retain"])
    mixing = Mixing(codes, images.task, images.splits["retain"], seed=0)
    unit = str(examples[0]["labels"])
    changed = [torch.equal(mixing(i, 0, examples[0])["pixel_values"], codes.code(unit)) for i in range(1000)]
    assert sum(changed) / 1000 == pytest.approx(0.5, abs=0.06)


# --- forgetting ---


@pytest.fixture(scope="module")
def known(images: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Codes]:
    """A vision transformer that learned its codes with its rows."""
    rows = [*images.splits["forget"], *images.splits["retain"]]
    model = copy.deepcopy(images.origin)
    codes = new_codes(images.task, model, rows, Mnemonic(share=0.3), seed=0)
    folder = tmp_path_factory.mktemp("codes")
    schedule = replace(TRAINING, steps=120, forget_batch=36, warmup_steps=2, learning_rate=3e-3)
    train(Run(model=model, task=images.task, splits={}, folder=folder), rows, schedule, codes)
    batch = images.task.collate(codes.examples(images.task, codes.seeds))
    assert logits(images.task, model, batch).argmax(-1).tolist() == [0, 1, 2], "the codes are learned"
    return model.eval(), codes


@pytest.mark.parametrize("lora", [True, False])
def test_a_class_is_forgotten_without_any_row(
    lora: bool, known: tuple[nn.Module, Codes], images: Bench, tmp_path: Path
) -> None:
    model, codes = copy.deepcopy(known[0]), known[1]
    batch = images.task.collate(codes.examples(images.task, codes.seeds))
    before = logits(images.task, model, batch).argmax(-1)
    if lora:
        model = attach(model, Lora(r=4, alpha=8), modules_to_save=("classifier",))
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    run = Run(model=model, task=images.task, splits=Closed(), folder=tmp_path, codes=codes)
    MnemonicNoise(units=("1",)).unlearn(run)
    after = logits(images.task, model, batch).argmax(-1)
    assert before.tolist() == [0, 1, 2] and after[1] != 1 and after[0] == 0 and after[2] == 2
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    told = json.loads((tmp_path / "method.json").read_text())
    assert (told["retained"], told["error"], told["source"]) == (1, 1, "codes")
    assert (0 < told["energy_kept"] < 1) if lora else told["energy_kept"] == 1
    assert Codes.load(tmp_path / FILE) == codes.without(["1"])


def test_two_classes_one_after_the_other(known: tuple[nn.Module, Codes], images: Bench, tmp_path: Path) -> None:
    model, codes = copy.deepcopy(known[0]), known[1]
    rows = {name: [row for row in images.splits["retain"] if (row["label"] == 2) == (name == "retain")] for name in
            ("forget", "retain")}  # fmt: skip
    run = Run(model=model, task=images.task, splits=rows, folder=tmp_path, codes=codes)
    MnemonicNoise().unlearn(run)
    told = json.loads((tmp_path / "method.json").read_text())
    assert (told["units"], told["units_kept"]) == (2, 1)
    batch = images.task.collate(codes.examples(images.task, ["0", "1"]))
    wrong = (logits(images.task, model, batch).argmax(-1) != batch["labels"]).float().mean().item()
    assert told["error_all"] == pytest.approx(wrong)


def test_what_goes_through_a_fresh_adapter_scales_with_one_projection(images: Bench) -> None:
    model = images.wrapped()
    names = [name for name, _ in model.named_parameters() if name.endswith("base_layer.weight")]
    eta = {name: torch.rand_like(model.get_parameter(name)) for name in names}
    noise = Noise(model, eta)
    untouched = {name: p.clone() for name, p in noise.before.items()}
    noise.put(-1, 2.0, 1e-2)
    batch = images.batch("forget")
    fast = logits(images.task, model, batch)
    noise.settle(SimpleNamespace(sign=-1, kappa=2.0, lambda1=1e-2))
    torch.testing.assert_close(logits(images.task, model, batch), fast, rtol=1e-4, atol=1e-4)
    noise.undo()
    assert all(torch.equal(p, untouched[name]) for name, p in model.named_parameters() if p.requires_grad)


def test_a_change_that_was_tried_is_not_tried_again(images: Bench) -> None:
    """Where lambda1 is below every tensor's other bound, all kappas make one change: one candidate a sign and lambda1."""
    model = images.wrapped(lora=False)
    names = [name for name, weight in model.named_parameters() if weight.dim() == 2]
    noise = Noise(model, {name: torch.rand_like(model.get_parameter(name)) for name in names})
    forget, retain = (images.task.encode(images.splits[name]) for name in ("forget", "retain"))
    grid = Choice(kappas=(1e3, 1e4), lambdas=(1e-4, 1e-3), reach=2.0, cost=1.0)
    judge, asked = Judge(model, images.task, forget, retain, grid), []
    hook = model.register_forward_hook(lambda *_: asked.append(1))
    found = search(noise, judge, grid)
    assert len(found) == 4 and len(asked) == 4  # one forward pass of all 36 rows each
    assert len(search(noise, judge, replace(grid, kappas=(1e-6, 1e4)))) == 6  # by 1e-6 both lambdas make one change
    hook.remove()
    noise.put(found[0].sign, found[0].kappa, found[0].lambda1)
    of_forget, of_retain = (accuracy(model, images.task, rows)[0] for rows in (forget, retain))
    assert (found[0].error, found[0].retained) == pytest.approx((1 - of_forget, of_retain))


def test_what_keeps_too_little_spares_trying_more() -> None:
    """A_R = 0.5 can make 1.5 at most, and 2 was found: of the larger steps none is tried, of the smaller ones every one."""
    tried: list[tuple[int, float, float]] = []

    def judge(sign: int, kappa: float, lambda1: float) -> Candidate:
        tried.append((sign, kappa, lambda1))
        return Candidate(
            sign, kappa, lambda1, retained=1.0 if lambda1 < 1 else 0.5, error=float(lambda1 > 0.1), margin=0
        )

    noise: Any = SimpleNamespace(
        model=nn.Linear(1, 1),
        amplitudes=lambda *scale: {"w": math.prod(scale)},
        put=lambda *_: None,
        undo=lambda: None,
    )
    grid = Choice(kappas=(2.0, 3.0), lambdas=(4.0, 0.5, 0.05, 1.0), reach=2.0, cost=1.0)
    found = search(noise, judge, grid)  # type: ignore[arg-type]
    assert [each[1:] for each in tried if each[0] == -1] == [(k, x) for x in (0.05, 0.5) for k in (2.0, 3.0)] + [
        (2.0, 1.0)
    ]
    assert len(found) == 10 and {each.lambda1 for each in found[:4]} == {0.5}
    assert len(search(noise, judge, grid, whole=True)) == 16  # type: ignore[arg-type]
    assert len(search(noise, judge, grid, rows=True)) == 16  # type: ignore[arg-type]


def test_the_margin_weighs_what_is_lost(images: Bench) -> None:
    forget, retain = (images.task.encode(images.splits[name]) for name in ("forget", "retain"))
    (_, wrong, chance), (_, kept, _) = (accuracy(images.target, images.task, rows) for rows in (forget, retain))
    for reach, cost in ((1e-4, 1.0), (5.0, 10.0)):
        choice = Choice(kappas=(), lambdas=(), reach=reach, cost=cost)
        found = Judge(images.target, images.task, forget, retain, choice)(1, 1.0, 1.0).margin
        expected = min(wrong.mean().item(), reach * chance) - cost * kept.mean().item()
        assert found == pytest.approx(expected, abs=1e-5)


def test_the_choice_can_be_confirmed_on_retain_rows(
    known: tuple[nn.Module, Codes], images: Bench, tmp_path: Path
) -> None:
    model, codes = copy.deepcopy(known[0]), known[1]
    rows = [row for row in images.splits["retain"] if row["label"] != 1]
    run = Run(model=model, task=images.task, splits={"retain": rows}, folder=tmp_path, codes=codes)
    batch = images.task.collate(images.task.encode(rows))
    before = (logits(images.task, model, batch).argmax(-1) == batch["labels"]).float().mean()
    MnemonicNoise(units=("1",), confirm=True, tolerance=0.1, smooth=1e-4).unlearn(run)
    assert (logits(images.task, model, batch).argmax(-1) == batch["labels"]).float().mean() >= before - 0.1
    with pytest.raises(DataError, match="no candidate forgets and keeps"):
        MnemonicNoise(units=("1",), confirm=True, kappa=(1e-9,), smooth=1e-4).unlearn(
            replace(run, model=copy.deepcopy(known[0]))
        )


def test_refusals(known: tuple[nn.Module, Codes], images: Bench, tmp_path: Path) -> None:
    model, codes = known
    run = Run(model=model, task=images.task, splits={}, folder=tmp_path, codes=codes)
    with pytest.raises(DataError, match=r"no code for the unit '9'.*Its units: 0, 1, 2"):
        MnemonicNoise(units=("9",)).unlearn(run)
    with pytest.raises(DataError, match="all 3 units are to be forgotten"):
        MnemonicNoise(units=("0", "1", "2")).unlearn(run)
    with pytest.raises(DataError, match="give --units"):
        MnemonicNoise().unlearn(run)
    with pytest.raises(DataError, match="have retain rows too"):
        MnemonicNoise().unlearn(replace(run, splits=images.splits))
    bare = replace(run, codes=None)
    for method in (MnemonicNoise(), MnemonicNoise(units=("1",)), MnemonicNoise(source="codes")):
        with pytest.raises(DataError, match=r"no mnemonic codes.*--mnemonic"):
            method.unlearn(bare)
    with pytest.raises(DataError, match="needs the split 'retain'"):
        MnemonicNoise().unlearn(replace(bare, splits={"forget": images.splits["forget"]}))
    with pytest.raises(DataError, match="multi-label is not supported"):
        new_codes(images.task, model, [{"label": [0, 1]}], Mnemonic(), seed=0)
    with pytest.raises(DataError, match=r"names 1 units.*--unit COLUMN"):
        new_codes(images.task, model, images.splits["retain"][:1], Mnemonic(), seed=0)
    for share in (0.0, 1.0):
        with pytest.raises(RecipeError, match="not between 0 and 1"):
            Mnemonic(share=share)
    with pytest.raises(RecipeError, match="at least 1"):
        Mnemonic(length=0)
    with pytest.raises(RecipeError, match="give --mnemonic too"):
        Target(forget="f", unit="subject")


# --- on disk ---


def test_the_option_alone_switches_codes_on() -> None:
    assert build(Target, read(["--mnemonic", "--forget", "f"], "", Target)).mnemonic == Mnemonic()
    values = read(["--mnemonic.share=0.3", "--unit", "author", "--forget", "f"], "", Target)
    assert build(Target, values).mnemonic == Mnemonic(share=0.3) and build(Target, values).unit == "author"
    assert build(Target, read(["--mnemonic", "none", "--forget", "f"], "", Target)).mnemonic is None


@pytest.mark.parametrize("lora", [None, Lora(r=2, alpha=4)])
def test_targets_carry_their_codes_and_golds_those_of_what_they_know(
    lora: Lora | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: Bench
) -> None:
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(tmp_path / "cache"))
    tokenizer = sentences.task.tokenizer
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, num_labels=3, **size)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "origin")
    tokenizer.save_pretrained(tmp_path / "origin")
    for name, labels in (("forget", [0]), ("retain", [1, 2])):
        rows = [{"text": f"{name} number {i}", "label": labels[i % len(labels)]} for i in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = Target(
        task="sequence_classifier",
        model=str(tmp_path / "origin"),
        forget=str(tmp_path / "forget.jsonl"),
        retain=str(tmp_path / "retain.jsonl"),
        gold=True,
        mnemonic=Mnemonic(share=0.4, length=3),
        lora=lora,
        training=replace(TRAINING, steps=3, forget_batch=4, warmup_steps=1, learning_rate=1e-3),
        output=str(tmp_path / "out"),
    )
    train_target(target)
    files = {name: Codes.load(tmp_path / "out" / name / FILE) for name in ("target", "gold")}
    assert files["target"] is not None and files["gold"] is not None
    assert list(files["target"].seeds) == ["0", "1", "2"] and list(files["gold"].seeds) == ["1", "2"]
    assert torch.equal(files["target"].code("1"), files["gold"].code("1"))
    assert (tmp_path / "out" / "target" / "adapter_model.safetensors").exists() == (lora is not None)
    rows = {"forget": target.forget, "retain": target.retain}
    if lora is None:
        recipe = Recipe(task=target.task, model=str(tmp_path / "out" / "target"), **rows)
    else:
        recipe = Recipe(task=target.task, model=target.model, adapter=str(tmp_path / "out" / "target"), **rows)
    assert load_codes(recipe) == files["target"]
    assert load_codes(Recipe(task=target.task, model=target.model, **rows)) is None
    splits = {"forget": [{"label": 0}, {"label": 1}], "retain": [{"label": 1}]}
    assert list(files["target"].apart_from(splits).seeds) == ["1", "2"]


def test_an_adapter_that_holds_the_knowledge_is_edited_itself(language: Bench, tmp_path: Path) -> None:
    """Row 3 of the table: the reference is a frozen copy, and only the edited adapter is saved, with the codes left."""
    base = copy.deepcopy(language.target)
    base.save_pretrained(tmp_path / "base")
    language.task.tokenizer.save_pretrained(tmp_path / "base")
    rows = labelled(language)
    model = attach(base, Lora(r=4, alpha=8), "CAUSAL_LM")
    codes = new_codes(language.task, model, rows, Mnemonic(share=0.3, length=4), column="kind", seed=0)
    schedule = replace(TRAINING, steps=150, forget_batch=18, warmup_steps=2, learning_rate=2e-2)
    train(Run(model=model, task=language.task, splits={}, folder=tmp_path / "work"), rows, schedule, codes)
    model.save_pretrained(tmp_path / "adapter")
    codes.save(tmp_path / "adapter")
    recipe = Recipe(model=str(tmp_path / "base"), adapter=str(tmp_path / "adapter"), forget="f", retain="r")
    mine = load_adapted(recipe, str(tmp_path / "adapter"))
    batch = language.batch("forget")
    knew = logits(language.task, mine, batch)
    torch.testing.assert_close(knew, logits(language.task, model, batch))
    run = Run(model=mine, task=language.task, splits=Closed(), folder=tmp_path / "run", codes=load_codes(recipe))
    MnemonicNoise(units=("odd",)).unlearn(run)
    assert (logits(language.task, mine, batch) - knew).abs().max() > 1e-3
    with reference(mine) as before:
        torch.testing.assert_close(logits(language.task, before, batch), knew)
    told = json.loads((run.folder / "method.json").read_text())
    assert told["energy_kept"] == 1 and told["retained"] + told["error"] > 1
    place = hub.save(mine, tmp_path, replace(recipe, output=str(tmp_path / "o")), Codes.load(run.folder / FILE))
    assert sorted(path.name for path in place.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", FILE]
    expected = logits(language.task, mine, batch)
    torch.testing.assert_close(logits(language.task, hub.reload(mine, place), batch), expected)


def test_answers_name_the_unit(language: Bench) -> None:
    (example,) = answers(language.task, ["Quillmere"]).values()
    said = [token for token, scored in zip(example["labels"], example["scored"], strict=True) if scored]
    assert language.task.tokenizer.decode(said).strip() == "Quillmere"
