"""What a dataclass says in comments about its settings: their help on the command line, and their sources in the docs."""

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize


def comments_of(cls: type) -> dict[str, str]:
    """Return the comment of each setting of the dataclass `cls`, by name; {} where its source is not at hand.

    It stands beside the setting, in its brackets where a formatter broke the line, or in the lines right above.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        if dataclasses.is_dataclass(base):
            try:
                found |= _comments_in(textwrap.dedent(inspect.getsource(base)))
            except (OSError, TypeError):
                continue
    return found


def _comments_in(source: str) -> dict[str, str]:
    (made,) = ast.parse(source).body
    spoken = {  # line: (does it stand alone there, comment)
        token.start[0]: (not token.line[: token.start[1]].strip(), token.string.lstrip("# ").strip())
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith("# fmt:")
    }
    found = {}
    for node in getattr(made, "body", ()):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        first = node.lineno
        while spoken.get(first - 1, (False, ""))[0]:
            first -= 1
        last = node.end_lineno or node.lineno
        words = " ".join(spoken[line][1] for line in range(first, last + 1) if line in spoken)
        if words:
            found[node.target.id] = words
    return found
