"""What the papers say of their methods, as limits on the mean figures of a scenario, and by how much they are missed here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_unlearn.papers.plan import Entry, Scenario

Figures = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """The mean figures of a method's runs beside those of before and gold, and its time against retraining's."""

    after: Figures
    before: Figures
    gold: Figures
    time: float  # seconds, as a share of retraining's
    reached: float | None = None  # share of relabelling runs in which every forget row got its new label


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One part of a claim, in points of percent."""

    name: str
    value: float | None  # None: not measured
    most: float

    def missed(self) -> str | None:
        """Return by how much the limit is missed, None where it is kept."""
        if self.value is None:
            return f"{self.name} not measured"
        if self.value <= self.most + 1e-9:
            return None
        return f"{self.name} {self.value:.1f} (at most {self.most:g})"


def verdict(entry: Entry, scenario: Scenario, case: Case) -> str:
    """Return "met", what is missed, or "" where the paper claims nothing of this kind."""
    limits = LIMITS[entry.method](entry, scenario, case) if entry.method in LIMITS else []
    if not limits:
        return ""
    missed = [text for limit in limits if (text := limit.missed())]
    return "missed: " + "; ".join(missed) if missed else "met"


def _points(more: float | None, less: float | None) -> float | None:
    """Return a difference in points of percent."""
    return None if more is None or less is None else 100 * (more - less)


def _apart(one: float | None, other: float | None) -> float | None:
    return None if (found := _points(one, other)) is None else abs(found)


def _lost(case: Case) -> float | None:
    return _points(case.before["test"], case.after["test"])


def _mnemonic_noise(entry: Entry, scenario: Scenario, case: Case) -> Sequence[Limit]:
    """Error on the class at least 99 %, what is kept within 1.5 points, under 5 % of retraining's time."""
    return [
        Limit(name="forgotten class still right", value=_points(case.after["forget_test"], 0), most=1),
        Limit(name="kept classes lost", value=_lost(case), most=1.5),
        Limit(name="time in % of retraining", value=100 * case.time, most=5),
    ]


def _instance_wise(entry: Entry, scenario: Scenario, case: Case) -> Sequence[Limit]:
    """Forget accuracy 0, or 100 % on the new labels; at 16 rows test within 2 points."""
    if entry.settings.get("goal") == "relabel":
        done = Limit(name="runs without every new label", value=_points(1, case.reached), most=0)
    else:
        done = Limit(name="forget rows still right", value=_points(case.after["forget_train"], 0), most=0)
    few = scenario.kind == "rows" and scenario.size <= 16
    return [done, *([Limit(name="test lost", value=_lost(case), most=2)] if few else [])]


def _nabla_tau(entry: Entry, scenario: Scenario, case: Case) -> Sequence[Limit]:
    """Test within 1 point of before, both attacks within 2 points of gold's, at most 30 % of retraining's time."""
    if scenario.kind != "share":
        return []
    attacks = {"MIA by loss": "mia_loss_accuracy", "MIA by entropy": "mia_entropy_accuracy"}
    return [
        Limit(name="test lost", value=_lost(case), most=1),
        *(
            Limit(name=f"{said} from gold's", value=_apart(case.after[name], case.gold[name]), most=2)
            for said, name in attacks.items()
        ),
        Limit(name="time in % of retraining", value=100 * case.time, most=30),
    ]


def _concept_poison(entry: Entry, scenario: Scenario, case: Case) -> Sequence[Limit]:
    """Accuracy on the class at most 2 %, on the kept classes within 0.5 points of gold's."""
    return [
        Limit(name="forget-train still right", value=_points(case.after["forget_train"], 0), most=2),
        Limit(name="forget-test still right", value=_points(case.after["forget_test"], 0), most=2),
        Limit(name="test below gold's", value=_points(case.gold["test"], case.after["test"]), most=0.5),
    ]


LIMITS = {
    "mnemonic_noise": _mnemonic_noise,
    "instance_wise": _instance_wise,
    "nabla_tau": _nabla_tau,
    "concept_poison": _concept_poison,
}
