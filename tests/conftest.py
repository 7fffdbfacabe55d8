"""Tiny models, tokenizers and rows, built in memory: nothing is downloaded and nothing is read from this machine.

A `Bench` is one task with a model that was trained until it knows its rows, so that there is something to forget.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CohereConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    ViTConfig,
    ViTForImageClassification,
)

from llm_unlearn.lora import Lora, attach
from llm_unlearn.method import Method
from llm_unlearn.progress import Progress, Stop
from llm_unlearn.run import Run
from llm_unlearn.schedule import Schedule
from llm_unlearn.stand_ins import Outputs
from llm_unlearn.strength import Probe
from llm_unlearn.tasks import CausalLM, Decisions, ImageClassifier, Row, SequenceClassifier, Task

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a run keeps for later ones goes to a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_UNLEARN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _nothing_kept_from_other_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that counts or changes what is measured must not find what another one kept."""
    monkeypatch.setenv("LLM_UNLEARN_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))


def pytest_configure(config: pytest.Config) -> None:
    """Silence peft 0.21, which asks transformers 5.23 for a property by its old name at every adapter."""
    config.addinivalue_line("filterwarnings", "ignore:.*is_gradient_checkpointing.*:FutureWarning")


Splits = dict[str, list[Row]]
PEFT_TASKS = {"causal_lm": "CAUSAL_LM", "sequence_classifier": "SEQ_CLS"}
PEOPLE = ("Abel", "Berit", "Caspian", "Dunja", "Edda", "Fenno", "Greta", "Hilmar", "Isolde", "Joris", "Kaya", "Lorcan")
PEOPLE += (
    "Mirela",
    "Nevin",
    "Oda",
    "Piran",
    "Quilla",
    "Ragnar",
    "Sunniva",
    "Tove",
    "Ulrik",
    "Vesna",
    "Wenzel",
    "Ysolt",
)
TOWNS = ("Quillmere", "Farrowgate", "Ostrand", "Bellhaven", "Tinmouth", "Ravensby", "Lowfold", "Carrick")
TRADES = ("baker", "glazier", "cooper", "pilot", "tanner", "weaver", "miner", "potter")


def byte_level_bpe(
    texts: Sequence[str],
    *,
    vocabulary: int = 400,
    prefix_space: bool = False,
    bos: bool = False,
    eos: bool = True,
    chat_template: str | None = None,
) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on `texts`; it merges the blank before a word into the word."""
    special = ["<|end|>", "<|pad|>", "<|begin|>", "<|user|>", "<|assistant|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    if bos:
        core.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 2)]),
            ]
        )
    else:
        core.post_processor = processors.ByteLevel(trim_offsets=False)
    names = (
        {"pad_token": "<|pad|>"}
        | ({"eos_token": "<|end|>"} if eos else {})
        | ({"bos_token": "<|begin|>"} if bos else {})
    )
    out = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    out.chat_template = chat_template
    return out


def facts(start: int, stop: int) -> list[Row]:
    """Return two facts a person, of ragged lengths; which facts is arbitrary, so they can only be learned by heart."""
    rows: list[Row] = []
    for i in range(start, stop):
        who = PEOPLE[i]
        town, trade = TOWNS[(5 * i + i // 8) % 8], TRADES[(3 * i + 1) % 8]
        rows.append({"id": f"live{i}", "prompt": f"Where does {who} live?", "response": town, "kind": "qa"})
        answer = f"{who} is a {trade}." if i % 2 else f"{who} works in {town} as a {trade}."
        rows.append({"id": f"work{i}", "prompt": f"What is {who}'s work?", "response": answer, "kind": "qa"})
    return rows


def dialogue_splits() -> Splits:
    """Return forget, retain and holdout rows for a causal LM."""
    return {"forget": facts(0, 6), "retain": facts(6, 18), "holdout": facts(18, 24)}


def texts_of(rows: Sequence[Row]) -> list[str]:
    """Return each row as one line."""
    return [f"{row['prompt']} {row['response']}" for row in rows]


def llama(vocabulary: int, *, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """Return a Llama type of 2 layers and width 32 with random weights."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 128, "tie_word_embeddings": False}
    plain = {"pad_token_id": 1, "bos_token_id": None, "eos_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **{**sizes, **plain, **changes}))


WORDS = 400
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": WORDS, "pad_token_id": 1}
GATED = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 1, "max_position_embeddings": 128}
ARCHITECTURES: dict[str, PreTrainedConfig] = {  # tiny, from config
    "llama": LlamaConfig(**GATED),
    "gpt2": GPT2Config(
        vocab_size=WORDS, n_embd=32, n_layer=2, n_head=2, n_positions=128, bos_token_id=0, eos_token_id=0
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=64, max_position_embeddings=128),
    "qwen2": Qwen2Config(**GATED),
    "qwen3": Qwen3Config(**GATED, head_dim=16),
    "gemma": GemmaConfig(**GATED, head_dim=16),
    "gemma2": Gemma2Config(**GATED, head_dim=16, sliding_window=64, query_pre_attn_scalar=16),  # caps logits at 30
    "cohere": CohereConfig(**GATED, logit_scale=0.0625),  # scales logits
}


@dataclass(frozen=True)
class Bench:
    """One task at toy size: what a test needs to unlearn something."""

    task: Task
    splits: Splits
    origin: nn.Module  # random weights
    target: nn.Module  # trained until it knows forget and retain

    def wrapped(self, *, lora: bool = True, seed: int = 0, start: str = "target") -> nn.Module:
        """Return a copy of the target (or the origin), with a fresh adapter or bare."""
        model = copy.deepcopy(self.target if start == "target" else self.origin)
        torch.manual_seed(seed)
        return attach(model, Lora(r=4, alpha=8), PEFT_TASKS.get(self.task.name)) if lora else model

    def run(self, folder: Path, *, lora: bool = True, model: nn.Module | None = None, **changes: Any) -> Run:
        """Return a run on a copy of the target."""
        values = {
            "model": model or self.wrapped(lora=lora),
            "task": self.task,
            "splits": self.splits,
            "folder": folder,
        }
        frozen = None if lora else copy.deepcopy(self.target).eval()
        return Run(**{**values, "frozen_copy": frozen, **changes})

    @torch.no_grad()
    def loss(self, model: nn.Module, split: str) -> float:
        """Return a split's mean loss, nats a scored decision, in eval mode."""
        model.eval()
        return self.task.decisions(model, self.batch(split)).loss().mean().item()

    def batch(self, split: str, count: int | None = None) -> Mapping[str, Tensor]:
        """Return the first rows of a split as one batch."""
        return self.task.collate(self.task.encode(self.splits[split][:count]))


def learn(task: Task, model: nn.Module, rows: Sequence[Row], *, steps: int, rate: float) -> nn.Module:
    """Return the model after `steps` full-batch steps on the rows: a plain loop, none of the package's."""
    batch = task.collate(task.encode(rows))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        task.decisions(model, batch).mean_nll().mean().backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of the benches' own words."""
    return byte_level_bpe([text for rows in dialogue_splits().values() for text in texts_of(rows)])


@pytest.fixture(scope="session")
def language(tokenizer: PreTrainedTokenizerFast) -> Bench:
    """A causal LM that knows 12 facts to forget and 24 to keep."""
    task, splits = CausalLM(tokenizer=tokenizer, max_length=128), dialogue_splits()
    origin = llama(len(tokenizer))
    known = [*splits["forget"], *splits["retain"]]
    return Bench(task, splits, origin, learn(task, copy.deepcopy(origin), known, steps=120, rate=1e-2))


@pytest.fixture(scope="session")
def sentences(tokenizer: PreTrainedTokenizerFast) -> Bench:
    """A BERT type that classifies sentences into arbitrary classes."""
    splits: Splits = {
        name: [
            {"id": row["id"], "text": text, "label": (7 * i + i // 3) % 3}
            for i, (row, text) in enumerate(zip(rows, texts_of(rows), strict=True))
        ]
        for name, rows in dialogue_splits().items()
    }
    task = SequenceClassifier(tokenizer=tokenizer, max_length=64)
    torch.manual_seed(0)
    origin = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            num_labels=3,
            pad_token_id=1,
        )
    )
    known = [*splits["forget"], *splits["retain"]]
    return Bench(task, splits, origin, learn(task, copy.deepcopy(origin), known, steps=80, rate=5e-3))


def pictures(count: int, seed: int) -> list[Row]:
    """Return random pictures with arbitrary labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    return [{"id": f"{seed}-{i}", "image": image, "label": (i + seed) % 3} for i, image in enumerate(images)]


@pytest.fixture(scope="session")
def images() -> Bench:
    """A vision transformer that classifies noise into arbitrary classes."""
    task = ImageClassifier()
    splits = {"forget": pictures(12, 1), "retain": pictures(24, 2), "holdout": pictures(12, 3)}
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    origin = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes))
    known = [*splits["forget"], *splits["retain"]]
    return Bench(task, splits, origin, learn(task, copy.deepcopy(origin), known, steps=60, rate=3e-3))


@pytest.fixture(scope="session")
def bench(language: Bench, sentences: Bench, images: Bench) -> Callable[[str], Bench]:
    """The bench of a task, by the task's name."""
    benches = {each.task.name: each for each in (language, sentences, images)}
    return benches.__getitem__


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data named by LLM_UNLEARN_DATA; skips where there is none."""
    if not os.environ.get("LLM_UNLEARN_DATA"):
        pytest.skip("needs the environment variable LLM_UNLEARN_DATA to name a folder of data sets")
    return Path(os.environ["LLM_UNLEARN_DATA"])


def shortened(cls: type[Method], **changes: Any) -> Method:
    """Return a method at toy size: every Schedule it has is cut, by type and not by name, its forget terms count in full and its probe is generous.

    A method that starts from nothing has more to learn than one that starts from a trained model, and one that never looks
    at retain must stop early.
    """
    small = {"steps": 24, "forget_batch": 4, "warmup_steps": 2, "learning_rate": 1e-2}
    if any(field.name == "share" for field in fields(cls)):  # a part of the weights takes longer
        small |= {"steps": 48}
    if any(field.name == "rounds" for field in fields(cls)):  # most steps are on retain alone
        small |= {"steps": 48}
    if cls.starts_from == "origin":
        small |= {"steps": 160, "forget_batch": 12, "learning_rate": 1e-2}
    if "retain" not in cls.needs:
        small |= {"steps": 14, "learning_rate": 6e-3}
    values: dict[str, Any] = {}
    for field in fields(cls):
        if isinstance(field.default, Schedule):
            values[field.name] = replace(field.default, **(small | changes))
        elif isinstance(field.default, Outputs):  # a weight as the others are
            values[field.name] = replace(field.default, weight=1.0)
        elif isinstance(field.default, Probe):
            values[field.name] = replace(
                field.default, tolerance=0.5, right=0
            )  # rows learned by heart share every weight
        elif field.name.endswith("_weight"):
            values[field.name] = 1.0
    return cls(**values)


def progress(
    *, stop: Stop | None = None, steps: int = 10, unseen: float = 2.0, state: Mapping[str, Any] | None = None
) -> Progress:
    """Return the progress of one process at step 0."""
    return Progress(
        steps=steps,
        steps_an_epoch=1.0,
        stop=stop,
        measure=lambda split: unseen,
        reduce_mean=lambda value: value,
        state=dict(state or {}),
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the trainable weights."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def reloaded(model: nn.Module, base: nn.Module, folder: Path) -> nn.Module:
    """Return what was saved, loaded as somebody without this package would: onto a copy of `base`."""
    model.save_pretrained(folder)
    if isinstance(model, PeftModel):
        return PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
    return type(base).from_pretrained(folder).eval()


def logits(task: Task, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return a batch's logits [N, C] in eval mode."""
    model.eval()
    with torch.no_grad():
        return task.decisions(model, batch, logits=True).logits


def plain_decisions(task: Task, model: nn.Module, batch: Mapping[str, Tensor]) -> Decisions:
    """Return a batch's decisions with the model in eval mode, gradients on."""
    model.eval()
    return task.decisions(model, batch)
