"""Forgetting a feature: what a model reads off every row and has no business to use, while its task stays."""
