"""Per-example gradients by hooks against a loop over the examples: the time of both and the largest difference.

    python eval/bench_importance.py                              64 examples of a small Llama, ViT and ResNet, on the CPU
    python eval/bench_importance.py --examples 256 --device cuda

Each model is measured through its adapter (LoRA factors, and the head in full), on the checkpoint's own weights under it, and
with every weight trained (norms, embeddings, biases).  Texts are of ragged lengths.  A difference is that of one number of the
diagonal Fisher, over the largest in its tensor; both ways round, so keys' gradients (small sums of large terms) differ most.
"""
