"""What one model did on one split, a record a row: everything a figure is computed from.  numpy only."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

SPLIT_NAMES = ("forget", "forget_heldout", "retain", "retain_heldout", "neighbour", "holdout", "general")
RETAIN_TYPE = ("retain", "retain_heldout", "neighbour", "general")  # what must stay as it was
CAUSAL = ("causal_lm",)  # the tasks that a figure is defined for
CLASSIFIERS = ("sequence_classifier", "image_classifier")
DIGITS = 8  # significant ones that are stored of a number by token; fp32 has 7
OF_TOKENS = ("log_prob_means", "log_prob_deviations")
OF_ROWS = ("zlib_bytes", "grad_norm", "generated_loss")
OF_CLASSIFIERS = ("probabilities", "hidden")
SMALL = 2**18  # numbers of hidden states that a file may hold for a split, some 3 MB; more are not stored


@dataclass(frozen=True)
class Score:
    """One figure of one model.  `per_example` averages to `value`, or is None where the value is no mean over rows."""

    value: float
    per_example: Floats | None
    n: int  # rows that entered
    detail: str = ""  # what the number alone does not say, in words


@dataclass(frozen=True, eq=False)
class Scores:
    """One model on one split.  Losses are nats a token; the end-of-sequence token is left out everywhere."""

    split: str
    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    facts: tuple[str | None, ...]
    log_probs: tuple[Floats, ...]  # [n] a row: natural log of the probability of each response token
    hits: tuple[Bools, ...]  # [n] a row: was the greedy prediction that token
    paraphrase_loss: Floats | None = None  # [B], NaN where a row has none; None where no row has one
    wrong_losses: tuple[Floats, ...] | None = None  # [w] a row, possibly empty; None where no row has any
    answers: tuple[str, ...] | None = None  # the rows' responses: private
    generated: tuple[str, ...] | None = None  # the greedy answers: private; None where nothing was generated
    log_prob_means: tuple[Floats, ...] | None = (
        None  # [n] a row: mean of log p under the model's own distribution there
    )
    log_prob_deviations: tuple[Floats, ...] | None = None  # [n] a row: its standard deviation
    zlib_bytes: Floats | None = (
        None  # [B] length of the zlib-compressed response in UTF-8; None where rows have no text
    )
    grad_norm: Floats | None = None  # [B] norm of the loss's gradient, by the parameters of `gradients.last_block`
    generated_loss: Floats | None = (
        None  # [B] mean loss of the greedy answer under the model before; NaN where it is empty
    )
    probabilities: tuple[Floats, ...] | None = (
        None  # [C] a row, of a classifier: sum 1, or one each with several labels
    )
    classes: tuple[tuple[int, ...], ...] | None = None  # the true class numbers of a classifier's row
    multi_label: bool = False  # whether a row may have several classes, or none
    hidden: tuple[Floats, ...] | None = None  # [D] a row: what goes into a classifier's head; only where asked for

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def losses(self) -> Floats:
        """Return each row's mean loss [B] in nats a token, NaN for a row without a scored token."""
        return row_means([-values for values in self.log_probs])

    def only(self, keep: Sequence[bool] | Bools) -> "Scores":
        """Return the scores of the rows where `keep` [B] is true, as if those alone had been measured."""
        chosen = np.flatnonzero(np.asarray(keep, dtype=bool))
        changes: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changes[field.name] = value[chosen]
            elif isinstance(value, tuple):
                changes[field.name] = tuple(value[i] for i in chosen)
        if self.paraphrase_loss is not None and np.isnan(changes["paraphrase_loss"]).all():
            changes["paraphrase_loss"] = None  # the truth ratio of rows without paraphrases uses the answer itself
        if self.wrong_losses is not None and not any(len(each) for each in changes["wrong_losses"]):
            changes["wrong_losses"] = None
        return replace(self, **changes)

    def records(self) -> list[dict[str, Any]]:
        """Return a plain dict a row: the `predictions` and `references` of every metric here."""
        return [
            {
                "split": self.split,
                "id": self.ids[i],
                "kind": self.kinds[i],
                "fact": self.facts[i],
                "log_probs": [float(v) for v in self.log_probs[i]],
                "hits": [bool(v) for v in self.hits[i]],
                "paraphrase_loss": None if self.paraphrase_loss is None else _number(self.paraphrase_loss[i]),
                "wrong_losses": None if self.wrong_losses is None else [float(v) for v in self.wrong_losses[i]],
                "answer": None if self.answers is None else self.answers[i],
                "generated": None if self.generated is None else self.generated[i],
                "log_prob_means": None if self.log_prob_means is None else [float(v) for v in self.log_prob_means[i]],
                "log_prob_deviations": None
                if self.log_prob_deviations is None
                else [float(v) for v in self.log_prob_deviations[i]],
                "zlib_bytes": None if self.zlib_bytes is None else _number(self.zlib_bytes[i]),
                "grad_norm": None if self.grad_norm is None else _number(self.grad_norm[i]),
                "generated_loss": None if self.generated_loss is None else _number(self.generated_loss[i]),
                "probabilities": None if self.probabilities is None else [float(v) for v in self.probabilities[i]],
                "classes": None if self.classes is None else list(self.classes[i]),
                "multi_label": self.multi_label,
                "hidden": None if self.hidden is None else [float(v) for v in self.hidden[i]],
            }
            for i in range(len(self))
        ]

    def to_json(self, *, text: bool) -> dict[str, Any]:
        """Return a JSON-able dict; `text=True` adds answers and generations, for a private file only.

        Hidden states are left out where they are more than SMALL numbers.
        """
        large = self.hidden is not None and sum(map(len, self.hidden)) > SMALL
        records = (replace(self, hidden=None) if large else self).records()
        for record in records:
            for name in ("log_probs", *OF_TOKENS, *OF_CLASSIFIERS):
                if record[name] is not None:
                    record[name] = [float(f"{v:.{DIGITS}g}") for v in record[name]]
            record["hits"] = [int(v) for v in record["hits"]]
            if not text:
                del record["answer"], record["generated"]
        return {"split": self.split, "records": records}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Scores":
        """Return the scores that `to_json` stored (what is by token was rounded to DIGITS digits).

        What an older file does not hold is None.
        """
        return cls.from_records(stored["split"], stored["records"])

    @classmethod
    def from_records(cls, split: str, records: Sequence[Mapping[str, Any]]) -> "Scores":
        """Return the scores of one split's records."""
        paraphrase = np.array([_float(r.get("paraphrase_loss")) for r in records])
        wrong = [np.asarray(r.get("wrong_losses") or [], dtype=float) for r in records]
        texts = {name: [r.get(name) for r in records] for name in ("answer", "generated")}
        kept: dict[str, Any] = {name: None if None in column else tuple(column) for name, column in texts.items()}
        for name in OF_TOKENS:
            by_row = [r.get(name) for r in records]
            whole = all(v is not None and len(v) == len(r["log_probs"]) for v, r in zip(by_row, records, strict=True))
            kept[name] = tuple(np.asarray(v, dtype=float) for v in by_row) if whole else None
        for name in OF_ROWS:
            values = np.array([_float(r.get(name)) for r in records])
            kept[name] = values if np.isfinite(values).any() else None
        for name in OF_CLASSIFIERS:
            by_row = [r.get(name) for r in records]
            whole = all(v is not None and len(v) for v in by_row)
            kept[name] = tuple(np.asarray(v, dtype=float) for v in by_row) if whole else None
        if kept["probabilities"] is not None:
            kept["classes"] = tuple(tuple(int(v) for v in r["classes"]) for r in records)
            kept["multi_label"] = any(r["multi_label"] for r in records)
        return cls(
            split=split,
            ids=tuple(r["id"] for r in records),
            kinds=tuple(r["kind"] for r in records),
            facts=tuple(r.get("fact") for r in records),
            log_probs=tuple(np.asarray(r["log_probs"], dtype=float) for r in records),
            hits=tuple(np.asarray(r["hits"], dtype=bool) for r in records),
            paraphrase_loss=paraphrase if np.isfinite(paraphrase).any() else None,
            wrong_losses=tuple(wrong) if any(len(w) for w in wrong) else None,
            answers=kept.pop("answer"),
            **kept,
        )


ModelScores = Mapping[str, Scores]  # by split


def rows_of(scores: ModelScores | None, split: str | None) -> Scores | None:
    """Return the split's rows; None where they were not measured."""
    return None if scores is None or split is None else scores.get(split)


def classifies(scores: ModelScores | None) -> bool:
    """Return whether these are scores of a classifier."""
    return any(rows.probabilities is not None for rows in (scores or {}).values())


def from_records(records: Iterable[Mapping[str, Any]]) -> dict[str, Scores]:
    """Return one model's scores by split from records of any number of splits, in the order they come."""
    by_split: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_split.setdefault(record["split"], []).append(record)
    return {split: Scores.from_records(split, rows) for split, rows in by_split.items()}


def row_means(rows: Sequence[npt.NDArray[Any]]) -> Floats:
    """Return each row's mean [B], NaN for an empty row."""
    return np.array([np.mean(row) if len(row) else np.nan for row in rows], dtype=float)


def mean_score(per_example: Floats, detail: str = "") -> Score | None:
    """Return the mean over the rows that have a value; None where none has."""
    known = per_example[np.isfinite(per_example)]
    return Score(float(known.mean()), known, len(known), detail) if len(known) else None


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)
