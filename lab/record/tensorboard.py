"""TensorBoard event files, without the summary writer's cost: one event holds all of a step's scalars."""

# protobuf makes its classes at import, where no type checker sees them
# pyright: reportAttributeAccessIssue=false

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.record.files import write_atomically


class TensorBoard:
    """Writes `directory`/events.out.tfevents.*."""

    def __init__(self, directory: Path):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(directory))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.add(step, Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]))

    def image(self, step: int, tag: str, png: bytes, size: tuple[int, int]) -> None:
        """png: an encoded image of `size` (width, height)."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=png)
        self.add(step, Summary(value=[Summary.Value(tag=tag, image=image)]))

    def hparams(self, trial: str, values: dict[str, Any]) -> None:
        """This run's row in the HPARAMS table, named `trial`; its metrics are the scalars."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        self.add(0, as_proto(hparams_pb(hparam_values(values), trial, start_time_secs=time.time())))

    def columns(self, values: list[dict[str, Any]], metrics: list[str]) -> None:
        """The columns of a sweep's HPARAMS table: what varies in it, or all where nothing does.

        values: of each run, as given to `hparams`.
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

    def hparams(self, trial: str, values: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def as_proto(summary: Any) -> Any:
    """The hparams plugin builds TensorFlow's class where that is installed; the writer takes tensorboard's."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.FromString(summary.SerializeToString())


def hparam_values(values: dict[str, Any]) -> dict[str, Any]:
    """Values that the hparams table can hold: numbers, truth values, and strings for all else."""
    return {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in values.items()}


def read_events(path: Path) -> Iterator[tuple[bytes, Any]]:
    """(the record as it lies in the file, the event) of each event up to the first that is torn."""
    from tensorboard.compat.proto.event_pb2 import Event

    content, at = path.read_bytes(), 0
    while len(content) >= at + 12:
        end = at + 12 + struct.unpack_from("<Q", content, at)[0] + 4
        if end > len(content):
            return
        yield content[at:end], Event.FromString(content[at + 12 : end - 4])
        at = end


def truncate_events(directory: Path, step: int) -> None:
    """Drop the events of later steps and of the end that is still to come, which a resumed run writes again; with step
    0 all of them. No writer may have the files open."""
    for path in directory.glob("events.out.tfevents.*"):
        if step == 0:
            path.unlink()
            continue
        kept = b"".join(
            record
            for record, event in read_events(path)
            if event.step <= step and not any(value.tag.startswith("test/") for value in event.summary.value)
        )
        write_atomically(path, kept)
