"""The life of an output folder, and what is shipped from it without naming what was forgotten."""

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from llm_unlearn.errors import NotFinite, OutputError
from llm_unlearn.files import write_json
from llm_unlearn.manifest import manifest, peak_memory_bytes, redacted_command, redacted_request, versions
from llm_unlearn.options import parse
from llm_unlearn.recipe import to_dict
from llm_unlearn.runfolder import RunFolder, fingerprint, open_run, read_request

ROWS = {
    "forget": [{"id": "1", "prompt": "Who?", "response": "Ada"}],
    "retain": [{"id": "2", "prompt": None, "response": "b"}],
}
REQUEST: dict[str, Any] = {
    "model": "sandbox",
    "method": {"name": "npo", "beta": 0.1},
    "seed": 0,
    "output": "x",
    "overwrite": False,
}


def finish(folder: Path, request: dict[str, Any] = REQUEST, **options: Any) -> RunFolder:
    with open_run(folder, request, inputs=ROWS, **options) as run:
        write_json(run.path / "report.json", {"schema": 1, "seed": request["seed"]})
    return run


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_new_then_finished(tmp_path: Path) -> None:
    first = finish(tmp_path / "a" / "run")
    assert (first.state, first.report, len(first.key)) == ("new", None, 16)
    with open_run(
        tmp_path / "a" / "run", {**REQUEST, "output": "other name", "overwrite": True}, inputs=ROWS
    ) as again:
        assert (again.state, again.report, again.key) == ("finished", {"schema": 1, "seed": 0}, first.key)
    assert sorted(listing(tmp_path)) == ["a/run/private/request.json", "a/run/report.json"], "no lock or part may stay"


def test_a_run_without_its_report_is_unfinished(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", REQUEST, inputs=ROWS) as run:
        (run.path / "fit").mkdir()
    with open_run(tmp_path / "run", REQUEST, inputs=ROWS) as run:
        assert (run.state, run.report) == ("unfinished", None)
        assert (run.path / "fit").is_dir()


def test_a_report_of_a_run_that_failed_after_it_does_not_count(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "run", REQUEST, inputs=ROWS) as run:
        write_json(run.path / "report.json", {"schema": 1})
        raise KeyboardInterrupt
    with open_run(tmp_path / "run", REQUEST, inputs=ROWS) as run:
        assert run.state == "unfinished"


@pytest.mark.parametrize(
    ("request_", "inputs", "named"),
    [
        ({**REQUEST, "method": {"name": "npo", "beta": 0.2}}, ROWS, r"different: method\.beta\)"),
        ({**REQUEST, "seed": 1, "extra": 2}, ROWS, r"different: extra, seed\)"),
        (REQUEST, {**ROWS, "forget": []}, r"different: the rows or a model's files\)"),
    ],
)
def test_another_request_is_refused_and_nothing_changes(
    tmp_path: Path, request_: dict[str, Any], inputs: dict[str, Any], named: str
) -> None:
    finish(tmp_path)
    before = listing(tmp_path)
    with (
        pytest.raises(OutputError, match=f"another request .*{named}.*--output.*--overwrite"),
        open_run(tmp_path, request_, inputs=inputs),
    ):
        pass
    assert listing(tmp_path) == before


def test_a_changed_model_folder_is_another_request(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("1")
    request = {**REQUEST, "model": str(tmp_path / "model")}
    finish(tmp_path / "run", request)
    (tmp_path / "model/weights").write_text("12")
    with pytest.raises(OutputError, match="a model's files"), open_run(tmp_path / "run", request, inputs=ROWS):
        pass


def test_overwrite_removes_our_run_with_everything_in_it(tmp_path: Path) -> None:
    first = finish(tmp_path / "run")
    (tmp_path / "run/adapter").mkdir()
    (tmp_path / "run/adapter/weights").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "run/link").symlink_to(tmp_path / "kept")
    with open_run(tmp_path / "run", {**REQUEST, "seed": 1}, inputs=ROWS, overwrite=True) as run:
        assert run.state == "new"
        assert run.key != first.key
        assert sorted(listing(run.path)) == ["private/lock.json", "private/request.json"]
    assert (tmp_path / "kept").is_dir()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_a_run_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(OutputError, match="not empty and holds no run; it is left alone.*--output"),
        open_run(tmp_path, REQUEST, overwrite=overwrite),
    ):
        pass
    with (
        pytest.raises(OutputError, match="is a file"),
        open_run(tmp_path / "thesis.txt", REQUEST, overwrite=overwrite),
    ):
        pass
    (tmp_path / "private").mkdir()
    (tmp_path / "private/request.json").write_text('{"kind": "something else"}')
    with pytest.raises(OutputError, match="holds no run"), open_run(tmp_path, REQUEST, overwrite=overwrite):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_run_killed_before_its_request_was_written_is_new(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private/.request.json.17.part").write_text("{")
    assert finish(tmp_path).state == "new"
    assert sorted(listing(tmp_path)) == ["private/request.json", "report.json"]


def test_only_the_owner_reads_the_private_part(tmp_path: Path) -> None:
    finish(tmp_path, command=["prog", "--concept", "Quillmere"])
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "private/request.json").stat().st_mode) == 0o600
    request = read_request(tmp_path)
    assert request is not None
    assert request["command"] == ["prog", "--concept", "Quillmere"]
    assert "Ada" not in (tmp_path / "private/request.json").read_text()


HOLD = """
    import sys, time
    from llm_unlearn.runfolder import open_run
    with open_run(sys.argv[1], {"seed": 0}):
        print("held", flush=True)
        time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_waits_its_turn_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    try:
        with (
            pytest.raises(OutputError, match=f"process {process.pid} on .* works in"),
            open_run(tmp_path / "run", {"seed": 0}),
        ):
            pass
        with pytest.raises(OutputError, match="works in"), open_run(tmp_path / "run", {"seed": 1}, overwrite=True):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / "run/private/lock.json").exists(), "kill -9 lets nobody tidy up"
        with open_run(tmp_path / "run", {"seed": 0}) as run:
            assert run.state == "unfinished"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("change", [{"boot": "earlier"}, {"started": "1"}, {"pid": 2**22 + 1}])
def test_a_lock_from_before_a_restart_is_taken_over(tmp_path: Path, change: dict[str, Any]) -> None:
    with open_run(tmp_path, REQUEST) as run:
        lock = json.loads((run.private / "lock.json").read_text())
        with pytest.raises(OutputError, match="works in"), open_run(tmp_path, REQUEST):
            pass
    write_json(tmp_path / "private/lock.json", {**lock, **change})
    with open_run(tmp_path, REQUEST) as run:
        assert json.loads((run.private / "lock.json").read_text()) == lock


def test_a_lock_of_another_machine_is_believed(tmp_path: Path) -> None:
    with open_run(tmp_path, REQUEST) as run:
        lock = json.loads((run.private / "lock.json").read_text())
    write_json(tmp_path / "private/lock.json", {**lock, "host": "elsewhere"})
    with (
        pytest.raises(OutputError, match="on elsewhere works in .* if it is not running, delete"),
        open_run(tmp_path, REQUEST),
    ):
        pass


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": None})
    with pytest.raises(NotFinite, match=r"a\.json would hold a NaN"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    with pytest.raises(OutputError, match="cannot write"):
        write_json(tmp_path / "missing" / "a.json", {})
    with pytest.raises(OutputError, match="cannot write"), open_run("/proc/run", REQUEST):
        pass
    assert listing(tmp_path) == {"a.json": b'{\n  "x": null\n}\n'}


TWO = """
    import json, os, sys
    from accelerate import PartialState
    from llm_unlearn.errors import OutputError
    from llm_unlearn.files import write_json
    from llm_unlearn.runfolder import is_main, open_run
    seen = []
    for seed in (0, 0, 1):
        try:
            with open_run(sys.argv[1] + "/run", {"seed": seed}) as run:
                assert PartialState().num_processes == 2
                if is_main():
                    write_json(run.path / "report.json", {"schema": 1})
                seen.append([run.state, run.key.hex(), run.report])
        except OutputError as error:
            seen.append(str(error))
    write_json(sys.argv[1] + f"/seen_{os.environ['RANK']}.json", seen)
"""


@pytest.mark.dist
def test_two_processes_get_the_same_answer(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(textwrap.dedent(TWO))
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(tmp_path / "two.py"),
        str(tmp_path),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((tmp_path / f"seen_{rank}.json").read_text()) for rank in (0, 1))
    assert one == other
    assert [one[0][0], one[0][2]] == ["new", None]
    assert one[1] == ["finished", one[0][1], {"schema": 1}]
    assert "another request (different: seed)" in one[2]


# --- the manifest ---

KEY = bytes(range(16))
PLANTED = ["Zanzibrook", "the old brook", "aliceshome", "Bobsfolder", "Xeniadata", "Yorickout"]


def shipped(folder: Path) -> dict[str, Any]:
    home = folder / "aliceshome"
    (home / "Bobsfolder").mkdir(parents=True)
    options = [
        "--model",
        str(home / "Bobsfolder"),
        f"--data={home}/Xeniadata/rows-ZANZIBROOK.jsonl",
        "--concept",
        "Zanzibrook",
        "--terms",
    ]
    argv = [
        str(home / "forget_concept.py"),
        *options,
        "the old brook",
        "Zanzibrook 2",
        "--output",
        f"{home}/Yorickout/run",
        "--method.beta=0.2",
        "--seed",
        "3",
    ]
    return manifest(
        to_dict(parse(argv[1:])),
        key=KEY,
        splits={
            "forget": [{"id": "1", "response": "Zanzibrook lies by the sea"}],
            "retain": [{"id": "2"}] * 3,
            "holdout": [],
        },
        argv=argv,
        seconds={"unlearn": 1.5},
        peak_memory=10,
        extra={"adapter": {"base": str(home / "Bobsfolder")}},
    )


def test_the_manifest_names_nothing_that_was_to_be_forgotten(tmp_path: Path) -> None:
    text = json.dumps(shipped(tmp_path))
    assert "hmac-sha256:" in text
    assert "forget_concept.py" in text, "base names stay"
    for word in [*PLANTED[:3], *PLANTED[4:], str(tmp_path)]:
        assert word.lower() not in text.lower()
    assert "Bobsfolder#hmac" in text, "a model's folder is known by its base name"


def test_the_manifest_says_how_the_adapter_was_made(tmp_path: Path) -> None:
    content = shipped(tmp_path)
    assert content["method"]["name"] == "npo"
    assert content["method"]["beta"] == 0.2
    assert "learning_rate" in content["method"]["training"]
    assert (content["seed"], content["seconds"], content["peak_memory_bytes"]) == (3, {"unlearn": 1.5}, 10)
    assert {name: split["rows"] for name, split in content["data"].items()} == {"forget": 1, "retain": 3}
    assert content["versions"] == versions()
    assert None not in versions().values()
    assert "--method.beta=0.2" in content["command"]
    assert "3" in content["command"]


@pytest.mark.parametrize(
    "words",
    [
        ["--concept", "Zanzibrook"],
        ["--concept=Zanzibrook"],
        ["--terms", "Zanzibrook", "aliceshome"],
        ["--terms=Zanzibrook", "--terms=aliceshome"],
        ["--terms=[Zanzibrook, aliceshome]"],
        ["--forget=/x/aliceshome/f.jsonl"],
        ["--forget", "aliceshome/f.jsonl"],
        ["--retain-heldout=aliceshome/Zanzibrook/f.jsonl"],
        ["--retain_heldout", "aliceshome/Zanzibrook/f.jsonl"],
        ["--config", "aliceshome/r.yaml"],
        ["--output=aliceshome/out"],
        ["--method.donors=/x/aliceshome/rows.jsonl"],
        ["--method.donors", "aliceshome/rows.jsonl"],
        ["--seed", "1", "--concept", "Zanzibrook", "--output", "out/my_zanzibrook_run"],
    ],
    ids=" ".join,
)
def test_the_command_is_redacted(words: list[str]) -> None:
    shown = " ".join(redacted_command(["aliceshome/run.py", *words], KEY))
    assert not [word for word in PLANTED if word.lower() in shown.lower()]
    assert shown.startswith("run.py#hmac-sha256:")
    assert redacted_command(words, KEY) != redacted_command(words, KEY[::-1]), "fingerprints are keyed"


def test_a_relative_path_is_hidden_wherever_it_turns_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aliceshome/model").mkdir(parents=True)
    recipe = to_dict(parse(["--model", "aliceshome/model", "--forget=f", "--retain=r"]))
    content = manifest(
        recipe, key=KEY, splits={}, argv=[], seconds={}, peak_memory=1, extra={"base_model": "aliceshome/model"}
    )
    assert "aliceshome" not in json.dumps(content)
    assert content["base_model"].startswith("model#hmac-sha256:")


def test_public_names_and_plain_settings_stay_readable() -> None:
    words = [
        "--model",
        "org/some-model",
        "--method=simnpo",
        "--method.beta",
        "2.5e-1",
        "--precision",
        "bf16",
        "--merge",
    ]
    assert redacted_command(words, KEY) == words
    request = redacted_request(to_dict(parse(["--model=org/some-model", "--forget=f", "--retain=r"])), KEY)
    assert request["model"] == "org/some-model"
    assert request["method"]["name"] == "npo"


def test_a_short_concept_does_not_eat_other_words() -> None:
    shown = redacted_command(["--concept", "a", "--model", "a/a/data_a.b", "--precision", "auto"], KEY)
    assert shown[-1] == "auto"
    assert shown[3].startswith("data_hmac-sha256:")


def test_fingerprints_need_the_key() -> None:
    assert fingerprint(KEY, {"b": 1, "a": 2}) == fingerprint(KEY, {"a": 2, "b": 1})
    assert fingerprint(KEY, "x") != fingerprint(KEY[::-1], "x")
    assert fingerprint(KEY, b"Jefe") != fingerprint(KEY, "Jefe")
    # RFC 4231, test case 2
    assert (
        fingerprint(b"Jefe", b"what do ya want for nothing?")
        == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )


def test_peak_memory_is_in_bytes() -> None:
    before = peak_memory_bytes()
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])
    assert 10_000_000 < before < 10**12
    assert peak_memory_bytes() >= before
