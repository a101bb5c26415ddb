"""Redaction of secrets in the files that a run writes."""

import re
from collections.abc import Mapping
from typing import Any

SECRET_WORDS = r"api_?keys?|access_?keys?|secrets?|tokens?|passwords?|passwd|credentials?"
SECRET = re.compile(rf"(^|[_.])({SECRET_WORDS})($|[_.])", re.IGNORECASE)


def redact(value: Any, secret: bool = False) -> Any:
    """The nest, with values below keys that name a secret replaced.  secret: whether all of `value` is secret."""
    if isinstance(value, Mapping):
        return {key: redact(part, secret or names_secret(str(key), part)) for key, part in value.items()}
    if isinstance(value, list):
        # an element may be an override, as in Hydra's own node
        return [redact(redact_text(part) if isinstance(part, str) else part, secret) for part in value]
    return "<redacted>" if secret and value is not None else value


def names_secret(key: str, value: Any) -> bool:
    """Whether the value of this key is a secret."""
    # a number of tokens, such as max_tokens, is not a secret
    return bool(SECRET.search(key)) and not ("token" in key.lower() and isinstance(value, int | float))


def redact_text(text: str) -> str:
    """The text, such as an override or a diff, with the rest of each line after the name of a secret replaced."""
    return re.sub(rf"(?im)([\w.]*(?:{SECRET_WORDS})[\"']?\s*[=:]\s*).+$", r"\1<redacted>", text)
