"""TensorBoard event files. One event holds all scalars of a step, which is cheaper than torch's SummaryWriter."""

# protobuf creates its classes at import, where no type checker sees them
# pyright: reportAttributeAccessIssue=false

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.metrics.names import split_of
from lab.record.files import write_atomically


class TensorBoard:
    """Writes to `directory`/events.out.tfevents.*."""

    def __init__(self, directory: Path):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(directory))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.add(step, Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]))

    def image(self, step: int, tag: str, png: bytes, size: tuple[int, int]) -> None:
        """Write a picture.  png: the encoded picture, of `size` (width, height) in pixels."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=png)
        self.add(step, Summary(value=[Summary.Value(tag=tag, image=image)]))

    def text(self, step: int, tag: str, markdown: str) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self.add(step, as_proto(text_pb(tag, markdown)))

    def hparams(self, trial: str, values: dict[str, Any]) -> None:
        """Write the row of this run in the HPARAMS table, named `trial`. Its metrics are the scalars."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        self.add(0, as_proto(hparams_pb(hparam_values(values), trial, start_time_secs=time.time())))

    def columns(self, values: list[dict[str, Any]], metrics: list[str]) -> None:
        """Write the columns of the HPARAMS table of a sweep: the hyperparameters that vary, or all if none does.

        values: hyperparameters of each run, as given to `hparams`.  metrics: names of the scalars to show.
        """
        from tensorboard.plugins.hparams.summary_v2 import Discrete, HParam, Metric, hparams_config_pb

        rows = [hparam_values(row) for row in values]
        names = list(dict.fromkeys(name for row in rows for name in row))
        domains = {name: list(dict.fromkeys(row[name] for row in rows if name in row)) for name in names}
        names = [name for name in names if len(domains[name]) > 1] or names
        hparams = [HParam(n, Discrete(domains[n]) if len(set(map(type, domains[n]))) == 1 else None) for n in names]
        self.add(0, as_proto(hparams_config_pb(hparams, [Metric(tag) for tag in metrics])))

    def add(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        self.writer.close()


class NoTensorBoard:
    """Writes nothing."""

    def __init__(self, directory: Path):
        pass

    def scalars(self, step: int, values: dict[str, float]) -> None:
        pass

    def image(self, step: int, tag: str, png: bytes, size: tuple[int, int]) -> None:
        pass

    def text(self, step: int, tag: str, markdown: str) -> None:
        pass

    def hparams(self, trial: str, values: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def as_proto(summary: Any) -> Any:
    """A summary in tensorboard's own class, which the writer takes. The hparams plugin uses TensorFlow's class if that
    is installed."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.FromString(summary.SerializeToString())


def hparam_values(values: dict[str, Any]) -> dict[str, Any]:
    """Values that the HPARAMS table can hold: numbers and booleans as they are, anything else as a string."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in values.items()
    }


def read_events(path: Path) -> Iterator[tuple[bytes, Any]]:
    """The bytes and the event of each record in a file, up to the first one that is torn."""
    from tensorboard.compat.proto.event_pb2 import Event

    content, start = path.read_bytes(), 0
    # a record: the length of the event (8 bytes), its CRC (4), the event, its CRC (4)
    while len(content) >= start + 12:
        end = start + 12 + struct.unpack_from("<Q", content, start)[0] + 4
        if end > len(content):
            return
        yield content[start:end], Event.FromString(content[start + 12 : end - 4])
        start = end


def logged_scalars(directory: Path) -> set[tuple[int, str]]:
    """The step and the name of each scalar in the event files."""
    return {
        (event.step, value.tag)
        for path in directory.glob("events.out.tfevents.*")
        for _, event in read_events(path)
        for value in event.summary.value
    }


def truncate_events(directory: Path, step: int) -> None:
    """Drop the events of later steps, and those of the test set, which a resumed run writes again; at step 0 drop all
    events. No writer may have the files open."""
    for path in directory.glob("events.out.tfevents.*"):
        if step == 0:
            path.unlink()
            continue
        kept = b"".join(
            record
            for record, event in read_events(path)
            if event.step <= step and not any(split_of(value.tag) == "test" for value in event.summary.value)
        )
        write_atomically(path, kept)
