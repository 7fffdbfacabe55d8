"""The docs' tables of methods, figures and papers, made from the files themselves: nothing is said twice.

python -m llm_unlearn.command_line.catalogue          (make docs) writes them anew between their marks; a test says when that is due
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm_unlearn import metrics
from llm_unlearn.comments import comments_of
from llm_unlearn.errors import OutputError
from llm_unlearn.files import write_text
from llm_unlearn.method import ALL_TASKS, Method, available, find
from llm_unlearn.named import available as names_in
from llm_unlearn.recipe import DEFAULT_METHOD

ROOT = Path(__file__).parents[2]
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
REFERENCE = re.compile(r" \((?P<who>[^()]*?,? ?arXiv:[^()]*)\)")  # (names, year, arXiv:...)
DIFFERS = re.compile(r"Differs from the paper(?:: |, )(.*)")
SHORT_TASKS = {"causal_lm": "causal LM", "sequence_classifier": "text classes", "image_classifier": "image classes"}


def link(paper: str) -> str:
    """Return a citation as a link where it is an arXiv number, a DOI or an address."""
    if found := ARXIV.search(paper):
        return f"[{found[1]}](https://arxiv.org/abs/{found[1]})"
    if paper.startswith("doi:"):
        return f"[{paper.removeprefix('doi:')}](https://doi.org/{paper.removeprefix('doi:')})"
    return f"[{paper.rpartition('/')[2]}](https://{paper})" if "/" in paper else ""


def cell(words: str) -> str:
    """Return text as it may stand in a cell of a Markdown table."""
    return " ".join(words.split()).replace("|", "\\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *([cell(each) for each in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def headline(module: Any) -> tuple[str, str]:
    """Return (what it is, whose it is and which equation) from the first line of a module's docstring."""
    first = (inspect.getdoc(module) or "").splitlines()[0]
    whose = "; ".join(found["who"] for found in REFERENCE.finditer(first))
    end = first[found.end() :] if (found := REFERENCE.search(first)) else ""
    which = re.match(r",\s*((?:eqs?\.|Eqs?\.|sec\.|Algorithm)[^,:]*)", end)
    bare = REFERENCE.sub("", first)
    bare = bare.replace(which[0], "", 1) if which else bare
    return bare.strip(" .,"), ", ".join(part for part in (whose, which[1].strip(" .") if which else "") if part)


def methods_table() -> str:
    """Return a line a method: what it is, what it does in a line, which rows it needs, and its paper."""
    rows = []
    for name in sorted(available(), key=lambda each: (each != DEFAULT_METHOD, each)):
        cls = find(name)
        what, _ = headline(inspect.getmodule(cls))
        needs = ", ".join(sorted(cls.needs)) or "codes"
        needs += "; the origin" if cls.starts_from == "origin" else ""
        tasks = (
            "" if cls.tasks == ALL_TASKS else f" ({', '.join(SHORT_TASKS[task] for task in sorted(cls.tasks))} only)"
        )
        default = " (default)" if name == DEFAULT_METHOD else ""
        rows.append([f"`{name}`{default}", what + tasks, _first(cls), needs, link(cls.paper)])
    return table(["`--method`", "what it is", "what it does", "rows it needs", "source"], rows)


def figures_table() -> str:
    """Return a line a figure: what it says, where it should lie, for which tasks, and its source."""
    rows = []
    for name in names_in(metrics):
        module: Any = metrics.find(name)
        goal = "gold's value" if module.TARGET == "gold" else module.TARGET  # high or low
        what = (module.__doc__ or "").splitlines()[0].rstrip(".")
        tasks = (
            "all" if set(module.TASKS) == ALL_TASKS else ", ".join(SHORT_TASKS[each] for each in sorted(module.TASKS))
        )
        rows.append([f"`{name}`", what, goal, tasks, link(module.CITATION)])
    return table(["figure", "what it says", "should be", "tasks", "source"], rows)


def _first(cls: type[Method]) -> str:
    """The first sentence of a method's own words."""
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ").rstrip(".") + "."


def papers_index() -> str:
    """Return a section a method: paper, file, equation, each default with where it comes from, and where we differ."""
    parts = []
    for name in available():
        cls = find(name)
        what, whose = headline(inspect.getmodule(cls))
        source = Path(inspect.getfile(cls)).read_text(encoding="utf-8")
        paper = ARXIV.sub(lambda found: link(found[0]), whose) if whose else "none, ordinary training"
        lines = [f"### `{name}`", "", f"{what}. [{name}.py]({name}.py). Paper: {paper}.", "", _first(cls)]
        settings = list(_settings(cls))
        if settings:
            lines += ["", table(["setting", "default", "what it is and where it comes from"], settings).rstrip()]
        told = cell(" ".join(words for *_, words in settings))
        if more := [words for words in dict.fromkeys(_differences(source)) if words not in told]:
            lines += ["", *(f"- Differs from the paper: {words}" for words in more)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _settings(cls: type[Method]) -> Iterator[list[str]]:
    """The method's own settings; of a schedule and the like what differs from their own defaults."""
    comments = comments_of(cls)
    for each in dataclasses.fields(cls):
        default = each.default
        shown = f"`{default!r}`"
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            plain = type(default)()
            changed = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)}
            changed = {key: value for key, value in changed.items() if value != getattr(plain, key)}
            shown = ", ".join(f"`{key}={value!r}`" for key, value in changed.items()) or "the common ones"
            if not changed and each.name not in comments:
                continue
        yield [f"`{each.name}`", shown, comments.get(each.name, "")]


def _differences(source: str) -> Iterator[str]:
    """What a file says about where it differs from its paper, each in one line."""
    block: list[str] = []
    for line in [*source.splitlines(), ""]:
        before, mark, words = line.partition("# ")
        alone = mark and not before.strip()
        if block and not alone:
            yield from _said(" ".join(block))
            block = []
        if alone:
            block.append(words.strip())
        elif mark:
            yield from _said(words)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                yield from _said(" ".join(paragraph.split()))


def _said(words: str) -> Iterator[str]:
    if found := DIFFERS.search(" ".join(words.split())):
        yield found[1]


def papers_elsewhere() -> str:
    """Return a line a file, methods and figures apart, that names a paper: the file, what it does, the paper."""
    rows = []
    for path in sorted((ROOT / "llm_unlearn").rglob("*.py")):
        if path.parent.name in ("methods", "metrics"):
            continue
        source = path.read_text(encoding="utf-8")
        if found := list(dict.fromkeys(ARXIV.findall(source))):
            first = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
            name = path.relative_to(ROOT / "llm_unlearn").as_posix()
            rows.append([f"[{name}](../{name})", first, ", ".join(link(f"arXiv:{number}") for number in found)])
    return table(["file", "what it does", "papers"], rows)


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"methods": methods_table, "figures": figures_table},
    "llm_unlearn/methods/README.md": {"papers": papers_index, "further papers": papers_elsewhere},
}


def filled(page: str, sections: dict[str, Callable[[], str]]) -> str:
    """Return a page with each section between its marks made anew; raise OutputError where a mark is missing."""
    for name, make in sections.items():
        start, end = f"<!-- {name}: made by `make docs` -->\n", f"<!-- end of {name} -->\n"
        if page.count(start) != 1 or page.count(end) != 1:
            raise OutputError(f"the page lacks the marks {start.strip()} and {end.strip()}: write both, once each.")
        head, rest = page.split(start)
        page = head + start + make() + end + rest.split(end)[1]
    return page


def main() -> None:
    """Write the sections."""
    for name, sections in PAGES.items():
        path = ROOT / name
        write_text(path, filled(path.read_text(encoding="utf-8"), sections))


if __name__ == "__main__":
    main()
