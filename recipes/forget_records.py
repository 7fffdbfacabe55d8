"""Make a model forget single rows, as a deletion request names them, with the proof.

    accelerate launch recipes/forget_records.py                                        the embedded texts, nothing to download
    accelerate launch recipes/forget_records.py --model M --data train.csv --test test.csv --ids bad_rows.txt --output DIR
    accelerate launch recipes/forget_records.py --task causal_lm --model M --data train.jsonl --ids request.csv --output DIR

`--ids` is a .txt with an id a line, or a CSV, JSONL or Parquet file with a column `id`; `--data` has the same ids.
`--test` are rows that the model never saw: what forgotten rows should look like.  `--help` lists every setting.
"""

from llm_unlearn import cli

if __name__ == "__main__":
    cli.run(cli.forget_records)
