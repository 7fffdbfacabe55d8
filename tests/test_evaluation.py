"""From models to scores: one pass, in order, equal to a plain loop; and from scores to the lines of a report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Bench
from test_metrics import made_up, model

from llm_unlearn.measuring.evaluation import Evaluation, _batches, measure
from llm_unlearn.measuring.figures import assess, figures, figures_by_kind, unknown_to
from llm_unlearn.scores import Scores


class Calls:
    """Counts a model's forward passes."""

    def __init__(self, watched: torch.nn.Module) -> None:
        self.count = 0
        self.hook = watched.register_forward_hook(self._one_more)

    def _one_more(self, *_: Any) -> None:
        self.count += 1


def rich_rows(bench: Bench) -> list[dict[str, Any]]:
    """The bench's forget rows with paraphrases and wrong answers on some of them."""
    rows = [dict(row) for row in bench.splits["forget"]]
    for i, row in enumerate(rows):
        if i % 2 == 0:
            row["paraphrase"] = f"It is {row['response']}"
        if i % 3:
            row["wrong"] = ["Lowfold", "a potter in Carrick"][: i % 3]
    return rows


@torch.no_grad()
def loss_alone(bench: Bench, row: dict[str, Any], response: str) -> float:
    """The mean loss of a response's tokens, alone in its batch, by the logits of a plain forward pass."""
    example = bench.task.encode([{**row, "response": response}])[0]
    ids = torch.tensor([example["input_ids"]])
    log_p = bench.target(input_ids=ids).logits.log_softmax(-1)[0]
    scored = [t for t, flag in enumerate(example["scored"]) if flag]
    return float(np.mean([-log_p[t - 1, example["labels"][t]].item() for t in scored]))


def test_scores_equal_a_plain_loop_whatever_the_batch(language: Bench) -> None:
    rows = rich_rows(language)
    for batch_size in (1, 5, 64):
        scores = measure(language.target, language.task, {"forget": rows}, batch_size=batch_size, progress=False)[
            "forget"
        ]
        assert scores.ids == tuple(row["id"] for row in rows), "in row order"
        expected = [loss_alone(language, row, row["response"]) for row in rows]
        np.testing.assert_allclose(scores.losses, expected, atol=2e-5)
        assert scores.paraphrase_loss is not None and scores.wrong_losses is not None
        for i, row in enumerate(rows):
            if "paraphrase" in row:
                expected_loss = loss_alone(language, row, row["paraphrase"])
                assert scores.paraphrase_loss[i] == pytest.approx(expected_loss, abs=2e-5)
            else:
                assert np.isnan(scores.paraphrase_loss[i])
            wrong = [loss_alone(language, row, answer) for answer in row.get("wrong", ())]
            np.testing.assert_allclose(scores.wrong_losses[i], wrong, atol=2e-5)


def test_hits_are_greedy_predictions_and_leave_the_end_of_sequence_out(language: Bench) -> None:
    scores = measure(language.target, language.task, {"forget": language.splits["forget"]}, progress=False)["forget"]
    examples = language.task.encode(language.splits["forget"])
    assert [len(row) for row in scores.hits] == [sum(example["scored"]) for example in examples]
    assert all(sum(example["scored"]) < sum(label >= 0 for label in example["labels"]) for example in examples)
    assert all(row.all() for row in scores.hits), "the bench's model knows its rows"
    wild = measure(language.origin, language.task, {"forget": language.splits["forget"]}, progress=False)["forget"]
    assert not any(row.all() for row in wild.hits)


def test_generated_answers_come_only_where_asked_and_in_order(language: Bench) -> None:
    scores = measure(language.target, language.task, language.splits, generate_on=("forget",), progress=False)
    answers = tuple(row["response"] for row in language.splits["forget"])
    assert scores["forget"].answers == answers
    assert scores["forget"].generated == answers, "the bench's model says what it learned"
    assert scores["retain"].generated is None
    texts = [{"id": "t", "prompt": None, "response": "Abel lives in Quillmere", "kind": "text"}]
    plain = measure(language.target, language.task, {"forget": texts}, progress=False)["forget"]
    assert plain.generated is None and len(plain.losses) == 1
    short = measure(
        language.target, language.task, {"forget": language.splits["forget"]}, max_new_tokens=1, progress=False
    )["forget"]
    assert short.generated is not None and max(map(len, short.generated)) < max(map(len, answers))


def test_one_forward_pass_a_model_and_split_however_many_figures_ask(language: Bench) -> None:
    splits = {
        "forget": rich_rows(language),
        "retain": language.splits["retain"],
        "holdout": language.splits["holdout"],
    }
    evaluation = Evaluation(language.task, splits, generate_on=(), progress=False, batch_size=256)
    calls = Calls(language.target)
    before = evaluation.scores("before", language.target)
    assert calls.count == len(splits), "one batch each: answers, paraphrases and wrong answers together"
    figures(
        before, before=evaluation.scores("before", language.target), gold=evaluation.scores("before", language.target)
    )
    assess(before, before=before)
    assert calls.count == len(splits)
    evaluation.scores("after", language.target)
    assert calls.count == 2 * len(splits)
    evaluation.put("gold", {split: Scores.from_json(each.to_json(text=False)) for split, each in before.items()})
    evaluation.scores("gold", language.target)
    assert calls.count == 2 * len(splits)
    calls.hook.remove()


def test_measuring_leaves_the_model_as_it_was(language: Bench) -> None:
    model = language.wrapped(lora=False)
    model.train()
    model.get_submodule("model.layers.0").eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, language.task, {"forget": language.splits["forget"][:3]}, progress=False)
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["sequence_classifier", "image_classifier"])
def test_classifiers_are_measured_by_the_same_code(name: str, bench: Callable[[str], Bench]) -> None:
    here = bench(name)
    scores = measure(here.target, here.task, here.splits, progress=False)
    lines = {(f.name, f.split): f for f in figures(scores, before=scores)}
    accuracy = lines["accuracy", "forget"].after
    decisions = here.task.decisions(here.target, here.batch("forget"), logits=True)
    assert accuracy == pytest.approx(decisions.greedy_hit().float().mean().item())
    assert lines["mia_loss", "forget"].after is not None
    assert not {"exact_answer", "exact_memorisation", "extraction_strength", "rouge_l_recall"} & {n for n, _ in lines}
    np.testing.assert_allclose(scores["forget"].losses, decisions.nll().detach().numpy(), atol=1e-5)


def test_batches_hold_every_row_once_within_the_budget() -> None:
    lengths = [3, 50, 7, 7, 20, 1, 49]
    batches = _batches(lengths, batch_size=3, positions=100)
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert all(len(batch) <= 3 and len(batch) * max(lengths[i] for i in batch) <= 100 for batch in batches)
    assert _batches([500], batch_size=3, positions=100) == [[0]], "a row longer than the budget goes alone"


def test_an_empty_split_is_left_out(language: Bench) -> None:
    splits = {"forget": language.splits["forget"][:2], "holdout": []}
    assert set(measure(language.target, language.task, splits, progress=False)) == {"forget"}
    assert set(Evaluation(language.task, splits, progress=False).scores("before", language.target)) == {"forget"}


def test_gap_interval_n_and_target_of_a_line() -> None:
    before, after, gold = model(knows=1), model(knows=0.5), model(knows=0.25, seed=1)
    lines = {(f.name, f.split): f for f in figures(after, before=before, gold=gold)}
    line = lines["exact_answer", "forget"]
    assert (line.before, line.after, line.gold, line.gap, line.n) == (1.0, 0.5, 0.25, 0.25, 40)
    assert line.interval is not None and line.interval[0] < 0.5 < line.interval[1]
    assert line.target == "gold" and lines["exact_answer", "retain"].target == "high"
    assert lines["forget_quality", "forget"].target == "high" and lines["model_utility", None].target == "high"
    assert lines["model_utility", None].interval is not None and lines["mia_loss", "forget"].interval is not None
    assert lines["mia_loss", "forget"].n == 80
    assert figures(after, before=before, gold=gold) == figures(after, before=before, gold=gold), "seeded"


def test_kinds_are_reported_apart_and_unknown_ones_named() -> None:
    kinds = tuple("cloze" if i >= 20 else "paraphrase" for i in range(40))
    before = {
        "forget_heldout": made_up("forget_heldout", knows=0.6, kinds=kinds),
        "forget": made_up("forget", knows=1),
    }
    lines = {(f.name, f.split): f for f in figures_by_kind(before, before=before)}
    assert lines["exact_answer", "forget_heldout/paraphrase"].after == 1.0
    assert lines["exact_answer", "forget_heldout/cloze"].after == pytest.approx(4 / 20)
    assert lines["exact_answer", "forget_heldout/cloze"].n == 20
    assert not any(split == "forget/qa" for _, split in lines), "one kind only: nothing to take apart"
    assert unknown_to(before) == {"forget_heldout/cloze"}
    judged = {(f.name, f.split): f for f in assess(before, before=before).judged}
    assert judged["exact_answer", "forget_heldout"].n == 20 and judged["exact_answer", "forget_heldout"].after == 1.0


def test_what_before_does_not_know() -> None:
    before = model(knows=0.4)
    assert unknown_to(before) == {"forget", "forget_heldout"}, "the holdout is not meant to be known"
    assert unknown_to(None) == frozenset()
    long = (np.array([False, True, True, True]),) * 40  # exact answer 0, extraction strength 0.75
    log_probs = (np.full(4, -0.1),) * 40
    strong = {split: made_up(split, knows=1, hits=long, log_probs=log_probs) for split in ("forget", "forget_heldout")}
    assert unknown_to(strong) == {"forget_heldout"}, "on forget, extraction strength counts as knowing"


def measure_in_a_group(rank: int, folder: str, bench: Bench) -> None:
    """One of two processes: measure together and write down what this one got."""
    torch.set_num_threads(1)
    group = torch.distributed
    group.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    calls = Calls(bench.target)
    splits = {"forget": rich_rows(bench)}
    scores = measure(bench.target, bench.task, splits, generate_on=("forget",), batch_size=4, progress=False)["forget"]
    content = {"world": group.get_world_size(), "calls": calls.count, "scores": scores.to_json(text=True)}
    uneven = {"holdout": bench.splits["holdout"][:7]}  # 7 rows, 3 batches, 2 processes
    odd = measure(
        bench.target, bench.task, uneven, generate_on=("holdout",), batch_size=3, grad_norm=True, progress=False
    )
    content["uneven"] = odd["holdout"].records()
    Path(folder, f"{rank}.json").write_text(json.dumps(content))
    group.destroy_process_group()


@pytest.mark.dist
def test_two_processes_share_the_work_and_both_get_all_of_it(language: Bench, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(measure_in_a_group, (str(tmp_path), language), nprocs=2)
    got = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    alone = Calls(language.target)
    splits = {"forget": rich_rows(language)}
    scores = measure(language.target, language.task, splits, generate_on=("forget",), batch_size=4, progress=False)[
        "forget"
    ]
    alone.hook.remove()
    uneven = {"holdout": language.splits["holdout"][:7]}
    odd = measure(
        language.target, language.task, uneven, generate_on=("holdout",), batch_size=3, grad_norm=True, progress=False
    )
    for each in got:
        assert each["uneven"] == json.loads(json.dumps(odd["holdout"].records())), "identical, to the last bit"
        assert each["world"] == 2 and each["calls"] < alone.count
        again = Scores.from_json(each["scores"])
        assert again.ids == scores.ids and again.generated == scores.generated
        np.testing.assert_allclose(again.losses, scores.losses, atol=1e-5)
        np.testing.assert_allclose(again.paraphrase_loss, scores.paraphrase_loss, atol=1e-5)  # type: ignore[arg-type]
