"""Per-example gradients by hooks against a loop over the examples: the time of both and the largest difference.

    python eval/bench_importance.py                              64 examples of a small Llama, ViT and ResNet, on the CPU
    python eval/bench_importance.py --examples 256 --device cuda

Each model is measured through its adapter (LoRA factors, and the head in full), on the checkpoint's own weights under it, and
with every weight trained (norms, embeddings, biases).  Texts are of ragged lengths.  A difference is that of one number of the
diagonal Fisher, over the largest in its tensor; both ways round, so keys' gradients (small sums of large terms) differ most.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from llm_unlearn import cli, options, settings
from llm_unlearn.fresh_classifiers import drawn, new_resnet, new_vit
from llm_unlearn.head import in_eval
from llm_unlearn.importance import allowed, chosen, fisher_diagonal
from llm_unlearn.sandbox.models import load_task as sandbox_task
from llm_unlearn.tasks import Example, ImageClassifier, Task
