"""Turns errors of the parts of a run into ConfigErrors that name the key of the part."""

from collections.abc import Iterator
from contextlib import contextmanager

from lab.config.targets import own_error
from lab.errors import ConfigError
from lab.text import error_message, format_traceback, locate_own_frame, summarize_error


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
        cause = own_error(error)
        is_sentence = isinstance(cause, ValueError | OSError) or "Original Traceback" in error_message(cause)
        message = summarize_error(cause, with_kind=not is_sentence)
        problem = ConfigError(f"{place}: {message}" if place else message)
        trace = format_traceback(cause)
        problem.trace = trace if locate_own_frame(trace) else ""
        raise problem from cause
