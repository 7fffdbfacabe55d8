"""report.html: one file that needs nothing else, no script, no network.  Figures and settings only, never a row's text."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from llm_unlearn.files import write_text
from llm_unlearn.reporting import attributions, charts, concepts, sections
from llm_unlearn.reporting.report import COLUMNS, UNKNOWN, WORDS, cells, has, headline, not_measured, number, ordered
from llm_unlearn.reporting.sections import FEATURE, legend, pairs, panels_of, section
from llm_unlearn.scores import CLASSIFIERS, Floats, ModelScores

PAGE = "report.html"
NAMES = {
    "accuracy": "accuracy",
    "mia_entropy": "entropy attack AUC",
    "js_divergence": "divergence to gold",
    "zrf": "ZRF",
    "extraction_strength": "extraction strength",
    "mia_loss": "loss attack AUC",
    "probability": "probability",
    "exact_memorisation": "exact memorisation",
    "rouge_l_recall": "ROUGE-L recall",
    "exact_answer": "exact answer",
    "truth_ratio": "truth ratio",
    "forget_quality": "forget quality",
    "model_utility": "model utility",
}


def write_html(
    folder: Path,
    report: Mapping[str, Any],
    *,
    history: Sequence[Mapping[str, Any]] = (),
    after: ModelScores | None = None,
    before: ModelScores | None = None,
    gold: ModelScores | None = None,
) -> Path:
    """Write folder/report.html atomically and return its path; parts whose data is missing say so."""
    models = {"before": before, "after": after, "gold": gold}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PAGE, page(report, history, {name: each for name, each in models.items() if each is not None}))
    return folder / PAGE


def page(report: Mapping[str, Any], history: Sequence[Mapping[str, Any]], models: Mapping[str, ModelScores]) -> str:
    """Return the whole page."""
    method = str(report["method"].get("name", "unknown method"))
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Unlearning report: {escape(method)}</title><style>{charts.STYLE}</style></head><body><main>",
        f"<h1>Unlearning report</h1><p class='sub'>Method {escape(method)}, seed {escape(str(report['seed']))}</p>",
        sections.asked(report),
        _banner(report),
        _tiles(report) + concepts.concept(report),
        _steps(report, history, models),
        _bars(report),
        _histograms(models, report),
        _table(report),
        sections.attacks(None),
        sections.worst(report) + attributions.shown(report),
        _settings(report),
        sections.again(report),
        "</main></body></html>\n",
    ]
    return "".join(parts)


def _classifies(report: Mapping[str, Any]) -> bool:
    return report.get("request", {}).get("task") in CLASSIFIERS


def _unit(report: Mapping[str, Any]) -> str:
    return "nats" if _classifies(report) else "nats a token"


def _banner(report: Mapping[str, Any]) -> str:
    sentence, tone = headline(report)
    verdict = report["verdict"]
    styles = {True: "yes", False: "no", None: "unsure"}
    titles = (("forgot", "forgot"), ("utility_kept", "the rest kept"), ("changed", "outputs changed"))
    pills = "".join(
        f"<span class='pill {styles[verdict[key]]}'>{title}: {WORDS[verdict[key]]}</span>" for key, title in titles
    )
    reasons = "".join(f"<li>{escape(_in_words(reason))}</li>" for reason in verdict["reasons"])
    return (
        f"<section class='banner' style='--tone:{tone}'><h2>{escape(sentence)}</h2><div class='pills'>{pills}</div>"
        f"<ul>{reasons}</ul></section>"
    )


def _in_words(reason: str) -> str:
    """Return a reason with the figures' names as a reader would write them."""
    for name, words in NAMES.items():
        reason = reason.replace(name, words)
    return reason.replace("+-", "±").replace("utility_kept", "the rest kept").replace("_heldout", " held-out")


def _tiles(report: Mapping[str, Any]) -> str:
    wanted = (
        ("accuracy", "forget", "Forget set classified right"),
        ("accuracy", "forget_heldout", "... and unseen rows of its classes"),
        ("accuracy", "retain", "Kept rows classified right"),
        ("exact_answer", "forget", "Forget set answered exactly"),
        ("exact_answer", "forget_heldout", "... in other wordings"),
        ("exact_answer", "retain", "Kept facts answered exactly"),
        ("mia_loss", "forget", "Forget rows told from unseen ones (AUC)"),
    )
    found = {(figure["name"], figure["split"]): figure for figure in ordered(report["figures"])}
    out = []
    for name, split, title in wanted:
        figure = found.get((name, split))
        if figure is None or figure["after"] is None:
            continue
        show = _percent if name in ("accuracy", "exact_answer") else number
        goal = f"gold {show(figure['gold'])}" if figure["gold"] is not None else "no gold model"
        old = f"<small>{show(figure['before'])} → </small>" if figure["before"] is not None else ""
        out.append(
            f"<div class='tile'><div class='what'>{title}</div><div class='value'>{old}{show(figure['after'])}</div>"
            f"<div class='goal'>{goal}</div></div>"
        )
    return f"<div class='tiles'>{''.join(out)}</div>"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _steps(report: Mapping[str, Any], history: Sequence[Mapping[str, Any]], models: Mapping[str, ModelScores]) -> str:
    title = "Loss while unlearning"
    rows = _continued(history)
    series = {
        name: [row.get(f"{name}_loss") for row in rows]
        for name in charts.STREAMS
        if any(row.get(f"{name}_loss") is not None for row in rows)
    }
    if not series:
        return section(
            title,
            "Losses of forget and retain rows were not followed: the method takes no steps on them, or its history was not kept.",
            "",
        )
    marks = {
        name: float(np.nanmean(models[name]["forget"].losses))
        for name in ("before", "gold")
        if "forget" in models.get(name, {})
    }
    on = [row.get("on") for row in rows]
    watched = any(state is not None for state in on)
    caption = "The forget loss should climb until forget rows are as unlikely as rows never seen, and stay there; retain stays low."
    if report.get("whole_classes"):
        caption = (
            "The forget loss should climb until the forgotten classes are as unlikely for their own rows as for rows of other "
            "classes that claim to be of them (the line holdout), and stay there; retain stays low."
        )
    if watched:
        caption += " The thermostat fades the forget term out as the forget rows get where the holdout rows are, and back in when they fall back."
    shades = {"forget term on": charts.SHADE} if watched else {}
    keys = {f"{name} loss": charts.STREAMS[name] for name in series} | {
        f"forget loss of {name}": charts.MODELS[name] for name in marks
    }
    drawing = charts.loss_lines(
        [float(row["step"]) for row in rows], series, on=on if watched else None, marks=marks, unit=_unit(report)
    )
    return section(title, caption, legend(keys | shades) + drawing)


def _continued(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries with steps that go on rising where a second phase began at 0 again."""
    out: list[dict[str, Any]] = []
    shift = 0
    for entry in history:
        step = entry.get("step")
        if step is None:
            continue
        if out and step + shift < out[-1]["step"]:
            shift = out[-1]["step"] - step
        out.append({**entry, "step": step + shift})
    return out


def _bars(report: Mapping[str, Any]) -> str:
    found = {(figure["name"], figure["split"]): figure for figure in ordered(report["figures"])}
    colours = {model: colour for model, colour in charts.MODELS.items() if has(report, model)}
    panels = []
    for split, caption in panels_of(report).items():
        titles = NAMES if split != FEATURE else {name: _short(name) for name, _ in found}
        names = [name for name in titles if (name, split) in found and name != "forget_quality"]
        if not names:
            continue
        groups = []
        for name in names:
            figure = found[name, split]
            groups.append((titles[name], {model: figure[model] for model in colours}, figure["interval"]))
        mark = f" <span class='pill unsure'>{UNKNOWN}</span>" if split in report["before_did_not_know"] else ""
        drawing = charts.grouped_bars(groups, label=f"{split}: figures before, after and for gold")
        panels.append(
            f"<div class='panel'><h3>{split.replace('_', ' ')}{mark}</h3><p>{escape(caption)}</p>{drawing}</div>"
        )
    caption = "Thin lines are 95 % bootstrap intervals over rows; a dash means not measured."
    if "gold" not in colours:
        caption += (
            " There is no gold model (one retrained without the forget set): where blue should end is not known."
        )
    drawings = f"<div class='two'>{''.join(panels)}</div>"
    return section(", ".join(colours).capitalize(), caption, legend(colours) + drawings)


def _short(name: str) -> str:
    """Return a figure's name as it fits under its bars: of a layer's name the last two parts."""
    what, _, layer = name.removeprefix("feature_").partition(" ")
    return f"{what} {'.'.join(layer.split('.')[-2:])}" if layer else what.replace("_", " ")


def _histograms(models: Mapping[str, ModelScores], report: Mapping[str, Any]) -> str:
    synthetic = " (synthetic rows)" if report["holdout"] == "synthetic" else ""
    captions = {
        "forget": "should move from before's shape to gold's",
        "holdout": "never trained on: should hardly move" + synthetic,
        "retain": "should hardly move",
    }
    if report.get("whole_classes"):
        captions["forget_heldout"] = "the same classes, never trained on: from before's shape to gold's"
    losses: dict[str, dict[str, Floats]] = {}
    for split in captions:
        for name in charts.MODELS:
            scores = models.get(name, {}).get(split)
            if scores is not None and np.isfinite(scores.losses).any():
                losses.setdefault(split, {})[name] = scores.losses[np.isfinite(scores.losses)]
    if not losses:
        return ""
    high = max(float(np.percentile(values, 99)) for by_model in losses.values() for values in by_model.values()) * 1.05
    panels = [
        f"<div><h3>{split.replace('_', ' ')}</h3><p>{escape(captions[split])}</p>"
        f"{charts.ridges(by_model, high=max(high, 0.1), label=f'{split}: losses of rows', unit=_unit(report))}</div>"
        for split, by_model in losses.items()
    ]
    caption = "Every row's loss, as a histogram; each is scaled to its own highest bar, the triangle is its median."
    shown = [name for name in charts.MODELS if any(name in by_model for by_model in losses.values())]
    if "holdout" not in losses and not report.get("whole_classes"):
        caption += " No holdout was measured."
    names = legend({name: charts.MODELS[name] for name in shown})
    return section("Losses, row by row", caption, f"{names}<div class='three'>{''.join(panels)}</div>")


def _table(report: Mapping[str, Any]) -> str:
    missing = not_measured(report)
    body = f"<div class='wide'>{_lines(report, 'figures')}</div>"
    if report["by_kind"]:
        body += f"<details class='wide'><summary>By kind of row</summary>{_lines(report, 'by_kind')}</details>"
    if missing:
        body += f"<p>Not measured: {escape('; '.join(missing))}.</p>"
    return section("All figures", "gap = after - gold. Target gold: the closer to gold the better.", body)


def _lines(report: Mapping[str, Any], key: str) -> str:
    head = "".join(f"<th>{name}</th>" for name in (*COLUMNS[:-1], "95 % of after", "n", "target", ""))
    body, last = [], ""
    for line, figure in zip(cells(report, key), ordered(report[key]), strict=True):
        low_high = figure["interval"]
        interval = f"{low_high[0]:.3f} to {low_high[1]:.3f}" if low_high else "-"
        shown = [*line[:6], interval, line[6], figure["target"], line[7]]
        style = " ".join([*(["first"] if line[1] != last else []), *(["faded"] if line[7] == UNKNOWN else [])])
        body.append(f"<tr class='{style}'>{''.join(f'<td>{escape(cell)}</td>' for cell in shown)}</tr>")
        last = line[1]
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _settings(report: Mapping[str, Any]) -> str:
    notes = list(report["notes"])
    if report["holdout"] == "synthetic":
        notes.append(
            "The holdout is synthetic (forget rows with their terms and answers swapped): a stand-in for unseen rows."
        )
    if report["holdout"] == "none" and not any(
        figure["name"] == "mia_loss" and figure["after"] is not None for figure in report["figures"]
    ):
        notes.append("There is no holdout: membership inference was not measured.")
    if not has(report, "gold"):
        notes.append("There is no gold model: what a model that never saw the forget set would do is not known here.")
    listed = f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else "<p>None.</p>"
    cost = {f"seconds, {name}": value for name, value in report["seconds"].items()}
    memory = report["peak_memory_bytes"]
    cost["peak memory"] = "-" if memory is None else f"{memory / 1e9:.2f} GB"
    return (
        section("What to keep in mind", "", listed)
        + "<div class='two'>"
        + section("Method", "", pairs(report["method"]))
        + section("Cost and versions", "", pairs({**cost, **report["versions"]}))
        + "</div>"
        + section("Request", "", pairs(report["request"]))
    )
