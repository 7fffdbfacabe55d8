"""Learning to unlearn: single rows, without any other data (Cha et al., 2024, arXiv:2301.11578).

misclassify:  L = - f CE(x, y)  + (1 - f) CE(x', y')  + lamb/2 sum_i (1 - O_i) (theta_i - theta0_i)^2     f = nf / (na + nf)
relabel:      L = + f CE(x, y*) + the same, y* a label that is not y

x' are adversarial examples made from the forget rows with the model before unlearning, which takes them for y' (one of the
labels that are not y, each as likely as the others); to keep saying so keeps the borders between classes where they are.
O_i is the weight's importance for the forget rows (MAS), scaled to 0..1 in each tensor: what they do not use is held.
The fit ends with the step after which no forget row has its label (misclassify), or every row its new one (relabel).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from llm_unlearn import other_answers
from llm_unlearn.adversary import Anchors, anchors
from llm_unlearn.files import read_json, write_json
from llm_unlearn.fit import DONE, Batches, Module, Objective, Progress, Schedule, Terms, fit
from llm_unlearn.held import held, pull
from llm_unlearn.method import Method
from llm_unlearn.observe import Done
from llm_unlearn.run import Run
from llm_unlearn.tasks import Row


@dataclass(frozen=True, kw_only=True)
class InstanceWise(Method):
    """L = -+ f loss(forget) + (1 - f) loss(adversarial) + lamb/2 sum (1 - importance) (theta - theta0)^2."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget"})
    paper: ClassVar[str] = "arXiv:2301.11578"
    goal: Literal["auto", "misclassify", "relabel"] = "auto"  # auto: misclassify; a causal LM's rows are relabelled
    # Differs from the paper: -CE there, of which nothing is left for labels the model is certain of, and most for rows long
    # lost; margin: max(0, margin + own logit - best other one).  A causal LM's tokens always have -CE, up to `limit`.
    push: Literal["margin", "cross_entropy"] = "margin"
    margin: float = 0.5
    limit: float = 4.0  # nats above which -CE pushes a decision no further. Differs from the paper: none
    adversarial: bool = True  # this and importance off, with cross_entropy: plain negative gradient
    importance: bool = True
    examples: int | None = (
        None  # adversarial ones a row; None: 320 / rows, 4 to 20, of 256 rows at most. Differs from the paper: 20 to 300
    )
    attack_steps: int = 20  # Differs from the paper: 100
    pixel_radius: float = 0.045  # a pixel, of its range. Differs from the paper: 4.0 for 32 x 32 x 3 pixels, so 0.072
    word_radius: float = 0.4  # of the norm of a text's embeddings; at 0.1 a fifth of the attacks hit (toy texts)
    lamb: float = 1.0  # the paper's, on the adapter's weights
    answer: str | None = None  # a causal LM's new answer to every row; None: another forget row's
    stop_at: Literal["auto", "zero", "holdout"] = (
        "auto"  # misclassify: share of right decisions; auto: a causal LM's holdout's
    )
    optimizer: Literal["adamw", "sgd"] = (
        "adamw"  # Differs from the paper: SGD, momentum 0.9 (sgd), lr 1e-3 on full weights
    )
    training: Schedule = Schedule(
        learning_rate=5e-4,
        steps=300,
        forget_batch=16,
        retain_per_forget=8,  # adversarial examples; 256 : 32 in the paper
        warmup_steps=0,
        decay="constant",
        max_grad_norm=0.0,
    )

    def unlearn(self, run: Run) -> None:
        """Make adversarial examples and importance from the model as it is, then fit until the goal is reached."""
        self.check(run)
        rows, seed = run.rows("forget"), run.seed
        goal = self.goal if self.goal != "auto" else "relabel" if run.task.name == "causal_lm" else "misclassify"
        other = other_answers.with_other_labels(run.model, run.task, rows, answer=self.answer, seed=seed)
        aim = other if goal == "relabel" else rows
        near = self.near(run) if self.adversarial else None
        objective, done = self.objective(run, goal, near), self.done(run, goal, aim)
        if self.optimizer == "sgd":
            run = replace(run, trainer={"optim": "sgd", "optim_args": "momentum=0.9", **run.trainer})
        encoded = {"adversarial": near.examples} if near else {}
        fit(run, {"forget": aim}, objective, schedule=self.training, encoded=encoded, done=done)
        end = read_json(run.folder / "fit" / DONE) or {}
        told = {"goal": goal, "finished_after_steps": end.get("finished"), "most_steps": end.get("steps")}
        if near:
            told |= {"adversarial_examples": len(near.examples), "attack_success": len(near.examples) / near.tried}
        write_json(run.folder / "method.json", told)

    def near(self, run: Run) -> Anchors:
        """Return the adversarial examples, before the first step."""
        how = {"pixel_radius": self.pixel_radius, "word_radius": self.word_radius, "steps": self.attack_steps}
        rows, seed = run.rows("forget"), run.seed + 1
        return anchors(run.model, run.task, rows, times=self.examples, seed=seed, progress=True, **how)

    def objective(self, run: Run, goal: str, near: Anchors | None) -> Objective:
        """Return the terms; adversarial examples and held weights are constants made before the first step."""
        share = 1 / (1 + self.training.retain_per_forget) if near else 1.0
        weights = held(run.model, run.task, run.task.encode(run.rows("forget"))) if self.importance else None
        off = goal == "misclassify" and self.push == "margin" and run.task.name != "causal_lm"

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            if near:
                batch = near.join(model, run.task, batch, "adversarial")
            forget, *adversarial = run.task.streams(model, batch)
            loss = forget.mean_nll() if goal == "relabel" else -forget.surprise(self.limit)
            out = {"forget": share * (other_answers.pushed_off(forget, self.margin) if off else loss).mean()}
            if adversarial:
                out["adversarial"] = (1 - share) * adversarial[0].mean_nll().mean()
            if weights:
                out["held"] = self.lamb * pull(model, weights)
            return out

        return terms

    def done(self, run: Run, goal: str, aim: Sequence[Row]) -> Done:
        """Return what tells that the goal is reached; what unseen rows get is measured before the first step."""
        examples, task = run.task.encode(aim), run.task
        if goal == "relabel":
            return lambda model: other_answers.at_most(model, task, examples, 0, wrong=True)
        at = self.stop_at if self.stop_at != "auto" else "holdout" if task.name == "causal_lm" else "zero"
        asked = run.rows("holdout") if self.stop_at == "holdout" else run.splits.get("holdout", ())
        unseen = task.encode(asked) if at == "holdout" and asked else []
        level = other_answers.right_share(run.model, task, unseen) if unseen else 0.0
        allowed = level * sum(sum(example.get("scored", [1])) for example in examples)
        return lambda model: other_answers.at_most(model, task, examples, allowed)
