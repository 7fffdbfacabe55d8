"""Which figures are taken together, by name; data only.  A name is a file in llm_unlearn/metrics."""

from collections.abc import Mapping
from types import MappingProxyType

from llm_unlearn.scores import CLASSIFIERS

QUICK = (  # forget figures by what `eval/meta.py` found of them (faithfulness and robustness, table in eval/README.md), best first
    "extraction_strength",
    "mia_loss",
    "probability",
    "exact_memorisation",
    "rouge_l_recall",
    "exact_answer",
    "truth_ratio",
    "forget_quality",
    "model_utility",  # about what is kept: not in that table
)
STANDARD = (  # everything from the one forward pass and the generation
    *QUICK,
    "appearance_rate",
    "fluency",
    "mia_min_k",
    "mia_min_k_plus",
    "mia_reference",
    "mia_tpr",
    "mia_zlib",
    "normalised_probability",
    "overall",
    "privleak",
    "rouge_l_f1",
    "truth_knowledge",
)
FULL = (*STANDARD, "mia_grad_norm", "perplexity")  # and a backward pass a row, and a second reader of the answers
SUITES: Mapping[str, tuple[str, ...]] = MappingProxyType({"quick": QUICK, "standard": STANDARD, "full": FULL})
DEFAULT = "standard"
CLASSES_QUICK = ("accuracy", "js_divergence", "mia_entropy", "mia_loss")  # of classifiers, where no word is predicted
CLASSES_STANDARD = (*CLASSES_QUICK, "mia_entropy_accuracy", "mia_loss_accuracy", "mia_reference", "mia_tpr", "zrf")
CLASSES_FULL = (*CLASSES_STANDARD, "activation_distance", "mia_grad_norm", "u_lira")
CLASSES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"quick": CLASSES_QUICK, "standard": CLASSES_STANDARD, "full": CLASSES_FULL}
)


def figures_of(suite: str, task: str) -> tuple[str, ...]:
    """Return the names of a suite's figures for a task."""
    return (CLASSES if task in CLASSIFIERS else SUITES)[suite]


def needs_gradients(suite: str) -> bool:
    """Return whether a suite's figures need each row's gradient norm."""
    return "mia_grad_norm" in SUITES[suite]


def needs_reading(suite: str, task: str) -> bool:
    """Return whether a suite's figures need the greedy answers read by the model before."""
    return "perplexity" in figures_of(suite, task)


def needs_activations(suite: str, task: str) -> bool:
    """Return whether a suite's figures need what goes into the head."""
    return "activation_distance" in figures_of(suite, task)


def needs_random(suite: str, task: str) -> bool:
    """Return whether a suite's figures need the scores of a randomly initialised model."""
    return "zrf" in figures_of(suite, task)
