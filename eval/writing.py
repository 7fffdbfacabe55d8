"""Does it still write?  Samples of a model before and after unlearning, side by side.

    python eval/writing.py --model M --adapter outputs/stories/adapter --name Lily [--samples 3]

Prints for each: how often the name comes up, the samples' loss under the model before (fluent for a reader who never
unlearned), distinct 1- to 3-grams, and some samples.
"""

import argparse

from llm_unlearn import cli


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--name", help="the name that was to be forgotten")
    parser.add_argument("--prompt", default="", help="what every text begins with")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--samples", type=int, default=3, help="texts to print")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    from llm_unlearn.measuring import writing

    before, tokenizer = writing.load_writer(given.model)
    after, _ = writing.load_writer(given.model, given.adapter)
    print(
        "| model | mentions | loss under before | distinct-1 | distinct-2 | distinct-3 | n |\n|---|---|---|---|---|---|---|"
    )
    texts = {}
    for name, model in (("before", before), ("after", after)):
        written = writing.write_texts(
            model, tokenizer, given.count, tokens=given.tokens, seed=given.seed, prompt=given.prompt
        )
        texts[name] = written
        rate = f"{writing.mention_rate(written, given.name):.2f}" if given.name else "-"
        figures = [writing.loss_under(before, tokenizer, written), *(writing.distinct(written, n) for n in (1, 2, 3))]
        print(f"| {name} | {rate} | " + " | ".join(f"{figure:.3f}" for figure in figures) + f" | {len(written)} |")
    for number, text in enumerate(texts["after"][: given.samples], start=1):
        print(f"\nsample {number} after: {text}")


if __name__ == "__main__":
    cli.run(main)
