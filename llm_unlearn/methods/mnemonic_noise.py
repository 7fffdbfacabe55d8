"""One-shot unlearning with mnemonic codes (Yamashita, Yamada and Shibata, 2024, PMLR 260, arXiv:2306.05670), Eqs. 4-7.

Implemented from the paper's equations; the authors (NTT) reserve patents on the method.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from llm_unlearn.data.mnemonic import Codes, units_asked
from llm_unlearn.errors import DataError
from llm_unlearn.files import write_json
from llm_unlearn.method import Method
from llm_unlearn.run import Run
from llm_unlearn.tasks import Example
from llm_unlearn.weights.importance import fisher_diagonal
from llm_unlearn.weights.lowrank import canonical
from llm_unlearn.weights.noise import Choice, Judge, Noise, accuracy, confirmed, fresh, ratio, search

HALVES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)  # the paper's 1e-6 to 1, in half decades
OTHERS = Choice(kappas=(1.0, 4.0, 16.0, 64.0, 256.0), lambdas=HALVES, reach=2.0, cost=1.0)
# Of pictures' codes.  Chosen on classes 1 to 9 of two Fashion-MNIST ResNets, by unseen rows: 16 of the 18 forgotten, and with each of
# them the kept classes within 1.5 points; with a reach of 4 and a cost of 30, 14; with a reach of 2, 15; by OTHERS a class keeps up to 76 %
QUARTERS = tuple(10 ** (each / 4) for each in range(-20, 1))
PICTURES = Choice(kappas=OTHERS.kappas[2:], lambdas=QUARTERS, reach=3.0, cost=100.0)


@dataclass(frozen=True, kw_only=True)
class MnemonicNoise(Method):
    """w' = w +- alpha_l eta, eta = f_F / f_R, alpha_l = min(lambda1, lambda2 / max eta): no training, and with codes no data.

    f_F and f_R are the diagonal Fisher information of the forgotten and the kept units' codes (Eq. 4 drops the data's part).
    Forgets whole units only.  The paper's evidence is for one unit; several are forgotten one after the other, and each is
    measured on top of those before it.
    """

    needs: ClassVar[frozenset[str]] = frozenset()  # with codes neither forget nor retain rows are looked at
    edits_adapter: ClassVar[bool] = True
    whole_units: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv:2306.05670"
    units: tuple[str, ...] = ()  # what to forget by codes; none: the units that the forget rows belong to
    source: Literal["auto", "codes", "rows"] = "auto"  # whose Fisher; auto: codes where the model has them, else rows
    # lambda2 = kappa * std(w_l); tried on the codes; none: 1 to 256, of pictures' codes 16 to 256 unless rows confirm the choice
    kappa: tuple[float, ...] = ()
    lambda1: tuple[float, ...] = ()  # the most a factor may be; tried on the codes; none: 1e-5 to 1
    # d = smooth * mean(f_R); None: 0 as in the paper, but 1e-4 for rows and for an adapter, where many gradients vanish
    smooth: float | None = None
    clip: float = 1.0  # quantile at which eta is cut; 1: nowhere, as in the paper
    # Differs from the paper, which says nothing of ties: codes wrong by so many times guessing's loss; None: 3 (pictures), 2
    reach: float | None = None
    cost: float | None = None  # of a loss on the kept codes against it, as `reach`; None: 100 (pictures), 1
    rows: int = 256  # of forget and retain each that stand in where there are no codes, and that confirm the choice
    confirm: bool = False  # refuse choices that cost the retain rows more than `tolerance`: the codes can over-promise
    tolerance: float = 0.015  # of accuracy on retain, where the choice is confirmed

    def check(self, run: Run) -> None:
        """Raise DataError where there is neither a code nor a row to go by."""
        super().check(run)
        if self.source != "rows" and run.codes is not None:
            return
        if self.source == "codes" or self.units or not run.splits.get("forget"):
            raise DataError(
                "this model has no mnemonic codes (no mnemonic.json beside its weights): train it with --mnemonic "
                "(recipes/train_target.py), or give --forget and --retain rows and --method.source=rows."
            )
        for split in ("forget", "retain"):
            run.rows(split)

    def unlearn(self, run: Run) -> None:
        """Change `run.model` by noise; write what was chosen into method.json and the codes that are left beside it."""
        self.check(run)
        run.folder.mkdir(parents=True, exist_ok=True)
        base = fresh(run.model)
        if not base:
            canonical(run.model)  # an adapter that holds the knowledge: (A, B) and (R A, B / R) have different Fishers
        if run.codes is None or self.source == "rows":
            forget, retain = (run.task.encode(run.rows(split)[: self.rows]) for split in ("forget", "retain"))
            record = {"source": "rows", **self._forget(run, forget, retain, base, rows=True)}
        else:
            record = self._by_codes(run, run.codes, base)
        write_json(run.folder / "method.json", record)

    def _by_codes(self, run: Run, codes: Codes, base: bool) -> dict[str, Any]:
        units = codes.known(self.units or units_asked(run.splits, codes))
        left = codes.without(units)
        if not left.seeds:
            raise DataError(
                f"all {len(units)} units are to be forgotten: nothing is left to keep; delete the model instead."
            )
        retain = left.examples(run.task, left.seeds)
        for number, unit in enumerate(units, start=1):
            record = self._forget(run, codes.examples(run.task, [unit]), retain, base)
            if number > 1:  # what was forgotten before must not have come back
                record["error_all"] = 1 - accuracy(run.model, run.task, codes.examples(run.task, units[:number]))[0]
        left.save(run.folder)
        return {"source": "codes", "units": len(units), "units_kept": len(left.seeds), **record}

    def _forget(
        self, run: Run, forget: Sequence[Example], retain: Sequence[Example], base: bool, *, rows: bool = False
    ) -> dict[str, Any]:
        """Put the best noise on the model and return what is to be told about it."""
        weights: Literal["base", "trainable"] = "base" if base else "trainable"
        of_forget = fisher_diagonal(run.model, run.task, forget, weights=weights)
        of_retain = fisher_diagonal(run.model, run.task, retain, weights=weights)
        in_adapter = any(".lora_" in name for name in of_retain)
        smooth = self.smooth if self.smooth is not None else 1e-4 if rows or in_adapter else 0.0
        eta = {name: ratio(of_forget[name], each, smooth=smooth, clip=self.clip) for name, each in of_retain.items()}
        noise = Noise(run.model, eta)
        choice = PICTURES if run.task.name == "image_classifier" and not rows else OTHERS
        choice = replace(choice, kappas=OTHERS.kappas) if self.confirm else choice
        asked: dict[str, Any] = {"kappas": self.kappa, "lambdas": self.lambda1, "reach": self.reach, "cost": self.cost}
        choice = replace(choice, **{name: value for name, value in asked.items() if value})
        judge = Judge(run.model, run.task, forget, retain, choice)
        ranked = search(noise, judge, choice, rows=rows, whole=self.confirm)
        best = ranked[0]
        if self.confirm:
            real = run.task.encode(run.rows("retain")[: self.rows])
            best = confirmed(noise, ranked, lambda: accuracy(run.model, run.task, real)[0], self.tolerance)
        return {**asdict(best), "candidates": len(ranked), "energy_kept": noise.settle(best)}
