"""A finished run's model and task on new inputs, built from its directory alone."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lab.assembly.blame import blame
from lab.assembly.build import build
from lab.assembly.final_model import check_can_build, load_final_model, load_finished_run
from lab.data.readers import READER_FILE, Reader, load_reader
from lab.errors import ConfigError
from lab.ledger.saved_run import SavedRun
from lab.record.files import read_json
from lab.run import Run

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 32  # inputs that go through the model at once


class Predictor(NamedTuple):
    """run: its data set is the reader alone, where the run keeps one.  model: with its final weights."""

    run: Run
    model: torch.nn.Module
    reader: Any

    def expand(self, inputs: Sequence[str]) -> list[str]:
        """The inputs, as the reader expands them. Raises ConfigError for a file that is not there."""
        with blame(""):
            return self.reader.expand(inputs) if hasattr(self.reader, "expand") else list(inputs)

    def chunks(self, inputs: Sequence[str]) -> Iterator[Sequence[str]]:
        """The inputs, as many at a time as go through the model at once."""
        for start in range(0, len(inputs), CHUNK):
            yield inputs[start : start + CHUNK]

    def read(self, inputs: Sequence[str]) -> Any:
        """What the task takes for these inputs. Raises ConfigError for one that cannot be read."""
        with blame("input"):
            return self.reader.read(inputs)

    def answer(self, read: Any) -> list[dict[str, Any]]:
        """The task's answers to inputs that were read."""
        device = self.run.hardware
        with blame("input"), torch.no_grad(), device.autocast():
            return self.run.task.predict(self.model, device.move(read))  # type: ignore[attr-defined]

    def draw(self, read: Any, answers: Sequence[dict[str, Any]]) -> "list[Image]":
        """Pictures of inputs that were read, with their answers. Raises ConfigError for a task that draws none."""
        if not hasattr(self.run.task, "draw"):
            raise ConfigError(
                f"{type(self.run.task).__name__} draws no pictures of its answers; leave --draw out, or give it "
                "a method draw(inputs, answers)"
            )
        with blame("input"):
            return self.run.task.draw(read, answers)  # type: ignore[attr-defined]

    def predict(self, inputs: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The task's answer to each input, in order."""
        for chunk in self.chunks(inputs):
            yield from self.answer(self.read(chunk))


def load_predictor(saved: SavedRun) -> Predictor:
    """Raises ConfigError where the run is not done, or its data set or its task does not say how to predict."""
    run, model = load_without_data(saved)
    reader = run.data if isinstance(run.data, Reader) else getattr(run.data, "reader", None)
    if not hasattr(reader, "read"):
        raise ConfigError(
            f"{saved.directory}: its data set does not say how to read new inputs; give it an attribute `reader` with "
            "a method read(inputs)"
        )
    if not hasattr(run.task, "predict"):
        raise ConfigError(f"{type(run.task).__name__} does not predict; give it a method predict(model, inputs)")
    return Predictor(run, model, reader)


def load_finished_model(saved: SavedRun) -> torch.nn.Module:
    """The model with the run's final weights, in evaluation mode. Raises ConfigError where the run is not done."""
    return load_without_data(saved)[1]


def load_without_data(saved: SavedRun) -> tuple[Run, torch.nn.Module]:
    """The run with its reader in place of its data set, where it keeps one, and the model."""
    content = read_json(saved.directory / READER_FILE, {})
    if not content:
        run, model = load_finished_run(saved)
        return run, model.eval()
    is_whole = saved.final_weights.name == "best.pt"  # last.pt needs its regularizer, and so perhaps the start
    config = check_can_build(saved, strip_start(saved) if is_whole else saved.config)
    with blame("data"):
        reader = load_reader(saved.directory, content)
    run = build(config, data=reader)
    run.regularize.model_to_score(run.model)  # some regularizers make it on the first call
    return run, load_final_model(run, saved).eval()


def strip_start(saved: SavedRun) -> dict[str, Any]:
    """The run's config without the weights that it started from, which its own replace, and with the model's files that
    it keeps."""
    config = {**saved.config, "weights": None}
    model = {name: None if name.startswith("weights") else value for name, value in config["model"].items()}
    kept = saved.directory / "model"
    if kept.is_dir() and "name" in model:
        model["name"] = str(kept)
    return {**config, "model": model}
