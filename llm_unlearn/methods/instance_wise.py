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

from torch.nn.utils.rnn import pad_sequence

from llm_unlearn import relabel
from llm_unlearn.adversary import Perturbed, perturbed, pgd
from llm_unlearn.files import read_json, write_json
from llm_unlearn.fit import DONE, Batches, Module, Objective, Progress, Schedule, Terms, fit
from llm_unlearn.held import held, pull
from llm_unlearn.method import Method
from llm_unlearn.observe import Done
from llm_unlearn.run import Run
from llm_unlearn.tasks import Example, Row


@dataclass(frozen=True, kw_only=True)
class InstanceWise(Method):
    """L = -+ f CE(forget) + (1 - f) CE(adversarial) + lamb/2 sum (1 - importance) (theta - theta0)^2."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget"})
    paper: ClassVar[str] = "arXiv:2301.11578"
    goal: Literal["auto", "misclassify", "relabel"] = "auto"  # auto: misclassify; a causal LM's rows are relabelled
    adversarial: bool = True  # False and importance False: plain negative gradient, the paper's NegGrad
    importance: bool = True
    examples: int = 4  # adversarial examples a row. Differs from the paper: 20 to 300
    attack_steps: int = 20  # Differs from the paper: 100
    pixel_radius: float = 0.072  # a pixel, of its range: the paper's 4.0 for 32 x 32 x 3 pixels
    word_radius: float = 0.1  # of the norm of a text's embeddings
    lamb: float = 1.0  # the paper's, on the adapter's weights
    answer: str | None = None  # a causal LM's new answer to every row; None: another forget row's
    stop_at: Literal["auto", "zero", "holdout"] = (
        "auto"  # misclassify: right answers left; auto: a causal LM's holdout's share
    )
    limit: float = 4.0  # nats from which on a decision is pushed no further. Differs from the paper: none
    optimizer: Literal["sgd", "adamw"] = "sgd"  # sgd: momentum 0.9, the paper's
    training: Schedule = Schedule(
        learning_rate=1e-2, steps=300, forget_batch=16, warmup_steps=0, decay="constant", max_grad_norm=0.0
    )

    def unlearn(self, run: Run) -> None:
        """Make adversarial examples and importance from the model as it is, then fit until the goal is reached."""
        self.check(run)
        goal, rows = self._goal(run), run.rows("forget")
        other = relabel.with_other_labels(run.model, run.task, rows, answer=self.answer, seed=run.seed)
        aim = other if goal == "relabel" else rows
        done = self._done(run, goal, aim)
        found, examples = self._attack(run, rows)
        encoded = {"adversarial": examples} if found else {}
        objective = self.objective(run, goal, found)
        if self.optimizer == "sgd":
            run = replace(run, trainer={"optim": "sgd", "optim_args": "momentum=0.9", **run.trainer})
        fit(run, {"forget": aim}, objective, schedule=self.training, encoded=encoded, done=done)
        end = read_json(run.folder / "fit" / DONE) or {}
        learned = {"goal": goal, "finished_after_steps": end.get("finished"), "most_steps": end["steps"]}
        attack = {"adversarial_examples": len(found.hits), "attack_success": found.success} if found else {}
        write_json(run.folder / "method.json", {**learned, **attack})

    def objective(self, run: Run, goal: str, found: Perturbed | None) -> Objective:
        """Return the terms; adversarial examples and held weights are constants made before the first step."""
        share = 1 / (1 + self.training.retain_per_forget) if found else 1.0
        table = pad_sequence(found.deltas, batch_first=True) if found else None
        weights = held(run.model, run.task, run.task.encode(run.rows("forget"))) if self.importance else None

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            if table is not None:
                kind, values = run.task.continuous(model, batch["forget"])
                places = batch["adversarial"]["place"].long().cpu()
                deltas = table[places].to(values.device)
                batch = {
                    "forget": {**batch["forget"], kind: values},
                    "adversarial": perturbed(model, run.task, batch["adversarial"], deltas),
                }
            forget, *adversarial = run.task.streams(model, batch)
            loss = forget.mean_nll() if goal == "relabel" else -forget.surprise(self.limit)
            out = {"forget": share * loss.mean()}
            if adversarial:
                out["adversarial"] = (1 - share) * adversarial[0].mean_nll().mean()
            if weights:
                out["held"] = self.lamb * pull(model, weights)
            return out

        return terms

    def check(self, run: Run) -> None:
        """Raise also where no accuracy of unseen rows is there to stop at."""
        super().check(run)
        if self.stop_at == "holdout":
            run.rows("holdout")

    def _goal(self, run: Run) -> Literal["misclassify", "relabel"]:
        if self.goal == "auto":
            return "relabel" if run.task.name == "causal_lm" else "misclassify"
        return self.goal

    def _attack(self, run: Run, rows: Sequence[Row]) -> tuple[Perturbed | None, list[Example]]:
        """Return what turns each row into another label's, and these rows with those labels, numbered."""
        if not self.adversarial:
            return None, []
        times, seed = self.examples, run.seed + 1
        aimed = relabel.with_other_labels(run.model, run.task, rows, times=times, seed=seed)
        examples = run.task.encode(aimed)
        found = pgd(
            run.model,
            run.task,
            examples,
            pixel_radius=self.pixel_radius,
            word_radius=self.word_radius,
            steps=self.attack_steps,
            seed=seed,
            progress=True,
        )
        return found, [{**example, "place": float(i)} for i, example in enumerate(examples)]

    def _done(self, run: Run, goal: str, aim: Sequence[Row]) -> Done:
        """Return what tells that the goal is reached; what unseen rows get is measured before the first step."""
        examples, task = run.task.encode(aim), run.task
        if goal == "relabel":
            return lambda model: relabel.at_most(model, task, examples, 0, wrong=True)
        at = self.stop_at if self.stop_at != "auto" else "holdout" if task.name == "causal_lm" else "zero"
        unseen = task.encode(run.splits.get("holdout", ())) if at == "holdout" else []
        level = relabel.right_share(run.model, task, unseen) if unseen else 0.0
        allowed = level * sum(sum(example.get("scored", [1])) for example in examples)
        return lambda model: relabel.at_most(model, task, examples, allowed)
