"""What people write on a run: tags and a note, in a file of its own beside what the run is sealed with."""

from dataclasses import dataclass, field
from pathlib import Path

from lab.record.files import read_json, write_json

MARKS_FILE = "marks.json"


@dataclass(frozen=True)
class Marks:
    """tags: words, sorted.  note: text, empty for none."""

    tags: list[str] = field(default_factory=list)
    note: str = ""


def read_marks(directory: Path) -> Marks:
    """The marks of a run; none where its file is missing or not as lab writes it."""
    content = read_json(directory / MARKS_FILE, {})
    tags, note = (content.get("tags"), content.get("note")) if isinstance(content, dict) else (None, None)
    words = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    return Marks(words, note if isinstance(note, str) else "")


def write_marks(directory: Path, marks: Marks) -> None:
    write_json(directory / MARKS_FILE, {"tags": sorted(set(marks.tags)), "note": marks.note})
