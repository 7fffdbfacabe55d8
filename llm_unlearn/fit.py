"""The one training loop: a Hugging Face Trainer on named streams of rows, resumable, with gate and thermostat.

Distribution, mixed precision and accumulation are Accelerate's.  A phase keeps its own folder; a finished phase is loaded
and skipped when the run is started again, an unfinished one continues from its last complete checkpoint.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from llm_unlearn.errors import NotFinite, RecipeError
from llm_unlearn.files import write_text
from llm_unlearn.head import trainable, unwrapped
from llm_unlearn.observe import Done, Observer
from llm_unlearn.progress import Progress, Stop
from llm_unlearn.reference import reference_nll
from llm_unlearn.run import Run
from llm_unlearn.schedule import Mix, Schedule, Timetable, per_device
from llm_unlearn.tasks import Batch, Example, Row, Task

__all__ = ["Batches", "Module", "Objective", "Progress", "Schedule", "Stop", "Terms", "fit"]

# Rows that are long forgotten saturate the sigmoid and their gradients become denormal: 27.8 s a step instead of 2.0.
torch.set_flush_denormal(True)

Terms = dict[str, Tensor]  # already weighted scalars; their sum is the loss, each is logged by name
Module = nn.Module
Batches = Mapping[str, Batch]  # a batch a stream
Objective = Callable[[Module, Batches, Progress], Terms]
FINAL, DONE = "final.safetensors", "done.json"


def fit(
    run: Run,
    streams: Mapping[str, Sequence[Row]],
    objective: Objective,
    *,
    schedule: Schedule,
    stop: Stop | None = None,
    phase: str = "fit",
    reference: bool = False,
    dropout: bool = False,
    mix: Mix | None = None,
    mask: Mapping[str, Tensor] | None = None,
    encoded: Mapping[str, Sequence[Example]] | None = None,
    done: Done | None = None,
) -> None:
    """Minimise the objective over the streams, changing `run.model`'s trainable weights.

    The first stream leads (an epoch is one pass over it).  `reference=True` gives each row of the lead the column
    `reference_nll`: its summed nll in nats under the model before unlearning, computed once.  Without `dropout` the model
    stands still but for its weights (no dropout but an adapter's own, frozen batch statistics): a policy and a reference
    that differ by more than weights make every log-ratio wrong.
    `mix` puts something else in the place of some draws of the first stream (mnemonic codes).
    `mask` (bool, by parameter name) keeps the entries that are False as they are: their gradient is 0 before clipping and step.
    `encoded` are further streams whose examples are made already.  `done` is asked after every optimiser step, with the
    model in eval mode; the fit ends with the first yes, and its step is kept as `finished` in progress.state and done.json.
    """
    folder = run.folder / phase
    weights = trainable(run.model)
    if (folder / DONE).exists():
        load_weights(weights, load_file(folder / FINAL))
        return
    folder.mkdir(parents=True, exist_ok=True)
    examples = {name: run.task.encode(rows) for name, rows in streams.items()} | {**(encoded or {})}
    if reference:
        _add_reference(run, examples[next(iter(examples))])
    lead = len(next(iter(examples.values())))
    steps = schedule.step_count(lead)
    arguments = _arguments(run, schedule, steps, folder)
    observer = Observer(run, examples, stop, steps, lead / schedule.forget_batch, done)
    timetable = Timetable(examples, schedule, steps, run.seed, mix)
    with _trained_model(run.model, arguments), _masked(weights, mask or {}):
        trainer = ObjectiveTrainer(run.task, objective, observer, schedule, run.model, arguments, timetable, dropout)
        try:
            trainer.train(resume_from_checkpoint=observer.latest_checkpoint(folder))
        finally:
            observer.bar.close()
    observer.settle()
    trainer.accelerator.wait_for_everyone()  # nobody writes into a checkpoint that is about to be removed
    if arguments.process_index == 0:
        _finish(folder, weights, observer, steps)


def _finish(folder: Path, weights: Mapping[str, nn.Parameter], observer: Observer, steps: int) -> None:
    """Write what the fit made and mark it as done, in this order; its checkpoints are needed no more."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / "final.part")
    (folder / "final.part").replace(folder / FINAL)
    write_text(folder / "history.json", json.dumps(observer.history))  # a destroyed model's may hold NaN
    write_text(folder / DONE, json.dumps({"steps": steps, **observer.progress.state}))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


@contextmanager
def _trained_model(model: nn.Module, arguments: TrainingArguments) -> Iterator[None]:
    """Prepare the model for activation checkpointing where it is asked for, and leave it afterwards as it came.

    Inputs that need no gradient would cut a checkpointed block, and every adapter in it, off the loss.
    """
    checkpointed = getattr(arguments, "activation_checkpointing", False) or arguments.gradient_checkpointing
    inner, config = unwrapped(model), getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)  # the Trainer switches it off for good
    if checkpointed and not getattr(inner, "supports_gradient_checkpointing", False):
        raise RecipeError(f"{type(inner).__name__} cannot make activations again: leave --gradient_checkpointing out.")
    if checkpointed:
        inner.enable_input_require_grads()  # type: ignore[operator]
    try:
        yield
    finally:
        if checkpointed:
            inner.disable_input_require_grads()  # type: ignore[operator]
            getattr(inner, "activation_checkpointing_disable", inner.gradient_checkpointing_disable)()  # type: ignore[operator]
        if cached is not None:
            config.use_cache = cached  # type: ignore[union-attr]


@contextmanager
def _masked(weights: Mapping[str, nn.Parameter], mask: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the masked entries a gradient of 0, in every backward pass and before processes share theirs."""
    handles = [
        weights[name].register_hook(lambda grad, kept=kept: grad * kept.to(grad.device)) for name, kept in mask.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def rest(model: nn.Module) -> None:
    """Put dropout and batch statistics to rest: all modules but an adapter's own dropout and blocks that are checkpointed."""
    for name, module in model.named_modules():
        module.training = "lora_dropout" in name or getattr(module, "gradient_checkpointing", False)


def rest_statistics(model: nn.Module) -> None:
    """Put batch statistics alone to rest: they are no part of an adapter, and switching it off would not bring them back."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.training = False


@torch.no_grad()
def load_weights(weights: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]) -> None:
    """Copy saved values into the parameters of the same name."""
    for name, parameter in weights.items():
        parameter.copy_(saved[name])


def _add_reference(run: Run, examples: Sequence[Example]) -> None:
    for example, value in zip(examples, reference_nll(run.model, run.task, examples, run.frozen_copy), strict=True):
        example["reference_nll"] = value


def _arguments(run: Run, schedule: Schedule, steps: int, folder: Path) -> TrainingArguments:
    width = (
        getattr(getattr(run.model, "config", None), "hidden_size", None) or 200
    )  # 200: 2e-3 where no width is stated
    rate = schedule.learning_rate if schedule.learning_rate is not None else 0.4 / width
    fixed: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "learning_rate": rate,
        "weight_decay": schedule.weight_decay,
        "max_grad_norm": schedule.max_grad_norm,
        "seed": run.seed,
        "remove_unused_columns": False,  # a batch is nested by stream
        "save_strategy": "steps",
        "save_steps": max(25, steps // 8),
        "save_total_limit": 2,  # the last complete one stays until the next one is
        "logging_strategy": "no",
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "label_names": [],
    }
    given = dict(run.trainer)
    if "activation_checkpointing" in TrainingArguments.__dataclass_fields__:  # its name from transformers 5.23 on
        given = {name.replace("gradient_checkpointing", "activation_checkpointing"): given[name] for name in given}
    arguments = TrainingArguments(**{**fixed, **given})
    arguments.per_device_train_batch_size = per_device(
        schedule, arguments.world_size, arguments.gradient_accumulation_steps
    )
    return arguments


class ObjectiveTrainer(Trainer):
    """A Trainer whose loss is the sum of an objective's terms."""

    objective: Objective

    def __init__(
        self,
        task: Task,
        objective: Objective,
        observer: Observer,
        schedule: Schedule,
        model: nn.Module,
        arguments: TrainingArguments,
        timetable: Timetable,
        dropout: bool,
    ) -> None:
        """Take the loop's parts; the order of rows is the timetable's."""
        self.task, self.objective, self.observer, self.schedule = task, objective, observer, schedule
        self.dropout = dropout
        super().__init__(model=model, args=arguments, train_dataset=timetable, data_collator=self.collate)
        self.model_accepts_loss_kwargs = (
            False  # our loss is a mean over rows: the Trainer divides by the accumulation steps
        )
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(observer)
        observer.connect(self)

    def collate(self, items: Sequence[Mapping[str, Sequence[Example]]]) -> dict[str, Batch]:
        """Return one padded batch a stream."""
        names = items[0].keys()
        return self.task.collate_streams({name: [row for item in items for row in item[name]] for name in names})

    def compute_loss(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: Mapping[str, Batch],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the sum of the objective's terms; raise NotFinite naming the term that is not."""
        if not self.dropout:
            rest(model)  # the Trainer has just called train()
        elif isinstance(unwrapped(model), PeftModel):
            rest_statistics(model)
        progress = self.observer.progress
        progress.step = self.state.global_step
        terms = self.objective(model, inputs, progress)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            bad = [name for name, term in terms.items() if not torch.isfinite(term)]
            raise NotFinite(
                f"the loss is not finite at step {progress.step} (term {', '.join(bad)}). Lower training.learning_rate, or "
                "switch stop.gate and stop.thermostat on if they are off."
            )
        self.observer.note(terms)
        return (loss, terms) if return_outputs else loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the micro-batches of the next step, which a term that is not linear in their mean may ask about."""
        samples, count = super().get_batch_samples(*args, **kwargs)
        if len(samples) > 1 and "forget" in samples[0]:
            self.observer.progress.whole_step = lambda: self.observer.step_mean([each["forget"] for each in samples])
        return samples, count

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return warm-up and decay as the schedule gives them."""
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: self.schedule.rate(step, num_training_steps)
            )
        return self.lr_scheduler

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def logged(folder: Path) -> list[dict[str, Any]]:
    """Return what the phases in a run's folder logged, in the order in which they ended."""
    files = sorted(folder.glob("*/history.json"), key=lambda path: path.stat().st_mtime)
    return [entry for path in files for entry in json.loads(path.read_text(encoding="utf-8"))]
