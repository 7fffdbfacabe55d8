"""The sandbox's two small models, which ship with the package, and what they start from.

`target` was trained on forget and retain, `gold` on retain alone (default concept).  `make sandbox` trains both again:

    accelerate launch recipes/train_target.py --config recipes/sandbox_target.yaml
    python -m llm_unlearn.sandbox.models outputs/sandbox                 rounds them to bfloat16, into the package

Load them with dtype=torch.float32.
"""

import shutil
import sys
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from llm_unlearn import fresh
from llm_unlearn.sandbox.world import everything

SIZE = fresh.Size(words=2048)  # 2.3 million parameters


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer trained on every sentence of the world, the holdout town's included: nothing looks foreign."""
    return fresh.new_tokenizer(everything(), SIZE)


def new_model(seed: int = 0) -> LlamaForCausalLM:
    """Return the origin of both models: untrained, drawn from the seed."""
    return fresh.new_llama(SIZE, SIZE.words, seed)


def path(name: Literal["target", "gold"]) -> Path:
    """Return the folder of a model that ships with the package: config, weights in bfloat16, tokenizer."""
    return Path(__file__).parent / name


def ship(trained: Path) -> None:
    """Copy a finished output folder of train_target into the package, the weights rounded to bfloat16."""
    for name in ("target", "gold"):
        place = Path(__file__).parent / name
        shutil.rmtree(place, ignore_errors=True)
        AutoModelForCausalLM.from_pretrained(trained / name, dtype=torch.bfloat16).save_pretrained(place)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(trained / name / file, place / file)


if __name__ == "__main__":
    ship(Path(sys.argv[1]))
