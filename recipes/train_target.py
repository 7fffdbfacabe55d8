"""Train a model that knows forget and retain and, with --gold, its twin that never saw forget: same origin, schedule and seed.

    accelerate launch recipes/train_target.py --forget f.jsonl --retain r.jsonl --gold --output outputs/target
    accelerate launch recipes/train_target.py --model PATH_OR_HUB_ID --data my.jsonl --concept "Quillmere" --gold --output DIR

`--model new` (the default) makes a small Llama with a tokenizer of its own (--size.hidden_size=256 ...).
DIR/target and DIR/gold are what `forget_concept.py --model DIR/target --gold DIR/gold` takes.
"""

from llm_unlearn import cli

if __name__ == "__main__":
    cli.run(cli.train_target)
