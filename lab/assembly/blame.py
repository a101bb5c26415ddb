"""Turns errors of the parts of a run into ConfigErrors that name the key of the part."""

from collections.abc import Iterator
from contextlib import contextmanager

from lab.errors import ConfigError


@contextmanager
def blame(place: str) -> Iterator[None]:
    """Turn any error raised inside, SystemExit too, into a ConfigError whose message begins with `place`.

    place: key of the config, or description of what failed; empty: the message alone.
    """
    try:
        yield
    except ConfigError:
        raise
    except SystemExit as error:
        raise ConfigError(f"{place}: it ended the process with {error!r}") from error
    except Exception as error:
        # Hydra wraps the target's own error, with the whole node in the message
        is_wrapped = type(error).__name__ == "InstantiationException" and error.__cause__
        cause = error.__cause__ if is_wrapped and error.__cause__ else error
        kind = "" if isinstance(cause, ValueError | OSError) else f"{type(cause).__name__}: "
        message = str(cause).strip()
        if "Original Traceback" in message:  # an error of a loader worker: the last line has its message
            kind, message = "", message.splitlines()[-1].partition(": ")[2]
        raise ConfigError(f"{place}: {kind}{message}" if place else f"{kind}{message}") from cause
