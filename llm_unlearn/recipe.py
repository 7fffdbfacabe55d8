"""A recipe: everything one unlearning job needs to know, as one flat typed object that is checked before anything is loaded."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm_unlearn.errors import RecipeError
from llm_unlearn.settings import assign, build, load_yaml

if TYPE_CHECKING:  # these import torch, and a recipe must be refused faster than that
    from llm_unlearn.lora import Lora
    from llm_unlearn.method import Method

SANDBOX = "sandbox"  # as model, data or gold: the embedded world and its two models
DEFAULT_METHOD = "npo"
SECRETS = (
    "concept",
    "terms",
    "classes",
)  # these name what is to be forgotten: never shown plainly outside DIR/private
SPLITS = ("forget", "retain", "holdout", "forget_heldout", "retain_heldout", "neighbour", "general")
PATHS = (
    "model",
    "gold",
    "adapter",
    "origin",
    "weights",
    "data",
    "test",
    "ids",
    *SPLITS,
    "output",
    "config",
    "golds",
    "examples",
)  # redacted to their base names


def _default_method() -> "Method":
    return _method(DEFAULT_METHOD)


def _default_lora() -> "Lora":
    from llm_unlearn.lora import Lora

    return Lora()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How the figures are measured."""

    batch_size: int = 64  # rows in one forward pass
    rows: int = 200  # at most so many rows of a split are measured
    suite: Literal["quick", "standard", "full"] = "standard"  # which figures; full: gradient norms too (--suite)
    # keep what before and gold score for later runs on the same rows, in ~/.cache/llm_unlearn/private: with before's answers
    # to the forget rows, so only where it is asked for
    cache: bool = False


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How pictures become pixels, of a model that says nothing of it itself: pixels of 0 to 1, less `mean`, over `std`."""

    size: int | None = None  # pixels a side; none: pictures stay as large as they are
    mean: tuple[float, ...] = ()  # one number for all channels, or one a channel; none: 0
    std: tuple[float, ...] = ()  # none: 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One unlearning job.  Raises RecipeError where two settings contradict each other."""

    task: Literal["causal_lm", "sequence_classifier", "image_classifier"] = "causal_lm"  # what the model does
    model: str = SANDBOX  # the model that is to forget: a folder, a Hub id, or package.module:function that returns a plain module
    weights: str | None = None  # safetensors of a model that is a function; so are its gold and origin
    image: Pictures = field(default_factory=Pictures)  # how pictures become pixels (--image.size 32)
    revision: str | None = None  # branch, tag or commit of a Hub model
    adapter: str | None = None  # a LoRA adapter on top of the model, where the knowledge sits in one
    gold: str | None = None  # a model that never saw the forget rows, to compare with
    golds: tuple[str, ...] = ()  # more of them, with other seeds: how far golds lie apart by chance
    origin: str | None = None  # the checkpoint before the model was trained on the data (for the method retrain)
    data: str | None = None  # one corpus that --concept splits: JSONL, CSV, Parquet or a Hub data set
    concept: str | None = None  # what is to be forgotten, as it is named in the data
    terms: tuple[str, ...] = ()  # other names for the concept
    examples: str | None = None  # rows that carry the concept; the others (of --classes, if given) are inferred
    explain: bool = False  # say what carries the concept, in OUTPUT.explanation, and change nothing
    classes: tuple[
        str, ...
    ] = ()  # of a classifier: forget the rows of --data in these classes (numbers, or the model's names)
    ids: str | None = (
        None  # a deletion request: forget these rows of --data (.txt with an id a line, or a table's column `id`)
    )
    test: str | None = None  # rows like --data that no model was trained on, for --classes and --ids
    forget: str | None = None  # rows to forget (instead of --data and --concept)
    retain: str | None = None  # rows to keep
    holdout: str | None = None  # rows like the forget rows that the model never saw; made from them where not given
    forget_heldout: str | None = None  # forget facts in wordings that were not trained
    retain_heldout: str | None = None  # retain facts in wordings that were not trained
    neighbour: str | None = None  # rows close to the concept that must be kept
    general: str | None = None  # rows about anything else, also kept
    method: "Method" = field(default_factory=_default_method)  # how: the name of a file in llm_unlearn/methods
    lora: "Lora | None" = field(default_factory=_default_lora)  # the adapter that is trained; none: full fine-tuning
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU that has it
    gradient_checkpointing: bool = False  # less memory, about a third more time
    accumulation: int = 1  # forward passes an optimiser step
    evaluation: Evaluation = field(default_factory=Evaluation)  # how the figures are measured
    output: str = "outputs/forget_concept"  # the folder for the adapter, the report and the checkpoints
    overwrite: bool = False  # remove an earlier run that is in the output folder
    merge: bool = False  # also write the model with the adapter merged in
    push_to_hub: str | None = None  # user/name: push the result with its card and certificate when it is done
    private: bool = True  # ... seen by its owner alone
    allow_unverified: bool = False  # ... although the verdict does not vouch for it; the card then says so
    show_records: bool = False  # put forget rows and answers into the report
    seed: int = 0  # of everything random

    def __post_init__(self) -> None:
        """Raise RecipeError where settings contradict each other or are out of range."""
        from llm_unlearn import checks  # it knows recipes

        checks.check(self)


def method_name(method: "Method") -> str:
    """Return the name that `method.find` knows a method by: its file's name, or a dotted path."""
    return type(method).__module__.removeprefix("llm_unlearn.methods.")


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as JSON-able values; `from_values` makes it the same recipe again."""
    values = plain(recipe)
    return {**values, "method": {"name": method_name(recipe.method), **plain(recipe.method)}}


def plain(value: Any) -> Any:
    """Return settings as YAML could hold them: dataclasses as mappings, tuples as lists."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, frozenset | set):
        return sorted(plain(item) for item in value)
    return str(value) if isinstance(value, Path) else value


def _method(section: Any) -> "Method":
    """The method from its name, from a section with `name` and hyper-parameters, or already made."""
    from llm_unlearn.method import Method, find

    if isinstance(section, Method):
        return section
    if section is not None and not isinstance(section, str | Mapping):
        raise RecipeError(f"method: expected a name, or a section with `name` and hyper-parameters, got {section!r}.")
    values = {"name": str(section)} if isinstance(section, str) else dict(section or {})
    name = values.pop("name", DEFAULT_METHOD)
    if not isinstance(name, str):
        raise RecipeError(f"method.name: expected text, got {name!r}.")
    return build(find(str(name)), values, "method")


def type_names() -> dict[str, type]:
    """Return the types that Recipe's annotations name and that are imported late, because they bring torch."""
    from llm_unlearn.lora import Lora
    from llm_unlearn.method import Method

    return {"Method": Method, "Lora": Lora}


def from_values(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe made from plain values; raises RecipeError for what is unknown, of a wrong type or contradictory.

    Without any data the sandbox's is taken, and for its default concept the sandbox's gold.
    """
    from llm_unlearn import cuts

    filled = dict(values)
    if isinstance(filled.get("classes"), list | tuple):
        filled["classes"] = [str(name) if isinstance(name, int) else name for name in filled["classes"]]  # numbers do
    if filled.get("model", SANDBOX) == SANDBOX:
        if not any(filled.get(key) for key in ("data", "forget", "retain")):
            filled["data"] = SANDBOX
        if filled.get("data") == SANDBOX and cuts.is_default_request(filled):
            filled.setdefault("gold", SANDBOX)
    if "method" in filled:
        filled["method"] = _method(filled["method"])
    return build(Recipe, filled, names=type_names())


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe in a YAML file, with dotted overrides ({"method.beta": 0.2}) on top."""
    return from_values(override(load_yaml(path), overrides or {}))


def override(tree: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree with dotted overrides in it.  Another method's name drops the hyper-parameters of the one that was there."""
    section = tree.get("method")
    if isinstance(section, str):
        tree["method"] = {"name": section}
    if "method" in overrides and (tree.get("method") or {}).get("name") != overrides["method"]:
        tree["method"] = {"name": overrides["method"]}
    for key, value in overrides.items():
        if key != "method":
            assign(tree, key, value)
    return tree
