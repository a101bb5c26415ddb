"""Stop when the monitored score has not improved for a while.

Source: Prechelt 1998, Early Stopping - But When?
"""

from typing import Any

from lab.metrics.scores import Evaluation, Monitor


class EarlyStop:
    """Ends the run when, in `patience` evaluations in a row, the monitored score has not improved on the best one by
    more than `min_delta`."""

    def __init__(self, monitor: Monitor, patience: int, min_delta: float = 0.0):
        if patience < 1:
            raise ValueError(f"patience {patience} is not a positive number of evaluations")
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta
        self.best: float | None = None
        self.without = 0  # evaluations since the last improvement

    @property
    def stopped(self) -> bool:
        return self.without >= self.patience

    def on_scores(self, scores: Evaluation) -> None:
        monitor = self.monitor.resolve(scores)
        if monitor.is_better(scores[monitor.name], self.best, self.min_delta):
            self.best, self.without = scores[monitor.name], 0
        else:
            self.without += 1

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "without": self.without}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.without = state["best"], state["without"]
