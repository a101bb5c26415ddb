"""Secrets stay out of what a run leaves behind."""

import re
from collections.abc import Mapping
from typing import Any

SECRET_WORDS = r"api_?keys?|access_?keys?|secrets?|tokens?|passwords?|passwd|credentials?"
SECRET = re.compile(rf"(^|[_.])({SECRET_WORDS})($|[_.])", re.IGNORECASE)


def redact(value: Any, secret: bool = False) -> Any:
    """The same nest, with the values below keys that name a secret replaced.  secret: whether all of it is one."""
    if isinstance(value, Mapping):
        return {key: redact(part, secret or names_secret(str(key), part)) for key, part in value.items()}
    if isinstance(value, list):
        # an element may be an override, such as those in Hydra's node
        return [redact(redact_text(part) if isinstance(part, str) else part, secret) for part in value]
    return "<redacted>" if secret and value is not None else value


def names_secret(key: str, value: Any) -> bool:
    # a number of tokens is no secret
    return bool(SECRET.search(key)) and not ("token" in key.lower() and isinstance(value, int | float))


def redact_text(text: str) -> str:
    """Text, such as an override or a diff, with what follows the name of a secret replaced, to the end of its line."""
    return re.sub(rf"(?im)([\w.]*(?:{SECRET_WORDS})[\"']?\s*[=:]\s*).+$", r"\1<redacted>", text)
