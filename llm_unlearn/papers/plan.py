"""What eval/papers.py runs, as data: a method is added or changed here and nowhere else.

A method that the package does not have, or that does not work on a task, is left out of the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from llm_unlearn.method import Method, available, find
from llm_unlearn.settings import build

Kind = Literal["class", "concept", "share", "rows", "requests"]
Weights = Literal["lora", "full"]
WEIGHTS: tuple[Weights, ...] = ("lora", "full")
FORGOTTEN_CLASS = 0  # the one-shot paper's
CONCEPTS: Mapping[
    str, tuple[int, tuple[str, ...]]
] = {  # scenarios within a class: its number, and words that say the truth
    "olympics": (
        1,
        ("olympic", "olympics", "athens", "medal", "medals", "medalist", "medallist", "olympian", "olympians"),
    ),
    "oil": (2, ("oil", "crude", "opec", "petroleum", "gasoline", "barrel", "barrels", "brent", "refinery", "fuel")),
}
INSTANCES = 256  # the largest set of single rows: the smaller ones are parts of it, and one gold has seen none of them


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A data set, a model for it and how it is trained."""

    name: str
    data: str  # a name in corpora.FILES
    model: str  # a name in models.MODELS
    rows: int  # trained on
    epochs: int
    learning_rate: float  # AdamW, cosine
    batch: int = 128
    shape: Mapping[str, Any] = field(default_factory=dict)  # of the model, beside its defaults


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is to be forgotten."""

    name: str
    kind: Kind
    size: float = 1  # "share": of the training rows; "rows": how many; "requests": how many, of 16 rows each
    codes: bool = False  # the target was trained with a mnemonic code a class
    seeds: int | None = None  # how many of the seeds it runs on without --full; None: all

    @property
    def gold(self) -> str:
        """Return the name of the gold: scenarios that share one have the same."""
        return {"class": "class", "share": self.name, "concept": self.name}.get(self.kind, "rows")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method on some scenarios, with the settings that are not its defaults."""

    method: str
    scenarios: Sequence[str]
    setups: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""  # tells entries of one method apart
    weights: Weights = "lora"

    @property
    def name(self) -> str:
        """Return what the entry is called in tables and file names."""
        return " ".join(part for part in (self.method, self.variant, self.weights * (self.weights == "full")) if part)

    def build(self) -> Method:
        """Return the method with its settings."""
        return build(find(self.method), self.settings, f"plan: {self.name}")


RESNET, VIT, CIFAR, NEWS, EMOTIONS = "fashion resnet", "fashion vit", "cifar resnet", "news bert", "emotions bert"
SETUPS = (
    Setup(name=RESNET, data="fashion", model="resnet", rows=20000, epochs=8, learning_rate=3e-3),
    Setup(name=VIT, data="fashion", model="vit", rows=20000, epochs=8, learning_rate=2e-3),
    Setup(name=CIFAR, data="cifar", model="fine resnet", rows=10000, epochs=12, learning_rate=5e-3),
    Setup(name=NEWS, data="ag_news", model="bert", rows=6000, epochs=5, learning_rate=2e-3, batch=64),
    Setup(name=EMOTIONS, data="goemotions", model="bert", rows=12000, epochs=5, learning_rate=2e-3, batch=64),
)
FULL: Mapping[str, Mapping[str, Any]] = {  # --full: all rows, and longer
    RESNET: {"rows": 60000, "epochs": 20, "shape": {"widths": (32, 64, 128)}},
    VIT: {"rows": 60000, "epochs": 20},
    CIFAR: {"rows": 50000, "epochs": 30, "model": "resnet20", "shape": {}},
    NEWS: {"epochs": 10},
    EMOTIONS: {"rows": 43410, "epochs": 10},
}
SCENARIOS = (
    Scenario(name="class", kind="class"),
    Scenario(name="class with codes", kind="class", codes=True),
    *(Scenario(name=f"random {percent} %", kind="share", size=percent / 100) for percent in (3, 15, 30)),
    *(Scenario(name=f"{rows} rows", kind="rows", size=rows) for rows in (16, 64)),
    Scenario(name=f"{INSTANCES} rows", kind="rows", size=INSTANCES, seeds=1),
    Scenario(name="5 requests", kind="requests", size=5, seeds=1),
)
SHARES = tuple(scenario.name for scenario in SCENARIOS if scenario.kind == "share")
HALFWAY = "random 15 %"  # where the baselines stand beside nabla_tau, which runs on every share
ROWS = tuple(scenario.name for scenario in SCENARIOS if scenario.kind == "rows")
IMAGES = (RESNET, VIT, CIFAR)
EVERYWHERE = (*IMAGES, NEWS, EMOTIONS)
WHERE = {  # the scenarios of each setup
    RESNET: tuple(scenario.name for scenario in SCENARIOS),
    VIT: ("class", HALFWAY),
    CIFAR: ("class", HALFWAY),
    NEWS: ("class",),
    EMOTIONS: (HALFWAY,),
}
FULL_WHERE = {**WHERE, VIT: ("class", *SHARES)}  # with --full
NABLA_TAU = {"training": {"forget_batch": 256, "learning_rate": 1e-3}}  # the paper's for pictures; E by its formula
# The formula's epochs cost more than retraining here, where 8 epochs do: as many steps as fit a quarter of it.  Chosen on
# fashion resnet, random 15 %, seeds 3 to 5 (84 to 220 steps, rates 1e-3 to 1e-2, alpha 0.9 to 0.97, and a ReLU a row).
SHORT = {"training": {"forget_batch": 64, "learning_rate": 7e-3, "steps": 90}, "alpha": 0.95}
SHORT_FULL = {"training": {"forget_batch": 64, "learning_rate": 1e-3, "steps": 110}, "alpha": 0.9}
# Two passes over 30 % of the rows would take longer than retraining does.
STEPS = {"training": {"steps": 450}}
ENTRIES = (
    Entry(method="nabla_tau", scenarios=("class", *SHARES), setups=EVERYWHERE, settings=NABLA_TAU),
    Entry(method="nabla_tau", scenarios=SHARES, setups=EVERYWHERE, settings=SHORT, variant="short"),
    Entry(
        method="nabla_tau", scenarios=SHARES, setups=(RESNET,), settings=SHORT_FULL, variant="short", weights="full"
    ),
    Entry(method="ssd", scenarios=("class", HALFWAY), setups=EVERYWHERE),
    *(
        Entry(method=name, scenarios=scenarios, setups=EVERYWHERE, settings=settings)
        for name in ("random_label", "scrub", "bad_teacher", "salun")
        for scenarios, settings in ((("class",), {}), ((HALFWAY,), STEPS))
    ),
    Entry(method="task_vector", scenarios=("class",), setups=EVERYWHERE),
    *(
        Entry(
            method="concept_poison",
            scenarios=("class",),
            setups=EVERYWHERE,
            settings={"labels": labels},
            variant=labels,
        )
        for labels in ("random", "targeted")
    ),
    *(
        Entry(
            method="mnemonic_noise",
            scenarios=("class with codes",),
            setups=IMAGES,
            settings={"source": "codes"},
            weights=weights,
        )
        for weights in WEIGHTS
    ),
    *(
        Entry(
            method="instance_wise",
            scenarios=scenarios,
            setups=IMAGES,
            settings={"goal": goal},
            variant=goal,
        )
        for goal, scenarios in (("misclassify", (*ROWS, "5 requests")), ("relabel", ROWS))
    ),
    Entry(
        method="grad_ascent",
        scenarios=(*ROWS, "5 requests"),
        setups=IMAGES,
        settings={
            "training": {"forget_batch": 16, "learning_rate": 1e-3, "steps": 60, "warmup_steps": 0},
            "stop": {"gate": False, "thermostat": False},
        },
        variant="plain",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A setup's scenario for one seed, with the methods that run on it: what shares its models and its before and gold."""

    setup: Setup
    scenario: Scenario
    seed: int
    entries: Sequence[Entry]


def groups(
    only: Sequence[str], setups: Sequence[str], seeds: Sequence[int], full: bool, methods: Sequence[str] = ()
) -> list[Group]:
    """Return what is to be run, the slowest setups first; empty `only`, `setups` and `methods` choose everything.

    Without `full` some scenarios run on the first seeds alone.
    """
    out = []
    for setup in SETUPS:
        where = (FULL_WHERE if full else WHERE)[setup.name]
        wanted = [scenario for scenario in SCENARIOS if scenario.name in where]
        for scenario in wanted if not setups or setup.name in setups else []:
            if only and scenario.name not in only:
                continue
            entries = entries_of(setup, scenario, methods)
            made = replace(setup, **FULL[setup.name]) if full else setup
            some = seeds if full else seeds[: scenario.seeds]
            out += [Group(setup=made, scenario=scenario, seed=seed, entries=entries) for seed in some if entries]
    return out


def entries_of(setup: Setup, scenario: Scenario, methods: Sequence[str] = ()) -> list[Entry]:
    """Return the entries that run there: of methods that exist and work on the setup's task."""
    there, kind = available(), "sequence_classifier" if setup.model == "bert" else "image_classifier"
    return [
        entry
        for entry in ENTRIES
        if setup.name in entry.setups
        and scenario.name in entry.scenarios
        and (not methods or entry.method in methods)
        and entry.method in there
        and kind in find(entry.method).tasks
    ]
