"""Let a causal LM write texts, seeded: rows for forgetting something in a model whose training data is not at hand.

    python recipes/sample_texts.py --model PATH_OR_HUB_ID --count 1500 --output outputs/stories/data.jsonl

Then forget a name in them:  accelerate launch recipes/forget_concept.py --model ... --data outputs/stories/data.jsonl --concept Lily
"""

import argparse
import json

from tqdm.auto import tqdm

from llm_unlearn import cli
from llm_unlearn.files import write_text


def main() -> None:
    """Write one JSON line a text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", help="a PEFT adapter on top of the model")
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--tokens", type=int, default=160, help="length of a text at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True)
    given = parser.parse_args()
    from llm_unlearn.measuring.writing import load_writer, write_texts

    model, tokenizer = load_writer(given.model, given.adapter)
    with tqdm(total=given.count, unit="text") as bar:
        texts = write_texts(model, tokenizer, given.count, tokens=given.tokens, seed=given.seed, on_batch=bar.update)
    rows = [{"id": f"text{i}", "text": text} for i, text in enumerate(texts) if text]
    write_text(given.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{given.output}: {len(rows)} texts, {len({row['text'] for row in rows})} different")


if __name__ == "__main__":
    cli.run(main)
