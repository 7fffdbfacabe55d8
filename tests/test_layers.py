"""The layers of the package (a module imports from lower ones only) and the house rules that a machine can check."""

import ast
import re
from pathlib import Path

import pytest

import llm_unlearn

PACKAGE = Path(llm_unlearn.__file__).parent
FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "sandbox" or path.name != "templates.py"
)
LAYERS = [  # modules and sub-packages, lowest first; those on one line may know each other
    {"errors"},
    {"comments", "files", "named", "processes", "settings"},
    {"codes", "decisions", "encoding", "head", "pixels", "scores", "statistics", "tasks", "vision"},
    {
        "adversary",
        "concepts",
        "data",
        "judging",
        "lora",
        "lora_linear",
        "lora_targets",
        "moments",
        "other_answers",
        "reference",
        "remover",
        "telling",
        "weights",
    },
    {
        "fit",
        "fresh",
        "fresh_classifiers",
        "guard",
        "invariant",
        "method",
        "observe",
        "progress",
        "run",
        "schedule",
        "train",
    },
    {"poisoned", "relabel", "sandbox", "stand_ins", "strength"},
    {"methods", "metrics"},
    {
        "builds",
        "checks",
        "cuts",
        "goldcache",
        "hub",
        "latest",
        "loading",
        "lock",
        "manifest",
        "options",
        "recipe",
        "runfolder",
    },
    {"class_attributions", "class_concepts", "explaining", "prepare"},
    {"measuring"},
    {"reporting", "subject"},
    {"attacks", "benchmarks", "held_out", "robustness", "shadows"},
    {"publish"},
    {"api", "continual", "continuing", "earlier", "job", "one_shot", "sequence", "targets"},
    {"features", "papers"},
    {"__main__", "cli", "command_line"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MODALITY = {
    "codes.py",
    "encoding.py",
    "head.py",
    "tasks.py",
    "vision.py",
}  # the only files that know text from images


def part_of(path: Path) -> str:
    """The module or sub-package of the package that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def module_of(path: Path) -> list[str]:
    parts = ["llm_unlearn", *path.relative_to(PACKAGE).with_suffix("").parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports_of(path: Path) -> set[tuple[str, ...]]:
    """The modules of this package that a file imports at run time, as dotted parts without the package's name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in ast.walk(block)
    }
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
                if node.level
                else node.module
            )
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return {tuple(name.split(".")[1:]) for name in names if name.startswith("llm_unlearn.")}


def offences(path: Path) -> list[str]:
    """What a file imports that it must not."""
    here, found = part_of(path), []
    if path == PACKAGE / "__init__.py":
        return [f"imports {'.'.join(name)} at once" for name in imports_of(path)]
    for name in imports_of(path):
        there = name[0]
        if there not in RANK:
            continue  # a name in llm_unlearn/__init__.py, such as __version__
        if there == here == "methods" and name != (here,) and (PACKAGE / "methods" / f"{name[1]}.py").exists():
            found.append(f"methods.{name[1]}: a method knows no other")
        elif there == here or (here, name) == ("method", ("methods",)):  # find() looks through the folder
            continue
        elif here == "metrics" and RANK[there] > RANK["scores"]:
            found.append(f"{there}: a metric sees Scores only")
        elif RANK[there] > RANK[here] or (here == "methods" and there == "metrics"):
            found.append(f"{there} is not below {here}")
    return found


def test_every_module_has_a_layer() -> None:
    parts = {part_of(path) for path in FILES} - {"__init__"}
    assert len(FILES) > 20 and "fit" in parts, "the walk found hardly anything"
    assert not parts - RANK.keys(), "give it a place in LAYERS"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_from_lower_layers_only(path: Path) -> None:
    assert not offences(path)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("tasks.py", "from llm_unlearn.fit import fit"),
        ("methods/new.py", "from llm_unlearn.methods.npo import NPO"),
        ("methods/new.py", "from .npo import NPO"),
        ("methods/new.py", "from llm_unlearn.metrics import probability"),
        ("metrics/new.py", "import llm_unlearn.tasks\nfrom llm_unlearn.fit import fit"),
        ("metrics/new.py", "def f():\n    from llm_unlearn import methods"),
        ("fit.py", "from llm_unlearn import recipe"),
    ],
)
def test_the_walk_sees_an_offence(file: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(line)
    (tmp_path / "methods").mkdir(exist_ok=True)
    (tmp_path / "methods/npo.py").touch()
    monkeypatch.setattr(
        "tests.test_layers.PACKAGE" if __name__.startswith("tests.") else f"{__name__}.PACKAGE", tmp_path
    )
    assert len(offences(tmp_path / file)) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_house_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    most = 120 if part_of(path) in ("methods", "metrics") else 300
    found = [f"{len(text.splitlines())} lines, at most {most}"] if len(text.splitlines()) > most else []
    if path.name not in MODALITY or path.parent != PACKAGE:
        found += [
            f"{word} belongs in tasks.py"
            for word in re.findall(r"input_ids|pixel_values|(?<![\w.])-100(?![\w.])", text)
        ]
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Assert):
            found.append(f"line {line}: assert; raise an UnlearnError")
        if isinstance(node, ast.ExceptHandler) and (
            node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
        ):
            found.append(f"line {line}: catches everything")
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or line) - line + 1 > 50:
            found.append(f"line {line}: {node.name} is longer than 50 lines")
    if re.search(r"\b(TODO|FIXME|XXX)\b", text):
        found.append("a TODO")
    if path.stem in ("utils", "helpers", "misc", "common", "manager"):
        found.append("a name that says nothing")
    assert not found
