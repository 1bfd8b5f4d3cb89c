"""`python -m usermirrorer.hub.server ROOT PORT_FILE`: serve on a free port until stdin closes.

Used by `hub/local.py`; the closing of stdin stops the server when its parent is killed.
"""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

import uvicorn

from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub.server.app import configuration


def main() -> None:
    """Bind a free port on loopback, write its number to the file, serve."""
    root, port_file = Path(sys.argv[1]), Path(sys.argv[2])
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    try:
        server = uvicorn.Server(configuration(root))
    except UserError as error:
        sys.exit(str(error))
    temporary = port_file.with_suffix(".new")
    temporary.write_text(str(listener.getsockname()[1]))
    temporary.replace(port_file)
    threading.Thread(target=_stop_with_parent, args=(server,), daemon=True).start()
    server.run([listener])


def _stop_with_parent(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True


if __name__ == "__main__":
    main()
