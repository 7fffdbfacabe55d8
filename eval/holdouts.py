"""Where does the thermostat land without rows that were never seen?  The same request with the sandbox's holdout and with a made one.

    python eval/holdouts.py --output outputs/holdouts [--method npo] [--seed 0]

Both runs read plain files, as a user's would.  Whatever held a run back, its loss attack is measured on the same rows: forget
against the sandbox's own holdout.
"""

import argparse
from pathlib import Path

from llm_unlearn import cli
from llm_unlearn.sandbox import models, world


def main() -> None:
    """Run what is missing and print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="npo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="outputs/holdouts")
    given = parser.parse_args()
    cli.quiet()
    from llm_unlearn import api
    from llm_unlearn.recipe import from_values
    from llm_unlearn.statistics import area_under_curve

    folder = Path(given.output)
    files = {path.stem: str(path) for path in world.write(folder / "data")}
    request = {
        "model": str(models.path("target")),
        "gold": str(models.path("gold")),
        "data": files["corpus"],
        "concept": world.CONCEPT,
        "method": given.method,
        "seed": given.seed,
        "merge": True,
    }
    known = {**request, "holdout": files["holdout"]}
    runs = {"given": known, "synthetic": request}
    for name, settings in runs.items():
        report = api.unlearn(from_values({**settings, "output": str(folder / name)}), command=["eval/holdouts.py"])
        print(f"holdout {name}: {report['verdict']}")
    merged = {f"after, holdout {name}": str(folder / name / "merged") for name in runs}
    scores = api.standards(from_values({**known, "output": str(folder / "standards")}), merged)
    print(
        "| model | forget loss (nats a token) | holdout loss | loss AUC against the real holdout | n |\n|---|---:|---:|---:|---:|"
    )
    for name, splits in scores.items():
        forget, holdout = splits["forget"].losses, splits["holdout"].losses
        auc = area_under_curve(-forget, -holdout)
        print(f"| {name} | {forget.mean():.2f} | {holdout.mean():.2f} | {auc:.3f} | {len(forget)} + {len(holdout)} |")


if __name__ == "__main__":
    cli.run(main)
