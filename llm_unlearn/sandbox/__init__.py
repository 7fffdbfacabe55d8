"""The embedded default: an invented world, its text, and two small models trained on it; no network needed.

`world` makes the rows and their data roles (no torch), `models` the tokenizer and the models.
"""

from .world import CONCEPT, SPLITS, concepts, corpus, splits, write

__all__ = ["CONCEPT", "SPLITS", "concepts", "corpus", "splits", "write"]
