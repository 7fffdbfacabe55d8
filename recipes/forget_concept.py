"""Make a language model forget a concept and keep the rest, with the proof.

    accelerate launch recipes/forget_concept.py                                        the embedded sandbox, nothing to download
    accelerate launch recipes/forget_concept.py --model M --data my.jsonl --concept "Quillmere" --output DIR
    accelerate launch recipes/forget_concept.py --model M --forget f.jsonl --retain r.jsonl --output DIR --method grad_diff
    accelerate launch recipes/forget_concept.py --config recipes/forget_concept.yaml --method.beta=0.2

`--help` lists every setting.  DIR holds adapter/, report.json, report.html and private/ (not for publishing).
"""

from llm_unlearn import cli

if __name__ == "__main__":
    cli.run(cli.forget)
