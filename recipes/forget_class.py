"""Make a classifier forget whole classes and keep the others, with the proof.

    accelerate launch recipes/forget_class.py                                          the embedded texts, nothing to download
    accelerate launch recipes/forget_class.py --model M --data train.csv --test test.csv --classes 3 --output DIR
    accelerate launch recipes/forget_class.py --task image_classifier --model M --data D --classes cat dog --method scrub
    accelerate launch recipes/forget_class.py --classes Sports --examples twenty.csv ...     only the class's rows like these
    accelerate launch recipes/forget_class.py --method concept_poison --method.labels=targeted --method.patch=replace

`--data` are the rows the model was trained on, `--test` rows like them that it never saw; `--classes` numbers, or the model's
own names.  `--gold` names a model that never saw the classes (recipes/train_target.py makes one).  `--help` lists every setting.
"""

from llm_unlearn import cli

if __name__ == "__main__":
    cli.run(cli.forget_class)
