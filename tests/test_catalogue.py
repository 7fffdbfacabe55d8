"""The tables in the docs are what the files say: every method, figure and paper, and nothing that is not there."""

import dataclasses
import json
import types
from inspect import cleandoc

import pytest

from llm_unlearn import cli, metrics
from llm_unlearn.command_line import catalogue
from llm_unlearn.comments import _comments_in, comments_of
from llm_unlearn.errors import OutputError
from llm_unlearn.method import available, find
from llm_unlearn.named import available as names_in


@pytest.mark.parametrize("name", catalogue.PAGES)
def test_pages_are_what_the_files_say(name: str) -> None:
    page = (catalogue.ROOT / name).read_text(encoding="utf-8")
    assert catalogue.filled(page, catalogue.PAGES[name]) == page, "methods, figures or their words changed: make docs"


def test_every_method_and_figure_has_its_line() -> None:
    lines = catalogue.methods_table().splitlines()[2:]
    assert len(lines) == len(available()) >= 16 and lines[0].startswith("| `npo` (default) |")
    assert all(line.count(" | ") == 4 and "]( " not in line for line in lines), "a blank line or a bar breaks a table"
    figures = catalogue.figures_table().splitlines()[2:]
    assert [line.split("`")[1] for line in figures] == names_in(metrics) and len(figures) >= 30


@pytest.mark.parametrize("name", available())
def test_every_method_is_in_the_index_with_its_defaults(name: str) -> None:
    """A paper (or that there is none), the file, and of each setting where it comes from."""
    section = catalogue.papers_index().split(f"### `{name}`\n")[1].split("\n### ")[0]
    cls = find(name)
    assert f"[{name}.py]({name}.py)" in section and "Paper: " in section
    assert cls.paper.removeprefix("arXiv:") in section if cls.paper else "Paper: none" in section
    plain = [each for each in dataclasses.fields(cls) if not dataclasses.is_dataclass(each.default)]
    without = [each.name for each in plain if not comments_of(cls).get(each.name)]
    assert not without, f"say where the default comes from: {', '.join(without)}"
    assert all(f"| `{each.name}` |" in section for each in plain)


def test_headlines_are_taken_apart() -> None:
    module = types.ModuleType(
        "made", '∇: a thing (Ada et al., 2020, arXiv:2001.00001), eqs. 3 and 4, with more ("M").\n\nLater.'
    )
    assert catalogue.headline(module) == (
        '∇: a thing, with more ("M")',
        "Ada et al., 2020, arXiv:2001.00001, eqs. 3 and 4",
    )
    assert catalogue.headline(types.ModuleType("made", "Plain (as it is).")) == ("Plain (as it is)", "")
    assert catalogue.link("arXiv:2001.00001") == "[2001.00001](https://arxiv.org/abs/2001.00001)"
    assert catalogue.link("none") == "" and catalogue.link("aclanthology.org/X") == "[X](https://aclanthology.org/X)"
    source = (
        "a = 1  # Differs from the paper: 2 there\n# Differs from the paper, which is silent: b,\n# and c\nb = 1\n"
    )
    assert list(catalogue._differences(source)) == ["2 there", "which is silent: b, and c"]


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(OutputError, match="lacks the marks <!-- x: made by `make docs` --> and <!-- end of x -->"):
        catalogue.filled("nothing", {"x": str})
    page = "a\n<!-- x: made by `make docs` -->\nold\n<!-- end of x -->\nb\n"
    assert catalogue.filled(page, {"x": lambda: "new\n"}) == page.replace("old", "new")


def test_the_commands_print_them(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, made in (("methods", catalogue.methods_table), ("metrics", catalogue.figures_table)):
        with pytest.raises(SystemExit) as end:
            cli.main([kind, "--markdown"])
        assert end.value.code == 0 and capsys.readouterr().out == made()
    with pytest.raises(SystemExit):
        cli.main(["methods", "--markdown", "--json"])
    assert json.loads(capsys.readouterr().out) == {"markdown": catalogue.methods_table()}
    with pytest.raises(SystemExit) as end:
        cli.main(["methods", "npo", "--markdown"])
    assert end.value.code == 2 and "leave the name out" in capsys.readouterr().err


def test_comments_are_found_beside_within_and_above() -> None:
    source = '''
    class A:
        """Doc."""

        a: int = 1  # beside
        # above, in two
        # lines
        b: int = 2
        c: tuple[int, ...] = (
            3  # within
        )
        d: int = 4

        # above, and
        e: str = "# no comment"  # beside too
    '''
    found = _comments_in(cleandoc(source))
    assert found == {"a": "beside", "b": "above, in two lines", "c": "within", "e": "above, and beside too"}
