"""What one process sends to another that forks for it: what is wanted, as JSON, with open files."""

import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST_MESSAGE = 2**17


def ask(channel: socket.socket, request: Mapping[str, Any], files: Sequence[int]) -> bytes:
    """Send a request with open files. Gives the answer; it is empty where the other end has gone."""
    content = os.memfd_create("lab")  # a message would be too short for a large environment
    try:
        os.write(content, json.dumps(request, default=os.fsdecode).encode())
        socket.send_fds(channel, [b"do"], [content, *files])
    finally:
        os.close(content)
    return channel.recv(LONGEST_MESSAGE)


def receive_request(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What the other end asks for, and the open files that it hands over. Raises EOFError where it has gone."""
    message, files, *_ = socket.recv_fds(channel, LONGEST_MESSAGE, 250)
    if not message:
        raise EOFError
    with os.fdopen(files[0], "rb", closefd=False) as content:
        content.seek(0)
        request = json.loads(content.read())
    os.close(files[0])
    return request, files[1:]


def ignored_signals() -> list[int]:
    return [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
