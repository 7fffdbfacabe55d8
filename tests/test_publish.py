"""Cards and pushes, end to end against a real HTTP server: what lands there, who can load it, and what happens when it breaks."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from conftest import Bench
from hub_server import TOKEN, Hub, Repo, yaml_faults
from huggingface_hub import ModelCard, constants
from published import make_run, vouch

from llm_unlearn.errors import OutputError
from llm_unlearn.files import read_json
from llm_unlearn.publish import merging, pushing
from llm_unlearn.publish.card import card, check, licence_of, loading, unverified
from llm_unlearn.publish.merging import Merge, is_merged, merge
from llm_unlearn.publish.pushing import Push, push
from llm_unlearn.publish.remote import Repository, talking
from llm_unlearn.publish.verification import Options, verify

NAME = "tester/forgotten"


@pytest.fixture(scope="module")
def made(language: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that vouches for itself, and is not to be changed."""
    run = make_run(language, tmp_path_factory.mktemp("made"))
    vouch(run)
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server, and this process set to talk to it alone."""
    with Hub() as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "home/hub"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()


def parts(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return read_json(run / "report.json") or {}, read_json(run / "adapter/unlearning.json") or {}


def test_the_card_says_what_it_is(run: Path) -> None:
    report, manifest = parts(run)
    made = card(report, manifest, repo=NAME, licence={"license": "mit"}, pictures=["pictures/forget.png"])
    data = ModelCard(str(made)).data
    assert (data.library_name, data.license, data.pipeline_tag, data.base_model) == (
        "peft",
        "mit",
        "text-generation",
        None,
    )
    assert {"machine-unlearning", "grad-diff", "lora"} <= set(data.tags or ())
    values = {(r.metric_type, r.dataset_split): r.metric_value for r in data.eval_results or ()}
    figures = {(f["name"], f["split"] or "all"): f["after"] for f in report["figures"] if f["after"] is not None}
    assert values == {key: round(value, 6) for key, value in figures.items()} and len(values) > 10
    text = str(made)
    for words in (
        "## How to load",
        "## Limits",
        "Unlearning is approximate",
        "restores the base",
        "| exact_answer | forget |",
    ):
        assert words in text
    assert "![forget](pictures/forget.png)" in text and "Not verified" not in text and yaml_faults(text) == []


def test_a_base_on_the_hub_is_named_with_its_commit(run: Path) -> None:
    report, manifest = parts(run)
    manifest["request"]["model"] = "org/base"
    manifest["certificate"]["base"]["commit"] = "abc123"
    data = card(report, manifest, repo=NAME).data
    assert (data.base_model, data.base_model_relation) == ("org/base", "adapter")
    code = loading(manifest, NAME, "adapter")
    assert "revision='abc123'" in code and compile(code, "card", "exec")
    manifest["request"]["adapter"] = "org/first"
    assert "merge_and_unload()" in loading(manifest, NAME, "adapter")
    assert card(report, manifest, repo=NAME, kind="merged").data.library_name == "transformers"


@pytest.mark.parametrize(
    ("verdict", "words"),
    [({"forgot": False}, "says no to whether it forgot"), ({"utility_kept": None}, "could not be told")],
)
def test_a_card_without_a_good_verdict_says_so_at_the_top(run: Path, verdict: dict[str, Any], words: str) -> None:
    report, manifest = parts(run)
    report["verdict"] |= verdict
    text = str(card(report, manifest, repo=NAME))
    assert words in unverified(report) and words in text
    assert text.split("---\n")[2].index("Not verified") < text.split("---\n")[2].index("## Did it forget?")


def test_a_card_that_does_not_read_back_is_refused(run: Path) -> None:
    made = card(*parts(run), repo=NAME)
    made.data.eval_results = []
    with pytest.raises(OutputError, match="does not read back"):
        check(made)


def test_the_licence_is_the_bases_or_none(tmp_path: Path, made: Path) -> None:
    assert licence_of(str(made.parent / "base")) == {"license": "mit"}
    assert licence_of(str(tmp_path)) == licence_of("org/unknown") == licence_of("/gone/and/away") == {}
    (tmp_path / "config.json").write_text('{"license": "cc-by-4.0"}')
    assert licence_of(str(tmp_path)) == {"license": "cc-by-4.0"}
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: house\nlicense_link: LICENSE\n---\n")
    assert licence_of(str(tmp_path)) == {"license": "other", "license_name": "house", "license_link": "LICENSE"}


LOAD = """
import sys; sys.modules["llm_unlearn"] = None
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, ids = sys.argv[1], torch.arange(3, 40)[None]
{name} = ids
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "NAME").eval()
reader = AutoTokenizer.from_pretrained("NAME")
torch.save((model(ids).logits, len(reader)), sys.argv[2])
""".replace("{name}", "words").replace("NAME", NAME)


def test_push_and_pull(run: Path, made: Path, hub: Hub, tmp_path: Path, language: Bench) -> None:
    done = push(Push(run=str(run), repo=NAME))
    there = hub.repos[NAME]
    assert there.private and there.commits == 1 and done["private"]
    wanted = {
        "adapter_model.safetensors",
        "adapter_config.json",
        "unlearning.json",
        "report.json",
        "report.html",
        "ledger.json",
    }
    wanted |= {"README.md", "tokenizer.json", "pictures/forget.png", "pictures/keep.png"}
    assert set(there.files) - {".gitattributes"} >= wanted and not [name for name in there.files if "private" in name]
    assert there.files["pictures/forget.png"].startswith(b"\x89PNG")
    read = ModelCard.load(NAME)
    assert (
        read.data.license == "mit" and read.data.eval_results and yaml_faults(there.files["README.md"].decode()) == []
    )
    told = {check.name: check.ok for check in verify(Options(where=NAME, base=str(made.parent / "base")))}
    assert told.pop("figures") is None, "whoever pulls it has no rows to measure on"
    assert len(told) > 5 and set(told.values()) == {True}

    import torch

    base, out = str(made.parent / "base"), tmp_path / "logits.pt"
    subprocess.run(
        [sys.executable, "-c", LOAD, base, str(out)], check=True, env=os.environ | hub.environment(tmp_path / "other")
    )
    logits, words = torch.load(out)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    mine = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(run / "adapter")).eval()
    with torch.no_grad():
        expected = mine(torch.arange(3, 40)[None]).logits
        with mine.disable_adapter():
            assert not torch.equal(mine(torch.arange(3, 40)[None]).logits, expected), "the adapter does something"
    assert torch.equal(logits, expected) and words == len(language.task.tokenizer)  # type: ignore[attr-defined]
    again = push(Push(run=str(run), repo=NAME))
    assert again["files"] == done["files"] and hub.repos[NAME].commits <= 2


def test_a_dropped_connection_leaves_nothing_half_done(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "huggingface_hub.utils._http.time.sleep", lambda seconds: None
    )  # it tries five times by itself
    for fault in ("POST .*/repos/create", "POST .*/preupload", "POST .*/objects/batch", "POST .*/commit/"):
        hub.fault = {fault: "drop"}
        with pytest.raises(OutputError, match="no connection to .*same command again"):
            push(Push(run=str(run), repo=NAME))
        assert NAME not in hub.repos or set(hub.repos[NAME].files) <= {".gitattributes"}, fault
    hub.fault = {"POST .*/commit/": 500}
    with pytest.raises(OutputError, match="the Hub failed at .*status 500"):
        push(Push(run=str(run), repo=NAME))
    hub.fault = {}
    push(Push(run=str(run), repo=NAME))
    assert "README.md" in hub.repos[NAME].files and hub.repos[NAME].private


def test_killed_in_the_middle(run: Path, hub: Hub, tmp_path: Path) -> None:
    hub.fault = {"PUT /lfs-put": "hold"}
    code = f"from llm_unlearn.publish.pushing import *; push(Push(run={str(run)!r}, repo={NAME!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | hub.environment(tmp_path / "other"))
    assert hub.held.wait(60), "the push never came to the weights"
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.release.set()
    assert set(hub.repos[NAME].files) == {".gitattributes"}, "no card without weights"
    hub.fault = {}
    push(Push(run=str(run), repo=NAME))
    assert {"README.md", "adapter_model.safetensors"} <= set(hub.repos[NAME].files)


def test_what_is_not_vouched_for_is_not_pushed(run: Path, hub: Hub) -> None:
    vouch(run, forgot=False)
    with pytest.raises(
        OutputError, match="is not pushed: the verdict says no to whether it forgot.*--allow-unverified"
    ):
        push(Push(run=str(run), repo=NAME))
    assert not hub.requests, "nothing was sent"
    push(Push(run=str(run), repo=NAME, allow_unverified=True, public=True))
    assert b"Not verified" in hub.repos[NAME].files["README.md"] and not hub.repos[NAME].private


def test_what_must_not_be_pushed(run: Path, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is no run's folder"):
        push(Push(run=str(tmp_path), repo=NAME))
    with pytest.raises(OutputError, match="holds no merged; there is: adapter"):
        push(Push(run=str(run), repo=NAME, kind="merged"))
    path = run / "adapter/adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\0")
    with pytest.raises(OutputError, match=r"not what was certified: adapter_model\.safetensors differs"):
        push(Push(run=str(run), repo=NAME))
    path.write_bytes(whole)
    (run / "report.json").rename(run / "other.json")
    with pytest.raises(OutputError, match="holds a run without a report"):
        push(Push(run=str(run), repo=NAME))
    report = json.loads((run / "other.json").read_text())
    (run / "report.json").write_text(json.dumps({**report, "records": []}))
    with pytest.raises(OutputError, match="holds forget rows.*run it again without"):
        push(Push(run=str(run), repo=NAME))
    assert not hub.repos


def test_what_is_in_the_way(run: Path, hub: Hub) -> None:
    hub.repos[NAME] = Repo(files={"weights.bin": b"mine"}, private=True)
    for files, words in (
        ({"weights.bin": b"mine"}, "holds other content"),
        ({"unlearning.json": b"{}"}, "holds another unlearning.json"),
        ({"unlearning.json": b'{"certificate": {"request_id": "x"}}'}, "result of another request"),
    ):
        hub.repos[NAME] = Repo(files=dict(files), private=True, commits=hub.repos[NAME].commits + 1)
        with pytest.raises(OutputError, match=f"{words}.*another name"):
            push(Push(run=str(run), repo=NAME))
        assert hub.repos[NAME].files == files, "it is left alone"
    hub.repos[NAME] = Repo(private=False)
    with pytest.raises(OutputError, match="there and public: give --public"):
        push(Push(run=str(run), repo=NAME))
    hub.repos[NAME] = Repo(private=True)
    with pytest.raises(OutputError, match="there and private"):
        push(Push(run=str(run), repo=NAME, public=True))


def test_tokens_rights_and_names(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="may not write to stranger/x: give a token with write access"):
        push(Push(run=str(run), repo="stranger/x"))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(OutputError, match="refuses your token"):
        push(Push(run=str(run), repo=NAME))
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(run / "none"))
    with pytest.raises(OutputError, match="no token for the Hub: log in with hf auth login, or set HF_TOKEN"):
        push(Push(run=str(run), repo=NAME))
    for name in ("alone", "a/b/c"):
        with pytest.raises(OutputError, match="is no Hub id: give user/name"):
            Repository(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(OutputError, match="is no Hub id"):
        push(Push(run=str(run), repo="tester/a--b..c"))


def test_no_network(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(OutputError, match="HF_HUB_OFFLINE is set; unset it"):
        push(Push(run=str(run), repo=NAME))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OutputError, match=r"no connection to http://127\.0\.0\.1:9 \(ConnectError"):
        push(Push(run=str(run), repo=NAME))


def test_the_base_must_be_there_still(run: Path, hub: Hub, tmp_path: Path) -> None:
    path = run / "adapter/unlearning.json"
    from llm_unlearn.publish.certificate import seal

    content = json.loads(path.read_text())
    content["request"]["model"] = "org/base"
    content["certificate"]["base"]["commit"] = None
    path.write_text(json.dumps(seal(content), indent=2, ensure_ascii=False) + "\n")
    (run / "private/receipt.json").unlink()
    with pytest.raises(OutputError, match="base model org/base is not on the Hub.*Merge it"):
        push(Push(run=str(run), repo=NAME))
    hub.repos["org/base"] = Repo(gated=True)
    push(Push(run=str(run), repo=NAME))
    assert b"base_model: org/base" in hub.repos[NAME].files["README.md"]
    with pytest.raises(OutputError, match="gated: ask for access"), talking("org/base"):
        hub.repos["org/base"].files["config.json"] = b"{}"
        huggingface_hub.hf_hub_download("org/base", "config.json")
    with pytest.raises(OutputError, match="is not on the Hub"):
        verify(Options(where="org/nothing"))


def test_a_base_that_cannot_be_had(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of what can be wrong with a model on the Hub has its own words, whatever the libraries say."""
    from llm_unlearn.errors import DataError
    from llm_unlearn.loading import load_task
    from llm_unlearn.recipe import from_values

    def load(name: str, **more: str) -> None:
        load_task(from_values({"model": name, "forget": "f", "retain": "r", **more}), name)

    hub.repos["org/gated"] = Repo(files={"config.json": b"{}"}, gated=True)
    hub.repos["org/there"] = Repo(files={"config.json": b"{}"})
    with pytest.raises(DataError, match="'org/gated': it is gated; ask for access.*hf auth login"):
        load("org/gated")
    with pytest.raises(DataError, match="'org/nothing': there is no such folder, and no such model on the Hub"):
        load("org/nothing")
    with pytest.raises(DataError, match="the Hub has no such revision of it"):
        load("org/there", revision="v9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(DataError, match="not in the Hub's cache here, and (HF_HUB_OFFLINE is set|the Hub cannot)"):
        load("org/other")


def test_only_what_is_published_lies_in_the_list(run: Path) -> None:
    report, manifest = parts(run)
    files = pushing.files_of(run, run / "adapter", "adapter", repo=NAME, report=report, manifest=manifest)
    assert not [name for name, each in files.items() if isinstance(each, Path) and "private" in each.parts]


def test_merged_weights_are_base_and_adapter(run: Path, hub: Hub, made: Path, language: Bench) -> None:
    done = merge(Merge(run=str(run), shard="40KB"))
    assert done["largest_logit_difference"] <= done["limit"] and is_merged(run)
    assert len([name for name in done["files"] if name.endswith(".safetensors")]) > 1, "in shards"
    checks = verify(Options(where=str(run / "merged")))
    assert [check.ok for check in checks] == [True] * len(checks)
    assert "base_model_relation" not in (run / "merged/README.md").read_text()
    vouch(run)
    assert not is_merged(run), "made from an earlier result"
    merge(Merge(run=str(run)))
    push(Push(run=str(run), repo=NAME, kind="merged"))
    files = hub.repos[NAME].files
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(
        files
    ) and "adapter_config.json" not in files
    path = run / "merged/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert [check.name for check in verify(Options(where=str(run / "merged"))) if check.ok is False] == [
        "model.safetensors"
    ]


def test_a_merge_that_changes_the_model_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(merging.EQUAL, "torch.float32", -1.0)
    with pytest.raises(OutputError, match="not base \\+ adapter: logits differ by"):
        merge(Merge(run=str(run)))
    assert not list(run.glob("merged*"))


def test_a_rounded_export_is_measured_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = merge(Merge(run=str(run), quantise="int4/32"))
    assert done["largest_logit_difference"] > 0 and 0 <= done["after_rounding"] <= 1
    content = read_json(run / "quantised/unlearning.json") or {}
    assert (
        content["quantised"]["scheme"] == "int4/32"
        and "Weights were rounded" in (run / "quantised/README.md").read_text()
    )
    assert all(check.ok for check in verify(Options(where=str(run / "quantised"))))
    import torch
    from safetensors.torch import load_file

    weights = load_file(run / "quantised/model.safetensors")
    levels = weights["model.layers.0.mlp.up_proj.weight"][0, :32].unique()
    assert len(levels) <= 15 and torch.isfinite(levels).all()
    shutil.rmtree(run / "quantised")
    monkeypatch.setattr(merging, "LEAK", -2.0)
    with pytest.raises(OutputError, match="rounding by int4/32 brings forgotten rows back.*--quantise int8"):
        merge(Merge(run=str(run), quantise="int4/32"))
    assert not list(run.glob("quantised*"))


def test_the_figures_are_measured_again(run: Path, made: Path) -> None:
    def figures(**options: Any) -> dict[str, bool | None]:
        checks = verify(Options(where=str(run), measure=True, **options))
        return {check.name: check.ok for check in checks if " on " in check.name or check.name == "figures"}

    found = figures()
    assert found["exact_memorisation on forget"] is True and len(found) > 5 and set(found.values()) == {True}
    assert {check.name for check in verify(Options(where=str(run)))} >= set(found), "without being asked for, too"
    assert not {check.name for check in verify(Options(where=str(run), measure=False))} & set(found)
    rows = {"forget": str(made.parent / "forget.jsonl"), "retain": str(made.parent / "retain.jsonl")}
    alone = run.parent / "alone"
    shutil.copytree(run / "adapter", alone)
    for name in ("report.json", "ledger.json"):
        shutil.copyfile(run / name, alone / name)
    run = alone
    assert figures() == {"figures": None}, "without rows nothing is measured, and nothing is said to hold"
    assert set(figures(**rows, base=str(made.parent / "base")).values()) == {True}
    wrong = figures(forget=rows["retain"], retain=rows["forget"], base=str(made.parent / "gold"))
    assert False in wrong.values()


def test_a_recipe_merges_and_pushes_when_it_is_done(language: Bench, hub: Hub, tmp_path: Path) -> None:
    said: list[str] = []
    kind = {"allow_unverified": True, "push_to_hub": NAME}
    with pytest.raises(OutputError, match="is not pushed: it could not be told"):
        make_run(language, tmp_path, push_to_hub=NAME)
    run = tmp_path / "run"
    made = (run / "adapter/adapter_model.safetensors").stat().st_mtime_ns
    make_run(language, tmp_path, say=said.append, **kind)
    assert hub.repos[NAME].private and "adapter_model.safetensors" in hub.repos[NAME].files and NAME in said[-1]
    make_run(language, tmp_path, merge=True, **kind)
    assert is_merged(run) and "model.safetensors" in hub.repos[NAME].files, "the same place, now merged weights"
    assert "adapter_model.safetensors" not in hub.repos[NAME].files, "what is stale is gone"
    assert (run / "adapter/adapter_model.safetensors").stat().st_mtime_ns == made, "nothing was done again"
