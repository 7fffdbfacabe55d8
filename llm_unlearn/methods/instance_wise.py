"""Learning to unlearn: single rows, without any other data (Cha et al., 2024, arXiv:2301.11578).

misclassify:  L = - f CE(x, y)  + (1 - f) CE(x', y')  + lamb/2 sum_i (1 - O_i) (theta_i - theta0_i)^2     f = nf / (na + nf)
relabel:      L = + f CE(x, y*) + the same, y* a label that is not y
x' are adversarial examples made from the forget rows with the model before unlearning, which takes them for y' (one of the
labels that are not y, each as likely as the others); to keep saying so keeps the borders between classes where they are.
O_i is the weight's importance for the forget rows (MAS), scaled to 0..1 in each tensor: what they do not use is held.
The fit ends after the step that leaves no forget row its label (misclassify), or gives every row its new one (relabel); of a
causal LM, after the one that leaves its words known no better than a holdout's, where there is one.
Rows of earlier requests (the split `forgotten`) stay forgotten: they are forget rows again, and cost nothing while they are wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from llm_unlearn import other_answers
from llm_unlearn.adversary import Anchors, Attack, anchors
from llm_unlearn.files import read_json, write_json
from llm_unlearn.fit import DONE, Batches, Module, Objective, Progress, Schedule, Terms, fit
from llm_unlearn.method import Method
from llm_unlearn.observe import Done
from llm_unlearn.run import Run
from llm_unlearn.stand_ins import Outputs, StandIns, stand_ins
from llm_unlearn.tasks import Row
from llm_unlearn.weights.held import held, pull


@dataclass(frozen=True, kw_only=True)
class InstanceWise(Method):
    """L = -+ loss(forget) + loss(what stands in for the rest) + lamb/2 sum (1 - importance) (theta - theta0)^2."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget"})
    paper: ClassVar[str] = "arXiv:2301.11578"
    goal: Literal["auto", "misclassify", "relabel"] = "auto"  # auto: misclassify; a causal LM's rows are relabelled
    # Differs from the paper, which has labels: adversarial examples with the labels they were aimed at.  outputs: what the model
    # before says of stand-ins, held by KL (16 rows of Fashion-MNIST: test -0.0 to -1.2 points, labels -10).  nothing: plain push
    keep: Literal["auto", "outputs", "labels", "nothing"] = "auto"  # outputs for images, labels for texts
    outputs: Outputs = Outputs()  # pictures that stand in, how firmly they are held, and how far that eases
    # Differs from the paper: -CE, weakest where the model is certain; margin: max(0, margin + own logit - best other one)
    push: Literal["margin", "cross_entropy"] = "margin"
    margin: float | None = None  # None: 0.05 with outputs, 0.5 with labels
    limit: float = 4.0  # nats above which -CE (a causal LM's always) pushes no further. Differs from the paper: none
    importance: bool = True  # as in the paper: weights that the forget rows do not use (by MAS) are held
    attack: Attack = Attack()
    lamb: float = 1.0  # the paper's, on the adapter's weights
    answer: str | None = None  # a causal LM's new answer to every row; None: another forget row's
    stop_at: Literal["auto", "zero", "holdout"] = "auto"  # right decisions left; auto: a causal LM's holdout's
    # AdamW, 2e-3 with outputs, 5e-4 with labels. Differs from the paper: SGD, momentum 0.9, 1e-3, on full weights
    training: Schedule = Schedule(
        passes=300, least_steps=400, most_steps=2000, forget_batch=16, retain_per_forget=8, warmup_steps=0, decay="constant"
    )  # fmt: skip

    def unlearn(self, run: Run) -> None:
        """Make what stands in for other rows, and importance, from the model as it is; then fit until the goal is reached."""
        self.check(run)
        goal = self.goal if self.goal != "auto" else "relabel" if run.task.name == "causal_lm" else "misclassify"
        earlier = run.splits.get("forgotten", ())
        how: Any = {"relabel": goal == "relabel", "answer": self.answer, "seed": run.seed}
        aim = other_answers.aims(run.model, run.task, run.rows("forget"), earlier, **how)
        near = self.near(run, [*run.rows("forget"), *earlier])
        done, schedule = self.done(run, goal, aim), self.schedule(run, len(aim))
        encoded = {"stand_ins": near.examples} if near else {}
        fit(run, {"forget": aim}, self.objective(run, goal, near), schedule=schedule, encoded=encoded, done=done)
        end = read_json(run.folder / "fit" / DONE) or {}
        told = {"goal": goal, "finished_after_steps": end.get("finished"), "most_steps": end.get("steps")}
        write_json(run.folder / "method.json", told | (near.told() if isinstance(near, Anchors) else {}))

    def kept(self, run: Run) -> str:
        """Return what is held of the model before, beside its weights."""
        return self.keep if self.keep != "auto" else "outputs" if run.task.name == "image_classifier" else "labels"

    def near(self, run: Run, rows: Sequence[Row]) -> Anchors | StandIns | None:
        """Return what stands in for other rows, made from these."""
        if self.kept(run) == "outputs":
            count = self.outputs.pictures
            return stand_ins(run.model, run.task, rows, count, self.attack, run.seed + 1, run.frozen_copy)
        return anchors(run.model, run.task, rows, self.attack, run.seed + 1) if self.kept(run) == "labels" else None

    def schedule(self, run: Run, rows: int) -> Schedule:
        """Return the training settings for so many rows."""
        outputs = self.kept(run) == "outputs"  # the weight of labels hangs on how many of them there are to a row
        rate = self.training.learning_rate or (2e-3 if outputs else 5e-4)
        return replace(self.training.grown(rows) if outputs else self.training, learning_rate=rate)

    def objective(self, run: Run, goal: str, near: Anchors | StandIns | None) -> Objective:
        """Return the terms; what stands in for other rows and held weights are constants made before the first step."""
        outputs = isinstance(near, StandIns)
        share = 1 / (1 + self.training.retain_per_forget) if isinstance(near, Anchors) else 1.0
        margin = (0.05 if outputs else 0.5) if self.margin is None else self.margin
        weights = held(run.model, run.task, run.task.encode(run.rows("forget"))) if self.importance else None
        by_margin = self.push == "margin" and run.task.name != "causal_lm" and (outputs or goal == "misclassify")

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            batch = near.join(model, run.task, batch, "stand_ins") if isinstance(near, Anchors) else batch
            forget, *others = run.task.streams(model, batch)
            loss = forget.mean_nll() if goal == "relabel" else -forget.surprise(self.limit)
            if by_margin:
                loss = other_answers.short_of(forget, margin, towards=goal == "relabel")
            out = {"forget": share * loss.mean()}
            if isinstance(near, StandIns):  # the rows that are not there yet share the weight of all
                out["forget"] /= progress.reduce_mean((loss.detach() > 0).float().mean()).clamp(min=1 / len(loss))
                out["kept"] = self.outputs.weight_now(progress) * near.moved(batch["stand_ins"], others[0])
            elif others:
                out["adversarial"] = (1 - share) * others[0].mean_nll().mean()
            if weights:
                out["held"] = self.lamb * pull(model, weights)
            return out

        return terms

    def done(self, run: Run, goal: str, aim: Sequence[Row]) -> Done:
        """Return what tells that the goal is reached; what unseen rows get is measured before the first step."""
        words = run.task.name == "causal_lm"
        at = self.stop_at if self.stop_at != "auto" else "holdout" if words else "zero"
        asked = run.rows("holdout") if self.stop_at == "holdout" else run.splits.get("holdout", ())
        unseen = asked if at == "holdout" and (words or goal == "misclassify") else ()
        said = goal == "relabel" and not unseen  # otherwise what counts is what is left of the rows' own labels
        rows = aim if said else [*run.rows("forget"), *run.splits.get("forgotten", ())]
        return other_answers.reached(run.model, run.task, rows, unseen, wrong=said)
