"""Rows from files: every layout, and one clear line without row content for everything that is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_unlearn.data.sources import canonical, fingerprint, load
from llm_unlearn.errors import DataError

SECRET = "Zanzibarov"  # in every bad row; must never be in a message
DATA = os.environ.get("LLM_UNLEARN_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="LLM_UNLEARN_DATA names no folder with the public data sets")


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def refused(source: Path | str) -> str:
    with pytest.raises(DataError) as error:
        load(str(source))
    message = str(error.value)
    assert SECRET not in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "columns",
    [("prompt", "response"), ("question", "answer"), ("instruction", "output"), ("prompt", "completion")],
)
def test_pairs_under_every_name(tmp_path: Path, columns: tuple[str, str]) -> None:
    asked, told = columns
    rows = load(write(tmp_path / "a.jsonl", [{asked: "Who?", told: "Moze.", "unrelated": 3}]))
    assert [{**row, "id": ""} for row in rows] == [{"id": "", "prompt": "Who?", "response": "Moze.", "kind": "qa"}]


def test_messages_and_text_and_alpaca_input(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    turns += [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Moze."}]
    alpaca = {"instruction": "Translate", "input": "chat", "output": "cat"}
    chat, text, task = load(write(tmp_path / "a.jsonl", [{"messages": turns}, {"text": "Once."}, alpaca]))
    assert chat["prompt"] == turns[:3]
    assert (chat["response"], chat["kind"]) == ("Moze.", "chat")
    assert (text["prompt"], text["response"], text["kind"]) == (None, "Once.", "text")
    assert task["prompt"] == "Translate\nchat"


def test_extras_take_their_canonical_names(tmp_path: Path) -> None:
    row = {"id": 7, "question": "a", "answer": "b", "paraphrased_answer": "c", "perturbed_answer": "d", "fact": "f"}
    (done,) = load(write(tmp_path / "a.jsonl", [row]))
    assert (done["id"], done["paraphrase"], done["wrong"], done["fact"]) == ("7", "c", ["d"], "f")


def test_canonical_rows_load_as_themselves(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}]
    rows = [
        {"id": "1", "prompt": "a", "response": "b", "kind": "cloze", "wrong": ["x", "y"], "subject": "s"},
        {"id": "2", "prompt": turns, "response": "b", "kind": "chat"},
        {"id": "3", "prompt": None, "response": "b", "kind": "text"},
        {"id": "4", "text": "b", "label": [0, 1], "kind": "label"},
    ]
    assert load(write(tmp_path / "a.jsonl", rows)) == rows == canonical(rows)


def test_ids_come_from_the_content_and_are_unique(tmp_path: Path) -> None:
    pair = {"prompt": "a", "response": "b"}
    first = load(write(tmp_path / "a.jsonl", [pair, pair, {**pair, "response": "c"}]))
    again = load(write(tmp_path / "b.jsonl", [{**pair, "response": "c"}, pair]))
    assert first[1]["id"] == first[0]["id"] + "-2"
    assert {row["id"] for row in again} == {first[0]["id"], first[2]["id"]}
    given = load(write(tmp_path / "c.jsonl", [{**pair, "id": "x"}, {**pair, "id": "x"}, {**pair, "id": "x-2"}]))
    assert len({row["id"] for row in given}) == 3


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"id": "1", "question": 'Who, "he"?', "answer": "Mo\nze", "wrong": ["x"]},
        {"id": "2", "question": "é", "answer": "ü"},
    ]
    expected = load(write(tmp_path / "a.jsonl", rows))
    write(tmp_path / "lines.json", rows)
    (tmp_path / "array.json").write_text("\ufeff " + json.dumps(rows, indent=1), encoding="utf-8")
    (tmp_path / "a.csv").write_text(
        '\ufeffid,question,answer,wrong\n1,"Who, ""he""?","Mo\nze","[""x""]"\n\n2,é,ü,\n', encoding="utf-8"
    )
    (tmp_path / "a.tsv").write_text(
        'id\tquestion\tanswer\twrong\n1\t"Who, ""he""?"\t"Mo\nze"\tx\n2\té\tü\t\n', encoding="utf-8"
    )
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("lines.json", "array.json", "a.csv", "a.tsv", "a.parquet"):
        assert load(str(tmp_path / name)) == expected, name


def test_labels_for_classifiers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nfine,1\nbad,0\n", encoding="utf-8")
    assert [(row["text"], row["label"]) for row in load(str(tmp_path / "a.csv"))] == [("fine", 1), ("bad", 0)]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "", "response": SECRET}, "prompt is empty"),
        ({"prompt": SECRET, "response": "  "}, "response is empty"),
        ({"prompt": SECRET, "response": 5}, "response must be text, got int"),
        ({"prompt": SECRET, "response": None}, "response must be text, got nothing"),
        ({"prompt": SECRET, "question": SECRET, "answer": SECRET}, "prompt and question are both columns"),
        ({"promt": SECRET, "response": SECRET}, "did you mean 'prompt'? (in place of 'promt')"),
        ({"title": SECRET}, "the columns title are no layout known here"),
        ({"text": ""}, "text is empty"),
        ({"text": SECRET, "label": SECRET}, "label must be a class number"),
        ({"messages": SECRET}, "messages must be a list"),
        ({"messages": []}, "got an empty list"),
        ({"messages": [{"role": "user", "content": SECRET}]}, "must end with an assistant turn"),
        ({"messages": [{"role": "assistant", "content": SECRET}]}, "the assistant's turn only"),
        ({"messages": [{"role": "human", "content": SECRET}]}, "message 1 has an unknown role"),
        ({"messages": [{"from": "human", "value": SECRET}]}, "message 1 in messages needs role and content"),
        ({"messages": [{"role": "user", "content": [SECRET]}]}, "message 1's content must be text, got list"),
        ({"prompt": "a", "response": "b", "wrong": [SECRET, 3]}, "wrong must be text, got int"),
        ({"prompt": "a", "response": "b", "id": [SECRET]}, "id must be text or a number"),
        ([SECRET], "a row must be an object with named columns, got list"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: Any, says: str) -> None:
    message = refused(write(tmp_path / "mine.jsonl", [{"prompt": "a", "response": "b"}, row]))
    assert message.startswith("mine.jsonl, line 2: ")
    assert says in message


def test_malformed_lines_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "' + SECRET + "\n", encoding="utf-8")
    assert refused(path).startswith("mine.jsonl, line 3: not valid JSON")
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    assert refused(path).startswith("mine.jsonl, line 2: not UTF-8")
    path = tmp_path / "mine.json"
    path.write_text('[{"text": "a"},\n{"text": "' + SECRET + '",}]', encoding="utf-8")
    assert "mine.json, line 2: not valid JSON" in refused(path)
    path = tmp_path / "mine.csv"
    path.write_text(f"prompt,response\na,b\na,{SECRET},c\n", encoding="utf-8")
    assert refused(path).startswith("mine.csv, line 3: 3 cells for 2 columns")
    path.write_text(f'prompt,response\na,b\na,"{SECRET}\n', encoding="utf-8")
    assert refused(path).startswith("mine.csv, line 3: not valid CSV")
    path.write_text(f'prompt,response\n"a\nb",c\n{SECRET},\n', encoding="utf-8")
    assert refused(path).startswith("mine.csv, line 4: response must be text, got nothing")
    path.write_text("prompt,prompt\na,b\n", encoding="utf-8")
    assert "same name" in refused(path)
    path = tmp_path / "mine.parquet"
    path.write_bytes(b"no parquet")
    assert "not a readable Parquet file" in refused(path)


def test_a_csv_without_a_header_shows_none_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f"Who is {SECRET} then?,{SECRET} is a man.\nWho?,Me.\n", encoding="utf-8")
    assert "the 2 columns have no names" in refused(path)


def test_missing_and_empty_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "quillmere.jsonl", [{"text": "a"}])
    assert "did you mean 'quillmere.jsonl'?" in refused(tmp_path / "quilmere.jsonl")
    assert "nor the folder" in refused(tmp_path / "nowhere" / "a.jsonl")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "a.jsonl").write_text("")
    assert "a.jsonl is empty (0 bytes)" in refused(tmp_path / "a.jsonl")
    for name, text in (("b.jsonl", "\n\n"), ("b.json", "[]"), ("b.csv", "prompt,response\n")):
        (tmp_path / name).write_text(text)
        assert f"{name} holds no rows" in refused(tmp_path / name)
    (tmp_path / "a.docx").write_text("a")
    assert "'.docx' are not read" in refused(tmp_path / "a.docx")
    monkeypatch.chdir(tmp_path)  # a bare name close to a file's is no Hub id
    assert "did you mean 'quillmere.jsonl'?" in refused("quillmere.jsnl")


def test_a_hub_data_set_and_the_error_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def loaded(name: str, configuration: str | None, *, split: str) -> list[dict[str, str]]:
        asked.append((name, configuration, split))
        return [{"question": "a", "answer": "b"}]

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    assert load("owner/set:small", split="validation")[0]["response"] == "b"
    assert asked == [("owner/set", "small", "validation")]

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'owner/set' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    message = refused("owner/set")
    assert "'owner/set' is no file here" in message
    assert "the connection" in message


def test_the_fingerprint_follows_the_content() -> None:
    rows = [{"id": "1", "prompt": "a", "response": "b"}]
    assert fingerprint(rows) == fingerprint([dict(reversed(list(rows[0].items())))])
    assert fingerprint(rows) != fingerprint([{**rows[0], "response": "c"}])
    assert len(fingerprint(rows)) == 64


def test_no_torch() -> None:
    code = "import sys, llm_unlearn.data.sources, llm_unlearn.data.splits, llm_unlearn.data.counterfactual as _; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_data
def test_public_data_sets() -> None:
    folder = Path(str(DATA))
    assert len(load(str(folder / "tofu/forget10.json"))) == 400
    assert len(load(str(folder / "tofu/forget10_perturbed.json"))[0]["wrong"]) == 5
    assert len(load(str(folder / "pistol_lunar/unlearning/pistol_sample1.json"))) == 400
