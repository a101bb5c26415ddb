"""Errors of the user's own parts, turned into problems of the config at the place that names the part."""

from collections.abc import Iterator
from contextlib import contextmanager

from lab.errors import ConfigError


@contextmanager
def blame(place: str) -> Iterator[None]:
    """What goes wrong inside is a ConfigError whose message begins with `place`, a key of the config or what was done;
    empty: the message alone."""
    try:
        yield
    except ConfigError:
        raise
    except SystemExit as error:
        raise ConfigError(f"{place}: it ended the process with {error!r}") from error
    except Exception as error:
        # Hydra wraps what the target raised, with the whole node in the message
        is_wrapped = type(error).__name__ == "InstantiationException" and error.__cause__
        cause = error.__cause__ if is_wrapped and error.__cause__ else error
        kind = "" if isinstance(cause, ValueError | OSError) else f"{type(cause).__name__}: "
        message = str(cause).strip()
        if "Original Traceback" in message:  # of a loader worker; its last line is the message
            kind, message = "", message.splitlines()[-1].partition(": ")[2]
        raise ConfigError(f"{place}: {kind}{message}" if place else f"{kind}{message}") from cause
