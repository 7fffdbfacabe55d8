"""Make a language model forget a concept and keep the rest, with the proof.

    accelerate launch recipes/forget_concept.py                                        the embedded sandbox, nothing to download
    accelerate launch recipes/forget_concept.py --model M --data my.jsonl --concept "Quillmere" --output DIR
    accelerate launch recipes/forget_concept.py --model M --data my.jsonl --concept "Quillmere" --examples ten.jsonl
    accelerate launch recipes/forget_concept.py --model M --data my.jsonl --concept "Quillmere" --explain    changes nothing
    accelerate launch recipes/forget_concept.py --model M --forget f.jsonl --retain r.jsonl --output DIR --method grad_diff
    accelerate launch recipes/forget_concept.py --config recipes/forget_concept.yaml --method.beta=0.2

Without --examples the rows that say the concept (or a term) are forgotten: words, no model asked.  With about ten rows that
carry it, what else does is inferred from the model (its states, and the words it takes for the name); --concept may then be
left out.  --explain stops there and writes DIR.explanation/explanation.html; without --examples, ten rows that say the concept
serve.  `--help` lists every setting.  DIR holds adapter/, report.json, report.html and private/ (not for publishing).
"""

from llm_unlearn import cli

if __name__ == "__main__":
    cli.run(cli.forget)
