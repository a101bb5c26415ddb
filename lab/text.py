"""Formatting of names and numbers in messages."""

import math
import re
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
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
    return path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path


LONGEST_MESSAGE = 1000  # characters of an error's message in a line of lab's
# a line of a traceback, as `traceback` and `faulthandler` write it
FRAME = re.compile(r'File "(?P<file>[^"<]+)", line (?P<line>\d+),? in (?P<function>\S+)')


def summarize_error(error: BaseException, with_kind: bool = True) -> str:
    """An error for people, in a line or a few: `KeyError: 'oops' (mine.py:7 in __init__)`, with the newest frame of the
    project's own code where there is one. Raises nothing, whatever the error's own methods do.

    with_kind: whether to name the error's class, which adds nothing to a message that is a sentence.
    """
    text = error_message(error)
    kind = type(error).__name__
    if "Original Traceback" in text:  # of a loader worker: the last line has the error
        kind, _, text = text.strip().splitlines()[-1].partition(": ")
    text = text.strip()[:LONGEST_MESSAGE] + ("…" if len(text.strip()) > LONGEST_MESSAGE else "")
    frame = locate_own_frame(format_traceback(error))
    return (f"{kind}: {text}" if with_kind else text) + (f" ({frame})" if frame else "")


def error_message(error: BaseException) -> str:
    """`str(error)`, or a note where that raises."""
    try:
        return str(error)
    except Exception as problem:
        return f"(its text cannot be shown, as str() of it raises {type(problem).__name__})"


def format_traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def locate_own_frame(trace: str, newest_first: bool = False) -> str | None:
    """`mine.py:7 in __init__`: the newest frame of a traceback that lies in neither lab nor an installed package; None
    where there is none.  newest_first: whether the trace begins with the newest frame."""
    frames = [match for match in FRAME.finditer(trace) if not is_library(match["file"])]
    if not frames:
        return None
    frame = frames[0 if newest_first else -1]
    return f"{relative_to_cwd(Path(frame['file']))}:{frame['line']} in {frame['function']}"


def is_library(file: str) -> bool:
    """Whether a source file is lab's, the standard library's or an installed package's."""
    return any(Path(file).is_relative_to(folder) for folder in library_folders()) or "site-packages" in Path(file).parts


@cache
def library_folders() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path(__file__).parent, *(Path(paths[name]) for name in ("stdlib", "purelib", "platlib"))]


# control characters, those that change the direction of text, and ends of lines that are no newline
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def printable(text: str, keep: str = "") -> str:
    """The text with characters that a terminal or a table would obey instead of showing as escapes such as `\\x1b`.

    keep: characters to leave, such as newlines.
    """
    if text.isprintable():  # by far the most, and told ten times as fast
        return text
    return UNPRINTABLE.sub(lambda match: match[0] if match[0] in keep else repr(match[0])[1:-1], text)


def format_cell(value: Any) -> str:
    return "-" if value is None else format_number(value) if isinstance(value, float) else str(value)


def format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def as_number(text: str) -> float | None:
    """The finite number that a text spells, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def by_number(text: str) -> tuple[bool, float, str]:
    """A key that sorts numbers by size, before words by the alphabet."""
    number = as_number(text)
    return number is None, number or 0.0, text


def csv_cell(cell: Any) -> Any:
    """A cell of a CSV file; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    if not isinstance(cell, str):
        return "" if cell is None else cell
    is_formula = cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def markdown_cell(text: str) -> str:
    """A cell of a table in Markdown, in which text is no markup, no HTML and no end of the cell."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "\\`")
