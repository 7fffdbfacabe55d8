"""What each command of llm-unlearn does: its options from dataclasses, the work from the package, a result as text and JSON."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_unlearn.errors import RecipeError

Say = Callable[[str], None] | None
MARKDOWN = "--markdown"
LEADING = {
    "push": ("run", "repo"),
    "merge": ("run",),
    "verify": ("where",),
    "sign": ("run",),
}  # words without an option


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command has to say."""

    content: Any  # for --json
    text: str
    code: int = 0  # 1 where a verdict or a check says no


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Which runs, and what the picture shows."""

    runs: tuple[str, ...] = ()  # folders of finished runs
    output: str = "outputs/comparison"
    forget: str | None = None  # figure@split upward
    utility: str | None = None  # figure to the right
    force: bool = False  # put runs side by side that can't be compared


@dataclass(frozen=True, kw_only=True)
class Sign:
    """What is signed with which key."""

    run: str  # a run's folder, or a folder with unlearning.json
    key: str = "~/.ssh/id_ed25519"  # an OpenSSH private key, or a public one that ssh-agent holds


def given(name: str, words: Sequence[str], description: str, cls: type) -> Any:
    """Return a command's options: its leading words by their names, then --options."""
    from llm_unlearn.options import read
    from llm_unlearn.settings import build

    if name in LEADING and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(f"llm-unlearn {name} runs in one process: give it without accelerate launch.")
    rest, filled = list(words), list[str]()
    for option in LEADING.get(name, ()):
        if rest and not rest[0].startswith("-"):
            filled += [f"--{option}", rest.pop(0)]
    return build(cls, read([*filled, *rest], description, cls))


def unlearn(words: Sequence[str], say: Say) -> Result:
    """Make a model forget; with --continue add a request to a finished run."""
    if any(word.partition("=")[0] == "--continue" for word in words):
        from llm_unlearn import continuing

        return _continued(continuing.read(words), say)
    return unlearned(words, say, ["llm-unlearn", "unlearn", *words])


def _continued(options: Any, say: Say) -> Result:
    from llm_unlearn import continuing, earlier

    found = continuing.go_on(options, say)
    return Result(content=found, text=earlier.table(found), code=0 if found["forgotten"] else 1)


def unlearned(
    words: Sequence[str], say: Say, command: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> Result:
    """Run a recipe from the command line; `defaults` hold for settings that are not given."""
    from llm_unlearn.options import parse

    recipe = parse(
        list(words), defaults=defaults or {}
    )  # before anything slow is imported: a typing error should answer at once
    from llm_unlearn import api
    from llm_unlearn.reporting import report

    if recipe.explain:
        found = api.explain(recipe)
        return Result(
            content=found.get("concept") or found["attribution"],
            text=f"{found['why']}\n{found['folder']}/explanation.html (nothing was changed)",
        )
    result = api.unlearn(recipe, say=say, command=list(command))
    lines = [report.table(result)]
    for path in sorted(Path(recipe.output).iterdir()):
        lines.append(
            f"{path}{'/' if path.is_dir() else ''}{' (not for publishing)' if path.name == 'private' else ''}"
        )
    verdict = result["verdict"]
    bad = not verdict["changed"] or verdict["forgot"] is False or verdict["utility_kept"] is False
    return Result(content=result, text="\n".join(lines), code=int(bad))


def evaluate(words: Sequence[str], say: Say) -> Result:
    """Measure a model's figures beside before and gold."""
    from llm_unlearn.command_line import evaluating
    from llm_unlearn.reporting import report

    options = given("evaluate", words, evaluating.__doc__ or "", evaluating.Options)
    found = evaluating.measured(options)
    bad = found["verdict"]["forgot"] is False or found["verdict"]["utility_kept"] is False
    return Result(content=found, text=f"{report.table(found)}\n{options.output}/evaluation.json", code=int(bad))


def attack(words: Sequence[str], say: Say) -> Result:
    """Try to bring back what was forgotten."""
    from llm_unlearn import robustness

    options = given("attack", words, robustness.__doc__ or "", robustness.Options)
    result = robustness.attack(options)
    return Result(content=result, text=f"{robustness.table(result)}\nwritten to {options.output}")


def gold(words: Sequence[str], say: Say) -> Result:
    """Train a target and its gold."""
    return trained(["--gold", *words])


def trained(words: Sequence[str]) -> Result:
    """Train a target and, with --gold, its twin."""
    from llm_unlearn.targets import Target
    from llm_unlearn.targets import train_target as train

    target = given("gold", words, "Train a model that knows, and its twin that never did.", Target)
    record = train(target)
    lines = [
        f"{name}: {record['rows'][name]} rows, {seconds:.0f} s, in {target.output}/{name}"
        for name, seconds in record["seconds"].items()
    ]
    return Result(content=record, text="\n".join(lines))


def compare(words: Sequence[str], say: Say) -> Result:
    """Put finished runs side by side."""
    from llm_unlearn.reporting import compare as comparing

    folders = _until_option(words)
    rest = words[len(folders) :]
    options = given("compare", ["--runs", *folders, *rest] if folders else rest, comparing.__doc__ or "", Compare)
    if not options.runs:
        raise RecipeError("name the folders of finished runs: llm-unlearn compare RUN RUN.")
    runs, without = comparing.read(options.runs)
    if not options.force:
        comparing.refuse(runs)
    paths = comparing.write(Path(options.output), runs, forget=options.forget, utility=options.utility)
    left = [f"left out, no finished run: {', '.join(without)}"] if without else []
    text = "\n".join([*left, paths[0].read_text(encoding="utf-8"), *map(str, paths)])
    return Result(
        content={"table": comparing.table(runs), "files": list(map(str, paths)), "left_out": without}, text=text
    )


def _until_option(words: Sequence[str]) -> list[str]:
    end = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return list(words[:end])


def merge(words: Sequence[str], say: Say) -> Result:
    """Write merged weights, checked; --quantise rounds them and measures again."""
    from llm_unlearn.publish import merging

    found = merging.merge(given("merge", words, merging.__doc__ or "", merging.Merge))
    lines = [f"{name}: {value}" for name, value in found.items() if name != "files" and value is not None]
    return Result(content=found, text="\n".join(lines))


def push(words: Sequence[str], say: Say) -> Result:
    """Put a finished run onto the Hub."""
    from llm_unlearn.publish import pushing

    found = pushing.push(given("push", words, pushing.__doc__ or "", pushing.Push))
    seen = "private" if found["private"] else "public"
    return Result(content=found, text="\n".join([f"pushed to {found['url']} ({seen})", *found["files"]]))


def sign(words: Sequence[str], say: Say) -> Result:
    """Sign a certificate."""
    from llm_unlearn.hub import MANIFEST
    from llm_unlearn.publish import signature, verification

    options = given("sign", words, signature.__doc__ or "", Sign)
    path = signature.sign(verification.find(options.run) / MANIFEST, Path(options.key))
    return Result(content={"signature": str(path), "key": signature.signed_by(path.with_suffix(""))}, text=str(path))


def verify(words: Sequence[str], say: Say) -> Result:
    """Check a certificate."""
    from llm_unlearn.publish import verification

    options = given("verify", words, verification.__doc__ or "", verification.Options)
    checks = verification.verify(options)
    failed = [check.name for check in checks if check.ok is False]
    end = f"FAILED: {', '.join(failed)}" if failed else "nothing differs from what was certified"
    if not failed and not any(" on " in check.name and check.ok for check in checks):
        end += "; the figures were not measured again"
    content = {"ok": not failed, "checks": [check.to_json() for check in checks]}
    return Result(content=content, text=f"{verification.table(checks)}\n\n{end}", code=int(bool(failed)))


def methods(words: Sequence[str], say: Say) -> Result:
    """List the methods, or show one's settings."""
    if MARKDOWN in words:
        return _table("methods", words)
    from llm_unlearn.command_line.doctor import first_lines

    if not words:
        return _listed(first_lines("methods"))
    from llm_unlearn.method import find
    from llm_unlearn.options import settings_of

    found = [(name, value, words_) for name, _, words_, value in settings_of(find(words[0]))]
    text = "\n".join(f"--method.{name}={value}  {comment}".rstrip() for name, value, comment in found)
    return Result(content={name: _plain(value) for name, value, _ in found}, text=text)


def metrics(words: Sequence[str], say: Say) -> Result:
    """List the figures, or show one's card."""
    if MARKDOWN in words:
        return _table("figures", words)
    from llm_unlearn.command_line.doctor import first_lines

    if not words:
        return _listed(first_lines("metrics"))
    from llm_unlearn.metrics import find

    module = find(words[0])
    card = {"target": module.TARGET, "splits": list(module.SPLITS), "needs": module.NEEDS, "card": module.__doc__}
    return Result(content=card, text=str(module.__doc__))


def _table(kind: str, words: Sequence[str]) -> Result:
    """All methods or figures as the table that stands in the docs."""
    from llm_unlearn.command_line import catalogue

    if len(words) > 1:
        raise RecipeError(f"{MARKDOWN} lists all {kind}: leave the name out.")
    text = {"methods": catalogue.methods_table, "figures": catalogue.figures_table}[kind]()
    return Result(content={"markdown": text}, text=text.rstrip())


def _listed(found: Mapping[str, str]) -> Result:
    width = max(map(len, found))
    return Result(content=dict(found), text="\n".join(f"{name.ljust(width)}  {line}" for name, line in found.items()))


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def doctor(words: Sequence[str], say: Say) -> Result:
    """Say what is installed, what device there is, and what is missing for what."""
    from llm_unlearn.command_line import doctor as doctors

    found = doctors.examined()
    return Result(content=found, text=doctors.told(found))


def completion(words: Sequence[str], say: Say) -> Result:
    """Print the script for tab completion."""
    from llm_unlearn.command_line.completion import SHELLS, script

    if len(words) != 1:
        raise RecipeError(f"name a shell: llm-unlearn completion {'|'.join(SHELLS)}.")
    return Result(content={"script": script(words[0])}, text=script(words[0]))
