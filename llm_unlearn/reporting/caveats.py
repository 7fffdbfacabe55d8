"""What a reader of a report should know of what a method found out about itself."""

from collections.abc import Mapping
from typing import Any

ENERGY = 0.9  # share of a dense edit below which the report says what the rank lost


def caveats(learned: Mapping[str, Any]) -> list[str]:
    """Return the notes that a method's record (method.json) gives rise to."""
    out = []
    if learned.get("energy_kept", 1.0) < ENERGY:
        out.append(
            f"the adapter's rank holds {learned['energy_kept']:.0%} of the edit's energy: a larger --lora.r holds more, --lora none all"
        )
    if learned.get("within_tolerance") == 0:
        out.append(
            "no strength of the edit left retain's loss within the tolerance: the one with the least harm was taken"
        )
    if "finished_after_steps" in learned and learned["finished_after_steps"] is None:
        out.append(f"the method's goal was not reached in {learned['most_steps']} steps")
    return out
