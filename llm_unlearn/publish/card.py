"""The model card: what the Hub shows of a run, and what is licensed, tagged and claimed there.

Made from report.json and unlearning.json alone, which hold no row's text.  Metadata as in the Hub's model card specification:
https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download, metadata_load
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from llm_unlearn.errors import OutputError
from llm_unlearn.files import read_json
from llm_unlearn.manifest import HUB_ID
from llm_unlearn.recipe import SANDBOX
from llm_unlearn.reporting.report import COLUMNS, ON_SCREEN, headline, markdown_table, number, ordered

Kind = Literal["adapter", "model", "merged", "quantised"]
RELATION = {"adapter": "adapter", "model": "finetune", "merged": "finetune", "quantised": "quantized"}
PIPELINES = {
    "causal_lm": "text-generation",
    "sequence_classifier": "text-classification",
    "image_classifier": "image-classification",
}
LOADERS = {
    "causal_lm": "AutoModelForCausalLM",
    "sequence_classifier": "AutoModelForSequenceClassification",
    "image_classifier": "AutoModelForImageClassification",
}
LICENCE = ("license", "license_name", "license_link")
LIMITS = (
    (
        "Unlearning is approximate. The figures say how far this model is from one that never saw the rows, on the rows and by "
        "the attacks that were measured; another attack may find more."
    ),
    (
        "A verdict holds for the rows of this request, in this language and in these wordings. What follows from them, or stands "
        "in other training data too, may still be known."
    ),
)
OFF = (
    "Switching the adapter off restores the base model, and with it what was forgotten. Where that matters, ship merged weights "
    "(`llm-unlearn merge`) and do not ship the base."
)
ROUNDED = (
    "Weights were rounded to 4 bits and stored as ordinary floating point numbers; rounding can bring forgotten rows back, so "
    "their extraction strength was measured again after it: see `unlearning.json`."
)


def unverified(report: Mapping[str, Any]) -> str:
    """Return in words why a report's verdict does not vouch for the run; "" where it does."""
    verdict = report["verdict"]
    questions = {"forgot": "whether it forgot", "utility_kept": "whether the rest was kept", "changed": "any change"}
    failed = [words for key, words in questions.items() if verdict[key] is False]
    unknown = [words for key, words in questions.items() if verdict[key] is None]
    parts = [f"the verdict says no to {' and to '.join(failed)}"] if failed else []
    parts += [f"it could not be told {' and '.join(unknown)}"] if unknown else []
    return "; ".join(parts)


def base_id(manifest: Mapping[str, Any]) -> str | None:
    """Return the Hub id of a run's base model; None for a local folder and for the sandbox."""
    name = str(manifest["request"]["model"])
    return name if name != SANDBOX and HUB_ID.fullmatch(name) else None


def licence_of(model: str, revision: str | None = None) -> dict[str, str]:
    """Return the licence fields that a base model's card states, else its config's; {} where neither says so."""
    if model == SANDBOX:
        return {"license": "apache-2.0"}  # this package's own
    found: dict[str, Any] = {}
    if (readme := _file(model, "README.md", revision)) is not None:
        try:
            found = metadata_load(readme) or {}
        except ValueError:  # a card whose header is not YAML says nothing
            found = {}
    if not found.get("license") and (config := _file(model, "config.json", revision)) is not None:
        found = read_json(config) or {}
    stated = {name: found[name] for name in LICENCE if isinstance(found.get(name), str)}
    return stated if "license" in stated else {}


def _file(model: str, name: str, revision: str | None) -> Path | None:
    """A file of a model's folder or of its Hub repository; None where it is not there or cannot be had."""
    if Path(model).is_dir():
        return Path(model) / name if (Path(model) / name).is_file() else None
    if not HUB_ID.fullmatch(model):  # a folder that is no longer there
        return None
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except (EntryNotFoundError, HfHubHTTPError, OSError):
        return None


def card(
    report: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    repo: str | None = None,
    kind: Kind = "adapter",
    licence: Mapping[str, str] | None = None,
    pictures: Sequence[str] = (),
) -> ModelCard:
    """Return the card of a run.

    `repo` is the Hub id it is for, `licence` what `licence_of` found, `pictures` names of files that lie beside the card.
    Raises OutputError where huggingface_hub cannot read the metadata back.
    """
    name = repo.rpartition("/")[2] if repo else f"unlearned-{kind}"
    data = metadata(report, manifest, name=name, kind=kind, licence=licence or {})
    parts = [
        f"# {name}",
        *_warning(report),
        _what(report, manifest, kind),
        "## Did it forget?",
        headline(report)[0],
        "\n".join(f"- {reason}" for reason in report["verdict"]["reasons"]),
        *(f"![{Path(picture).stem.replace('_', ' ')}]({picture})" for picture in pictures),
        _table(report),
        "## How to load",
        f"```python\n{loading(manifest, repo or 'PATH_OF_THIS_FOLDER', kind)}\n```",
        "## How to reproduce",
        _again(manifest),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(report, kind)),
        "## Certificate",
        (
            "`unlearning.json` holds digests of base and result, keyed fingerprints of the data, and a mark of each forgotten row that "
            f"only the holder of its receipt can check: `llm-unlearn verify {repo or 'DIR'}`. No text of a row is published."
        ),
    ]
    made = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n")
    check(made)
    return made


def check(made: ModelCard) -> None:
    """Raise OutputError unless the card's metadata reads back as what was written, results included."""
    again = ModelCard(str(made))  # parses the YAML and, strictly, the model-index
    if again.data.to_dict() != made.data.to_dict() or not getattr(again.data, "eval_results", None):
        raise OutputError("the model card's metadata does not read back as it was written; report this as a fault.")


def metadata(
    report: Mapping[str, Any], manifest: Mapping[str, Any], *, name: str, kind: Kind, licence: Mapping[str, str]
) -> ModelCardData:
    """Return the card's header: library, base, licence, tags and the figures as model-index."""
    task = str(manifest["request"]["task"])
    base = base_id(manifest)
    related: dict[str, Any] = {"base_model": base, "base_model_relation": RELATION[kind]} if base else {}
    tags = ["machine-unlearning", "unlearning", "llm-unlearn", str(manifest["method"]["name"]).replace("_", "-")]
    return ModelCardData(
        library_name="peft" if kind == "adapter" else "transformers",
        pipeline_tag=PIPELINES[task],
        tags=[*tags, *(["lora"] if kind == "adapter" else [])],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=PIPELINES[task],
                dataset_type=f"unlearning-{figure['split'] or 'all'}".replace("/", "-"),
                dataset_name=f"{(figure['split'] or 'all').replace('_', ' ')} rows of the request (private)",
                dataset_split=figure["split"] or "all",
                metric_type=figure["name"],
                metric_name=figure["name"].replace("_", " "),
                metric_value=round(float(figure["after"]), 6),
            )
            for figure in ordered(report["figures"])
            if figure["after"] is not None
        ],
        **related,
        **dict[str, Any](licence),
    )


def loading(manifest: Mapping[str, Any], repo: str, kind: Kind) -> str:
    """Return plain transformers and peft code that loads a published run."""
    request = manifest["request"]
    loader, base = LOADERS[request["task"]], base_id(manifest)
    reader = "AutoImageProcessor" if request["task"] == "image_classifier" else "AutoTokenizer"
    if kind != "adapter":
        return (
            f"from transformers import {loader}, {reader}\n\n"
            f"model = {loader}.from_pretrained({repo!r})\nreader = {reader}.from_pretrained({repo!r})"
        )
    commit = (manifest.get("certificate") or {}).get("base", {}).get("commit") or request["revision"]
    at = f", revision={commit!r}" if base and commit else ""
    lines = ["from peft import PeftModel", f"from transformers import {loader}, {reader}", ""]
    if request["model"] == SANDBOX:
        lines += ["from llm_unlearn.sandbox.models import path", "", 'BASE = path("target")  # ships with llm-unlearn']
    elif base is None:
        lines.append(f"BASE = {str(manifest['base_model'])!r}  # a local folder; its files' digests: unlearning.json")
    else:
        lines.append(f"BASE = {base!r}")
    dtype = ', dtype="float32"' if request["model"] == SANDBOX else ""
    lines.append(f"base = {loader}.from_pretrained(BASE{at}{dtype})")
    if request["adapter"]:
        first = str(request["adapter"]).partition("#")[0]
        lines.append(f"base = PeftModel.from_pretrained(base, {first!r}).merge_and_unload()  # it was there before")
    lines.append(f"model = PeftModel.from_pretrained(base, {repo!r}).eval()")
    lines.append(f"reader = {reader}.from_pretrained({'BASE' + at if base else repr(repo)})")
    return "\n".join(lines)


def _warning(report: Mapping[str, Any]) -> list[str]:
    why = unverified(report)
    return [f"> **Not verified** (`--allow-unverified`): {why}."] if why else []


def _what(report: Mapping[str, Any], manifest: Mapping[str, Any], kind: Kind) -> str:
    base = base_id(manifest)
    of = f"[{base}](https://huggingface.co/{base})" if base else f"`{manifest['base_model']}` (not on the Hub)"
    what = {
        "adapter": f"A PEFT adapter that makes {of} forget",
        "model": f"All weights of {of} after it was made to forget",
        "merged": f"All weights of {of} with an unlearning adapter merged in: it forgets",
        "quantised": f"All weights of {of}, unlearned and rounded to 4 bits: it forgets",
    }[kind]
    rows = report.get("rows", {}).get("forget")
    return (
        f"{what} {rows if rows is not None else 'the'} rows of training data that were asked to be deleted, and keep the rest. "
        f"Method: `{report['method']['name']}` of llm-unlearn {report['versions'].get('llm_unlearn', '')}."
    )


def _table(report: Mapping[str, Any]) -> str:
    """The quick figures, and all of them folded away; n are rows, gold is a model that never saw the forget rows."""
    lines = ["| figure | split | before | after | gold | n | seed |", "|---|---|---:|---:|---:|---:|---:|"]
    for figure in ordered(report["figures"]):
        if figure["name"] in ON_SCREEN:
            values = [number(figure[model]) for model in ("before", "after", "gold")]
            cells = [figure["name"], figure["split"] or "all", *values, str(figure["n"]), str(report["seed"])]
            lines.append(f"| {' | '.join(cells)} |")
    legend = (
        "before: the base; after: this model; gold: a model trained without the forget rows (- where there is none); "
        f"n: rows measured. One run, seed {report['seed']}."
    )
    more = f"<details><summary>All figures ({', '.join(COLUMNS)})</summary>\n\n{markdown_table(report)}\n\n</details>"
    return "\n".join([*lines, "", legend, "", more])


def _again(manifest: Mapping[str, Any]) -> str:
    settings = json.dumps({"method": manifest["method"], "seed": manifest["seed"]}, indent=2)
    version = manifest["versions"].get("llm_unlearn")
    return (
        f"```sh\npip install llm-unlearn=={version}\n{shlex.join(manifest['command'])}\n```\n\n"
        "Names of what was forgotten, of files and of folders are replaced by keyed fingerprints.\n\n"
        f"<details><summary>Settings of the method</summary>\n\n```json\n{settings}\n```\n\n</details>"
    )


def _limits(report: Mapping[str, Any], kind: Kind) -> list[str]:
    extra = {"adapter": [OFF], "quantised": [ROUNDED]}.get(kind, [])
    notes = [
        note[:1].upper() + note[1:] for note in report["notes"] if not note.startswith("the result is an adapter")
    ]
    return [*LIMITS, *extra, *notes]
