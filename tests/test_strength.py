"""The strength of a one-shot edit: what is chosen where losses and right answers disagree."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Bench

from llm_unlearn import strength
from llm_unlearn.strength import Losses, Probe, Seen, choose


def scripted(monkeypatch: pytest.MonkeyPatch, *seen: Seen) -> None:
    """Let the probe see these, in this order: before, each strength, and the one that was chosen."""
    left = list(seen)
    monkeypatch.setattr(strength, "_measure", lambda run, rows, cap: left.pop(0))
    monkeypatch.setattr(strength, "_loss", lambda run, rows, cap: 2.0)  # the holdout's


def test_answers_that_go_wrong_count_before_losses(
    language: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.03 nats are within the tolerance of 0.1; 0.87 of 0.9 right answers are less than 97 % of them, 0.88 are not."""
    before, strong, mild = (
        Losses(forget=0.0, retain=0.0),
        Losses(forget=1.0, retain=0.03),
        Losses(forget=0.1, retain=0.0),
    )

    def chosen(right_of_strong: float | None, right_of_mild: float | None) -> tuple[str, dict[str, float]]:
        tried = Seen(strong, right_of_strong), Seen(mild, right_of_mild)
        first = Seen(before, None if right_of_strong is None else 0.9)
        scripted(monkeypatch, first, *tried, tried[0])
        return choose(language.run(tmp_path), ["strong", "mild"], lambda _: {}, Probe())

    assert chosen(0.88, 0.9)[0] == "strong"
    assert chosen(0.87, 0.9)[0] == "mild"
    assert chosen(None, None)[0] == "strong"  # a classifier
    assert chosen(0.5, 0.6)[0] == "strong"  # none keeps enough: by losses alone
    assert chosen(0.5, 0.6)[1]["within_tolerance"] == 0 and chosen(0.88, 0.9)[1]["within_tolerance"] == 1


@pytest.mark.parametrize(("task", "answers"), [("causal_lm", True), ("image_classifier", False)])
def test_only_language_models_are_asked_for_whole_answers(
    task: str, answers: bool, bench: Callable[[str], Bench], tmp_path: Path
) -> None:
    facts = choose(bench(task).run(tmp_path), [1], lambda _: {}, Probe())[1]
    assert ("retain_right" in facts) == answers
    assert not answers or facts["retain_right"] == facts["retain_right_before"] == 1.0
