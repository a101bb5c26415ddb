"""What is wrong with a config, said to the person who typed it."""

from collections.abc import Sequence


class ConfigError(Exception):
    """Every problem found, each a line with the next thing to type. Nothing has started."""

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems: Sequence[str] = problems
