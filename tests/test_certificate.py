"""Certificates, receipts, ledgers and signatures: every changed byte is found, and nothing can be guessed from what is public."""

import hashlib
import hmac
import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from published import make_run, vouch

from llm_unlearn.errors import DataError, OutputError
from llm_unlearn.options import read
from llm_unlearn.publish import certificate, ledger, receipt, signature
from llm_unlearn.publish.verification import Check, Options, table, verify
from llm_unlearn.settings import build


@pytest.fixture(scope="module")
def made(language: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is not to be changed."""
    return make_run(language, tmp_path_factory.mktemp("made"))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def failed(where: Path, **options: Any) -> list[str]:
    return [check.name for check in verify(Options(where=str(where), **options)) if check.ok is False]


def content_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "adapter/unlearning.json").read_text())
    return content


def test_a_fresh_run_verifies(run: Path) -> None:
    checks = verify(Options(where=str(run)))
    assert [check.ok for check in checks] == [True] * len(checks)
    names = {check.name for check in checks}
    assert names >= {
        "certificate",
        "adapter_model.safetensors",
        "report.json",
        "ledger.json",
        "base",
        "ledger's chain",
    }
    assert len(table(checks).splitlines()) == len(checks)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("adapter/adapter_model.safetensors", "adapter_model.safetensors"),
        ("adapter/adapter_config.json", "adapter_config.json"),
        ("adapter/unlearning.json", "certificate"),
        ("report.json", "report.json"),
        ("ledger.json", "ledger.json"),
    ],
)
@pytest.mark.parametrize("where", [0.0, 0.31, 0.77, 1.0])
def test_one_changed_byte_is_found_and_named(run: Path, file: str, named: str, where: float) -> None:
    path = run / file
    data = bytearray(path.read_bytes())
    place = min(len(data) - 1, int(where * len(data)))
    data[place] ^= 0x01 if where < 1 else 0x80  # the last: no UTF-8 any more
    path.write_bytes(bytes(data))
    assert named in failed(run)


def test_a_blank_in_the_certificate_is_found(run: Path) -> None:
    path = run / "adapter/unlearning.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed":  0'))
    assert failed(run) == ["certificate"]


def test_a_certificate_written_anew_is_found_by_the_receipt(run: Path) -> None:
    content = content_of(run)
    content["certificate"]["figures"][0]["after"] = 0.0
    text = json.dumps(certificate.seal(content), indent=2, ensure_ascii=False) + "\n"
    (run / "adapter/unlearning.json").write_text(text)
    assert failed(run) == ["receipt in private/"]


def test_missing_and_further_weights_are_named(run: Path) -> None:
    (run / "report.json").unlink()
    (run / "adapter/more.safetensors").write_bytes(b"0")
    assert failed(run) == ["report.json", "other weights"]


def test_another_base_is_named(run: Path, tmp_path: Path, made: Path) -> None:
    shutil.copytree(made.parent / "base", tmp_path / "base")
    path = tmp_path / "base/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    (check,) = [each for each in verify(Options(where=str(run), base=str(tmp_path / "base"))) if each.name == "base"]
    assert check.ok is False and "model.safetensors" in check.words and "another revision" in check.words
    missing = [each for each in verify(Options(where=str(run), base=str(tmp_path / "nowhere"))) if each.name == "base"]
    assert missing[0].ok is None, "what could not be looked at is not said to be right"


def test_a_folder_without_a_certificate_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(OutputError, match="neither a folder nor a Hub id"):
        verify(Options(where=str(tmp_path / "not here/at/all")))
    with pytest.raises(OutputError, match=r"holds no unlearning\.json"):
        verify(Options(where=str(tmp_path)))
    old = {name: value for name, value in content_of(run).items() if name not in ("certificate", "digest")}
    (run / "adapter/unlearning.json").write_text(json.dumps(old))
    with pytest.raises(OutputError, match="older version"):
        verify(Options(where=str(run)))
    (run / "adapter/unlearning.json").write_text(json.dumps({**old, "certificate": {}, "digest": ""}))
    assert failed(run) == ["certificate", "contents"]


def test_the_requester_shows_that_a_row_was_in(run: Path, language: Bench, made: Path) -> None:
    rows, kept = language.splits["forget"], str(run / "private/receipt.json")
    plain = f"{rows[3]['prompt']}  {rows[3]['response']} "
    for text in (plain, json.dumps({"prompt": rows[3]["prompt"], "response": rows[3]["response"]})):
        assert failed(run, row=text, receipt=kept) == []
    assert failed(run, rows=str(made.parent / "forget.jsonl"), receipt=kept) == []
    assert failed(run, row=language.splits["retain"][0]["prompt"], receipt=kept) == ["row"]
    with pytest.raises(DataError, match="is no receipt"):
        verify(Options(where=str(run), row="a", receipt=str(run / "report.json")))
    with pytest.raises(DataError, match="give both"):
        Options(where=str(run), row="a")


def test_another_requests_receipt_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copyfile(run / "private/receipt.json", tmp_path / "old.json")
    vouch(run)
    assert failed(run, row="a", receipt=str(tmp_path / "old.json")) == ["receipt"]


def test_marks_are_worth_nothing_without_the_receipt(run: Path, language: Bench) -> None:
    content = content_of(run)
    marks = content["certificate"]["rows"]["marks"]
    kept = json.loads((run / "private/receipt.json").read_text())
    assert stat.S_IMODE((run / "private/receipt.json").stat().st_mode) == 0o600
    keys = [bytes.fromhex(each["key"]) for each in kept["keys"]]
    assert len(marks) == len(set(marks)) == len(set(keys)) == 12 and {len(key) for key in keys} == {16}
    in_order = [
        hmac.new(k, receipt.said(r), hashlib.sha256).hexdigest()
        for k, r in zip(keys, language.splits["forget"], strict=True)
    ]
    assert sorted(in_order) == sorted(marks) and in_order != marks, "the order says nothing"
    public = re.findall(r"[0-9a-f]{16,}", (run / "adapter/unlearning.json").read_text())
    said = {receipt.said(row) for row in language.splits["forget"]}
    tries = {hashlib.sha256(text).hexdigest() for text in said}
    tries |= {
        hmac.new(bytes.fromhex(k[: len(k) // 2 * 2]), text, hashlib.sha256).hexdigest()
        for k in public
        for text in said
    }
    assert not tries & set(marks), "the true rows and everything public find nothing"


def test_what_a_row_says() -> None:
    import torch

    assert receipt.said({"id": 1, "prompt": "Who?\n", "response": " Ada", "label": 2}) == b"Who? Ada"
    assert receipt.said({"text": "Ame\u0301lie"}) == receipt.said({"text": "Am\u00e9lie"})
    pixels = torch.arange(12).reshape(3, 2, 2)
    assert (
        receipt.said({"image": pixels})
        == receipt.said({"image": pixels.numpy()})
        != receipt.said({"image": pixels + 1})
    )
    with pytest.raises(DataError, match="begins like JSON"):
        receipt.row_of('{"text"')


def test_the_ledger_is_a_chain() -> None:
    book = None
    for number in range(3):
        book = ledger.append(book, ledger.entry(f"r{number}", method="npo", rows=number, files={}))
    assert book is not None and ledger.broken_at(book) is None and len(book["requests"]) == 3
    book["requests"][1]["rows"] = 7
    assert ledger.broken_at(book) == 2
    del book["requests"][0]
    assert ledger.broken_at(book) == 0


needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


@needs_ssh
def test_signatures(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(tmp_path / name)], check=True
        )
    file = run / "adapter/unlearning.json"
    assert failed(run, signer=str(tmp_path / "one.pub")) == ["signature"], "asked for and not there"
    signature.sign(file, tmp_path / "one")
    signature.sign(file, tmp_path / "one")
    (check,) = [each for each in verify(Options(where=str(run))) if each.name == "signature"]
    assert check == Check(name="signature", ok=True, words=check.words) and "SHA256:" in check.words
    assert failed(run, signer=str(tmp_path / "one.pub")) == []
    assert failed(run, signer=str(tmp_path / "two.pub")) == ["signature"]
    file.write_text(file.read_text() + " ")
    assert failed(run, signer=str(tmp_path / "one.pub")) == ["certificate", "signature"]
    assert signature.signed_by(file) is None
    with pytest.raises(DataError, match="there is no key"):
        signature.sign(file, tmp_path / "none")
    with pytest.raises(DataError, match="no OpenSSH public key"):
        signature.is_by(file, run / "report.json")
    with pytest.raises(DataError, match="could not be signed"):
        signature.sign(file, run / "report.json")


@pytest.mark.parametrize(("words", "value"), [([], None), (["--measure"], True), (["--measure=false"], False)])
def test_a_switch_that_may_be_left_open(words: list[str], value: bool | None) -> None:
    made = build(Options, read(["--where", "x", *words], "", Options))
    assert made.measure is value
