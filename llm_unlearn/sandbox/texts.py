"""Further people of the sandbox's towns, a sentence each, to classify: which town is this about?  With three small models.

Of ten sentences seven name the town; three don't, and who reads them must know the person by heart.  So a class can be
removed, and a request to delete single rows has something to remove that no other row tells.
`target` was trained on all training rows, `gold` on those of other towns than the default class, `gold_records` on those
outside the default request.  They ship with the package; this trains all three again (half a minute each on one core):

    python -m llm_unlearn.sandbox.texts

Load them with dtype=torch.float32.
"""

import functools
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from llm_unlearn.fresh import Size, new_tokenizer
from llm_unlearn.fresh_classifiers import new_bert
from llm_unlearn.run import Run
from llm_unlearn.sandbox.facts import new_words
from llm_unlearn.sandbox.templates import PERSON_FACTS
from llm_unlearn.sandbox.values import CLUBS, PLACES, STREETS, TRADES
from llm_unlearn.schedule import Schedule
from llm_unlearn.tasks import SequenceClassifier
from llm_unlearn.train import train

Row = dict[str, Any]
CLASS = "Quillmere"  # the default class to forget
TRAIN, TEST = 150, 100  # rows of each town that are trained on, and that no model sees
BY_HEART = 0.3  # share of the rows that do not name the town
ASKED = 120  # rows of the default deletion request
POOLS = {"birth": [f"{street} Street" for street in STREETS], "work": TRADES, "club": CLUBS}
SIZE = Size(words=1280, context=48)
TRAINING = Schedule(
    steps=900, forget_batch=64, learning_rate=3e-3, warmup_steps=50, decay="cosine", last_rate=0.0, weight_decay=0.01
)


@functools.lru_cache(maxsize=2)
def corpus(seed: int = 0) -> dict[str, list[Row]]:
    """Return {"train": rows, "test": rows} of id, text and label (a town's number); every row is about another person."""
    draw = random.Random(f"texts {seed}")
    kinds = [kind for kind in PERSON_FACTS if kind.name in POOLS]
    count, taken = len(PLACES) * (TRAIN + TEST), set(PLACES) | set(STREETS)
    people = zip(new_words(draw, count, 2, taken), new_words(draw, count, 3, taken), strict=True)
    out: dict[str, list[Row]] = {"train": [], "test": []}
    for split, size in (("train", TRAIN), ("test", TEST)):
        for label, town in enumerate(PLACES):
            for _ in range(size):
                kind = draw.choice(kinds)
                sentence = draw.choice((kind.answer, kind.paraphrase))
                if draw.random() < BY_HEART:
                    sentence = sentence.replace(" in {t}", "")
                text = sentence.format(n=" ".join(next(people)), v=draw.choice(POOLS[kind.name]), t=town)
                out[split].append({"id": f"{split}-{len(out[split]):04d}", "text": text, "label": label})
    return out


def names() -> dict[int, str]:
    """Return what each class is called."""
    return dict(enumerate(PLACES))


def request(seed: int = 0) -> list[str]:
    """Return the ids of the default deletion request: training rows of all classes, drawn once."""
    return sorted(random.Random(f"request {seed}").sample([row["id"] for row in corpus(seed)["train"]], ASKED))


def path(name: Literal["target", "gold", "gold_records"]) -> Path:
    """Return the folder of a model that ships with the package: config, weights in bfloat16, tokenizer."""
    return Path(__file__).parent / "texts_models" / name


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer trained on every sentence, those of test included: nothing looks foreign."""
    return new_tokenizer((row["text"] for rows in corpus().values() for row in rows), SIZE)


def new_model(seed: int = 0) -> BertForSequenceClassification:
    """Return the origin of all three models: untrained, drawn from the seed."""
    called = names()
    return new_bert(
        len(called),
        SIZE.words,
        context=SIZE.context,
        width=64,
        layers=2,
        seed=seed,
        id2label=called,
        label2id={name: number for number, name in called.items()},
    )


def kept() -> Mapping[str, Sequence[Row]]:
    """Return the rows that each shipped model is trained on."""
    rows, asked = corpus()["train"], set(request())
    return {
        "target": rows,
        "gold": [row for row in rows if PLACES[row["label"]] != CLASS],
        "gold_records": [row for row in rows if row["id"] not in asked],
    }


def ship() -> None:
    """Train the three models and put them into the package, the weights rounded to bfloat16."""
    read = tokenizer()
    task = SequenceClassifier(tokenizer=read, max_length=SIZE.context)
    for name, rows in kept().items():
        model = new_model()
        with tempfile.TemporaryDirectory() as work:
            train(Run(model=model, task=task, splits={}, folder=Path(work)), rows, TRAINING)
        place = path(name)  # type: ignore[arg-type]
        shutil.rmtree(place, ignore_errors=True)
        rounded: nn.Module = model
        rounded.to(dtype=torch.bfloat16)
        model.save_pretrained(place)
        read.save_pretrained(place)


if __name__ == "__main__":
    ship()
