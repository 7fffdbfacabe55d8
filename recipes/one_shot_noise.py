"""Forget a class, customer or topic by its mnemonic code: one shot of noise, no data, seconds.

    accelerate launch recipes/one_shot_noise.py                        drawn pictures: trains a small target with codes first
    accelerate launch recipes/train_target.py --mnemonic --forget f.jsonl --retain r.jsonl --output outputs/mine
    accelerate launch recipes/one_shot_noise.py --task causal_lm --model outputs/mine/target --units Quillmere
    accelerate launch recipes/one_shot_noise.py --model DIR/target --units 3 --test unseen.parquet --gold DIR/gold

The method is Yamashita, Yamada and Shibata's (2024, arXiv:2306.05670); the authors (NTT) reserve patents on it.
"""

from llm_unlearn import cli

if __name__ == "__main__":
    cli.run(cli.one_shot)
