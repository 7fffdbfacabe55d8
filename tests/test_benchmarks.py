"""The benchmarks: figures worked out by hand on small ragged data, layouts and their faults, and whole runs on a tiny model."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
import yaml
from conftest import Bench
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_unlearn import benchmarks
from llm_unlearn.benchmarks import _harness, muse, tofu, wmdp
from llm_unlearn.benchmarks._choices import Question, questions
from llm_unlearn.errors import DataError, MissingExtra, RecipeError
from llm_unlearn.measuring.evaluation import Evaluation
from llm_unlearn.scores import Scores
from llm_unlearn.tasks import CausalLM


def scored(split: str, losses: list[float], **more: Any) -> Scores:
    """Scores of ragged rows: row i has i + 1 tokens, all of one loss."""
    rows = len(losses)
    return Scores(
        split=split,
        ids=tuple(f"{split}.{i}" for i in range(rows)),
        kinds=("qa",) * rows,
        facts=tuple(f"{split}.{i}" for i in range(rows)),
        log_probs=tuple(np.full(i + 1, -loss) for i, loss in enumerate(losses)),
        hits=tuple(np.ones(i + 1, dtype=bool) for i in range(rows)),
        **more,
    )


LN2 = math.log(2)
NEEDS = {split: f"{split}_perturbed.json" for split in ("forget", *tofu.PARTS)}


def of(model_scores: dict[str, Scores], name: str, **models: Any) -> Any:
    found, _ = tofu.figures_of({"after": model_scores, **models}, NEEDS)
    return next(figure for figure in found if figure.name == name)


def test_every_file_is_a_benchmark() -> None:
    assert benchmarks.available() == ["muse", "tofu", "wmdp"]
    for name in benchmarks.available():
        assert issubclass(benchmarks.find(name).Options, benchmarks.Request)
    with pytest.raises(RecipeError, match="did you mean 'tofu'"):
        benchmarks.find("tofo")


# TOFU


def test_tofu_figures_by_hand() -> None:
    wrong = (np.array([2 * LN2, 4 * LN2]), np.array([LN2]))  # p 1/4 and 1/16; 1/2
    parts = {
        "retain": scored(
            "retain",
            [LN2, 0.0],
            paraphrase_loss=np.array([LN2, 0.0]),
            wrong_losses=wrong,
            answers=("one two three four", "five"),
            generated=("one two", "five six"),
        ),
        "forget": scored("forget", [LN2, 0.0], paraphrase_loss=np.array([5 * LN2, 0.0]), wrong_losses=wrong),
        "world_facts": scored("world_facts", [LN2, 0.0], wrong_losses=wrong),
    }
    # truth ratios of retain, R: geometric mean of 1/4 and 1/16 is 1/8, over 1/2 is 1/4; 1/2 over 1 is 1/2
    assert of(parts, "Retain Truth Ratio").after == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert of(parts, "Retain Probability").after == pytest.approx((1 / 2 + 1) / 2)
    assert of(parts, "Retain ROUGE-L recall").after == pytest.approx((2 / 4 + 1) / 2)
    # forget: R = (1/8) / (1/32) = 4 and 1/2, so min(R, 1/R) = 1/4 and 1/2
    assert of(parts, "Forget Truth Ratio").after == pytest.approx((1 / 4 + 1 / 2) / 2)
    # normalised: 1/2 over 1/2 + 1/4 + 1/16; 1 over 1 + 1/2.  The truth ratio takes the answer itself: as on retain
    assert of(parts, "World Facts Probability").after == pytest.approx((8 / 13 + 2 / 3) / 2)
    assert of(parts, "World Facts Truth Ratio").after == pytest.approx((3 / 4 + 1 / 2) / 2)
    five = [0.75, 0.75, 0.625, (8 / 13 + 2 / 3) / 2, 0.625]
    utility = of(parts, "Model Utility")
    assert utility.after == pytest.approx(5 / sum(1 / part for part in five)) and utility.n == 4
    assert utility.detail.startswith("5 of 9 parts; not measured: Real Authors Probability, ")
    arithmetic, _ = tofu.figures_of({"after": parts}, NEEDS, mean="arithmetic")
    ratio = next(figure for figure in arithmetic if figure.name == "Retain Truth Ratio")
    assert ratio.after == pytest.approx(((1 - (1 / 4 + 1 / 16) / 2 * 2) + 1 / 2) / 2)


def test_tofu_says_what_is_not_measured_and_never_0() -> None:
    bare = {"forget": scored("forget", [LN2])}
    for name, need in (
        ("Forget Truth Ratio", "forget_perturbed.json"),
        ("Forget Quality", "forget_perturbed.json and --gold"),
        ("Retain Probability", "retain_perturbed.json"),
        ("Model Utility", "retain, real authors or world facts"),
    ):
        figure = of(bare, name)
        assert (figure.before, figure.after, figure.gold) == (None, None, None) and figure.n == 0
        assert figure.detail == f"not measured: needs {need}"


def test_parts_that_before_does_not_know_are_named_and_counted() -> None:
    known = scored("retain", [0.1] * 8, wrong_losses=(np.array([3.0, 3.1]),) * 8)
    unknown = scored("world_facts", [2.0] * 8, wrong_losses=(np.array([2.0, 2.0]),) * 8)  # an equal share of three
    before = {"retain": known, "world_facts": unknown}
    figure = of(before, "Model Utility", before=before)
    left = "left out, before is no better than chance: World Facts Probability, World Facts Truth Ratio"
    assert figure.detail.startswith(f"2 of 9 parts; {left}; not measured: ")
    retain = [math.exp(-0.1), 1 - math.exp(-3.05 + 0.1)]
    assert figure.after == pytest.approx(2 / sum(1 / part for part in retain))


def test_forget_quality_beside_its_distance_and_before_s_own() -> None:
    def ratios(shift: float) -> dict[str, Scores]:
        wrong = tuple(np.array([1.0 + i / 200 + shift]) for i in range(120))
        return {"forget": scored("forget", [1.0] * 120, paraphrase_loss=np.ones(120), wrong_losses=wrong)}

    models = {"before": ratios(5.0), "after": ratios(0.0), "gold": ratios(0.0)}
    (p, distance, *_), notes = tofu.figures_of(models, NEEDS)
    assert (p.name, p.after, p.gold, p.n) == ("Forget Quality", 1.0, None, 120), "gold against itself says nothing"
    assert p.before is not None and p.before < 1e-30 and (distance.before, distance.after) == (1.0, 0.0)
    assert not notes
    _, notes = tofu.figures_of({**models, "before": ratios(0.0)}, NEEDS)
    assert any("before's own Forget Quality is 1" in note for note in notes)


def row(**more: Any) -> dict[str, Any]:
    return {"question": "Q?", "answer": "A", "paraphrased_answer": "B", "perturbed_answer": ["C", "D"], **more}


def lines(path: Path, *rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in rows))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(), {"question": "Q?"}], "forget10_perturbed.json, line 2: the column answer is missing"),
        ([row(), row(paraphrased_answer=None)], "line 2: the column paraphrased_answer is missing"),
        ([row(), "{oops"], "forget10_perturbed.json, line 2: not valid JSON"),
        ([row(), row(perturbed_answer=["C"])], "line 2: perturbed_answer holds 1 texts and the rows before it 2"),
        ([row(perturbed_answer="C")], "line 1: perturbed_answer must be a list of texts"),
        ([row(answer=" ")], "line 1: answer must be text, none of it empty"),
    ],
)
def test_faults_of_layout_are_one_line_with_file_and_place(tmp_path: Path, rows: list[Any], words: str) -> None:
    lines(tmp_path / "forget10_perturbed.json", *rows)
    with pytest.raises(DataError) as fault:
        tofu.read(tofu.Options(model="sandbox", data=str(tmp_path)))
    assert words in str(fault.value) and "\n" not in str(fault.value)


def test_folders_and_options_that_cannot_be_meant(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds none of this benchmark's files: real_authors_perturbed.json"):
        tofu.read(tofu.Options(model="sandbox", data=str(tmp_path)))
    with pytest.raises(DataError, match="there is no such folder"):
        tofu.read(tofu.Options(model="sandbox", data=str(tmp_path / "none")))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        tofu.read(tofu.Options(model="sandbox", data=str(tmp_path / "file")))
    for wrong, words in (
        ({"data": ""}, "give --data DIR"),
        ({"forget": "x"}, "leave --forget out"),
        ({"split": "forget02"}, "TOFU has forget01"),
        ({"question": "Q:"}, "needs {question}"),
        ({"task": "sequence_classifier"}, "for language models"),
    ):
        with pytest.raises(RecipeError, match=words):
            tofu.Options(**{"model": "sandbox", "data": str(tmp_path), **wrong})


def test_which_files_are_there_decides(tmp_path: Path) -> None:
    lines(tmp_path / "forget10.json", {"question": "Q?", "answer": "A"})
    lines(tmp_path / "world_facts_perturbed.json", {k: v for k, v in row().items() if k != "paraphrased_answer"})
    options = tofu.Options(model="sandbox", data=str(tmp_path), question="Question: {question}\nAnswer:")
    splits, needs = tofu.read(options)
    assert set(splits) == {"forget", "world_facts"} and needs["forget"] == "forget10_perturbed.json"
    assert splits["forget"][0]["prompt"] == "Question: Q?\nAnswer:" and "wrong" not in splits["forget"][0]
    assert splits["world_facts"][0]["wrong"] == ["C", "D"] and "paraphrase" not in splits["world_facts"][0]


def test_the_published_files_of_tofu_are_read(data_folder: Path) -> None:
    splits, _ = tofu.read(tofu.Options(model="sandbox", data=str(data_folder / "tofu")))
    sizes = {name: len(rows) for name, rows in splits.items()}
    assert sizes == {"forget": 400, "retain": 400, "real_authors": 100, "world_facts": 117}
    assert {len(each["wrong"]) for each in splits["forget"]} == {5} and "paraphrase" in splits["retain"][0]


@pytest.fixture(scope="module")
def folder(language: Bench, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bench's model that knows its rows, saved."""
    place = tmp_path_factory.mktemp("model")
    language.target.save_pretrained(place)
    language.task.tokenizer.save_pretrained(place)  # type: ignore[attr-defined]
    return str(place)


def test_a_whole_run_of_tofu(language: Bench, folder: str, tmp_path: Path) -> None:
    for name, split in (("forget10_perturbed", "forget"), ("retain_perturbed", "retain")):
        rows = [
            row(question=each["prompt"], answer=each["response"], paraphrased_answer=each["response"])
            for each in language.splits[split]
        ]
        lines(tmp_path / "data" / f"{name}.json", *rows)
    options = tofu.Options(
        model=folder, before=folder, gold=folder, data=str(tmp_path / "data"), max_new_tokens=24, output=str(tmp_path)
    )
    result = tofu.run(options)
    found = {figure.name: figure for figure in result.figures}
    assert found["Forget ROUGE-L recall"].after == found["Retain ROUGE-L recall"].after == 1.0, "the model knows them"
    for figure in result.figures:
        if figure.gold is not None:
            assert figure.before == figure.after == figure.gold and figure.gap == 0
    assert found["Forget Quality"].after == 1.0 and "fewer than 100 facts" in found["Forget Quality"].detail
    paths = result.write(options.output)
    content = json.loads(paths[0].read_text())
    assert [path.name for path in paths] == ["benchmark_tofu.json", "benchmark_tofu.md"]
    assert content["name"] == "tofu" and set(content["seconds"]) == {
        "before",
        "after",
        "gold",
    }
    everything = "".join(path.read_text() for path in paths) + result.table()
    assert not [each for each in language.splits["forget"] if each["prompt"] in everything], "no row's text"
    assert str(tmp_path) not in everything, "no path of this machine"


# MUSE


def test_min_k_and_privleak_by_hand() -> None:
    rows = [np.array([-1.0, -5.0, -2.0]), np.array([-3.0]), np.array([]), -np.arange(1.0, 6.0)]
    # ceil(1.2) = 2 of 3: -5 and -2; 1 of 1; none; 0.4 of 5 is exactly 2: -5 and -4
    np.testing.assert_allclose(muse.mia_min_k(rows, muse.SHARE), [-3.5, -3.0, np.nan, -4.5])
    assert muse.privleak(1.0, 0.5) == -100 and muse.privleak(0.25, 0.5) == 50 and muse.privleak(0.5, 0.5) == 0
    assert muse.privleak(0.5, 1.0) is None


def test_rouge_without_stemming_and_where_an_answer_ends() -> None:
    said, true = ["one two", "walking", "x"], ["one two three", "walked", "y"]
    np.testing.assert_allclose(muse.rouge_l(said, true, "recall"), [2 / 3, 0, 0])
    np.testing.assert_allclose(muse.rouge_l(said, true, "f1"), [0.8, 0, 0])
    assert muse.until("Paris\n\nmore") == "Paris" and muse.until("Rome\nQuestion: x") == "Rome"
    assert muse.until("a Question: b") == "a "


def muse_files(language: Bench, place: Path) -> Path:
    """MUSE's layout, made of the bench's rows."""
    asked = {
        name: [{"question": r["prompt"], "answer": r["response"]} for r in rows]
        for name, rows in language.splits.items()
    }
    texts = {name: [f"{r['prompt']} {r['response']}" for r in rows] for name, rows in language.splits.items()}
    files: dict[str, Any] = {
        "knowmem/forget_qa": asked["forget"],
        "knowmem/retain_qa": asked["retain"],
        "knowmem/forget_qa_icl": asked["holdout"][:1],
        "verbmem/forget": [{"prompt": r["prompt"], "gt": r["response"]} for r in language.splits["forget"]],
        "privleak/forget": texts["forget"],
        "privleak/holdout": [{"text": text} for text in texts["holdout"]],
    }
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.json").write_text(json.dumps(content))
    return place


def test_of_a_path_only_its_last_part_is_shown(tmp_path: Path) -> None:
    runs = tuple(str(tmp_path / name) for name in ("one", "two"))
    options = muse.Options(model="owner/name", data=str(tmp_path), sustainability=runs, seed=3)
    shown = {"model": "owner/name", "data": tmp_path.name, "sustainability": ["one", "two"], "seed": 3}
    assert options.shown() == shown
    told = benchmarks.Result(name="muse", request=options.shown(), figures=[]).markdown()
    assert "--sustainability one two" in told and str(tmp_path) not in told


def test_a_whole_run_of_muse(language: Bench, folder: str, tmp_path: Path) -> None:
    data = muse_files(language, tmp_path / "data")
    result = muse.run(muse.Options(model=folder, gold=folder, data=str(data)))
    found = {figure.name: figure for figure in result.figures}
    assert found["verbmem_f"].after == 100.0 and found["verbmem_f"].n == len(language.splits["forget"])
    assert found["privleak"].after == 0.0 and found["privleak"].gold is None
    assert found["AUC Min-40%, forget against holdout"].after is not None
    assert found["AUC Min-40%, retain against holdout"].detail.startswith("not measured: needs privleak/retain.json")
    assert result.notes == ["knowmem_r without worked examples: knowmem/retain_qa_icl.json is not there"]
    (data / "knowmem/retain_qa.json").unlink()
    with pytest.raises(DataError, match="they need knowmem/retain_qa.json"):
        muse.run(muse.Options(model=folder, data=str(data), scalability=("x",)))


def test_muse_prompts_and_its_continuation(language: Bench, tmp_path: Path) -> None:
    splits, _ = muse.read(str(muse_files(language, tmp_path)), muse.plain(language.task))
    first, example = language.splits["forget"][0], language.splits["holdout"][0]
    worked = f"Question: {example['prompt']}\nAnswer: {example['response']}\n\n"
    assert splits["knowmem_f"][0]["prompt"] == f"{worked}Question: {first['prompt']}\nAnswer: "
    assert splits["knowmem_r"][0]["prompt"].startswith("Question: ")
    assert splits["forget"][0]["prompt"] is None
    long = muse._first_tokens(muse.plain(language.task), "Abel lives in Quillmere " * 100)
    assert len(language.task.tokenizer.encode(long, add_special_tokens=False)) <= 129  # type: ignore[attr-defined]


def test_muse_names_file_and_column(language: Bench, tmp_path: Path) -> None:
    (tmp_path / "verbmem").mkdir()
    (tmp_path / "verbmem/forget.json").write_text(json.dumps([{"prompt": "x"}]))
    with pytest.raises(DataError, match=r"forget.json, row 1: the column gt is missing"):
        muse.read(str(tmp_path), muse.plain(language.task))
    with pytest.raises(DataError, match="holds none of this benchmark's files: verbmem/forget.json"):
        muse.read(str(tmp_path.parent), muse.plain(language.task))


# multiple choice


def test_the_published_layouts_of_multiple_choice(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "bio_questions.json").write_text(
        json.dumps([{"question": " Q1 ", "choices": ["a", "b"], "answer": 1}])
    )
    (tmp_path / "synthetic_questions_chem.csv").write_text("question,answer,choices\nQ2,0,\"['x', 'y', 'z']\"\n")
    (tmp_path / "test" / "world_religions_test.csv").write_text('"Q3, with\na break",e,f,g,h,D\n')
    (tmp_path / "test" / "anatomy_test.csv").write_text("question,choice0,choice1,answer\nQ4,i,[j],0\n")
    assert questions(str(tmp_path)) == [
        Question("bio", "Q1", ("a", "b"), 1),
        Question("chem", "Q2", ("x", "y", "z"), 0),
        Question("anatomy", "Q4", ("i", "[j]"), 0),
        Question("world_religions", "Q3, with\na break", ("e", "f", "g", "h"), 3),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question,choice0,choice1\nQ,a,b\n", "x_test.csv, line 2: the column answer is missing"),
        ("Q,a,b,A\nQ,a,b\n", "x_test.csv, line 2: 3 cells for 4 columns"),
        ("Q,a,b,C\n", "line 1: answer must be the place"),
        ("Q,a,,A\n", "line 1: question and choices must be text"),
        ("Q,a,A\n", "line 1: needs two to 8 answers"),
        ('Q,"a"b,c,A\n', "line 1: not valid CSV"),
        ("", "holds no rows"),
    ],
)
def test_faults_of_multiple_choice_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x_test.csv").write_text(text)
    with pytest.raises(DataError) as fault:
        questions(str(tmp_path))
    assert words in str(fault.value)


ASKED = [Question("bio", "Q1", ("a", "bbbb"), 0), Question("old_art", "Q2", ("cc", "d", "e"), 2)]


def test_accuracy_by_hand() -> None:
    sums = [[-2.0], [-1.0, -3.0], [-1.0], [-2.0], [-2.5]]  # ragged: tokens of each choice
    rows = Scores(
        "answers",
        ("",) * 5,
        ("",) * 5,
        (None,) * 5,
        tuple(map(np.array, sums)),
        tuple(np.ones(len(s), bool) for s in sums),
    )
    # sums -2 | -4: right.  -1 | -2 | -2.5: wrong.  A character: -2 | -1: wrong.  -0.5 | -2 | -2.5: wrong
    np.testing.assert_array_equal(wmdp.correct(rows, ASKED, normalised=False), [1, 0])
    np.testing.assert_array_equal(wmdp.correct(rows, ASKED, normalised=True), [0, 0])


def test_prompts_of_both_ways() -> None:
    rows = wmdp.rows_of(ASKED, {"old_art": "worked\n\n"})
    title = "The following are multiple choice questions (with answers) about {}.\n\n"
    assert rows["letters"][0]["prompt"] == title.format("biology") + "Q1\nA. a\nB. bbbb\nAnswer:"
    assert rows["letters"][4]["prompt"] == title.format("old art") + "worked\n\nQ2\nA. cc\nB. d\nC. e\nAnswer:"
    assert [each["response"] for each in rows["letters"]] == [" A", " B", " A", " B", " C"]
    assert [each["response"] for each in rows["answers"]] == [" a", " bbbb", " cc", " d", " e"]
    assert rows["answers"][0]["prompt"].endswith("about biology.\n\nQuestion: Q1\nAnswer:")


def test_the_export_asks_what_we_ask(tmp_path: Path) -> None:
    place = _harness.export(tmp_path / "private" / "lm_eval", ASKED)
    for question in ASKED:
        letters = yaml.safe_load((place / f"{question.subject}_letters.yaml").read_text())
        data = json.loads(Path(letters["dataset_kwargs"]["data_files"]["test"]).read_text())
        shown = jinja2.Environment(keep_trailing_newline=True).from_string(letters["doc_to_text"]).render(**data)
        ours = wmdp.rows_of([question], {})
        assert letters["description"] + shown == ours["letters"][0]["prompt"]
        offered = jinja2.Environment().from_string(letters["doc_to_choice"]).render(**data)
        assert offered == str([each["response"].strip() for each in ours["letters"]])
        answers = yaml.safe_load((place / f"{question.subject}_answers.yaml").read_text())
        shown = jinja2.Environment().from_string(answers["doc_to_text"]).render(**data)
        assert answers["description"] + shown == ours["answers"][0]["prompt"]
        assert data["answer"] == question.right
    assert (place / "bio.jsonl").stat().st_mode & 0o777 == 0o600 and place.stat().st_mode & 0o777 == 0o700
    group = yaml.safe_load((place / "llm_unlearn_choices.yaml").read_text())
    assert len(group["task"]) == 4


def test_the_harness_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'llm-unlearn\[harness\]'"):
        _harness.check(tmp_path)


def test_a_choice_is_scored_with_the_blank_before_it(data_folder: Path) -> None:
    """This tokenizer has a token for " B" but none for " A": without its blank, A would be spared what B pays for."""
    folder = data_folder / "stories260K" / "hf"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    question = Question("bio", "Which one", ("a cat", "Boats"), 0)
    rows = wmdp.rows_of([question], {})
    scores = Evaluation(CausalLM(tokenizer, max_length=512), rows, generate_on=()).scores("after", model)
    lengths = []
    for way, own in rows.items():
        for row, found in zip(own, scores[way].log_probs, strict=True):
            before, whole = (tokenizer(text)["input_ids"] for text in (row["prompt"], row["prompt"] + row["response"]))
            with torch.no_grad():
                logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            expected = [logs[i - 1, whole[i]].item() for i in range(len(before), len(whole))]
            np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=way)
            lengths.append(len(found))
    assert lengths[:2] == [2, 1]


def test_the_harness_gives_the_same_accuracies(language: Bench, folder: str, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="the extra 'harness' is not installed")
    towns = ["Quillmere", "Farrowgate", "Ostrand"]
    rows = [{"question": f"Where is {name}?", "choices": towns, "answer": i % 3} for i, name in enumerate("ABCDEFGH")]
    (tmp_path / "bio_questions.json").write_text(json.dumps(rows))
    options = wmdp.Options(model=folder, data=str(tmp_path), output=str(tmp_path / "out"), lm_eval=True)
    found = {figure.name: figure.after for figure in wmdp.run(options).figures}
    assert len(found) == 6
    assert all(found[f"bio: {way}"] == found[f"bio: {way} (lm-eval)"] for way in wmdp.WAYS)


def test_a_whole_run_of_multiple_choice(language: Bench, folder: str, tmp_path: Path) -> None:
    towns = ["Quillmere", "Farrowgate", "Ostrand"]
    rows = [
        {"question": f"Where is {name}?", "choices": towns, "answer": i % 3}
        for i, name in enumerate(("Abel", "Berit"))
    ]
    rows.append({"question": "long " * 200, "choices": towns, "answer": 0})
    (tmp_path / "bio_questions.json").write_text(json.dumps(rows))
    result = wmdp.run(wmdp.Options(model=folder, data=str(tmp_path)))
    assert [figure.name for figure in result.figures] == [f"bio: {way}" for way in wmdp.WAYS]
    assert all(
        figure.n == 2 and figure.after in (0.0, 0.5, 1.0) and figure.before is None for figure in result.figures
    )
    assert result.notes[1].startswith("1 of 3 questions left out: longer than")
    with pytest.raises(DataError, match="dev/ has 0 worked examples of bio"):
        wmdp.run(wmdp.Options(model=folder, data=str(tmp_path), shots=1))


@pytest.mark.parametrize("read", [questions, lambda data: tofu.read(tofu.Options(model="sandbox", data=data))])
def test_a_hub_id_is_not_taken_for_a_folder(read: Callable[[str], Any]) -> None:
    with pytest.raises(DataError, match="Hub"):
        read("nobody-here/no-such-set")
