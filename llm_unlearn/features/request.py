"""What a feature is asked to be forgotten by: a model, its rows, and a column of annotations, or a layer to look for groups in."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llm_unlearn.data.annotations import COLUMN, annotations, balanced, load_annotated
from llm_unlearn.data.sources import load
from llm_unlearn.errors import RecipeError
from llm_unlearn.lora import Lora
from llm_unlearn.method import Method, find
from llm_unlearn.recipe import SANDBOX, Recipe, method_name
from llm_unlearn.settings import build

AUTO = "auto"
MEASURED = 1000  # rows at most
# on pictures all rows serve, each with a value that is drawn for it, so little is left to be cleared
PICTURES: dict[str, Any] = {
    "clear_weight": 0.3,
    "agree_weight": 0.3,
    "training": {"steps": 500, "forget_batch": 64, "decay": "cosine"},
}
GATE: dict[str, Any] = {"strength": 3.0, "beta": 3.0}  # of feature_adversarial, on pictures
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One request.  Raises RecipeError where settings contradict each other."""

    feature: str = COLUMN  # what is to be forgotten, as the report calls it; auto: groups of units are looked for
    annotations: str | None = None  # the column of --data with each row's value of the feature
    layer: str | None = None  # with auto: the layer whose units are grouped; none: the first block
    group: tuple[int, ...] = ()  # with auto: which groups are removed
    examples: str | None = None  # with auto: rows that show the feature and little else choose the groups
    task: Literal["causal_lm", "sequence_classifier", "image_classifier"] = (
        "sequence_classifier"  # what the model does
    )
    model: str = SANDBOX  # the model that is to forget: a folder or a Hub id; sandbox: trained first, on embedded rows
    revision: str | None = None  # branch, tag or commit of a Hub model
    adapter: str | None = None  # a LoRA adapter on top of the model, where the knowledge sits in one
    gold: str | None = None  # a model trained where the feature tells nothing of the target, to compare with
    data: str | None = None  # rows that the model was trained on
    test: str | None = None  # rows it never saw; none: rows of --data are measured
    method: Any = (
        None  # none: feature_adversarial with annotations, feature_activation without (--method.steps and so on)
    )
    lora: Lora | None = field(default_factory=Lora)  # the adapter that is trained; none: full fine-tuning
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU that has it
    output: str = "outputs/forget_feature"  # the folder for the adapter and the report
    overwrite: bool = False  # remove an earlier run that is in the output folder
    seed: int = 0  # of everything random

    def __post_init__(self) -> None:
        """Raise RecipeError unless it is said how the feature is known, and in which rows."""
        auto = self.feature == AUTO
        if self.model != SANDBOX and not self.data:
            raise RecipeError("--data is missing: give rows that the model was trained on.")
        if self.model == SANDBOX and (self.data or self.test):
            raise RecipeError("--data and --test go with --model; the sandbox has rows of its own.")
        if not auto and self.data and not self.annotations:
            raise RecipeError(
                f"which column of --data holds {self.feature}? Give --annotations COLUMN, or --feature auto."
            )
        for name in ("layer", "group", "examples"):
            if getattr(self, name) and not auto:
                raise RecipeError(
                    f"--{name} goes with --feature auto; with annotations the rows say where the feature is."
                )
        if self.group and self.examples:
            raise RecipeError("--group and --examples are both given: choose by number or by examples.")
        method = self.chosen()
        if method.removes != "feature":
            raise RecipeError(
                f"--method {method_name(method)} forgets rows, not a feature: use feature_adversarial or feature_activation."
            )
        if self.task not in method.tasks:
            raise RecipeError(
                f"--method {method_name(method)} works on {', '.join(sorted(method.tasks))}, not on {self.task}."
            )

    @property
    def shows(self) -> bool:
        """Return whether groups are only to be shown, and nothing changed."""
        return self.feature == AUTO and not self.group and not self.examples

    def chosen(self) -> Method:
        """Return the method with its settings."""
        values = {"name": self.method} if isinstance(self.method, str) else dict(self.method or {})
        name = str(values.pop("name", "feature_activation" if self.feature == AUTO else "feature_adversarial"))
        if self.task == "image_classifier" and name in ("feature_adversarial", "feature_activation"):
            values = {**PICTURES, **(GATE if name == "feature_adversarial" else {}), **values}
        made: Method = build(find(name), values, "method")
        if name == "feature_activation":
            made = replace(made, layer=self.layer, group=self.group)  # type: ignore[call-arg]
        return made

    @property
    def recipe(self) -> Recipe:
        """Return what loads the models and names them in public."""
        return Recipe(
            task=self.task, model=self.model, revision=self.revision, adapter=self.adapter, gold=self.gold, lora=self.lora,
            precision=self.precision, output=self.output, seed=self.seed, forget="-", retain="--",
        )  # fmt: skip

    def splits(self) -> dict[str, Rows]:
        """Return rows by role: annotated (or retain, without annotations), examples, and test, which is measured."""
        known = self._read(str(self.data))
        unseen = self._read(self.test) if self.test else known
        if (
            COLUMN in unseen[0]
        ):  # whatever goes with the feature in these rows: in those that are measured nothing does
            order = balanced(unseen, annotations(unseen), seed=0)
            unseen = [unseen[i] for i in dict.fromkeys(order)]
        out = {"annotated" if self.feature != AUTO else "retain": known, "test": unseen[:MEASURED]}
        return out | ({"examples": load(self.examples)} if self.examples else {})

    def _read(self, path: str) -> Rows:
        return load_annotated(path, self.annotations) if self.annotations else load(path)


def in_sandbox(request: Feature) -> tuple[Feature, dict[str, Rows]]:
    """Return the request on the embedded models, which are trained where they are not there yet, and the embedded rows."""
    from llm_unlearn.features import embedded

    target, gold = embedded.models(request.task, Path(f"{request.output}-models"), request.seed)
    known, unseen = (embedded.rows(request.task, part, request.seed) for part in ("train", "test"))
    rows = {"annotated" if request.feature != AUTO else "retain": known, "test": unseen}
    if request.examples:
        rows["examples"] = load(request.examples)
    there: Mapping[str, Any] = {"model": str(target), "gold": request.gold or str(gold), "data": SANDBOX}
    return replace(request, **there, annotations=request.annotations or COLUMN), rows
