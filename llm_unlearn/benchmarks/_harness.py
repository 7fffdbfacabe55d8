"""The same questions for lm-evaluation-harness: its task files, and a run of it on a model that is in memory already."""

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from llm_unlearn.benchmarks._choices import Question
from llm_unlearn.errors import MissingExtra
from llm_unlearn.files import write_text
from llm_unlearn.measuring.figures import Figure

GROUP = "llm_unlearn_choices"
LISTED = "{{question}}\n{% for choice in choices %}{{'ABCDEFGH'[loop.index0]}}. {{choice}}\n{% endfor %}Answer:"
OFFERED = "{{'ABCDEFGH'[:choices|length]|list}}"


def export(folder: Path, asked: Sequence[Question]) -> Path:
    """Write a task file and the questions of each subject and way, and a group of them all; return the folder.

    The questions may be what is to be forgotten: the files are readable for their owner only.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for place in (folder, folder.parent):
        place.chmod(0o700)
    subjects: dict[str, list[Question]] = {}
    for question in asked:
        subjects.setdefault(question.subject, []).append(question)
    for subject, own in subjects.items():
        data = folder / f"{_name(subject)}.jsonl"
        rows = [{"question": q.text, "choices": list(q.choices), "answer": q.right} for q in own]
        write_text(data, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), 0o600)
        for way in ("letters", "answers"):
            text = yaml.safe_dump(_task(own[0], way, data), sort_keys=False, allow_unicode=True)
            write_text(folder / f"{_name(subject)}_{way}.yaml", text, 0o600)
    group = {
        "group": GROUP,
        "task": [f"{GROUP}_{_name(subject)}_{way}" for subject in subjects for way in ("letters", "answers")],
    }
    write_text(folder / f"{GROUP}.yaml", yaml.safe_dump(group, sort_keys=False), 0o600)
    return folder


def _task(first: Question, way: str, data: Path) -> dict[str, Any]:
    """Return one task's settings."""
    letters = way == "letters"
    title = "multiple choice questions" if letters else "questions"
    return {
        "task": f"{GROUP}_{_name(first.subject)}_{way}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.absolute())}},
        "test_split": "test",
        "num_fewshot": 0,
        "output_type": "multiple_choice",
        "description": f"The following are {title} (with answers) about {first.about}.\n\n",
        "doc_to_text": LISTED if letters else "Question: {{question}}\nAnswer:",
        "doc_to_choice": OFFERED if letters else "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in (("acc",) if letters else ("acc", "acc_norm"))
        ],
        "metadata": {"version": 1},
    }


def check(folder: Path) -> None:
    """Raise MissingExtra where lm-evaluation-harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingExtra(
            f"the tasks were written to {folder}; running them needs lm-evaluation-harness: pip install 'llm-unlearn[harness]'."
        )


def figures(
    names: Sequence[str], load: Callable[[str], nn.Module], tokenizer: Any, folder: Path, asked: Sequence[Question]
) -> list[Figure]:
    """Return the harness's own accuracies, a line a task and figure; `load` returns one of the models, one at a time."""
    from lm_eval import simple_evaluate  # type: ignore[import-not-found]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    manager = TaskManager(include_path=str(folder))
    found: dict[str, Any] = {}
    for name in names:
        model = HFLM(pretrained=load(name), tokenizer=tokenizer)
        found[name] = simple_evaluate(model=model, tasks=[GROUP], task_manager=manager)["results"]
    out = []
    for subject in dict.fromkeys(question.subject for question in asked):
        for way, figure in (("letters", "acc"), ("answers", "acc"), ("answers", "acc_norm")):
            task = f"{GROUP}_{_name(subject)}_{way}"
            values = {name: float(results[task][f"{figure},none"]) for name, results in found.items()}
            out.append(
                Figure(
                    name=f"{subject}: {way}, {figure} (lm-eval)",
                    split=None,
                    before=values.get("before"),
                    after=values.get("after"),
                    gold=values.get("gold"),
                    gap=values["after"] - values["gold"] if "gold" in values else None,
                    interval=None,
                    n=sum(question.subject == subject for question in asked),
                    target="gold",
                    detail="by lm-evaluation-harness",
                )
            )
    return out


def _name(subject: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in subject)
