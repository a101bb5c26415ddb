"""metrics.jsonl and the TensorBoard events of a run."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO

from lab.metrics.names import is_metric, split_of
from lab.metrics.scores import Picture
from lab.pictures import encode_png
from lab.record.files import open_to_append, read_json_lines, slugify, write_atomically
from lab.record.tensorboard import NoTensorBoard, logged_scalars, truncate_events


class Writer(Protocol):
    """Writes events, as lab.record.tensorboard.TensorBoard does."""

    def scalars(self, step: int, values: dict[str, float], /) -> None: ...
    def image(self, step: int, tag: str, png: bytes, size: tuple[int, int], /) -> None: ...
    def text(self, step: int, tag: str, markdown: str, /) -> None: ...
    def hparams(self, trial: str, values: dict[str, Any], /) -> None: ...
    def close(self) -> None: ...


class MetricsFiles:
    """Writes metrics.jsonl and the events of a run.  open_writer: makes the writer of events for a directory."""

    def __init__(self, directory: Path, open_writer: Callable[[Path], Writer]):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.open_writer = directory, open_writer
        self.writer: Writer = NoTensorBoard(directory)
        self.lines: TextIO | None = None
        self.counts: Counter[int] = Counter()  # number of lines by step

    @property
    def path(self) -> Path:
        return self.directory / "metrics.jsonl"

    def last_step(self) -> int:
        """The last step in metrics.jsonl; 0 where there is none."""
        return max((line["step"] for line in read_json_lines(self.path)), default=0)

    def count_lines(self, step: int) -> int:
        """The number of lines before this step, which no line is later than."""
        return self.counts.total() - self.counts[step]

    def open_at(self, step: int) -> None:
        """Drop all lines and events of later steps, open the writer of events, and write those of the lines that it
        lacks, such as after its file was cut."""
        kept = truncate_metrics(self.path, step)
        truncate_events(self.directory, step)
        written = logged_scalars(self.directory) if step else set()
        self.writer = self.open_writer(self.directory)
        self.counts = Counter(line["step"] for line in kept)
        for line in kept:
            values = {name: value for name, value in line.items() if is_metric(name)}
            if lacking := {name: value for name, value in values.items() if (line["step"], name) not in written}:
                self.writer.scalars(line["step"], lacking)

    def write(self, n: int, epoch: float, values: dict[str, float]) -> None:
        if self.lines is None:  # kept open: opening costs more than writing, and shows on small models
            self.lines = os.fdopen(open_to_append(self.path), "a")
        line = json.dumps({"step": n, "epoch": epoch, **values}, allow_nan=False)
        self.lines.write(line + "\n")
        self.lines.flush()
        self.counts[n] += 1
        self.writer.scalars(n, values)

    def write_picture(self, n: int, tag: str, picture: Picture) -> None:
        image = picture() if callable(picture) else picture
        self.writer.image(n, tag, encode_png(image), image.size)

    def write_markdown(self, n: int, tag: str, markdown: str) -> None:
        self.writer.text(n, tag, markdown)

    def write_file(self, name: str, content: bytes) -> None:
        write_atomically(self.directory / slugify(name), content)

    def close(self) -> None:
        self.writer.close()
        if self.lines:
            self.lines.close()


class NoMetricsFiles:
    """Writes nothing."""

    writer: Writer = NoTensorBoard(Path())

    def last_step(self) -> int:
        return 0

    def count_lines(self, step: int) -> int:
        return 0

    def open_at(self, step: int) -> None:
        pass

    def write(self, n: int, epoch: float, values: dict[str, float]) -> None:
        pass

    def write_picture(self, n: int, tag: str, picture: Picture) -> None:
        pass

    def write_markdown(self, n: int, tag: str, markdown: str) -> None:
        pass

    def write_file(self, name: str, content: bytes) -> None:
        pass

    def close(self) -> None:
        pass


def truncate_metrics(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop the lines of later steps, lines with scores on the test set, which a resumed run writes again, and all from
    a torn or damaged line on. Gives the lines that stay."""
    os.close(open_to_append(path))
    lines = list(read_json_lines(path))
    kept = [line for line in lines if line["step"] <= step and not any(split_of(name) == "test" for name in line)]
    text = "".join(json.dumps(line) + "\n" for line in kept).encode()
    if text != path.read_bytes():
        write_atomically(path, text)
    return kept
