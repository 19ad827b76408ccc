"""Who was forgotten, kept apart from the database: a restored backup must not bring anybody back."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

FILE = "forgotten.txt"


class Tombstones:
    """A file in the data folder with one line per forgotten user: our random id and the day. Nothing else is kept."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE

    def add(self, user_id: str) -> None:
        """Durable when this returns. Raises OSError."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._file.open("a", encoding="ascii") as file:
            file.write(f"{user_id} {datetime.now(UTC):%Y-%m-%d}\n")
            file.flush()
            os.fsync(file.fileno())

    def all(self) -> set[str]:
        """The users' ids."""
        try:
            lines = self._file.read_text(encoding="ascii", errors="ignore").splitlines()
        except FileNotFoundError:
            return set()
        return {line.split()[0] for line in lines if line.split()}
