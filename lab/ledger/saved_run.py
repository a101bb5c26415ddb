"""A run on disk, for all code that reads runs after they have started. No torch, no Hydra."""

from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from lab.errors import ConfigError, DamagedRun
from lab.metrics.scores import scores_alone
from lab.record.files import check_size, read_json, read_json_lines
from lab.record.status import changed_files, read_status
from lab.yaml_aliases import load_yaml

# types of the fields of a run's files that lab reads
FIELDS: dict[str, dict[str, Any]] = {
    "status.json": {
        **dict.fromkeys(("id", "state", "error", "reason", "traceback"), str),
        **dict.fromkeys(("started", "ended", "time", "step_timeout"), int | float),
        "sealed": dict,
    },
    "manifest.json": {
        **dict.fromkeys(("id", "experiment", "started_by"), str),
        **dict.fromkeys(("overrides", "segments", "inexact", "groups"), list),
        **dict.fromkeys(("choices", "monitor", "identity", "packages", "schemas", "git"), dict),
        "seed": int,
        "started": int | float,
    },
}


class SavedRun:
    """A run directory as it is now. Each file is read once, when it is first asked for.

    A file that is absent counts as empty. Every property raises DamagedRun where a file is not as a run writes it.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    @cached_property
    def status(self) -> dict[str, Any]:
        """status.json. The state is `pending` where there is no such file, and `failed` or `interrupted` for a run
        whose process was killed."""
        return self._check_fields("status.json", read_status(self.directory))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self._read_mapping("manifest.json")

    @cached_property
    def results(self) -> dict[str, float]:
        """The final scores."""
        return scores_alone(self._read_mapping("results.json"))

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml, resolved."""
        return self._read_yaml("config.yaml")

    @cached_property
    def unresolved_config(self) -> dict[str, Any]:
        """The config before its interpolations were resolved."""
        return self._read_yaml(".hydra/config.yaml")

    @cached_property
    def hydra(self) -> dict[str, Any]:
        """Hydra's own node."""
        return self._read_yaml(".hydra/hydra.yaml").get("hydra", {})

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, up to one that is torn or damaged."""
        return list(read_json_lines(self.directory / "metrics.jsonl"))

    @property
    def state(self) -> str:
        return self.status["state"]

    @property
    def is_done(self) -> bool:
        return self.state == "done"

    @property
    def id(self) -> str:
        """The 8 characters of the run's id, from the manifest, or else from the end of the directory's name."""
        return self.manifest.get("id", self.directory.name[-8:])

    @property
    def monitor(self) -> dict[str, Any]:
        """`name` and `mode` (max or min) of the score that chose the weights; empty where the manifest has none."""
        return self.manifest.get("monitor") or {}

    @property
    def seconds(self) -> float | None:
        """The seconds that a finished run took, all its segments together; None for any other run."""
        return self.seconds_so_far if self.is_done else None

    @property
    def seconds_so_far(self) -> float | None:
        """The seconds of all segments of the run whose ends are known, without the time between them; None where there
        is no such segment. A run that failed or diverged has the end of its last segment in its status."""
        segments = self.manifest.get("segments", [])
        ends = [segment.get("ended") for segment in segments]
        if ends and ends[-1] is None:
            ends[-1] = self.status.get("ended")
        pairs = zip(segments, ends, strict=True)
        durations = [ended - segment["started"] for segment, ended in pairs if ended is not None]
        return round(sum(durations), 2) if durations else None

    @property
    def newest_metrics(self) -> dict[str, float]:
        """The final scores; for a run that has none yet, the newest value of each metric."""
        newest: dict[str, float] = {}
        for line in () if self.results else self.metrics:
            newest |= {name: value for name, value in line.items() if "/" in name}
        return self.results or newest

    def changed_files(self, checkpoints: bool) -> list[str]:
        """The files of a finished run that differ from its seal.  checkpoints: whether to compare the checkpoints too,
        of which those that are not the final weights may be gone."""
        changed = changed_files(self.directory, self.status, checkpoints)
        return [name for name in changed if not (name.startswith("checkpoints/") and self._is_spare_and_gone(name))]

    @property
    def final_weights(self) -> Path:
        """The checkpoint whose weights were scored at the end: best.pt, or last.pt for a run with final=last or without
        a validation set."""
        best = self.directory / "checkpoints" / "best.pt"
        was_made = best.is_file() or "checkpoints/best.pt" in self.status.get("sealed", {})
        if self.config.get("final", "best") == "best" and was_made:
            return best
        return best.with_name("last.pt")

    def _is_spare_and_gone(self, checkpoint: str) -> bool:
        path = self.directory / checkpoint
        return path != self.final_weights and not path.exists()

    def check_done(self) -> None:
        """Raises ConfigError for a run that is not done."""
        if not self.is_done:
            next_command = {
                "running": "wait for its end",
                "failed": f"lab retry {self.directory} does it again",
                "diverged": "lab train with a lower optimizer.lr or max_norm=1 may end well",
            }.get(self.state, f"lab resume {self.directory} goes on with it")
            raise ConfigError(
                f"{self.directory} is {self.state}, not done; {next_command}; or give one of its checkpoints, such as "
                f"{self.directory}/checkpoints/last.pt"
            )

    def _read_mapping(self, name: str) -> dict[str, Any]:
        return self._check_mapping(name, read_json(self.directory / name, {}))

    def _read_yaml(self, name: str) -> dict[str, Any]:
        path = self.directory / name
        if not path.is_file():
            return {}
        check_size(path)
        try:
            return self._check_mapping(name, load_yaml(path) or {})
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ConfigError) as error:
            raise DamagedRun(f"{path} is damaged: {str(error).splitlines()[0]}") from error

    def _check_mapping(self, name: str, content: Any) -> dict[str, Any]:
        if not isinstance(content, dict):
            raise DamagedRun(f"{self.directory / name} holds a {type(content).__name__}, not a mapping")
        return self._check_fields(name, content)

    def _check_fields(self, name: str, content: dict[str, Any]) -> dict[str, Any]:
        """The content, whose fields have the types that a run writes. A field that is absent or null is none."""
        is_results = name == "results.json"
        kinds = dict.fromkeys(scores_alone(content), int | float) if is_results else FIELDS.get(name, {})
        for key, kind in kinds.items():
            value = content.get(key)
            if value is not None and not isinstance(value, kind):
                shown = repr(value)[:40]
                raise DamagedRun(f"{self.directory / name} is not as a run writes it: {key} is {shown}")
        return content
