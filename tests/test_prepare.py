"""From a recipe to rows."""

import pytest

from llm_unlearn.errors import DataError
from llm_unlearn.prepare import measured, prepare
from llm_unlearn.recipe import from_values


def test_a_concept_that_the_sandbox_does_not_know_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match="no 'Quilmere'; did you mean 'Quillmere'"):
        prepare(from_values({"concept": "Quilmere"}))


def test_measured_rows_are_capped_and_every_forget_fact_comes_first() -> None:
    splits = prepare(from_values({})).splits
    chosen = measured(splits, 150, seed=0)
    assert {name: len(rows) for name, rows in chosen.items()} == dict.fromkeys(splits, 150)
    assert len({row["fact"] for row in chosen["forget"] if "wrong" in row}) == 106
    assert not any("wrong" in row for row in chosen["holdout"])
