"""report.html: one file that needs nothing else, no script, no network.  Figures and settings only, never a row's text."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from llm_unlearn import charts
from llm_unlearn.report import COLUMNS, UNKNOWN, WORDS, cells, not_measured, number, ordered, write_atomically
from llm_unlearn.scores import Floats, ModelScores

PAGE = "report.html"
NAMES = {
    "exact_answer": "exact answer",
    "extraction_strength": "extraction strength",
    "exact_memorisation": "exact memorisation",
    "probability": "probability",
    "truth_ratio": "truth ratio",
    "rouge_l_recall": "ROUGE-L recall",
    "mia_loss": "loss attack AUC",
    "forget_quality": "forget quality",
    "model_utility": "model utility",
}
PANELS = {
    "forget": "What was to be forgotten, in the trained wordings: blue should meet gold, not zero.",
    "forget_heldout": "The same facts in wordings never trained on: has it forgotten the fact, or only the sentence?",
    "retain": "What was to stay: blue should stand as high as grey.",
    "retain_heldout": "What was to stay, in wordings never trained on: blue as high as grey.",
    "neighbour": "Kept facts nearest to the concept, where damage shows first: blue as high as grey.",
    "general": "Unrelated knowledge: blue as high as grey.",
}
STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f5f7f9; color: #1f2933; font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 30px 22px 60px; }
h1 { font-size: 27px; margin: 0; letter-spacing: -.01em; } h2 { font-size: 18px; margin: 0 0 2px; }
h3 { font-size: 14px; margin: 0; } p { margin: 4px 0 12px; color: #52606d; } .sub { margin-bottom: 18px; }
section { background: #fff; border: 1px solid #e3e8ed; border-radius: 12px; padding: 20px 24px; margin: 16px 0; }
svg { width: 100%; height: auto; display: block; font-family: inherit; }
.banner { border-left: 7px solid var(--tone); } .banner h2 { font-size: 21px; color: var(--tone); }
.banner ul { margin: 8px 0 0; padding-left: 20px; color: #3e4c59; font-size: 14px; }
.pills { display: flex; gap: 9px; flex-wrap: wrap; margin: 10px 0 4px; }
.pill { border-radius: 99px; padding: 3px 13px; font-size: 13px; font-weight: 600; }
.yes { background: #def2e6; color: #14653b; } .no { background: #fbe3de; color: #a12c16; } .unsure { background: #eceff3; color: #46535f; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(215px, 1fr)); gap: 12px; margin: 16px 0; }
.tile { background: #fff; border: 1px solid #e3e8ed; border-radius: 12px; padding: 13px 17px; }
.tile .what { font-size: 13px; color: #52606d; } .tile .value { font-size: 27px; font-weight: 650; color: #2f6fde; }
.tile .value small { font-size: 16px; color: #7b8794; font-weight: 500; } .tile .goal { font-size: 13px; color: #8a6100; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 20px 26px; } .three { display: grid; grid-template-columns: repeat(3, 1fr); gap: 18px; }
@media (max-width: 760px) { .two, .three { grid-template-columns: 1fr; } }
.legend { display: flex; gap: 18px; font-size: 13px; color: #3e4c59; margin: 2px 0 10px; flex-wrap: wrap; }
.legend i { display: inline-block; width: 13px; height: 13px; border-radius: 3px; margin-right: 6px; vertical-align: -2px; }
.panel p { font-size: 13px; margin: 0 0 6px; min-height: 40px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 9px; text-align: right; border-bottom: 1px solid #edf0f3; white-space: nowrap; }
th { color: #52606d; font-weight: 600; } th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
td:last-child, th:last-child { text-align: left; white-space: normal; color: #66727f; font-size: 12.5px; min-width: 170px; }
tr.first td { border-top: 2px solid #cbd2d9; } tr.faded td { color: #9aa5b1; } .wide { overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 8px 0 0; font-size: 13.5px; }
dt { color: #66727f; } dd { margin: 0; overflow-wrap: anywhere; } footer { color: #7b8794; font-size: 13px; }
"""


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
    return write_atomically(folder / PAGE, page(report, history, {k: v for k, v in models.items() if v is not None}))


def page(report: Mapping[str, Any], history: Sequence[Mapping[str, Any]], models: Mapping[str, ModelScores]) -> str:
    """Return the whole page."""
    method = str(report["method"].get("name", "unknown method"))
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Unlearning report: {escape(method)}</title><style>{STYLE}</style></head><body><main>",
        f"<h1>Unlearning report</h1><p class='sub'>Method {escape(method)}, seed {escape(str(report['seed']))}</p>",
        _banner(report),
        _tiles(report),
        _steps(report, history, models),
        _bars(report),
        _histograms(models, str(report["holdout"])),
        _table(report),
        _settings(report),
        "</main></body></html>\n",
    ]
    return "".join(parts)


def headline(report: Mapping[str, Any]) -> tuple[str, str]:
    """Return the verdict as one plain sentence, and the colour of its tone."""
    verdict = report["verdict"]
    forgot, kept = verdict["forgot"], verdict["utility_kept"]
    stranger = "a model that never saw it" if _has(report, "gold") else "rows it never saw"
    if not verdict["changed"]:
        return "Nothing happened: the model's outputs are what they were before.", "#a12c16"
    first = {
        True: f"It forgot: on the forget set the model now looks like {stranger}.",
        False: f"It did not forget as it should: on the forget set the model does not look like {stranger}.",
        None: "Whether it forgot cannot be told.",
    }[forgot]
    second = {
        True: "The rest was kept.",
        False: "But the rest was damaged." if forgot else "The rest was damaged.",
        None: "Nothing was measured that had to be kept.",
    }[kept]
    good = "#14653b" if forgot and kept else "#a12c16" if forgot is False or kept is False else "#46535f"
    return f"{first} {second}", good


def _has(report: Mapping[str, Any], model: str) -> bool:
    return any(figure[model] is not None for figure in report["figures"])


def _banner(report: Mapping[str, Any]) -> str:
    sentence, tone = headline(report)
    verdict = report["verdict"]
    styles = {True: "yes", False: "no", None: "unsure"}
    titles = (("forgot", "forgot"), ("utility_kept", "the rest kept"), ("changed", "outputs changed"))
    pills = "".join(
        f"<span class='pill {styles[verdict[key]]}'>{title}: {WORDS[verdict[key]]}</span>" for key, title in titles
    )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict["reasons"])
    return (
        f"<section class='banner' style='--tone:{tone}'><h2>{escape(sentence)}</h2><div class='pills'>{pills}</div>"
        f"<ul>{reasons}</ul></section>"
    )


def _tiles(report: Mapping[str, Any]) -> str:
    wanted = (
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
        show = _percent if name == "exact_answer" else number
        goal = f"gold {show(figure['gold'])}" if figure["gold"] is not None else "no gold model"
        old = f"<small>{show(figure['before'])} → </small>" if figure["before"] is not None else ""
        out.append(
            f"<div class='tile'><div class='what'>{title}</div><div class='value'>{old}{show(figure['after'])}</div>"
            f"<div class='goal'>{goal}</div></div>"
        )
    return f"<div class='tiles'>{''.join(out)}</div>"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _legend(names: Mapping[str, str]) -> str:
    items = "".join(
        f"<span><i style='background:{colour}'></i>{escape(name)}</span>" for name, colour in names.items()
    )
    return f"<div class='legend'>{items}</div>"


def _section(title: str, caption: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{escape(caption)}</p>{body}</section>"


def _steps(report: Mapping[str, Any], history: Sequence[Mapping[str, Any]], models: Mapping[str, ModelScores]) -> str:
    title = "Loss while unlearning"
    rows = [row for row in history if row.get("step") is not None]
    series = {
        name: [row.get(f"{name}_loss") for row in rows]
        for name in charts.STREAMS
        if any(row.get(f"{name}_loss") is not None for row in rows)
    }
    if not series:
        return _section(title, "This method does not train step by step, or its history was not kept.", "")
    marks = {
        name: float(np.nanmean(models[name]["forget"].losses))
        for name in ("before", "gold")
        if "forget" in models.get(name, {})
    }
    on = [row.get("on") for row in rows]
    watched = any(state is not None for state in on)
    caption = "The forget loss should climb until forget rows are as unlikely as rows never seen, and stay there; retain stays low."
    if watched:
        caption += " The thermostat turns the forget term off when the holdout's loss is reached, and on again when it falls back."
    shades = {"forget term on": charts.SHADE} if watched else {}
    keys = {f"{name} loss": charts.STREAMS[name] for name in series} | {
        f"forget loss of {name}": charts.MODELS[name] for name in marks
    }
    drawing = charts.loss_lines([float(row["step"]) for row in rows], series, on=on if watched else None, marks=marks)
    return _section(title, caption, _legend(keys | shades) + drawing)


def _bars(report: Mapping[str, Any]) -> str:
    found = {(figure["name"], figure["split"]): figure for figure in ordered(report["figures"])}
    panels = []
    for split, caption in PANELS.items():
        names = [name for name in NAMES if (name, split) in found and name != "forget_quality"]
        if not names:
            continue
        groups = [
            (
                NAMES[name],
                {model: found[name, split][model] for model in charts.MODELS},
                found[name, split]["interval"],
            )
            for name in names
        ]
        mark = f" <span class='pill unsure'>{UNKNOWN}</span>" if split in report["before_did_not_know"] else ""
        drawing = charts.grouped_bars(groups, label=f"{split}: figures before, after and for gold")
        panels.append(
            f"<div class='panel'><h3>{split.replace('_', ' ')}{mark}</h3><p>{escape(caption)}</p>{drawing}</div>"
        )
    note = (
        ""
        if _has(report, "gold")
        else " There is no gold model (one retrained without the forget set): its bars are missing."
    )
    caption = "Thin lines are 95 % bootstrap intervals over rows; a dash means not measured." + note
    return _section(
        "Before, after, gold", caption, _legend(charts.MODELS) + f"<div class='two'>{''.join(panels)}</div>"
    )


def _histograms(models: Mapping[str, ModelScores], holdout: str) -> str:
    captions = {
        "forget": "should move from before's shape to gold's",
        "holdout": "never trained on: should hardly move" + (" (synthetic rows)" if holdout == "synthetic" else ""),
        "retain": "should hardly move",
    }
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
        f"<div><h3>{split}</h3><p>{escape(captions[split])}</p>"
        f"{charts.ridges(by_model, high=max(high, 0.1), label=f'{split}: losses of rows')}</div>"
        for split, by_model in losses.items()
    ]
    caption = "Every row's loss, as a histogram; each is scaled to its own highest bar, the triangle is its median."
    if "holdout" not in losses:
        caption += " No holdout was measured."
    return _section(
        "Losses, row by row", caption, _legend(charts.MODELS) + f"<div class='three'>{''.join(panels)}</div>"
    )


def _table(report: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{name}</th>" for name in (*COLUMNS[:-1], "95 % of after", "n", "target", ""))
    body, last = [], ""
    for key in ("figures", "by_kind"):
        for line, figure in zip(cells(report, key), ordered(report[key]), strict=True):
            low_high = figure["interval"]
            interval = f"{low_high[0]:.3f} to {low_high[1]:.3f}" if low_high else "-"
            shown = [*line[:6], interval, line[6], figure["target"], line[7]]
            style = " ".join([*(["first"] if line[1] != last else []), *(["faded"] if line[7] == UNKNOWN else [])])
            body.append(f"<tr class='{style}'>{''.join(f'<td>{escape(cell)}</td>' for cell in shown)}</tr>")
            last = line[1]
    missing = not_measured(report)
    note = f"<p>Not measured: {escape('; '.join(missing))}.</p>" if missing else ""
    caption = "gap = after - gold. Target gold: the closer to gold the better. Splits like forget_heldout/cloze are parts by kind."
    return _section(
        "All figures", caption, f"<div class='wide'><table><tr>{head}</tr>{''.join(body)}</table></div>{note}"
    )


def _settings(report: Mapping[str, Any]) -> str:
    notes = list(report["notes"])
    if report["holdout"] == "synthetic":
        notes.append(
            "The holdout is synthetic (forget rows with their terms and answers swapped): a stand-in for unseen rows."
        )
    if report["holdout"] == "none":
        notes.append("There is no holdout: membership inference was not measured.")
    if not _has(report, "gold"):
        notes.append("There is no gold model: what a model that never saw the forget set would do is not known here.")
    listed = f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else "<p>None.</p>"
    cost = {f"seconds, {name}": value for name, value in report["seconds"].items()}
    memory = report["peak_memory_bytes"]
    cost["peak memory"] = "-" if memory is None else f"{memory / 1e9:.2f} GB"
    return (
        _section("What to keep in mind", "", listed)
        + "<div class='two'>"
        + _section("Method", "", _pairs(report["method"]))
        + _section("Cost and versions", "", _pairs({**cost, **report["versions"]}))
        + "</div>"
        + _section("Request", "", _pairs(report["request"]))
    )


def _pairs(settings: Mapping[str, Any]) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _flat(settings))
    return f"<dl>{lines}</dl>"


def _flat(settings: Mapping[str, Any], start: str = "") -> list[tuple[str, str]]:
    """Return (dotted name, value) of nested settings."""
    out: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{start}{name}.")
        else:
            out.append(
                (f"{start}{name}", "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value))
            )
    return out
