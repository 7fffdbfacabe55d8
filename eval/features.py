"""Feature unlearning beside gold and a random network: coloured Fashion-MNIST, and gendered words in a task about trades.

    python eval/features.py --data DIR                                   everything, seeds 0 1 2
    python eval/features.py --kinds text --ways annotated --seeds 0      a part of it

colour   Fashion-MNIST on a coloured background that goes with the class nine times of ten (Bahng et al., 2020,
         arXiv:1910.02806, paint the background too); gold is trained with the colours shuffled
text     sentences about people at work, which trade is it; he or she goes with the trade nine times of ten; with the sentences
         of Winogender about four of the trades.  A text classifier, and a causal LM that answers
         clear_accuracy: on sentences whose words fit one trade; in the others, two in five, they fit two, and nothing tells which
ways     annotated: feature_adversarial with the annotations.  activation: feature_activation, the layer's units grouped by
         eigengap, the groups chosen and the rows' values told by a handful of examples; annotations only measure

Everything trained and measured stays in --output and is found again.  Writes features.md, features.json and groups-*.png.
"""

import csv
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.trainer_utils import set_seed

from llm_unlearn import cli, options
from llm_unlearn.concepts.groups import discover
from llm_unlearn.data.annotations import COLUMN, TWIN, annotations
from llm_unlearn.features import embedded, picture
from llm_unlearn.features.measured import measure
from llm_unlearn.features.request import GATE, PICTURES
from llm_unlearn.files import read_json, write_json, write_text
from llm_unlearn.fresh import new_llama
from llm_unlearn.fresh_classifiers import for_pictures, new_bert
from llm_unlearn.judging import said
from llm_unlearn.loading import PEFT_TASKS
from llm_unlearn.lora import Lora, attach
from llm_unlearn.method import Method
from llm_unlearn.methods.feature_activation import FeatureActivation
from llm_unlearn.methods.feature_adversarial import FeatureAdversarial
from llm_unlearn.papers import corpora
from llm_unlearn.run import Run
from llm_unlearn.schedule import Schedule
from llm_unlearn.settings import build
from llm_unlearn.tasks import CausalLM, ImageClassifier, Task
from llm_unlearn.train import train

Row = dict[str, Any]
COLOURS = [
    (230, 60, 60), (60, 200, 80), (70, 90, 240), (230, 210, 60), (200, 70, 220),
    (60, 210, 220), (240, 140, 40), (150, 90, 40), (120, 120, 130), (20, 20, 60),
]  # fmt: skip
TRAINED, MEASURED = 4000, 1000  # pictures
TEXTS = 2400
SIZE = replace(embedded.SIZE, words=1200)
LAYERS = {"colour": "resnet.embedder", "text": "bert.encoder.layer.0", "lm": "model.embed_tokens"}
PHRASES = (
    " he",
    " she",
    " his",
    " her",
    "Mary",
    "John",
    " Anna",
    " Peter",
)  # a blank is part of a word inside a sentence
OCCUPATIONS = ("nurse", "surgeon", "secretary", "manager")  # of Winogender that are among the embedded trades
TABLE = ("task_accuracy", "clear_accuracy", "counterfactual_gap", "winogender_gap", "equal_opportunity")


@dataclass(frozen=True, kw_only=True)
class Features:
    """What to run."""

    data: str | None = None  # the folder of the data sets; LLM_UNLEARN_DATA without it
    kinds: tuple[str, ...] = ("colour", "text", "lm")
    ways: tuple[str, ...] = ("annotated", "activation")
    seeds: tuple[int, ...] = (0, 1, 2)
    sentences: int = 600  # measured; what is right of those that fit two trades is a coin flip each
    output: str = "outputs/features"


@dataclass(frozen=True)
class Setting:
    """One kind at one seed: rows, what reads them, a model to begin with, and examples of the feature."""

    task: Task
    train: list[Row]
    gold: list[Row]
    test: list[Row]
    examples: list[Row]
    pairs: list[tuple[Row, Row]]  # real sentences that differ in the feature alone
    new: Callable[[], Any]
    schedule: Schedule


def coloured(place: Path, seed: int) -> Setting:
    """Return Fashion-MNIST before coloured backgrounds."""
    draw = np.random.default_rng([seed, 7])

    def made(split: str, count: int) -> tuple[list[Row], list[Row]]:
        pixels, labels = corpora._fashion(place, split)
        chosen = draw.permutation(len(labels))[:count]
        tied: list[Row] = []
        free: list[Row] = []
        for number, grey in zip(chosen.tolist(), (255 * pixels(chosen)[:, 0]).astype(np.uint8), strict=True):
            label, other = int(labels[number]), int(draw.integers(10))
            for rows, colour in ((tied, label if draw.random() < 0.9 else other), (free, other)):
                twin = (colour + int(draw.integers(1, 10))) % 10
                rows.append({"id": f"{split}{number}", "image": embedded.coloured(grey, COLOURS[colour]), "label": label,
                             COLUMN: colour, TWIN: embedded.coloured(grey, COLOURS[twin])})  # fmt: skip
        return tied, free

    known, shuffled = made("train", TRAINED)
    _, unseen = made("test", MEASURED)
    _, pixels = for_pictures(known, seed)
    blank = np.zeros((28, 28), np.uint8)
    examples = [{"image": embedded.coloured(blank, colour), "label": 0} for colour in COLOURS]
    schedule = Schedule(steps=500, forget_batch=64, learning_rate=5e-3, decay="cosine")
    task = ImageClassifier(processor=pixels, classes=10, channels=3)
    return Setting(task, known, shuffled, unseen, examples, [], lambda: for_pictures(known, seed)[0], schedule)


def sentences(place: Path, seed: int, kind: str, measured: int = 600) -> Setting:
    """Return the embedded sentences, those of Winogender about the same trades among them."""
    draw, jobs = np.random.default_rng([seed, 8]), list(embedded.JOBS)
    found = winogender(place)

    def of_trades(tied: bool) -> list[Row]:
        out: list[Row] = []
        for occupation, both in (each for each in found if each[0] in OCCUPATIONS):
            usual = ("female", "male") if occupation in ("nurse", "secretary") else ("male", "female")
            gender, other = usual if draw.random() < (0.9 if tied else 0.5) else usual[::-1]
            row = {"id": f"w{len(out)}", "text": both[gender], "label": jobs.index(occupation)}
            out.append({**row, COLUMN: gender, TWIN: both[other]})
        return out

    def asked(rows: list[Row]) -> list[Row]:
        if kind == "text":
            return rows
        end = embedded.ASKED
        return [
            {"prompt": f"{row['text']} {end}", "response": jobs[row["label"]], **{key: row[key] for key in row if key in ("id", COLUMN)},
             **({TWIN: f"{row[TWIN]} {end}"} if TWIN in row else {})}
            for row in rows
        ]  # fmt: skip

    known = embedded.sentences(TEXTS, 2 * seed, tied=0.9) + of_trades(True)
    shuffled = embedded.sentences(TEXTS, 2 * seed, tied=None) + of_trades(False)
    unseen = embedded.sentences(measured, 2 * seed + 1, tied=None)
    texts = [{"text": text, "label": 0} for _, both in found for text in both.values()]
    task_name: Any = "sequence_classifier" if kind == "text" else "causal_lm"
    words = asked(known) + asked([{**row, TWIN: row["text"]} for row in texts])
    read = embedded.reader(task_name, words, SIZE)
    pairs = [
        (asked([{"text": both["female"], "label": 0}])[0], asked([{"text": both["male"], "label": 0}])[0])
        for _, both in found
    ]
    examples = asked([{"text": phrase, "label": 0} for phrase in PHRASES])

    def new() -> Any:
        if kind == "lm":
            return new_llama(SIZE, SIZE.words, seed)
        return new_bert(6, SIZE.words, context=SIZE.context, width=64, layers=2, seed=seed)

    schedule = embedded.SCHEDULES[task_name]
    return Setting(read, asked(known), asked(shuffled), asked(unseen), examples, pairs, new, schedule)


def winogender(place: Path) -> list[tuple[str, dict[str, str]]]:
    """Return (occupation, sentence by gender) of Winogender (Rudinger et al., 2018), the occupation hidden."""
    out: dict[str, tuple[str, dict[str, str]]] = {}
    with (place / "winogender" / "all_sentences.tsv").open(encoding="utf-8") as file:
        for name, sentence in list(csv.reader(file, delimiter="\t"))[1:]:
            occupation, *rest, gender, _ = name.split(".")
            if gender in embedded.SAID:
                key = ".".join([occupation, *rest])
                hidden = sentence.replace(occupation, "worker").replace(occupation.capitalize(), "Worker")
                out.setdefault(key, (occupation, {}))[1][gender] = hidden
    return [each for each in out.values() if len(each[1]) == 2]


def real_gap(model: nn.Module, setting: Setting) -> float:
    """Return the mean total variation between what is said of a sentence and of its twin, over the six trades."""
    jobs, total = list(embedded.JOBS), torch.zeros(len(setting.pairs))
    for number, job in enumerate(jobs):
        aim = {"response": job} if isinstance(setting.task, CausalLM) else {"label": number}
        one, two = (said(model, setting.task, setting.task.encode([{**pair[side], **aim} for pair in setting.pairs]))[0]
                    for side in (0, 1))  # fmt: skip
        total += 0.5 * (one - two).abs()
    return float(total.mean())


def figures_of(model: nn.Module, setting: Setting, seed: int) -> dict[str, float]:
    """Return every figure of one model."""
    found = measure(model, setting.task, setting.test, annotations(setting.test), seed=seed)
    out = {name: value for name in found.names if (value := found.value(name)) is not None}
    if not setting.pairs:
        return out
    only = [does for job in embedded.JOBS.values() for does in job]
    clear = [row for row in setting.test if any(does in str(row.get("text") or row["prompt"]) for does in only)]
    _, right = said(model, setting.task, setting.task.encode(clear))
    return out | {"clear_accuracy": float(right.double().mean()), "winogender_gap": real_gap(model, setting)}


def trained(setting: Setting, rows: Sequence[Row], folder: Path, seed: int) -> Any:
    """Return a model trained on the rows, found in the folder or made and kept there."""
    model = setting.new()
    if not (folder / "config.json").exists():
        fresh = setting.new()
        set_seed(seed)
        train(
            Run(model=fresh, task=setting.task, splits={}, folder=folder / "work", seed=seed), rows, setting.schedule
        )
        shutil.rmtree(folder / "work", ignore_errors=True)
        fresh.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


def unlearned(
    way: str, kind: str, model: nn.Module, setting: Setting, folder: Path, seed: int
) -> tuple[nn.Module, Any]:
    """Return the model after unlearning, and what the method told of itself."""
    own = PICTURES if kind == "colour" else {}
    method: Method = build(FeatureActivation, {**own, "layer": LAYERS[kind]})
    if way == "annotated":
        method = build(FeatureAdversarial, {**own, **GATE} if own else {})
    set_seed(seed)  # of the adapter's first weights, whether the model was trained just now or found
    adapted = attach(model, Lora(), PEFT_TASKS.get(setting.task.name))
    splits = {"annotated": setting.train, "retain": setting.train, "examples": setting.examples}
    work = folder / f"{way}.work"
    shutil.rmtree(work, ignore_errors=True)
    method.unlearn(Run(model=adapted, task=setting.task, splits=splits, folder=work, seed=seed))
    told = read_json(work / "method.json")
    shutil.rmtree(work, ignore_errors=True)
    return adapted.eval(), told


def cell(kind: str, seed: int, asked: Features, place: Path, folder: Path) -> dict[str, Any]:
    """Return the figures of one kind and seed by model, those that are there already taken as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = read_json(folder / f"figures-{asked.sentences}.json") or {}
    missing = [name for name in ("before", "gold", "random", *asked.ways) if name not in record]
    if not missing:
        return record
    setting = coloured(place, seed) if kind == "colour" else sentences(place, seed, kind, asked.sentences)
    for name in missing:
        if name == "random":
            model, told = setting.new().eval(), None
        else:
            rows = setting.gold if name == "gold" else setting.train
            model, told = trained(setting, rows, folder / ("gold" if name == "gold" else "target"), seed), None
            if name == "activation" and not (folder / "groups.png").exists():
                groups = discover(model, setting.task, setting.train[:1000], LAYERS[kind], seed=seed)
                words = (
                    None
                    if kind == "colour"
                    else picture.named_words(groups, model, setting.task, setting.train[:1000])
                )
                picture.draw(folder / "groups.png", groups, setting.train, words)
            if name in asked.ways:
                model, told = unlearned(name, kind, model, setting, folder, seed)
        record[name] = figures_of(model, setting, seed) | ({"told": told} if told else {})
        write_json(folder / f"figures-{asked.sentences}.json", record)
        print(
            kind,
            seed,
            name,
            {key: round(value, 3) for key, value in record[name].items() if key != "told"},
            flush=True,
        )
    return record


def pages(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the tables: a line a model, mean over seeds and standard deviation."""
    out = []
    for kind, cells in records.items():
        probes = [name for name in cells[0]["before"] if name.startswith("feature_probe")]
        names = [name for name in (*TABLE, *probes) if name in cells[0]["before"]]
        head = ["model", *(name.replace("feature_probe ", "probe ").split(".encoder.")[-1] for name in names), "seeds"]
        out += [f"**{kind}**", "", f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
        for model in dict.fromkeys(model for each in cells for model in each):
            having = [each[model] for each in cells if model in each]
            values = [[each[name] for each in having if name in each] for name in names]
            shown = [f"{mean(v):.3f}" + (f" ± {stdev(v):.3f}" if len(v) > 1 else "") if v else "-" for v in values]
            out.append(f"| {' | '.join([model, *shown, str(len(having))])} |")
        out.append("")
    return "\n".join(out)


def main() -> None:
    """Run what is asked for and print the tables."""
    asked = build(Features, options.read(sys.argv[1:], __doc__ or "", Features))
    place, folder = corpora.folder(asked.data), Path(asked.output)
    records: dict[str, list[dict[str, Any]]] = {}
    for seed in asked.seeds:
        for kind in asked.kinds:
            records.setdefault(kind, []).append(cell(kind, seed, asked, place, folder / f"{kind}-{seed}"))
    write_json(folder / "features.json", records)
    write_text(folder / "features.md", pages(records))
    print(pages(records))


if __name__ == "__main__":
    cli.run(main)
