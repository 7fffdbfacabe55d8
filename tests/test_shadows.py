"""U-LiRA from end to end: shadows that learn a half and unlearn it, found again when they were made before."""

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifier_runs import text_setting

from llm_unlearn import shadows, unlearn
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.measuring import cache
from llm_unlearn.schedule import Schedule

SHORT = Schedule(steps=60, forget_batch=40, warmup_steps=2, learning_rate=5e-3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run on a tiny text classifier that hardly unlearned anything: three small steps."""
    folder = tmp_path_factory.mktemp("shadows")
    setting = text_setting(folder)
    method = {"name": "grad_diff", "training": {"steps": 3, "learning_rate": 1e-4}}
    unlearn(**setting.settings, method=method, output=str(folder / "run"), evaluation={"suite": "quick"})
    return str(folder / "run")


def options(run: str, folder: Path, **changes: Any) -> shadows.Options:
    values = {"shadows": 4, "training": SHORT, "lora": None, "output": str(folder / "out"), **changes}
    return shadows.Options(run=run, **values)


def test_every_row_is_in_half_of_the_shadows() -> None:
    found = shadows.complementary([7, 4], 6, seed=0)
    assert len(found) == 6
    for place, size in enumerate((7, 4)):
        counts = np.bincount([i for half in found for i in half[place]], minlength=size)
        assert counts.tolist() == [3] * size
    assert len({tuple(half[0]) for half in found}) > 2 and found == shadows.complementary([7, 4], 6, seed=0)
    assert found != shadows.complementary([7, 4], 6, seed=1)


def test_members_that_were_not_unlearned_are_told_and_a_second_call_trains_nothing(
    finished: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    inner = shadows.train
    monkeypatch.setattr(shadows, "train", lambda *args: (trained.append(1), inner(*args)))
    given = options(finished, tmp_path)
    first = shadows.run(given)
    assert len(trained) == 4 and not first.notes, "the shadows learned their rows"
    lines = {line.name: line for line in first.figures}
    line = lines["u_lira"]
    assert line.before is not None and line.after is not None and line.gold is not None and line.interval is not None
    assert line.before > 0.7 and line.after > 0.7, "three small steps hide nothing"
    assert abs(line.gold - 0.5) < 0.25 and line.n == 80
    again = shadows.run(given)
    assert len(trained) == 4 and again.figures == first.figures
    files = list(cache.folder().with_name("shadows").iterdir())
    assert len(files) == 4 and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert "Person" not in "".join(path.read_text() for path in files)
    written = shadows.write(first, tmp_path / "out").read_text()
    assert json.loads(written)["figures"][0]["after"] == line.after and "Person" not in written
    assert "4 shadows; learned:" in shadows.table(first) and "| u_lira | forget |" in shadows.table(first)
    other = shadows.run(dataclasses.replace(given, training=dataclasses.replace(SHORT, steps=1)))
    assert len(trained) == 8 and "hardly better than the others" in other.notes[0], "another schedule, other shadows"


def test_what_has_no_shadows_is_said_in_one_line(finished: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="even number, at least 4"):
        options(finished, tmp_path, shadows=5)
    with pytest.raises(RecipeError, match="give --run DIR"):
        shadows.Options(model="m")
    alone = options(finished, tmp_path)
    alone.__dict__["splits"] = {name: rows for name, rows in alone.splits.items() if name != "holdout"}
    with pytest.raises(DataError, match="unseen rows of the same classes"):
        shadows.run(alone)
    text = options(finished, tmp_path)
    text.__dict__["recipe"] = dataclasses.replace(text.recipe, task="causal_lm")
    with pytest.raises(RecipeError, match="a figure of classifiers"):
        shadows.run(text)
