"""A progress bar for data sets that are slow to read."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def show_progress(items: Iterable[Item], total: int, text: str = "reading images") -> Iterator[Item]:
    """Yield the items, with a progress bar on standard error where that is a terminal.

    total: number of items.  text: what is done.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, text, total, console=console, transient=True, disable=not console.is_terminal)
