"""What watches a fit: probes, thermostat, best checkpoint, history, progress bar, and what a checkpoint needs beside weights."""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import reduce
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import TrainerCallback

from llm_unlearn.decisions import Decisions
from llm_unlearn.files import write_text
from llm_unlearn.head import in_eval, trainable
from llm_unlearn.progress import TINY, Progress, Stop
from llm_unlearn.run import Run
from llm_unlearn.tasks import Batch, Example

if TYPE_CHECKING:
    from llm_unlearn.fit import ObjectiveTrainer

RECORD, BEST = "progress.json", "best.safetensors"
PROBED = ("forget", "holdout", "retain")
MOST_RISE = 1.5  # of unseen rows' loss; with retain rows it rises by a tenth
Done = Callable[[nn.Module], bool]


class Observer(TrainerCallback):
    """Probes the model every few steps, switches the thermostat, and keeps what a resumed run must know."""

    def __init__(
        self,
        run: Run,
        streams: Mapping[str, Sequence[Example]],
        stop: Stop | None,
        steps: int,
        steps_an_epoch: float,
        done: Done | None = None,
    ) -> None:
        """Shuffle the rows that probes are taken from, once, by the run's seed."""
        self.run, self.stop, self.done = run, stop, done
        self.history: list[dict[str, Any]] = []
        self.terms: dict[str, list[Tensor]] = {}
        self.best: dict[str, Tensor] | None = None
        self.encoded = {name: streams[name] for name in PROBED if name in streams}
        for name in ("forget", "holdout"):  # watched even where they are not trained on
            if stop is not None and run.splits.get(name) and name not in self.encoded:
                self.encoded[name] = run.task.encode(run.splits[name])
        watched = stop is not None and (stop.gate or stop.thermostat)  # nobody else asks what is told
        for name in ("forget", "holdout") if watched else ():
            if name in self.encoded and self.encoded.get("retain"):
                run.task.settle(self.encoded[name], self.encoded["retain"])
        self.probes = {name: _shuffled(rows, run.seed) for name, rows in self.encoded.items()} if stop else {}
        self.progress = Progress(
            steps=steps, steps_an_epoch=steps_an_epoch, stop=stop, measure=self.measure, reduce_mean=self.reduce_mean
        )
        self.bar = tqdm(total=steps, unit="step", leave=True, disable=None)

    def connect(self, trainer: "ObjectiveTrainer") -> None:
        """Take the trainer, whose (possibly wrapped) model is the one to probe."""
        self.trainer = trainer
        self.bar.disable = self.bar.disable or not trainer.is_world_process_zero()

    def reduce_mean(self, value: Tensor) -> Tensor:
        """Return the mean of a scalar over the processes."""
        if self.trainer.args.world_size == 1:
            return value
        mean: Tensor = reduce(value, reduction="mean")
        return mean

    @torch.no_grad()
    def decisions(self, model: nn.Module, batch: Batch) -> Decisions:
        """Return a batch's decisions with the model in eval mode."""
        device = self.trainer.args.device
        with in_eval(model):
            return self.run.task.decisions(model, {name: tensor.to(device) for name, tensor in batch.items()})

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return each row's loss [B], nats a scored decision."""
        return self.decisions(model, batch).loss()

    def _decided(self, examples: Sequence[Example], batch_size: int = 64) -> list[Decisions]:
        """Return the examples' decisions under the current model, batch by batch.

        Every process computes all of it: the same numbers everywhere, so the same decisions, without a word exchanged.
        """
        return [
            self.decisions(self.trainer.model_wrapped, self.run.task.collate(examples[first : first + batch_size]))
            for first in range(0, len(examples), batch_size)
        ]

    def step_mean(self, micro_batches: Sequence[Batch]) -> float:
        """Return the mean loss over the rows of all micro-batches and processes."""
        means = [self.losses(self.trainer.model_wrapped, batch).mean() for batch in micro_batches]
        return self.reduce_mean(torch.stack(means).mean()).item()

    def _means(self, found: Sequence[Decisions]) -> tuple[float, float]:
        """Return the mean loss and the mean surprise over all rows of these batches.

        No row counts as more surprising than the gate's level: some that overshot would make up for others still known.
        """
        cap = self.stop.cap if self.stop is not None else math.inf
        level = self.progress.state.get("level", math.inf) if "holdout" in self.encoded else math.inf
        losses = torch.cat([part.loss() for part in found])
        surprises = torch.cat([self.progress.limited(part).surprise(cap) for part in found])
        return losses.mean().item(), surprises.clamp(max=level).mean().item()

    def measure(self, split: str) -> float:
        """Return the mean loss of all rows of a split under the current model, nats a scored decision."""
        if split not in self.encoded:
            self.encoded[split] = self.run.task.encode(self.run.rows(split))
        return self._means(self._decided(self.encoded[split]))[0]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the levels of the model before unlearning, unless a checkpoint brought them."""
        self.bar.update(state.global_step - self.bar.n)
        if self.stop is not None and self.probes and "level" not in self.progress.state:
            unseen = self._decided(self.encoded.get("holdout", ()))
            if self.stop.gate or self.stop.thermostat:
                self.progress.state["ceilings"] = ceilings(unseen)
            self.progress.state["by_loss"] = bool(unseen) and unseen[0].told is not None
            found = self._probe(self.probes, 0)
            loss, surprise = found.get("retain", (0.0, 0.0))
            level = self._means(unseen)[1] if unseen else surprise + self.stop.margin
            self.progress.state.update(level=level, retain=loss)
            self._record(0, found)

    def _probe(self, names: Iterable[str], step: int) -> dict[str, tuple[float, float]]:
        """Return the mean (loss, surprise) of the splits' probe rows now.

        Other rows each time, so that no chance sample decides where forgetting ends (one of 96 left the sandbox's attack at
        0.63); retain's stay the same, for its loss is compared with its own at the start.
        """
        out = {}
        for name in names:
            rows, count = self.probes[name], self.stop.probe if self.stop else 0
            first = 0 if name == "retain" or self.stop is None else step // self.stop.every * count % len(rows)
            out[name] = self._means(self._decided([*rows[first:], *rows[:first]][:count]))
        return out

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask whether it is done, probe every few steps and decide whether the forget terms are on."""
        self.bar.update(state.global_step - self.bar.n)
        self.progress.known_mean = self.progress.whole_step = None
        every = self.stop.every if self.stop else 25
        if state.global_step == self.progress.steps or state.global_step % (4 * every) == 0:
            self._record(state.global_step, self._probe(self.probes, state.global_step))
        elif state.global_step % every == 0:  # a probe costs as much as a step: forget alone, for the thermostat
            watched = self.stop is not None and self.stop.thermostat and "forget" in self.probes
            self._record(state.global_step, self._probe(["forget"] if watched else [], state.global_step))
        if self.done is not None and self._is_done(self.done):
            self.progress.state["finished"] = state.global_step
            control.should_training_stop = True

    @torch.no_grad()
    def _is_done(self, done: Done) -> bool:
        """Return the same answer in every process: each computes it, and all must agree."""
        with in_eval(self.trainer.model_wrapped) as model:
            answer = torch.tensor(float(done(model)), device=self.trainer.args.device)
        return self.reduce_mean(answer).item() == 1.0

    def _record(self, step: int, found: Mapping[str, tuple[float, float]]) -> None:
        """Log the probed splits' mean (loss, surprise), switch the thermostat, and keep the best weights."""
        now = self.progress.state
        losses = {name: loss for name, (loss, _) in found.items()}
        left = 0.0
        if "holdout" in found:
            now["unseen"] = list(found["holdout"])
            now.setdefault("unseen_first", found["holdout"][0])
        if self.stop is not None and "forget" in found:
            left, fade = self._left(*found["forget"], self.stop)
            if self.stop.thermostat:
                now["on"] = min(1.0, max(0.0, left / max(fade, TINY)))
        terms = {name: torch.stack(values).mean().item() for name, values in self.terms.items()}
        self.terms.clear()
        entry = {"step": step, **{f"{name}_loss": value for name, value in losses.items()}, **terms}
        if self.stop is not None:
            entry["on"] = now.get("on", True)
        self.history.append(entry)
        self.bar.set_postfix(
            {name: f"{value:.2f}" for name, value in losses.items()} or {k: f"{v:.3f}" for k, v in terms.items()}
        )
        if step and "retain" in losses and "forget" in losses:
            self._keep_best(step, abs(left), losses["retain"])

    def _left(self, loss: float, surprise: float, stop: Stop) -> tuple[float, float]:
        """Return by which share of unseen rows' figure the forget rows lie below it, and from which share on the terms fade.

        Of words the plain loss: capped, rows that overshot look like rows that have arrived (full stops end at 7 nats where
        unseen rows' cost 4.7); their level may rise only so far, or a push that ruins everything would never end.  A classifier's row is one decision, and one of 20 nats would stand for many rows: surprise.
        """
        now = self.progress.state
        if now["by_loss"]:
            level, mine, fade = min(now["unseen"][0], MOST_RISE * now["unseen_first"]), loss, stop.near
        else:
            level, mine, fade = now["unseen"][1] if "unseen" in now else now["level"], surprise, stop.fade
        return (level - mine) / max(level, TINY), fade

    def _keep_best(self, step: int, gap: float, retain: float) -> None:
        """Remember the weights that forget best among those that still hold retain."""
        if self.stop is None or retain > self.progress.state["retain"] + self.stop.tolerance:
            return
        if gap <= self.progress.state.get("best", {}).get("gap", float("inf")):
            self.progress.state["best"] = {"step": step, "gap": gap, "retain": retain}
            self.best = {name: tensor.detach().clone() for name, tensor in trainable(self.run.model).items()}

    @torch.no_grad()
    def settle(self) -> None:
        """Roll back to the best checkpoint where retain's loss rose by more than the tolerance."""
        retained = [entry["retain_loss"] for entry in self.history if "retain_loss" in entry]
        if self.stop is None or not retained or retained[-1] <= self.progress.state["retain"] + self.stop.tolerance:
            return
        if self.best is not None:
            for name, parameter in trainable(self.run.model).items():
                parameter.copy_(self.best[name])
            self.progress.state["rolled_back"] = self.progress.state["best"]["step"]

    def note(self, terms: Mapping[str, Tensor]) -> None:
        """Remember a step's terms until the next probe logs their means."""
        for name, term in terms.items():
            self.terms.setdefault(name, []).append(term.detach())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what resuming needs; the record comes last, so a checkpoint without it was cut off."""
        if not self.trainer.is_world_process_zero():
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.best is not None:
            save_file({name: tensor.cpu().contiguous() for name, tensor in self.best.items()}, folder / BEST)
        pending = {name: torch.stack(values).tolist() for name, values in self.terms.items()}
        record = {"state": self.progress.state, "history": self.history, "pending": pending}
        write_text(folder / RECORD, json.dumps(record))

    def latest_checkpoint(self, folder: Path) -> str | None:
        """Return the last complete checkpoint, having taken its record; incomplete ones are removed."""
        found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
        complete = [path for path in found if (path / RECORD).exists()]
        if self.trainer.is_world_process_zero():
            for path in set(found) - set(complete):
                shutil.rmtree(path)
        self.trainer.accelerator.wait_for_everyone()
        if not complete:
            return None
        record = json.loads((complete[-1] / RECORD).read_text())
        self.progress.state.update(record["state"])
        self.history.extend(record["history"])
        self.terms = {name: [torch.tensor(value) for value in values] for name, values in record["pending"].items()}
        if (complete[-1] / BEST).exists():
            self.best = load_file(complete[-1] / BEST, device=str(self.trainer.args.device))
        return str(complete[-1])


def _shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """Return the examples in an order drawn by the seed."""
    return [examples[i] for i in np.random.default_rng(seed).permutation(len(examples))]


def ceilings(unseen: Sequence[Decisions]) -> dict[str, float]:
    """Return where pushing a decision ends, nats, by its label: the median loss in rows never seen; "" for other labels.

    A full stop costs nothing in rows never seen either: without a ceiling of its own, forgetting ruins it behind the
    concept's name, leaves the facts standing, and looks like gold in every figure but the truth ratio.
    Labels that these rows do not say get the median of their unknown decisions (p < 1/2).
    """
    if not unseen or unseen[0].labels.is_floating_point():  # several labels a decision: none has a loss of its own
        return {}
    new = torch.cat([torch.ones_like(part.scored) if part.told is None else ~part.told for part in unseen])
    loss = torch.cat([part.nll() for part in unseen])[new].cpu()
    label = torch.cat([part.labels for part in unseen])[new].cpu()
    if not (loss > math.log(2)).any():
        return {}
    most = loss[loss > math.log(2)].median().item()
    if unseen[0].told is None:  # a class that many rows share is no grammar: it is what a row's answer is made of
        return {"": most}
    names, counts = label.unique(return_counts=True)
    groups = zip(names.tolist(), loss[label.argsort(stable=True)].split(counts.tolist()), strict=True)
    return {"": most} | {str(name): min(losses.median().item(), most) for name, losses in groups}
