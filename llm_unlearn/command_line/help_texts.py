"""Each command's --help as text in llm_unlearn/command_line/help, so that asking for it imports nothing slow.

python -m llm_unlearn.command_line.help_texts          after a change of options; a test says when that is due
"""

from llm_unlearn import continuing, robustness, targets
from llm_unlearn.cli import COMMANDS, HELP
from llm_unlearn.command_line import evaluating
from llm_unlearn.command_line.commands import Compare, Sign
from llm_unlearn.files import write_text
from llm_unlearn.options import help_text
from llm_unlearn.publish import merging, pushing, signature, verification
from llm_unlearn.recipe import Recipe

CLASSES = {
    "unlearn": Recipe,
    "evaluate": evaluating.Options,
    "attack": robustness.Options,
    "gold": targets.Target,
    "compare": Compare,
    "merge": merging.Merge,
    "push": pushing.Push,
    "sign": Sign,
    "verify": verification.Options,
}
MORE = {"evaluate": evaluating, "merge": merging, "push": pushing, "sign": signature, "verify": verification}
USAGE = {
    "unlearn": "llm-unlearn unlearn [options]\n       llm-unlearn unlearn --request ROWS --continue DIR",
    "compare": "llm-unlearn compare DIR DIR ... [options]",
    "merge": "llm-unlearn merge DIR [options]",
    "push": "llm-unlearn push DIR USER/NAME [options]",
    "sign": "llm-unlearn sign DIR [options]",
    "verify": "llm-unlearn verify DIR|USER/NAME [options]",
    "methods": "llm-unlearn methods [NAME|--markdown]",
    "metrics": "llm-unlearn metrics [NAME|--markdown]",
    "doctor": "llm-unlearn doctor",
    "completion": "llm-unlearn completion bash|zsh|fish",
}
JSON = '  --json  print the result as JSON, and a fault as {"error": ...}'


def texts() -> dict[str, str]:
    """Return each command's help by name."""
    out = {}
    for name, says in COMMANDS.items():
        usage = USAGE.get(name, f"llm-unlearn {name} [options]")
        description = f"{says[:1].upper()}{says[1:]}." + (f"\n\n{MORE[name].__doc__}".rstrip() if name in MORE else "")
        if name == "unlearn":
            description += f"\n\n{continuing.__doc__}".rstrip()
        if name in CLASSES:
            text = help_text(f"llm-unlearn {name}", description, CLASSES[name], usage)
        else:
            text = f"usage: {usage}\n\n{description}\n"
        out[name] = f"{text}\n{JSON}\n"
    return out


def main() -> None:
    """Write them."""
    HELP.mkdir(exist_ok=True)
    for name, text in texts().items():
        write_text(HELP / f"{name}.txt", text)


if __name__ == "__main__":
    main()
