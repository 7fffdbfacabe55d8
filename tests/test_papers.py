"""The papers' command on data made here: readers, cuts, claims by hand, and one tiny run that is found again."""

import gzip
import importlib.util
import io
import json
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.papers import cells, corpora, models, pages, plan
from llm_unlearn.papers.claims import Case, verdict
from llm_unlearn.papers.plan import ENTRIES, SCENARIOS, Entry, Group, Setup

EVAL = Path(__file__).parents[1] / "eval"
SIDE, TRAIN, TEST = 14, 400, 120


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with small files of the four data sets' formats."""
    import datasets
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    shades = draw.integers(0, 256, (10, SIDE, SIDE))
    for stem, count in (("train", TRAIN), ("t10k", TEST)):
        labels = np.arange(count) % 10
        images = np.clip(shades[labels] + draw.normal(0, 40, (count, SIDE, SIDE)), 0, 255)
        write_idx(folder / f"fashion_mnist/{stem}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"fashion_mnist/{stem}-labels-idx1-ubyte.gz", labels)
    (folder / "cifar10_jpg").mkdir()
    for split in ("train", "test"):
        rows = []
        for number in range(12):
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(kept := io.BytesIO(), "PNG")
            rows.append({"image": {"bytes": kept.getvalue(), "path": None}, "label": number % 10})
        datasets.Dataset.from_list(rows).to_parquet(folder / f"cifar10_jpg/{split}.parquet")
    (folder / "ag_news").mkdir()
    lines = [f'"{1 + i % 4}","Title {i}","about, kind {i % 4}"\n' for i in range(70)]
    (folder / "ag_news/test.csv").write_text("".join(lines))
    (folder / "goemotions").mkdir()
    (folder / "goemotions/labels.txt").write_text("\n".join(f"feeling{i}" for i in range(28)))
    for split in ("train", "test"):
        lines = [f"I feel {i % 28} today\t{i % 28},{(i + 1) % 28}\t{split}{i}\n" for i in range(60)]
        (folder / f"goemotions/{split}.tsv").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def tiny() -> Setup:
    shape = {"widths": (8, 16), "blocks": 1}
    return Setup(
        name="fashion resnet",
        data="fashion",
        model="resnet",
        rows=TRAIN,
        epochs=3,
        learning_rate=1e-2,
        batch=32,
        shape=shape,
    )


@pytest.mark.parametrize(("name", "shape"), [("fashion", (1, SIDE, SIDE)), ("cifar", (3, 8, 8))])
def test_pictures_are_normalised_and_unseen_ones_apart(name: str, shape: tuple[int, ...], data: Path) -> None:
    found = corpora.corpus(name, data, 10, 0)
    pixels = np.stack([row["image"] for row in found.train])
    assert pixels.shape == (10, *shape) and pixels.dtype == np.float32
    assert np.allclose(pixels.mean((0, 2, 3)), 0, atol=1e-4) and np.allclose(pixels.std((0, 2, 3)), 1, atol=1e-3)
    holdout, test = ({row["id"] for row in rows} for rows in (found.holdout, found.test))
    assert holdout and test and not holdout & test
    other = corpora.corpus(name, data, 10, 1)
    assert [row["id"] for row in other.train] != [row["id"] for row in found.train]


def test_texts(data: Path) -> None:
    news = corpora.corpus("ag_news", data, 30, 0)
    assert (len(news.train), len(news.holdout), len(news.test), news.classes) == (30, 10, 10, 4)
    assert all(
        f"kind {row['label']}" in row["text"] for row in news.train
    )  # class, title and description belong together
    feelings = corpora.corpus("goemotions", data, 30, 0)
    assert feelings.multi_label and feelings.classes == 28
    for row in feelings.train:
        said = int(row["text"].split()[2])
        assert [i for i, on in enumerate(row["label"]) if on] == sorted({said, (said + 1) % 28})


def test_bad_files_are_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(corpora.VARIABLE, raising=False)
    with pytest.raises(DataError, match=corpora.VARIABLE):
        corpora.folder(None)
    with pytest.raises(DataError, match="train-images"):
        corpora.corpus("fashion", tmp_path, 10, 0)
    (tmp_path / "fashion_mnist").mkdir()
    whole = (data / "fashion_mnist/train-images-idx3-ubyte.gz").read_bytes()
    raw = gzip.decompress(whole)
    for bad in (whole[:-20], b"nothing", gzip.compress(raw[:-1]), gzip.compress(b"\1" + raw[1:]), gzip.compress(b"")):
        (tmp_path / "fashion_mnist/train-images-idx3-ubyte.gz").write_bytes(bad)
        with pytest.raises(DataError, match="train-images"):
            corpora.corpus("fashion", tmp_path, 10, 0)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_gold_and_retain_never_hold_forget(scenario: plan.Scenario, data: Path) -> None:
    corpus = corpora.corpus("fashion", data, TRAIN, 0)
    found = cells.cut(corpus, scenario)
    forget, retain = ({row["id"] for row in rows} for rows in (found.forget, found.retain))
    assert forget and retain and not forget & retain
    wanted = {"class": TRAIN // 10, "share": round(scenario.size * TRAIN), "rows": scenario.size, "requests": 80}
    assert len(forget) == wanted[scenario.kind]
    if scenario.kind == "class":
        assert {row["label"] for row in found.forget} == {plan.FORGOTTEN_CLASS}
        assert plan.FORGOTTEN_CLASS not in {row["label"] for row in [*found.retain, *found.test]}


def test_every_entry_of_a_method_that_exists_builds() -> None:
    there = [entry for setup in plan.SETUPS for scenario in SCENARIOS for entry in plan.entries_of(setup, scenario)]
    assert {entry.method for entry in there} >= {"nabla_tau", "grad_ascent"}
    for entry in there:
        entry.build()
    names = {scenario.name for scenario in SCENARIOS}
    assert all(set(entry.scenarios) <= names and set(entry.setups) <= set(plan.WHERE) for entry in ENTRIES)


def test_full_keeps_the_plan_and_changes_the_sizes() -> None:
    """The hour of the default leaves out a ViT's smallest and largest shares, and two seeds of what takes longest."""
    small, large = (plan.groups((), (), (0, 1, 2), full) for full in (False, True))
    names = [[(g.setup.name, g.scenario.name, g.seed) for g in groups] for groups in (small, large)]
    more = {(plan.VIT, f"random {percent} %", seed) for percent in (3, 30) for seed in (0, 1, 2)}
    more |= {(plan.RESNET, name, seed) for name in ("256 rows", "5 requests") for seed in (1, 2)}
    assert set(names[1]) - set(names[0]) == more and [each for each in names[1] if each not in more] == names[0]
    sizes = {g.setup.name: g.setup.epochs for g in small}
    assert all(sizes[g.setup.name] < g.setup.epochs for g in large)


def test_resnet20_is_the_published_size() -> None:
    """0.27 M parameters (He et al., sec. 4.2)."""
    model = models.ResNet20(10)
    assert sum(each.numel() for each in model.parameters()) == 269722


def case(**changes: Any) -> Case:
    figures = dict.fromkeys(pages.COLUMNS.values(), 0.5)
    before = {**figures, "test": 0.9}
    after = {**before, **{name: value for name, value in changes.items() if name in figures}}
    given = {name: value for name, value in changes.items() if name not in figures}
    return Case(**{"after": after, "before": before, "gold": before, "time": 0.04, **given})


@pytest.mark.parametrize(
    ("method", "settings", "scenario", "good", "bad"),
    [
        (
            "mnemonic_noise",
            {},
            "class with codes",
            {"forget_test": 0.01, "test": 0.886},
            {"forget_test": 0.011, "test": 0.886},
        ),
        ("mnemonic_noise", {}, "class with codes", {"forget_test": 0.0}, {"forget_test": 0.0, "time": 0.06}),
        (
            "instance_wise",
            {"goal": "misclassify"},
            "16 rows",
            {"forget_train": 0.0, "test": 0.88},
            {"forget_train": 0.0, "test": 0.87},
        ),
        (
            "instance_wise",
            {"goal": "misclassify"},
            "64 rows",
            {"forget_train": 0.0, "test": 0.5},
            {"forget_train": 0.02},
        ),
        ("instance_wise", {"goal": "relabel"}, "16 rows", {"reached": 1.0}, {"reached": 0.5}),
        (
            "nabla_tau",
            {},
            "random 15 %",
            {"test": 0.89, "mia_loss_accuracy": 0.52, "time": 0.3},
            {"mia_loss_accuracy": 0.47},
        ),
        ("nabla_tau", {}, "random 3 %", {}, {"mia_entropy_accuracy": None}),
        (
            "concept_poison",
            {},
            "class",
            {"forget_train": 0.02, "forget_test": 0.0},
            {"forget_train": 0.02, "forget_test": 0.03},
        ),
    ],
)
def test_claims(
    method: str, settings: dict[str, Any], scenario: str, good: dict[str, Any], bad: dict[str, Any]
) -> None:
    entry = Entry(method=method, scenarios=(), setups=(), settings=settings)
    where = next(each for each in SCENARIOS if each.name == scenario)
    assert verdict(entry, where, case(**good)) == "met"
    assert verdict(entry, where, case(**bad)).startswith("missed: ")
    assert verdict(Entry(method="scrub", scenarios=(), setups=()), where, case()) == ""


def test_retraining_takes_the_fewest_epochs_near_the_best() -> None:
    gold = models.Trained(models.ResNet20(10), [0.80, 0.896, 0.89, 0.90], 40.0)
    assert models.retraining_seconds(gold) == 20


def test_spread_and_gap() -> None:
    assert pages.spread([0.1, 0.3], 100) == "20.0 ± 14.1" and pages.spread([0.1], 100) == "10.0"
    assert pages.spread([0.1, None], 100) == "-"
    one, other = ({"figures": dict.fromkeys(cells.ACCURACIES, value)} for value in (0.5, 0.6))
    assert pages.gap(one, other) == pytest.approx(0.1) and pages.gap(one, one) == 0


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all runs here: the target is trained once."""
    return tmp_path_factory.mktemp("kept")


def small(setup: Setup, scenario: str, method: str, **settings: Any) -> Group:
    entry = next(each for each in ENTRIES if each.method == method)
    found = next(each for each in SCENARIOS if each.name == scenario)
    return Group(
        setup=setup, scenario=found, seed=0, entries=[replace(entry, settings={**entry.settings, **settings})]
    )


def test_a_group_is_measured_once_and_found_again(data: Path, kept: Path, tiny: Setup) -> None:
    group = small(tiny, "class", "nabla_tau", training={"forget_batch": 16, "steps": 6, "learning_rate": 1e-3})
    cells.run_group(group, data, kept)
    (runs,) = pages.scenarios([group], kept)
    found = runs[0][1]
    assert list(found) == ["before", "gold", "nabla_tau"] and not cells.missing(kept, group)
    assert found["gold"]["figures"]["forget_test"] == 0 and found["before"]["figures"]["forget_test"] > 0.5
    assert found["gold"]["figures"]["js_divergence"] == 0 < found["before"]["figures"]["js_divergence"]
    assert len(found["gold"]["accuracy_by_epoch"]) == tiny.epochs and found["nabla_tau"]["seconds"] > 0
    times = {path: path.stat().st_mtime_ns for path in (kept / "cells").iterdir()}
    cells.run_group(group, data, kept)
    assert times == {path: path.stat().st_mtime_ns for path in (kept / "cells").iterdir()}
    assert cells.missing(kept, small(tiny, "class", "nabla_tau", two_sided=True)) == ["nabla_tau"]
    assert len(list((kept / "models").iterdir())) == 2 and not list((kept / "work").iterdir())
    assert "| gold |" in pages.table(runs) and "training.steps=6" in pages.table(runs)
    assert pages.picture([runs, runs]).size[0] > 1500


def test_requests_follow_one_another(data: Path, kept: Path, tiny: Setup) -> None:
    group = small(tiny, "5 requests", "grad_ascent", training={"forget_batch": 16, "steps": 3, "learning_rate": 1e-2})
    cells.run_group(group, data, kept)
    (runs,) = pages.scenarios([group], kept)
    by_request = runs[0][1]["grad_ascent plain"]["forget_by_request"]
    assert [len(each) for each in by_request] == [1, 2, 3, 4, 5]
    assert "after the last one" in pages.page([runs])


def test_a_later_request_is_told_the_earlier_rows(
    data: Path, kept: Path, tiny: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One adapter goes on through all of them: switched off, it is the model before the first."""
    seen: list[tuple[Any, list[str], list[str]]] = []

    class Spy:
        def unlearn(self, run: Any) -> None:
            ids = [[row["id"] for row in run.splits.get(name, ())] for name in ("forget", "forgotten")]
            seen.append((run.model, *ids))

    group = small(tiny, "5 requests", "grad_ascent")
    bench = cells.Bench(group, data, kept)
    monkeypatch.setattr(Entry, "build", lambda self: Spy())
    bench.unlearned(group.entries[0])
    models_, new, earlier = zip(*seen, strict=True)
    assert len(seen) == 5 and all(model is models_[0] for model in models_)
    assert [len(each) for each in earlier] == [0, 16, 32, 48, 64] and earlier[2] == [*new[0], *new[1]]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("papers_script", EVAL / "papers.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules["papers_script"] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def test_the_command(data: Path, tmp_path: Path, tiny: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its work done in this process: workers would read the plan that is not tiny."""
    command = script()
    group = small(tiny, "class", "nabla_tau", training={"forget_batch": 16, "steps": 2, "learning_rate": 1e-3})
    monkeypatch.setattr(command.plan, "groups", lambda *_: [group])
    monkeypatch.setattr(
        command, "each", lambda work, groups, data, folder, jobs, title: [work(one, data, folder) for one in groups]
    )
    monkeypatch.setattr(sys, "argv", ["papers.py", "--data", str(data), "--output", str(tmp_path), "--only", "class"])
    command.main()
    assert "nabla_tau" in (tmp_path / "papers.md").read_text() and (tmp_path / "papers.png").stat().st_size > 1000
    written = json.loads((tmp_path / "papers.json").read_text())
    assert written["fashion resnet"]["class"]["nabla_tau"]["0"]["figures"]["test"] > 0
    monkeypatch.setattr(sys, "argv", ["papers.py", "--only", "clas"])
    with pytest.raises(RecipeError, match="class"):
        command.main()


def test_no_model_is_trained_twice(tiny: Setup) -> None:
    names = ("class", "random 3 %", "16 rows", "5 requests")
    groups = [
        Group(setup=tiny, scenario=scenario, seed=seed, entries=())
        for scenario in SCENARIOS
        if scenario.name in names
        for seed in (0, 1)
    ]
    targets, golds = script().models_of(groups)
    assert [group.seed for group in targets] == [0, 1]
    assert len(golds) == 6  # requests and single rows share one


@pytest.mark.parametrize("scenario", [each for each in SCENARIOS if each.gold == "rows"], ids=lambda each: each.name)
def test_scenarios_that_share_a_gold_keep_the_same_rows(scenario: plan.Scenario, data: Path) -> None:
    corpus = corpora.corpus("fashion", data, TRAIN, 0)
    assert [row["id"] for row in cells.cut(corpus, scenario).retain] == [row["id"] for row in corpus.train[256:]]
