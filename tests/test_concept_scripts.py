"""What the scripts on concepts print of what they measured: their lines by hand."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

EVAL = Path(__file__).parents[1] / "eval"


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EVAL / f"{name}.py")
    found = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[name] = found
    spec.loader.exec_module(found)  # type: ignore[union-attr]
    return found


def test_a_line_of_attribution_mass() -> None:
    """Nats 1 and 3: mean 2, standard deviation 1; a model without a complete attribution has no figure."""
    mass = script("attribution_mass")
    assert mass.line("npo", [1.0, 3.0], [0.1, 0.1], [4.0, 5.0]) == "| npo | 2.000 ± 1.000 | 0.100 ± 0.000 | 2 | 4.50 |"
    assert mass.line("npo", [], [], []) == "| npo | - | - | 0 | - |"
    assert mass.HEAD[0].count("|") == mass.line("npo", [], [], []).count("|")


def test_concepts_that_go_across_classes() -> None:
    """Two of eight columns are drawn on in the first picture, all of them in the second, which is the brighter one."""
    bank = script("concept_bank")
    narrow, wide = np.zeros((1, 8, 8), np.float32), np.ones((1, 8, 8), np.float32)
    narrow[:, 2:6, 3:5] = 1.0
    wide[:, 0] = 0.0
    rows = [{"id": str(i), "image": picture, "label": i} for i, picture in enumerate((narrow, wide))]
    assert bank._narrowness(rows[0]) == -0.25 and bank._narrowness(rows[1]) == -1.0
    assert bank._brightness(rows[1]) > bank._brightness(rows[0])
    said = bank.concepts("news", [])["oil"]
    news = [{"id": "a", "text": "Crude rises", "label": 2}, {"id": "b", "text": "A spoiled game", "label": 1}]
    assert said(news) == [True, False]


def test_a_line_of_tofus_table_and_its_true_rows() -> None:
    tofu = script("tofu_concepts")
    assert tofu.cells("theme", "ten rows", 0, {1, 2, 3, 4}, {3, 4, 5}).startswith(
        "| theme | ten rows | 0 | 0.500 | 0.667 | 4 |"
    )
    assert set(tofu.REQUESTS) == {"author", "theme"} and "npo" in tofu.METHODS
