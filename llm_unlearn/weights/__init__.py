"""Which weights matter to which rows, and edits of them: Fisher, saliency, MAS, noise, low-rank forms."""
