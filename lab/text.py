"""Formatting of names and numbers in messages."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any


def suggest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`did you mean X?`, or if no known name is similar, a list of the first 20.

    prefix: text to type before the name.
    """
    names = sorted(known)
    close = get_close_matches(word, names, n=3, cutoff=0.6)
    # names with the same letters come first, as swapped letters are the most common mistake
    close.sort(key=lambda name: sorted(name) != sorted(word))
    if close:
        return f"did you mean {prefix + close[0]!r}?"
    return f"there is: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}" if names else "there is none"


def join_names(names: Sequence[str], max_names: int = 8) -> str:
    """The first `max_names` names and the number of further names: `a, b and 3 more`."""
    return ", ".join(names[:max_names]) + (f" and {len(names) - max_names} more" if len(names) > max_names else "")


def format_si(number: float) -> str:
    """A number with three significant digits and an SI prefix: `12.3 M`."""
    for prefix in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g} {prefix}"
        number /= 1000
    return f"{number:.3g} P"


def relative_to_cwd(path: Path) -> Path:
    """The path relative to the working directory if it lies inside, which is shorter to read and type."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def format_cell(value: Any) -> str:
    return "-" if value is None else format_number(value) if isinstance(value, float) else str(value)


def format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
