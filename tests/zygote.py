"""The process that tests' commands are forks of: it imports what the commands import, then forks at each request.

What differs from new interpreters: imported modules are there already, are not taken apart at the end, and all forks
share one seed of `hash`. What depends on these is tested in new interpreters.
"""

import socket
import sys

import lab.interpreter  # noqa: F401  registers what is done last of all at the end
from lab.warm.interpreters import fork_at_requests, make_interpreters, run_code
from lab.warm.server import Imported


def serve(descriptor: int) -> None:
    imported = Imported.all()
    path = imported.path[1:]
    request = fork_at_requests(socket.socket(fileno=descriptor))
    nested = make_interpreters()
    run_code(nested or request, imported.variables, path)
    sys.exit()
