"""The code in the docs: python is run, every command line is read by the options of what it starts, tables and links are whole."""

import importlib.util
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from conftest import Bench
from published import make_run

import llm_unlearn
from llm_unlearn import cli, continuing, options, settings

ROOT = Path(__file__).parents[1]
BLOCKS = {
    "README.md": 9,
    "recipes/README.md": 2,
    "CONTRIBUTING.md": 1,
    "eval/README.md": 10,
}  # fenced blocks of each page
GROWS = "eval/README.md"  # at least so many
PAGES = (*BLOCKS, "CHANGELOG.md", "llm_unlearn/methods/README.md", "eval/prompts/README.md", "eval/tables.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SET_UP = (
    "python3 -m venv ",
    "pip install ",
    "source ",
    ". ",
)  # what a shell does, and `make setup` in the tests' own machine
PLACES = (  # what a reader fills in, and what the tests put there
    ("path/to/model", "{home}/base"),
    ('"outputs/f"', '"{home}/out", method={{"name": "npo", "training": {{"steps": 3}}}}'),
)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def blocks() -> list[Block]:
    found = []
    for page in BLOCKS:
        text = (ROOT / page).read_text(encoding="utf-8")
        found += [
            Block(page, text.count("\n", 0, each.start()) + 1, each[1], each[2]) for each in FENCE.finditer(text)
        ]
    return found


def commands() -> list[Any]:
    """Return each command line of the pages, without its comment."""
    found = []
    for block in blocks():
        if block.language in ("", "sh") and not block.text.startswith("llm_unlearn/"):
            for number, line in enumerate(block.text.splitlines(), start=block.line + 1):
                bare = re.split(r"\s{2,}|\s# ", line.strip())[0]
                found += [pytest.param(each, id=f"{block.page}:{number}") for each in bare.split(" && ") if each]
    return found


class Read(Exception):
    """The options were read; what follows is work."""


@pytest.fixture
def only_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every command and script stops, by Read, where its own options have been read and checked."""

    def stop(work: Callable[..., Any], top: Callable[..., bool] = lambda *given: True) -> Callable[..., Any]:
        def read(*given: Any, **named: Any) -> Any:
            result = work(*given, **named)
            if top(*given):
                raise Read
            return result

        return read

    monkeypatch.setattr(
        settings, "build", stop(settings.build, lambda *given: len(given) == 2)
    )  # no section of another
    monkeypatch.setattr(options, "parse", stop(options.parse))
    monkeypatch.setattr(continuing, "read", stop(continuing.read))
    monkeypatch.setattr(ArgumentParser, "parse_args", stop(ArgumentParser.parse_args))
    monkeypatch.setattr(cli, "quiet", lambda: None)
    monkeypatch.chdir(ROOT)
    yield


def look(line: str, monkeypatch: pytest.MonkeyPatch, launch: ArgumentParser) -> None:
    """Raise Read for a line whose options are what it says they are, return for one that is done; anything else is a fault."""
    words = shlex.split(line.replace("[", "").replace("]", "") if "[--" in line else line)
    while "=" in words[0]:  # a variable before the command
        words.pop(0)
    if line.startswith(SET_UP):
        return
    if words[0] == "make":
        known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in known, f"the Makefile has no {words[1]}"
        return
    if words[:2] == ["accelerate", "launch"]:
        given, rest = launch.parse_known_args(words[2:])
        assert not rest and not given.module, f"accelerate launch knows no {rest}"
        words = ["python", given.training_script, *given.training_script_args]
    monkeypatch.setattr(sys, "argv", words[1:])
    if words[0] == "llm-unlearn":
        cli.main(words[1:])
    assert Path(words[0]).name == "python", f"what is {words[0]}?"
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]), words[2]
        return
    monkeypatch.syspath_prepend(str(ROOT / words[1].split("/")[0]))
    runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    raise AssertionError(f"{words[1]} read no options")


@pytest.mark.parametrize("line", commands())
def test_every_command_line_is_understood(line: str, only_read: None, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        look(line, monkeypatch, launch_command_parser())
    except Read:
        pass
    except SystemExit as end:
        assert end.code == 0, f"{line}: exit code {end.code}"


@pytest.mark.parametrize(
    "line",
    [
        "accelerate launch recipes/forget_concept.py --modle x",
        "accelerate launch --no_such_option recipes/forget_concept.py",
        "accelerate launch recipes/no_such_recipe.py",
        "accelerate launch recipes/train_target.py --config recipes/no_such.yaml",
        "accelerate launch recipes/forget_concept.py --forget f.jsonl --retain r.jsonl --method nqo",
        "python eval/compare.py runs --wrong",
        "llm-unlearn push DIR user/name --pubic",
        "llm-unlearn unlearn --request new.jsonl --continue",
        "make dmeo",
        "ls",
    ],
)
def test_a_wrong_line_would_be_found(line: str, only_read: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((SystemExit, AssertionError, FileNotFoundError)) as end:
        look(line, monkeypatch, launch_command_parser())
    assert not isinstance(end.value, SystemExit) or end.value.code != 0


def test_all_blocks_are_looked_at() -> None:
    found = blocks()
    counts = {page: sum(block.page == page for block in found) for page in BLOCKS}
    assert counts.pop(GROWS) >= BLOCKS[GROWS] and all(BLOCKS[page] == count for page, count in counts.items())
    assert {block.language for block in found} <= {"", "sh", "python"} and len(commands()) > 40
    for page in BLOCKS:
        fences = (ROOT / page).read_text(encoding="utf-8").count("```")
        assert fences == 2 * sum(block.page == page for block in found), f"{page}: a block that is not closed"


@pytest.mark.parametrize(
    "block", [pytest.param(b, id=f"{b.page}:{b.line}") for b in blocks() if b.language == "python"]
)
def test_python_runs(block: Block, language: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if "path/to/model" in block.text:
        language.target.save_pretrained(tmp_path / "base")  # type: ignore[operator]
        language.task.tokenizer.save_pretrained(tmp_path / "base")  # type: ignore[attr-defined]
    text = block.text
    for shown, put in PLACES:
        text = text.replace(shown, put.format(home=tmp_path))
    monkeypatch.chdir(tmp_path)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2)]
    names: dict[str, Any] = {"my_network": torch.nn.Sequential(*layers)}
    names["my_network"](torch.zeros(1, 3, 8, 8))
    (tmp_path / "block.py").write_text(text)
    made = runpy.run_path(str(tmp_path / "block.py"), init_globals=names)
    if "report" in made:
        assert made["report"]["verdict"]["changed"] and made["report"]["figures"]
    else:
        assert any(parameter.requires_grad for parameter in made["model"].parameters())


@pytest.fixture(scope="module")
def made(language: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(language, tmp_path_factory.mktemp("made"))


def test_the_commands_for_handing_over_run(made: Path, language: Bench, tmp_path: Path) -> None:
    """Those of the README that need no Hub, on a tiny run; pushing is tested against a server of its own."""
    shutil.copytree(made, tmp_path / "run")
    row = language.splits["forget"][0]
    places = {
        "DIR": str(tmp_path / "run"),
        "user/name": str(tmp_path / "run"),
        "new.jsonl": str(tmp_path / "new.jsonl"),
    }
    places |= {'"..."': shlex.quote(f"{row['prompt']} {row['response']}")}
    places |= {"receipt.json": str(tmp_path / "run/private/receipt.json")}
    lines = [each.values[0] for each in commands() if str(each.values[0]).startswith("llm-unlearn verify")]
    assert len(lines) == 2
    for line in lines:
        for shown, put in places.items():
            line = re.sub(rf"(?<!\S){re.escape(shown)}(?!\S)", lambda _, put=put: put, line)
        with pytest.raises(SystemExit) as end:
            cli.main(shlex.split(line)[1:])
        assert end.value.code == 0, line


@pytest.mark.parametrize("page", PAGES)
def test_tables_and_links_are_whole(page: str) -> None:
    """A table has a head, a line below it and as many cells in each row; a link to a file leads to one."""
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for each in tables:
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in each.splitlines()]
        assert len(rows) > 2 and all(set(mark.strip()) <= set("-:") for mark in rows[1]), f"no head: {each[:80]}"
        assert len({len(row) for row in rows}) == 1, f"rows of unlike length: {each[:80]}"
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            assert ((ROOT / page).parent / target.partition("#")[0]).exists(), target


def test_the_layout_in_contributing_is_the_packages() -> None:
    (layout,) = [block.text for block in blocks() if block.text.startswith("llm_unlearn/")]
    named = [word for line in layout.splitlines() for word in re.split(r"\s{2,}", line.strip())[0].split()]
    missing = [
        name
        for name in named
        if "<" not in name and not (ROOT / "llm_unlearn" / name).exists() and not (ROOT / name).exists()
    ]
    assert len(named) > 40 and not missing


def test_the_citation_is_the_packages() -> None:
    """Citation File Format 1.2.0: its required fields, and what pyproject.toml says too."""
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert content["cff-version"] == "1.2.0" and content["type"] == "software"
    assert {"message", "title", "authors"} <= set(content)
    assert content["license"] == project["license"] and content["version"] == llm_unlearn.__version__
    assert content["authors"] == project["authors"]
