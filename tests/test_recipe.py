"""Recipes: a full YAML file loads, options win, and every fault is one clear line before anything is loaded."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from llm_unlearn import recipe as recipes
from llm_unlearn.errors import RecipeError
from llm_unlearn.method import Method, available
from llm_unlearn.methods.npo import NPO
from llm_unlearn.options import parse, read, settings_of
from llm_unlearn.recipe import Evaluation, Recipe, from_values, load, method_name, to_dict
from llm_unlearn.settings import Text, build

ROOT = Path(__file__).resolve().parent.parent
OWN = ["--model", "org/m", "--data", "d.jsonl", "--concept", "Quillmere"]
FULL = """
task: causal_lm
model: some/model
revision: main
weights: null
image: {size: 32, mean: [0.5], std: [0.25]}
adapter: some/adapter
gold: some/gold
golds: [g1, g2]
origin: some/origin
data: null
concept: null
terms: []
examples: null
explain: false
classes: []
ids: null
test: null
forget: f.jsonl
retain: r.jsonl
holdout: h.jsonl
forget_heldout: fh.jsonl
retain_heldout: rh.jsonl
neighbour: n.jsonl
general: g.jsonl
method:
  name: npo
  beta: 0.2
  training: {learning_rate: 1e-4, steps: 7, decay: cosine}
  stop: {gate: false, every: 10}
lora: {r: 4, alpha: 8, target_modules: all-linear, dropout: 0}
precision: fp32
gradient_checkpointing: true
accumulation: 2
evaluation: {batch_size: 8, rows: 10}
output: out
overwrite: true
merge: true
push_to_hub: null
private: false
allow_unverified: true
show_records: true
seed: 3
"""


def write(folder: Path, text: str) -> str:
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return str(folder / "recipe.yaml")


def test_a_full_file_loads_with_its_types(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, FULL))
    assert yaml.safe_load(FULL).keys() == {field.name for field in dataclasses.fields(Recipe)}, (
        "FULL must name every key"
    )
    assert isinstance(recipe.method, NPO)
    assert recipe.method.beta == 0.2
    assert recipe.method.training.learning_rate == 1e-4  # YAML's 1e-4 is text
    assert (recipe.method.training.steps, recipe.method.training.decay, recipe.method.stop.gate) == (
        7,
        "cosine",
        False,
    )
    assert recipe.lora is not None
    assert (recipe.lora.r, recipe.lora.dropout, type(recipe.lora.dropout)) == (4, 0.0, float)
    assert (recipe.evaluation.rows, recipe.terms, recipe.seed, recipe.merge) == (10, (), 3, True)


def test_plain_values_make_the_same_recipe_again(tmp_path: Path) -> None:
    for recipe in (load(write(tmp_path, FULL)), parse([]), parse([*OWN, "--lora=none", "--terms", "a", "b"])):
        assert from_values(to_dict(recipe)) == recipe


@pytest.mark.parametrize("name", available())
def test_every_method_is_found_by_the_name_it_gives(name: str) -> None:
    recipe = from_values({"method": name})
    assert method_name(recipe.method) == to_dict(recipe)["method"]["name"] == name


def test_with_nothing_given_the_sandbox_forgets_its_default_concept() -> None:
    recipe = parse([])
    assert (recipe.model, recipe.data, recipe.gold, recipe.concept) == ("sandbox", "sandbox", "sandbox", None)
    assert (method_name(recipe.method), recipe.output) == ("npo", "outputs/forget_concept")


def test_another_concept_of_the_sandbox_has_no_gold() -> None:
    assert parse(["--concept", "Brackwater"]).gold is None
    assert parse(["--concept", "Quillmere"]).gold == "sandbox"
    assert parse(["--concept", "Quillmere", "--terms", "the mere"]).gold is None
    assert parse(["--gold", "none"]).gold is None


def test_options_win_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, FULL)
    recipe = parse(
        ["--config", file, "--method.beta=0.5", "--method.training.steps", "9", "--seed=4", "--lora.r", "2"]
    )
    assert isinstance(recipe.method, NPO)
    assert (recipe.method.beta, recipe.method.training.steps, recipe.method.training.decay) == (0.5, 9, "cosine")
    assert (recipe.seed, recipe.lora and (recipe.lora.r, recipe.lora.alpha)) == (4, (2, 8))


def test_another_method_drops_the_first_ones_settings(tmp_path: Path) -> None:
    recipe = parse(["--config", write(tmp_path, FULL), "--method", "grad_diff"])
    assert method_name(recipe.method) == "grad_diff"
    assert recipe.method.training.steps is None  # type: ignore[attr-defined]
    same = parse(["--config", write(tmp_path, FULL), "--method", "npo"])
    assert isinstance(same.method, NPO)
    assert same.method.beta == 0.2


def test_command_line_words_take_the_type_of_their_setting() -> None:
    recipe = parse(
        [*OWN[:4], "--concept=1984", "--terms", "a", "1e5", "--terms=b", "--merge", "--overwrite=no", "--show_records"]
    )
    assert (recipe.concept, recipe.terms) == ("1984", ("a", "1e5", "b"))
    assert (recipe.merge, recipe.overwrite, recipe.show_records) == (True, False, True)
    assert parse([*OWN, "--terms=[x y, 7]"]).terms == ("x y", "7")
    assert parse(["--lora", "none"]).lora is None


FAULTS = [
    (["--method", "npp"], r"unknown method 'npp'; did you mean 'npo'\?"),
    (["--method", "no.such.module"], r"cannot import the method 'no\.such\.module'"),
    (["--method.bta=1"], r"method\.bta: unknown key; did you mean 'beta'\?"),
    (["--method.training.stepps=1"], r"method\.training\.stepps: unknown key; did you mean 'steps'\?"),
    (["--method.beta", "much"], r"method\.beta: expected a number, got 'much'"),
    (["--method.beta"], r"--method\.beta: expected a value"),
    (["--method.beta", "--merge"], r"--method\.beta: expected a value"),
    (
        ["--method.training.steps=1.5"],
        r"method\.training\.steps: expected a whole number or null, got '1\.5'|expected a whole number",
    ),
    (["--method.stop.gate=perhaps"], r"method\.stop\.gate: expected true or false, got 'perhaps'"),
    (["--method.training.decay=lin"], r"decay: 'lin' is not one of linear, cosine, constant; did you mean 'linear'\?"),
    (["--sed", "1"], r"unknown option --sed; did you mean '--seed'\?"),
    (["--lora.rank=3"], r"unknown option --lora\.rank"),
    (["word"], r"'word' belongs to no option"),
    (["--seed"], r"--seed: expected one argument"),
    (["--seed", "x"], r"seed: expected a whole number, got 'x'"),
    (["--seed=-1"], r"seed: -1 is negative"),
    (["--precision", "fp8"], r"precision: 'fp8' is not one of auto, fp32, bf16"),
    (["--lora.r=0"], r"lora\.r: 0 is too small"),
    (["--lora.dropout=1"], r"lora\.dropout: 1\.0 is not in \[0, 1\)"),
    (["--accumulation=0"], r"accumulation: 0 is too small"),
    (["--evaluation.rows=0"], r"evaluation\.rows: 0 is too small"),
    (["--output="], r"--output is empty"),
    (["--config", "/no/such.yaml"], r"cannot read the recipe /no/such\.yaml: No such file"),
    (
        ["--model", "org/m"],
        r"nothing to forget: give --data with --concept, --classes or --ids, or --forget with --retain",
    ),
    (["--model", "org/m", "--concept", "X"], r"--concept without --data"),
    (["--model", "org/m", "--data", "d.jsonl"], r"--data without --concept"),
    ([*OWN[:4], "--concept", " "], r"--concept is empty"),
    ([*OWN, "--terms", ""], r"--terms holds an empty word"),
    (["--terms", "x"], r"--terms without --concept"),
    (["--forget", "f"], r"--forget without --retain"),
    (["--retain", "r"], r"--retain needs --forget beside it"),
    ([*OWN, "--retain", "r"], r"--retain is split by --concept already"),
    (["--forget", "f", "--retain", "f"], r"--forget and --retain are the same: f"),
    (["--forget", "f", "--retain", "r", "--concept", "x"], r"--concept and --terms split --data"),
    ([*OWN, "--forget", "f", "--retain", "r"], r"--data and --forget are both given"),
    (["--task", "image_classifier", *OWN], r"images have none"),
    (["--classes", "3"], r"--classes needs a classifier: give --task"),
    ([*OWN, "--ids", "ids.txt"], r"--concept and --ids are both given"),
    (["--forget", "f", "--retain", "r", "--ids", "i"], r"--ids without --data"),
    ([*OWN, "--test", "t"], r"--test goes with --classes or --ids"),
    (["--model", "m", "--data", "d", "--ids", "i", "--test", "d"], r"--data and --test are the same: d"),
    (["--model", "m", "--data", "d", "--ids", "sandbox"], r"--ids sandbox is a request to the sandbox"),
    ([*OWN, "--method", "retrain"], r"--method retrain starts from the model before its training: give --origin"),
]


@pytest.mark.parametrize(
    ("argv", "message"), FAULTS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_fault_on_the_command_line_is_one_clear_line(argv: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse(argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 1", r"^sed: unknown key; did you mean 'seed'\?"),
        ("lora: {rank: 3}", r"^lora\.rank: unknown key.* Known: r, alpha"),
        ("lora: 3", r"^lora: expected a section of `key: value` lines, got 3"),
        ("lora: {r: true}", r"^lora\.r: expected a whole number, got True"),
        ("seed: '1'", r"^seed: expected a whole number, got '1'"),
        ("merge: 1", r"^merge: expected true or false, got 1"),
        ("concept: 1984", r"^concept: expected text, got 1984 \(a whole number\) \(put it in quotes\)"),
        ("model: null", r"^model: expected text, got nothing"),
        ("terms: word", r"^terms: expected a list of text values, got 'word'"),
        ("terms: [a, 3]", r"^terms\[1\]: expected text, got 3"),
        ("method: {name: npo, beta: .nan}", r"^method\.beta: expected a number, got nan"),
        ("method: {name: npo, beta: [1]}", r"^method\.beta: expected a number, got \[1\]"),
        (
            "method: {name: npo, training: {stepps: 3}}",
            r"^method\.training\.stepps: unknown key; did you mean 'steps'",
        ),
        ("method: [npo]", r"^method: expected a name"),
        ("method: {name: 3}", r"^method\.name: expected text"),
        ("precision: 16", r"^precision: 16 is not one of auto, fp32, bf16"),
        ("seed: 1\nseed: 2", r"recipe\.yaml, line 2: .*'seed' is given twice"),
        ("a: [", r"recipe\.yaml, line \d+: not valid YAML"),
        ("base: !include other.yaml", r"recipe\.yaml, line 1: not valid YAML"),
        ("- a\n- b", r"a recipe is `key: value` lines; this file holds a list"),
        ("1: 2", r"^1: unknown key"),
    ],
)
def test_a_fault_in_the_file_names_its_path(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        load(write(tmp_path, text))


def test_an_empty_file_is_the_default_recipe(tmp_path: Path) -> None:
    assert load(write(tmp_path, "# nothing\n")) == parse([])


def test_an_input_in_the_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/f.jsonl").touch()
    with pytest.raises(RecipeError, match="--forget lies in the output folder"):
        parse(["--forget", str(tmp_path / "run/f.jsonl"), "--retain", "r", "--output", str(tmp_path / "run")])


def test_a_method_for_another_task_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NPO, "tasks", frozenset({"causal_lm"}))
    with pytest.raises(RecipeError, match="--method npo works on causal_lm, not on task image_classifier"):
        parse(["--task", "image_classifier", "--model", "m", "--forget", "f", "--retain", "r"])


def test_a_missing_key_is_named() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Needs:
        pair: tuple[int, float]
        table: dict[str, float] = dataclasses.field(default_factory=dict)

    with pytest.raises(RecipeError, match="section.pair: missing, and it has no default"):
        build(Needs, {}, "section")
    with pytest.raises(RecipeError, match="section.pair: expected 2 values, got 1"):
        build(Needs, {"pair": [1]}, "section")
    assert build(Needs, {"pair": Text("[1, 2]"), "table": {"a": "1e-3"}}, "section") == Needs(
        pair=(1, 2.0), table={"a": 1e-3}
    )


def test_a_section_given_in_part_keeps_the_rest_of_its_default() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Deep:
        x: int = 1
        y: int = 1

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Inner:
        a: int = 1
        b: int = 1
        deep: Deep = Deep(x=2, y=2)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Outer:
        inner: Inner = Inner(a=3, b=3, deep=Deep(x=4, y=4))

    names: dict[str, Any] = {"Inner": Inner, "Deep": Deep}
    made = build(Outer, {"inner": {"a": 5, "deep": {"x": 6}}}, names=names)
    assert made == Outer(inner=Inner(a=5, b=3, deep=Deep(x=6, y=4)))
    with pytest.raises(RecipeError, match="inner.deep.z: unknown key"):
        build(Outer, {"inner": {"deep": {"z": 1}}}, names=names)


def test_a_method_may_be_given_ready_made() -> None:
    method: Any = NPO(beta=0.3)
    assert from_values({"method": method}).method is method
    assert isinstance(recipes.Recipe(data="sandbox").method, Method)


def test_help_lists_options_methods_and_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["--help", "--method", "npo"])
    out = capsys.readouterr().out
    for word in (
        "--concept",
        "--show-records",
        "--lora.r",
        "--evaluation.batch_size",
        "--method.beta=0.03",
        "--method.stop.gate=True",
        *available(),
    ):
        assert word in out
    assert "what is to be forgotten, as it is named in the data" in " ".join(out.split())


def test_another_dataclass_has_a_command_line_too() -> None:
    values = read(["--batch-size", "3", "--rows=2"], "", Evaluation)
    assert build(Evaluation, values) == Evaluation(batch_size=3, rows=2)
    with pytest.raises(RecipeError, match="unknown option --method.beta"):
        read(["--method.beta=1"], "", Evaluation)


def test_settings_carry_their_comments() -> None:
    comments = {name: comment for name, _, comment, _ in settings_of(NPO)}
    assert comments["beta"].startswith("inverse temperature")


ACCELERATE = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


def test_every_launch_configuration_is_there() -> None:
    assert {path.stem for path in ACCELERATE} == {"cpu", "cpu_2", "gpu", "ddp", "fsdp2", "zero2", "zero3"}


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_a_launch_configuration_parses_and_says_how_to_launch(path: Path) -> None:
    config = load_config_from_file(str(path))
    kinds = {"cpu": "NO", "gpu": "NO", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    assert config.distributed_type == DistributedType(kinds.get(path.stem, "MULTI_GPU"))
    assert config.num_processes == (1 if path.stem in ("cpu", "gpu") else 2)
    assert config.use_cpu == path.stem.startswith("cpu")
    assert f"--config_file recipes/accelerate/{path.name}" in path.read_text(encoding="utf-8")
    if path.stem == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if path.stem.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])
