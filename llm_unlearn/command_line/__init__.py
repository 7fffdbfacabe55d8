"""The commands of llm-unlearn beside its jobs: what each does, its help as text, completion, what is installed."""
