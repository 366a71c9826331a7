"""Serves the page of ``timm-fractal explore`` in a separate process."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def explorer(*arguments: str) -> Iterator[str]:
    """Serve the page from the command line; yield its URL without a trailing slash."""
    port = free_port()
    command = [sys.executable, '-m', 'timm_fractal', 'explore', *arguments, '--port', str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            # Empty if the process has failed.
            line = process.stdout.readline()
            assert line == f'timm-fractal explore: http://127.0.0.1:{port}/ (press Ctrl-C to stop)\n'
            yield f'http://127.0.0.1:{port}'
        finally:
            process.kill()
