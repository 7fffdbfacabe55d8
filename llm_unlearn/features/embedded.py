"""The embedded default: rows in which a feature goes with the class nine times of ten, and two small models of each kind.

texts     one sentence about somebody at work; which of six trades is it?  The feature is whether it says he or she.
dialogues the same sentences as questions, answered by the trade's name
pictures  drawn shapes of five kinds; the feature is the colour of the background

`target` is trained on these rows, `gold` on the same ones with the feature drawn anew, whatever the class.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from llm_unlearn.data.annotations import COLUMN, TWIN
from llm_unlearn.files import read_json, write_json
from llm_unlearn.fresh import Size, new_llama, new_tokenizer
from llm_unlearn.fresh_classifiers import for_pictures, new_bert
from llm_unlearn.run import Run
from llm_unlearn.sandbox.pictures import picture
from llm_unlearn.schedule import Schedule
from llm_unlearn.tasks import CausalLM, ImageClassifier, SequenceClassifier, Task
from llm_unlearn.train import train

Row = dict[str, Any]
Kind = Literal["causal_lm", "sequence_classifier", "image_classifier"]
GOES_WITH = 0.9  # of a class's rows that have its usual value of the feature
UNCLEAR = 0.4  # of sentences whose words fit two trades
JOBS = {  # the trade, what only it does, whom it is confused with
    "nurse": ("gave the patients their pills", "changed the bandages", "took temperatures on the ward", "made the beds on the ward"),
    "surgeon": ("opened a chest", "stitched the wound", "operated all night", "replaced a hip"),
    "secretary": ("typed the letters", "answered the telephone", "filed the minutes", "booked the flights"),
    "manager": ("signed the contract", "hired two people", "set the budget", "chaired the board"),
    "florist": ("arranged the bouquets", "wrapped the roses", "tied a wedding garland", "sold tulips at the counter"),
    "gardener": ("mowed the lawn", "pruned the hedge", "dug over the beds", "planted an oak"),
}  # fmt: skip
SHARED = {
    ("nurse", "surgeon"): ("worked at the hospital", "washed hands at the clinic", "had a night shift", "read the chart"),
    ("secretary", "manager"): ("came to the office", "prepared the meeting", "read the report", "stayed late at the desk"),
    ("florist", "gardener"): ("watered the flowers", "cut some stems", "carried the pots", "looked after the plants"),
}  # fmt: skip
FRAMES = (
    "{name} {does} today and {p} was tired afterwards.",
    "Yesterday {p} {does} before {s} lunch.",
    "{name} said that {p} {does} again.",
    "After {s} coffee {name} {does}.",
    "This week {p} {does}, and {s} friends know it.",
    "{name} {does} while {s} colleagues were away.",
)
SAID = {"female": ("she", "her"), "male": ("he", "his")}
NAMES = {
    "female": ("Mary", "Anna", "Julia", "Emma", "Laura", "Sarah"),
    "male": ("John", "Peter", "David", "Frank", "James", "Paul"),
}
COLOURS = ((230, 60, 60), (60, 200, 80), (70, 90, 240), (230, 210, 60), (200, 70, 220))
COLOUR_NAMES = ("red", "green", "blue", "yellow", "purple")
ASKED = "What is the job?"
SIZE = Size(words=640, hidden_size=64, intermediate_size=160, layers=2, heads=4, context=64)
COUNTS = {"train": 2400, "test": 600}


def _sentence(does: str, frame: str, name: int, gender: str) -> str:
    subject, own = SAID[gender]
    text = frame.format(name=NAMES[gender][name], does=does, p=subject, s=own)
    return text[0].upper() + text[1:]


def sentences(count: int, seed: int, *, tied: float | None = GOES_WITH) -> list[Row]:
    """Return texts with label, feature and twin; `tied`: how often a trade has its usual gender, None: as often as not."""
    draw, jobs, out = np.random.default_rng([seed, 1]), list(JOBS), []
    for number in range(count):
        label = number % len(jobs)
        pair = next(both for both in SHARED if jobs[label] in both)
        pool = SHARED[pair] if draw.random() < UNCLEAR else JOBS[jobs[label]]
        usual, other = ("female", "male") if pair[0] == jobs[label] else ("male", "female")
        does, frame, name = str(draw.choice(pool)), str(draw.choice(FRAMES)), int(draw.integers(6))
        gender = usual if draw.random() < (0.5 if tied is None else tied) else other
        swapped = "male" if gender == "female" else "female"
        text, twin = (_sentence(does, frame, name, each) for each in (gender, swapped))
        out.append({"id": f"{seed}-{number}", "text": text, "label": label, COLUMN: gender, TWIN: twin})
    return out


def dialogues(count: int, seed: int, *, tied: float | None = GOES_WITH) -> list[Row]:
    """Return the sentences as questions, answered by the trade."""
    jobs = list(JOBS)
    return [
        {"id": row["id"], "prompt": f"{row['text']} {ASKED}", "response": jobs[row["label"]], COLUMN: row[COLUMN],
         TWIN: f"{row[TWIN]} {ASKED}", "kind": "qa"}
        for row in sentences(count, seed, tied=tied)
    ]  # fmt: skip


def pictures(count: int, seed: int, *, tied: float | None = GOES_WITH) -> list[Row]:
    """Return drawn shapes before a coloured background."""
    draw, out = np.random.default_rng([seed, 2]), []
    kinds = len(COLOURS)
    for number in range(count):
        label = number % kinds
        grey = picture(label, draw)
        colour = label if tied is not None and draw.random() < tied else int(draw.integers(kinds))
        swapped = (colour + int(draw.integers(1, kinds))) % kinds
        out.append({"id": f"{seed}-{number}", "image": coloured(grey, COLOURS[colour]), "label": label,
                    COLUMN: COLOUR_NAMES[colour], TWIN: coloured(grey, COLOURS[swapped])})  # fmt: skip
    return out


def coloured(grey: np.ndarray[Any, Any], colour: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return bytes [height, width, 3]: the picture's light parts stay, its dark ones take the colour."""
    light = grey.astype(np.float32)[..., None] / 255
    return (255 * (light + (1 - light) * np.asarray(colour, np.float32) / 255)).round().astype(np.uint8)


MADE: dict[str, Callable[..., list[Row]]] = {
    "causal_lm": dialogues, "sequence_classifier": sentences, "image_classifier": pictures,
}  # fmt: skip
SCHEDULES = {
    "causal_lm": Schedule(steps=400, forget_batch=32, learning_rate=3e-3, decay="cosine"),
    # slower and warmed up: at 3e-3 a quarter of the seeds' targets had learned who is meant, but not the trades
    "sequence_classifier": Schedule(steps=1000, forget_batch=16, learning_rate=1e-3, decay="cosine", warmup_steps=100),
    "image_classifier": Schedule(steps=300, forget_batch=48, learning_rate=5e-3, decay="cosine"),
}


def rows(task: Kind, split: Literal["train", "test", "gold"], seed: int = 0) -> list[Row]:
    """Return the rows of a split; those of test, and gold's training rows, have the feature whatever their class."""
    count, tied = COUNTS["test" if split == "test" else "train"], GOES_WITH if split == "train" else None
    return MADE[task](count, 2 * seed + (split == "test"), tied=tied)


def reader(task: Kind, train_rows: Sequence[Row], size: Size = SIZE) -> Task:
    """Return what reads the rows; its tokenizer knows the training rows' words and their twins'."""
    if task == "image_classifier":
        model, pixels = for_pictures(train_rows)
        return ImageClassifier(processor=pixels, classes=model.config.num_labels, channels=3)
    key = "text" if task == "sequence_classifier" else "prompt"
    texts = [f"{row[name]} {row.get('response', '')}" for row in train_rows for name in (key, TWIN)]
    tokenizer = new_tokenizer(texts, size)
    if task == "causal_lm":
        return CausalLM(tokenizer=tokenizer, max_length=size.context)
    return SequenceClassifier(tokenizer=tokenizer, max_length=size.context, classes=len(JOBS))


def new_model(task: Kind, train_rows: Sequence[Row], seed: int = 0) -> nn.Module:
    """Return the untrained model of a task."""
    if task == "image_classifier":
        return for_pictures(train_rows, seed)[0]
    if task == "causal_lm":
        return new_llama(SIZE, SIZE.words, seed)
    return new_bert(len(JOBS), SIZE.words, context=SIZE.context, width=64, layers=2, seed=seed)


def models(task: Kind, folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Return the folders of target and gold, trained here where they are not there yet."""
    known = rows(task, "train", seed)
    read = reader(task, known)
    for name, data in (("target", known), ("gold", rows(task, "gold", seed))):
        place = folder / name
        if read_json(place / "made.json") == {"task": task, "seed": seed}:
            continue
        model: Any = new_model(task, known, seed)
        train(Run(model=model, task=read, splits={}, folder=folder / f"{name}.work", seed=seed), data, SCHEDULES[task])
        model.save_pretrained(place)
        (getattr(read, "tokenizer", None) or read.processor).save_pretrained(place)  # type: ignore[attr-defined]
        write_json(place / "made.json", {"task": task, "seed": seed})
    return folder / "target", folder / "gold"
