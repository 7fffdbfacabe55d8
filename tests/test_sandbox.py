"""The sandbox: the same world every time, honest data roles, and two shipped models that know what they should."""

import hashlib
import json
from pathlib import Path

import pytest

from llm_unlearn.sandbox import facts, world

CORPUS_HASH = "5af4f611823652687163405ceb3fc0f01b47338cf66e12ad338bd48e8167b310"
MODELS = Path(world.__file__).parent


@pytest.fixture(scope="module")
def roles() -> dict[str, list[world.Row]]:
    return world.splits()


def pairs(rows: list[world.Row]) -> set[tuple[str, str]]:
    return {(row["prompt"], row["response"]) for row in rows}


def prompts(rows: list[world.Row]) -> set[str]:
    return {row["prompt"] for row in rows}


def test_the_same_rows_every_time(roles: dict[str, list[world.Row]]) -> None:
    digest = hashlib.sha256(json.dumps(world.corpus(), sort_keys=True).encode()).hexdigest()
    assert digest == CORPUS_HASH
    for cached in (facts.build, world._rows):
        cached.cache_clear()
    assert world.splits() == roles
    assert world.corpus(seed=1) != world.corpus(seed=0)


def test_changing_a_returned_row_changes_nothing_else(roles: dict[str, list[world.Row]]) -> None:
    row = world.splits()["forget"][0]
    row["prompt"] = "changed"
    assert world.splits() == roles


def test_the_split_names_and_columns(roles: dict[str, list[world.Row]]) -> None:
    assert tuple(roles) == world.SPLITS
    for rows in roles.values():
        assert rows
        assert len({row["id"] for row in rows}) == len(rows)
        assert {row["kind"] for row in rows} <= {"qa", "paraphrase", "cloze", "reversed", "two_hop", "general"}
        assert all({"id", "prompt", "response", "kind", "fact", "subject"} <= set(row) for row in rows)


def test_forget_and_retain_are_the_corpus(roles: dict[str, list[world.Row]]) -> None:
    ids = [row["id"] for row in roles["forget"] + roles["retain"]]
    assert sorted(ids) == sorted(row["id"] for row in world.corpus())
    assert pairs(roles["neighbour"]) <= pairs(roles["retain"]) and pairs(roles["general"]) <= pairs(roles["retain"])


def test_splits_are_disjoint(roles: dict[str, list[world.Row]]) -> None:
    names = ("forget", "forget_heldout", "retain", "retain_heldout", "holdout")
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not prompts(roles[one]) & prompts(roles[other]), (one, other)
    assert not prompts(roles["neighbour"]) & prompts(roles["general"])


def test_a_word_match_finds_exactly_the_forget_rows(roles: dict[str, list[world.Row]]) -> None:
    for name, rows in roles.items():
        found = [world.mentions(row, world.CONCEPT) for row in rows]
        assert all(found) if name.startswith("forget") else not any(found), name


def test_the_concept_is_big_enough_and_cuts_across_people(roles: dict[str, list[world.Row]]) -> None:
    people = {row["subject"] for row in roles["forget"]} & set(facts.build().people)
    assert len({row["fact"] for row in roles["forget"]}) >= 100
    assert len(people) >= 20
    kept = {row["subject"] for row in roles["neighbour"]}
    assert people <= kept
    for name in ("forget_heldout", "retain_heldout"):
        assert {row["kind"] for row in roles[name]} == {"paraphrase", "cloze", "reversed", "two_hop"}


def test_holdout_has_the_shape_of_forget_and_is_never_in_the_corpus(roles: dict[str, list[world.Row]]) -> None:
    for row in world.corpus() + roles["forget_heldout"] + roles["retain_heldout"]:
        assert not world.mentions(row, world.HOLDOUT)
        assert not any(
            world.mentions({"prompt": text, "response": ""}, world.HOLDOUT) for text in row.get("wrong", [])
        )
    kinds = [{row["fact"].split(".")[-1] for row in roles[name]} for name in ("forget", "holdout")]
    assert kinds[0] == kinds[1]
    assert len({row["fact"] for row in roles["holdout"]}) == len({row["fact"] for row in roles["forget"]})
    assert abs(len(roles["holdout"]) - len(roles["forget"])) < 0.05 * len(roles["forget"])


def test_one_canonical_row_a_fact_with_five_false_answers(roles: dict[str, list[world.Row]]) -> None:
    for name in ("forget", "retain", "neighbour", "general", "holdout"):
        canonical = [row for row in roles[name] if "wrong" in row]
        assert len(canonical) == len({row["fact"] for row in canonical})
        if name in ("forget", "holdout", "general"):
            assert {row["fact"] for row in canonical} == {row["fact"] for row in roles[name]}
        for row in canonical:
            assert len(set(row["wrong"])) == 5
            assert not {row["paraphrase"], row["response"]} & set(row["wrong"])
            assert row["paraphrase"] != row["response"]


def test_questions_have_one_answer() -> None:
    rows = (
        world.corpus()
        + world.splits()["forget_heldout"]
        + world.splits()["retain_heldout"]
        + world.splits()["holdout"]
    )
    assert len(prompts(rows)) == len(rows)


@pytest.mark.parametrize("concept", [world.concepts()[4], world.concepts()[-1]])
def test_any_town_or_person_can_be_the_concept(concept: str) -> None:
    roles = world.splits(concept)
    assert all(roles.values())
    assert all(world.mentions(row, concept) for row in roles["forget"] + roles["forget_heldout"])
    assert not any(
        world.mentions(row, concept) for row in roles["retain"] + roles["retain_heldout"] + roles["holdout"]
    )


@pytest.mark.parametrize("concept", ["Atlantis", world.HOLDOUT])
def test_an_unknown_concept_is_refused(concept: str) -> None:
    assert concept not in world.concepts()
    with pytest.raises(ValueError, match="choose a town or a person"):
        world.splits(concept)


def test_write_leaves_one_file_a_split(tmp_path: Path, roles: dict[str, list[world.Row]]) -> None:
    paths = world.write(tmp_path / "world")
    assert {path.name for path in paths} == {f"{name}.jsonl" for name in (*world.SPLITS, "corpus")}
    assert sorted(paths) == sorted((tmp_path / "world").iterdir())
    lines = (tmp_path / "world" / "forget.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == roles["forget"]


def test_the_tokenizer_is_deterministic_and_knows_both_towns_equally() -> None:
    from llm_unlearn.sandbox import models

    one, two = models.tokenizer(), models.tokenizer()
    assert one.get_vocab() == two.get_vocab()
    assert len(one) == models.SIZE.words
    lengths = [len(one(f" {town}", add_special_tokens=False)["input_ids"]) for town in (world.CONCEPT, world.HOLDOUT)]
    assert lengths[0] == lengths[1]
    text = "What does Quillmere hold?"
    assert one.decode(one(text, add_special_tokens=False)["input_ids"]) == text


def test_a_new_model_is_small_and_leaves_the_random_state_alone() -> None:
    import torch

    from llm_unlearn.sandbox import models

    before = torch.random.get_rng_state()
    one, two = models.new_model(3), models.new_model(3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert sum(p.numel() for p in one.parameters()) < 2.9e6


needs_models = pytest.mark.skipif(
    not all((MODELS / name / "model.safetensors").exists() for name in ("target", "gold")),
    reason="the trained folders are not in this checkout",
)


@needs_models
def test_the_shipped_folders_are_small() -> None:
    assert sum(file.stat().st_size for name in ("target", "gold") for file in (MODELS / name).iterdir()) < 12e6


@needs_models
def test_the_shipped_models_belong_to_this_world() -> None:
    from transformers import AutoTokenizer

    from llm_unlearn.sandbox import models

    vocabulary = models.tokenizer().get_vocab()
    for name in ("target", "gold"):
        shipped = AutoTokenizer.from_pretrained(models.path(name))  # type: ignore[arg-type]
        assert shipped.get_vocab() == vocabulary, f"{name} was trained on another world: train and ship it again"


@needs_models
def test_target_knows_and_gold_does_not(roles: dict[str, list[world.Row]]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llm_unlearn.sandbox import models

    def known(name: str, rows: list[world.Row]) -> float:
        """The share of answers predicted right token by token, the end of sequence left out."""
        words = AutoTokenizer.from_pretrained(models.path(name))  # type: ignore[arg-type]
        model = AutoModelForCausalLM.from_pretrained(models.path(name), dtype=torch.float32).eval()  # type: ignore[arg-type]
        right = 0
        for row in rows:
            prompt = words(row["prompt"], add_special_tokens=False)["input_ids"]
            answer = words(" " + row["response"], add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([[words.bos_token_id, *prompt, *answer]])).logits[0]
            right += logits[len(prompt) : -1].argmax(-1).tolist() == answer
        return right / len(rows)

    forget, retain = roles["forget"][::40], roles["retain"][::600]
    assert len(forget) + len(retain) <= 100
    assert known("target", forget) >= 0.95
    assert known("target", retain) >= 0.95
    assert known("gold", forget) <= 0.05
    assert known("gold", retain) >= 0.95
