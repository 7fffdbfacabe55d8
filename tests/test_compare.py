"""Many runs in one table and one picture, and the runs that do not belong there."""

import copy
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llm_unlearn.errors import DataError
from llm_unlearn.reporting import compare, scatter
from llm_unlearn.reporting.charts import MODELS, SHADE


def figure(name: str, split: str | None, before: float, after: float | None, gold: float | None, n: int = 40) -> Any:
    return {"name": name, "split": split, "before": before, "after": after, "gold": gold, "n": n}


def report(after: float, utility: float, *, method: str = "npo", seed: int = 0, beta: float = 0.1) -> dict[str, Any]:
    """A report with two figures, as report.json holds them."""
    return {
        "schema": 1,
        "request": {"task": "causal_lm"},
        "method": {"name": method, "training": {"passes": 2.0}, "beta": beta},
        "seed": seed,
        "verdict": {"forgot": after < 0.2, "utility_kept": True, "changed": True, "reasons": []},
        "seconds": {"unlearn": 10.0 + seed},
        "figures": [
            figure("extraction_strength", "forget", 1.0, after, 0.1),
            figure("model_utility", None, 0.8, utility, 0.82, n=80),
        ],
    }


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    """Two seeds of npo and one run of kl, in folders."""
    reports = {
        "npo-0": report(0.1, 0.7),
        "npo-1": report(0.3, 0.8, seed=1),
        "kl-0": report(0.5, 0.75, method="kl"),
    }
    return [put(tmp_path / name, content) for name, content in reports.items()]


def put(folder: Path, content: dict[str, Any]) -> str:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(content))
    return str(folder)


def test_a_line_a_method_with_mean_and_deviation_over_its_seeds(three: list[str]) -> None:
    runs, without = compare.read([*three, three[0]])
    assert without == [] and [run.name for run in runs] == ["npo-0", "npo-1", "kl-0"], (
        "a folder given twice counts once"
    )
    heading, before, gold, npo, kl = compare.table(runs)
    assert heading == ["method", "seeds", "forgot", "kept", "ES", "utility", "seconds"]
    assert (before[0], before[4:6]) == ("before", ["1.000", "0.800"])
    assert (gold[0], gold[4:6]) == ("gold", ["0.100", "0.820"])
    # n - 1: |0.3 - 0.1| / sqrt(2) = 0.141, |0.8 - 0.7| / sqrt(2) = 0.071
    assert npo == ["npo", "0 1", "1/2", "2/2", "0.200 ± 0.141", "0.750 ± 0.071", "10 ± 1"]
    assert kl == ["kl", "0", "0/1", "1/1", "0.500", "0.750", "10"], "one seed has no deviation"


def test_settings_tell_runs_of_one_method_apart(tmp_path: Path) -> None:
    folders = [put(tmp_path / str(beta), report(0.1, 0.7, beta=beta)) for beta in (0.1, 0.2)]
    runs, _ = compare.read(folders)
    assert [run.method for run in runs] == ["npo beta=0.1", "npo beta=0.2"]


def test_the_csv_has_every_digit_and_an_empty_cell_for_what_was_not_measured(three: list[str], tmp_path: Path) -> None:
    content = report(0.123456789, 0.7)
    content["figures"][1]["after"] = None
    runs, _ = compare.read([*three, put(tmp_path / "other", content)])
    lines = list(csv.DictReader(compare.as_csv(runs).splitlines()))
    assert [line["model"] for line in lines] == ["before", "gold", *["after"] * 4]
    assert lines[-1]["extraction_strength@forget"] == "0.123456789" and lines[-1]["model_utility"] == ""
    assert lines[2]["forgot"] == "yes" and lines[3]["forgot"] == "no"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("n", 39), "other rows: forget 39 instead of 40"),
        (("before", 0.9), "another model before, or other rows: extraction_strength on forget 0.900 instead of 1.000"),
        (("gold", 0.2), "another gold: extraction_strength on forget 0.200 instead of 0.100"),
        (("gold", None), "another gold: extraction_strength on forget - instead of 0.100"),
    ],
)
def test_runs_that_do_not_belong_are_named_and_refused(
    three: list[str], tmp_path: Path, change: tuple[str, Any], words: str
) -> None:
    content = copy.deepcopy(report(0.1, 0.7))
    content["figures"][0][change[0]] = change[1]
    runs, _ = compare.read([*three, put(tmp_path / "stranger", content)])
    with pytest.raises(DataError, match="1 of 4 runs cannot be compared with npo-0") as refused:
        compare.refuse(runs)
    assert (
        f"stranger ({words})" in str(refused.value)
        and "\n" not in str(refused.value)
        and "--force" in str(refused.value)
    )
    compare.refuse(runs[:3])
    told = compare.markdown(runs)
    assert "npo, stranger (not comparable)" in told, "by force it stands by itself, outside the seeds' mean"
    assert "shown by force: stranger" in told


def test_folders_without_a_run_are_named(three: list[str], tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    assert compare.read([*three, str(tmp_path / "unfinished")])[1] == ["unfinished"]
    with pytest.raises(DataError, match="no finished run among the 1 folders"):
        compare.read([str(tmp_path / "unfinished")])
    with pytest.raises(DataError, match="no report of this version"):
        compare.read([put(tmp_path / "old", {"schema": 0})])


def test_an_axis_nobody_measured_is_named_with_the_nearest(three: list[str]) -> None:
    runs, _ = compare.read(three)
    assert compare.key_of("model_utility", runs) == ("model_utility", None)
    with pytest.raises(DataError, match="did you mean 'extraction_strength@forget'"):
        compare.key_of("extraction_strength@retain", runs)


def test_the_picture_has_star_square_band_and_a_colour_a_method(three: list[str], tmp_path: Path) -> None:
    runs, _ = compare.read(three)
    compare.write(tmp_path / "out", runs)
    image = Image.open(tmp_path / "out" / "comparison.png")
    colours = {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in image.getcolors(1 << 20)}  # type: ignore[misc,union-attr]
    assert {MODELS["before"], MODELS["gold"], SHADE, *scatter.COLOURS[:2]} <= colours
    bare = compare.draw([compare.Run("a", "npo", gold_free(run.report)) for run in runs], *KEYS)
    left = {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in bare.getcolors(1 << 20)}
    assert MODELS["gold"] not in left and SHADE not in left and MODELS["before"] in left


KEYS = (("extraction_strength", "forget"), ("model_utility", None))


def gold_free(content: Any) -> dict[str, Any]:
    return {**content, "figures": [{**each, "gold": None} for each in content["figures"]]}


def test_deviation() -> None:
    assert scatter.deviation([2.0, 4.0, 6.0]) == 2.0 and scatter.deviation([7.0]) == 0.0


def test_the_command_loads_no_model(three: list[str], tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "eval" / "compare.py"
    code = (
        f"import runpy, sys; sys.argv = ['compare', *{three!r}, '--output', {str(tmp_path / 'out')!r}]\n"
        f"try:\n    runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False", done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "comparison.csv",
        "comparison.md",
        "comparison.png",
    ]


def test_classifiers_are_drawn_by_their_accuracies(three: list[str], tmp_path: Path) -> None:
    """They predict no words: without --forget and --utility the picture is kept accuracy against forgotten."""
    folders = []
    for name, (forget, retain) in {"a": (0.3, 0.9), "b": (0.5, 0.8)}.items():
        content = report(0.0, 0.0) | {"request": {"task": "sequence_classifier"}}
        content["figures"] = [
            figure("accuracy", "forget", 1.0, forget, 0.35),
            figure("accuracy", "retain", 1.0, retain, 0.95),
        ]
        folders.append(put(tmp_path / name, content))
    runs, _ = compare.read(folders)
    assert compare.axes(runs) == ("accuracy@forget", "accuracy@retain")
    paths = compare.write(tmp_path / "out", runs)
    text = paths[0].read_text()
    assert "accuracy@forget against accuracy@retain" in text and "Not in the picture" not in text
    assert "| npo | 0 0 | 2/2 | 2/2 | 0.400 ± 0.141 | 0.850 ± 0.071 |" in text
    assert compare.axes(compare.read(three)[0]) == ("extraction_strength@forget", "model_utility")
    with pytest.raises(DataError, match="no run has measured model_utility"):
        compare.write(tmp_path / "out", runs, utility="model_utility")


def test_a_figure_that_only_a_later_run_has_is_in_the_table(tmp_path: Path) -> None:
    more = report(0.3, 0.7, method="kl")
    more["figures"].append(figure("perplexity", "forget", 1.0, 3.5, 3.0, n=39))
    more["figures"][0]["n"] = 38  # as where answers were empty
    runs, _ = compare.read([put(tmp_path / "a", report(0.2, 0.7)), put(tmp_path / "b", more)])
    assert "| extraction_strength | forget | 1.000 | 0.200 | 0.300 | 0.100 | 38 to 40 |" in compare.markdown(runs)
    assert "| perplexity | forget | 1.000 | - | 3.500 | 3.000 | 39 |" in compare.markdown(runs)


def test_every_figure_and_every_attack_have_a_line(tmp_path: Path) -> None:
    one, two = (Path(put(tmp_path / name, report(0.2, 0.7, seed=seed))) for seed, name in enumerate(("a", "b")))
    line = {"attack": "relearn", "setting": "1 epoch", "figure": "extraction_strength", "n": 80}
    line |= {"after_before_attack": 0.1, "after": 0.7, "gold_before_attack": 0.1, "gold": 0.3}
    (one / "attacks.json").write_text(json.dumps({"figures": [line]}))
    (two / "attacks.json").write_text(json.dumps({"figures": [{**line, "after": 0.5}]}))
    runs, _ = compare.read([str(one), str(two)])
    lines = list(csv.DictReader(compare.attacks_csv(runs).splitlines()))
    assert [(line["run"], line["attack"], line["after"]) for line in lines] == [
        ("a", "relearn", "0.7"),
        ("b", "relearn", "0.5"),
    ]
    assert [path.name for path in compare.write(tmp_path / "out", runs)][3:] == ["attacks.csv"]
    text = compare.markdown(runs)
    assert "| relearn | 1 epoch | extraction_strength | 0.100 ± 0.000 → 0.600 ± 0.141 | 0.100 → 0.300 | 80 |" in text
    measured = {
        (figure["name"], figure["split"]) for figure in runs[0].report["figures"] if figure["after"] is not None
    }
    assert all(f"| {name} | {split or 'all'} |" in text for name, split in measured)
