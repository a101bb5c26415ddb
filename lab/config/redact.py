"""Secrets stay out of what a run leaves behind."""

import re
from collections.abc import Mapping
from typing import Any

SECRET = re.compile(r"(^|[_.])(api_?key|access_?key|secret|token|password|passwd|credentials?)($|[_.])", re.IGNORECASE)


def redacted(value: Any) -> Any:
    """The same nest, with the values of keys that name a secret replaced."""
    if isinstance(value, Mapping):
        return {
            key: "<redacted>" if SECRET.search(str(key)) and isinstance(part, str) else redacted(part)
            for key, part in value.items()
        }
    return [redacted(part) for part in value] if isinstance(value, list) else value


def redacted_text(text: str) -> str:
    """Text, such as an override or a diff, with what follows the name of a secret replaced, to the end of its line."""
    pattern = r"(?im)([\w.]*(?:api_?key|access_?key|secret|token|password|passwd|credential)s?[\"']?\s*[=:]\s*).+$"
    return re.sub(pattern, r"\1<redacted>", text)
