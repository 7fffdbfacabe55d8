"""Make a model lose a feature that its rows show (a colour, a gender, a site) and keep its task.

    accelerate launch recipes/forget_feature.py                                   embedded sentences: he and she, six trades
    accelerate launch recipes/forget_feature.py --task image_classifier           drawn shapes: the background's colour
    accelerate launch recipes/forget_feature.py --task causal_lm                  the sentences as questions
    accelerate launch recipes/forget_feature.py --feature gender --annotations gender --model M --data rows.jsonl --test t.jsonl
    accelerate launch recipes/forget_feature.py --feature auto --layer LAYER ...                    shows groups of units, changes nothing
    accelerate launch recipes/forget_feature.py --feature auto --layer LAYER --group 3 7 ...        removes what they stand for
    accelerate launch recipes/forget_feature.py --feature auto --layer LAYER --examples few.jsonl   ... or what the examples show

Rows may have a column `counterfactual`: the same input with the feature swapped.  With it the report says how much the model's
answers hang on the feature.  --gold: a model trained where the feature tells nothing of the target.
"""

from llm_unlearn import cli

if __name__ == "__main__":
    cli.run(cli.forget_feature)
