"""From models to figures: one pass a model and split, the records it leaves, what is computed from them, and the verdict."""
