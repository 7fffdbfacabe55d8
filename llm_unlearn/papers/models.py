"""Targets and golds of the papers' command: small classifiers, trained once and kept by what they were made from."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.trainer_utils import set_seed

from llm_unlearn.data.mnemonic import Codes, Mixing, Mnemonic, new_codes
from llm_unlearn.data.sources import fingerprint
from llm_unlearn.files import read_json, write_json
from llm_unlearn.fit import Batches, Module, Progress, Schedule, Terms, fit
from llm_unlearn.fresh_classifiers import drawn, new_bert, new_resnet, new_vit
from llm_unlearn.head import in_eval
from llm_unlearn.papers.corpora import CONTEXT, Corpus
from llm_unlearn.papers.plan import Setup
from llm_unlearn.run import Run
from llm_unlearn.tasks import Example, Row, Task

WEIGHTS, RECORD = "weights.safetensors", "record.json"
NEAR = 0.005  # of accuracy: a retraining that is this near to its best is done
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """A model, and how its training went."""

    model: nn.Module
    accuracy: Sequence[float]  # on the test rows after each epoch
    seconds: float  # processor seconds of the whole training, without measuring that accuracy
    codes: Codes | None = None  # mnemonic codes that were mixed in


def untrained(setup: Setup, corpus: Corpus, seed: int) -> nn.Module:
    """Return the setup's model with weights drawn from the seed."""
    return MODELS[setup.model](corpus, seed, dict(setup.shape))


def _resnet(corpus: Corpus, seed: int, shape: Mapping[str, Any]) -> nn.Module:
    return new_resnet(
        corpus.classes, **{"channels": corpus.channels, "widths": (16, 32, 64), "blocks": 1, **shape}, seed=seed
    )


def _fine_resnet(corpus: Corpus, seed: int, shape: Mapping[str, Any]) -> nn.Module:
    """Return one whose stem halves the sides once: pictures of 32 pixels reach the first stage with 16, not 8."""
    model: Any = _resnet(corpus, seed, shape)
    model.resnet.embedder.pooler = nn.Identity()
    return model


def _vit(corpus: Corpus, seed: int, shape: Mapping[str, Any]) -> nn.Module:
    fixed = {"side": corpus.side, "channels": corpus.channels, "patch": 7}
    return new_vit(corpus.classes, **{**fixed, **shape}, seed=seed)


def _bert(corpus: Corpus, seed: int, shape: Mapping[str, Any]) -> nn.Module:
    fixed = {"context": CONTEXT, "width": 96, "layers": 1, "multi_label": corpus.multi_label}
    drawn_wide = {
        "initializer_range": 0.08,
        "hidden_dropout_prob": 0.2,
    }  # at 0.02 the first epochs of GoEmotions learn nothing
    return new_bert(corpus.classes, corpus.words, **{**fixed, **drawn_wide, **shape}, seed=seed)


def _resnet20(corpus: Corpus, seed: int, shape: Mapping[str, Any]) -> nn.Module:
    return drawn(lambda: ResNet20(corpus.classes, corpus.channels), seed)


MODELS: Mapping[str, Callable[[Corpus, int, Mapping[str, Any]], nn.Module]] = {
    "resnet": _resnet,
    "fine resnet": _fine_resnet,
    "vit": _vit,
    "bert": _bert,
    "resnet20": _resnet20,
}


def trained(
    setup: Setup,
    corpus: Corpus,
    rows: Sequence[Row],
    test: Sequence[Row],
    folder: Path,
    seed: int,
    mnemonic: Mnemonic | None = None,
) -> Trained:
    """Return the setup's model trained on the rows, found in `folder` or made and kept there.

    Its accuracy on the test rows is noted after each epoch: how long retraining would have had to take.  `mnemonic`: with a
    code a class mixed in.
    """
    key = _key(setup, corpus, rows, test, seed, mnemonic)
    place = folder / f"{setup.name.replace(' ', '-')}-{seed}-{key[:16]}"
    model = untrained(setup, corpus, seed)
    codes = new_codes(corpus.task, model, rows, mnemonic, seed=seed) if mnemonic else None
    record = read_json(place / RECORD)
    if record is None:
        work = folder / f"{place.name}.work"
        record = _train(setup, corpus, model, rows, test, work, seed, codes)
        place.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, place / WEIGHTS)
        write_json(place / RECORD, record)  # last: a folder without it is not finished
        shutil.rmtree(work, ignore_errors=True)
    model.load_state_dict(load_file(place / WEIGHTS))
    return Trained(model.eval(), record["accuracy"], record["seconds"], codes)


def retraining_seconds(gold: Trained) -> float:
    """Return the seconds that retraining takes: the fewest epochs within 0.5 points of the schedule's best test accuracy.

    Golds are trained to the end of their schedule; whoever retrains to get the accuracy alone may stop earlier.
    """
    enough = next(i for i, value in enumerate(gold.accuracy) if value >= max(gold.accuracy) - NEAR)
    return (enough + 1) * gold.seconds / len(gold.accuracy)


def _key(
    setup: Setup, corpus: Corpus, rows: Sequence[Row], test: Sequence[Row], seed: int, mnemonic: Mnemonic | None
) -> str:
    """Return what tells one trained model from another, in hex: rows, model, schedule, seed and versions."""
    plain = {name: value for name, value in asdict(setup).items() if name != "name"}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    made = {**plain, "words": corpus.words, "seed": seed, **versions}
    made |= {"mnemonic": asdict(mnemonic)} if mnemonic else {}
    made |= {"trained on": fingerprint(rows), "measured on": fingerprint(test)}
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def _train(
    setup: Setup,
    corpus: Corpus,
    model: nn.Module,
    rows: Sequence[Row],
    test: Sequence[Row],
    work: Path,
    seed: int,
    codes: Codes | None,
) -> dict[str, Any]:
    """Train the model in place, with the package's own loop, and return the record."""
    task, accuracy, spent = corpus.task, [], 0.0
    examples = task.encode(test)
    schedule = Schedule(
        passes=float(setup.epochs),
        least_steps=1,
        forget_batch=setup.batch,
        learning_rate=setup.learning_rate,
        warmup_steps=30,
        decay="cosine",
        weight_decay=0.01,
        group_by_length=bool(corpus.words),
    )

    def note(model: nn.Module) -> None:
        nonlocal spent
        start = time.process_time()
        accuracy.append(hit_rate(model, task, examples))
        spent += time.process_time() - start

    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        if progress.epoch > len(accuracy):  # the first step of the next epoch
            note(model)
        (decisions,) = task.streams(model, batch)
        return {"loss": decisions.mean_nll().mean()}

    shutil.rmtree(work, ignore_errors=True)
    set_seed(seed)
    start = time.process_time()
    run = Run(model=model, task=task, splits={}, folder=work, seed=seed)
    mix = None if codes is None else Mixing(codes, task, rows, seed)
    fit(run, {"train": rows}, terms, schedule=schedule, dropout=True, mix=mix)
    seconds = time.process_time() - start - spent
    note(model)
    return {"seconds": round(seconds, 2), "accuracy": accuracy, "rows": len(rows)}


@torch.no_grad()
def hit_rate(model: nn.Module, task: Task, examples: Sequence[Example], batch: int = 256) -> float:
    """Return the share of examples whose most probable class is right (with several labels: one of them)."""
    hits = 0
    with in_eval(model):
        for first in range(0, len(examples), batch):
            decided = task.decisions(model, task.collate(examples[first : first + batch]))
            hits += int(decided.greedy_hit().sum())
    return hits / len(examples)


class ResNet20(nn.Module):
    """The residual network of 20 layers for pictures of 32 pixels (He et al., 2015, arXiv:1512.03385, sec. 4.2).

    Shortcuts are the paper's option A: every other pixel, missing channels zero.
    """

    def __init__(self, classes: int, channels: int = 3) -> None:
        """Make three stages of three blocks with 16, 32 and 64 channels."""
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        widths = [16] * 4 + [32] * 3 + [64] * 3
        self.blocks = nn.Sequential(*(Block(old, new) for old, new in pairwise(widths)))
        self.classifier = nn.Linear(64, classes)

    def forward(self, **inputs: Tensor) -> Any:
        """Return an object with `logits` [B, classes] for pictures [B, channels, height, width], however they are named."""
        (pixels,) = inputs.values()
        states = self.blocks(F.relu(self.norm(self.stem(pixels))))
        return SimpleNamespace(logits=self.classifier(states.mean((2, 3))))


class Block(nn.Module):
    """Two convolutions and a shortcut without weights."""

    def __init__(self, old: int, new: int) -> None:
        """Halve the sides where the channels change."""
        super().__init__()
        self.stride, self.more = (1, 0) if old == new else (2, new - old)
        self.first = nn.Conv2d(old, new, 3, stride=self.stride, padding=1, bias=False)
        self.second = nn.Conv2d(new, new, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(new), nn.BatchNorm2d(new)])

    def forward(self, states: Tensor) -> Tensor:
        """Return [B, new, height, width]."""
        passed = self.norms[1](self.second(F.relu(self.norms[0](self.first(states)))))
        short = F.pad(states[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(passed + short)
