"""The keys under which people's pictures and models are stored. A user's key hangs on the user's row: gone with it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from bot.db.database import Database, open_database
from bot.settings import Settings, WrongSettings, read_settings
from gpu_worker.contract.blobs import BlobNotFound
from gpu_worker.contract.sealing import CannotOpen, MasterKeys, new_key, written_key

_REMEMBERED = 1000  # users whose unwrapped key is kept in memory


class NoMasterKey(Exception):
    """The message is a sentence for the operator."""


def master_keys(settings: Settings, *, may_make: bool = True) -> MasterKeys:
    """The operator's keys from the setting, else from the key file. Raises NoMasterKey.

    The file in the data folder is made at the first start; one that the operator has named must be there.
    """
    path = settings.master_key_file or settings.data_dir / "master.key"
    try:
        if settings.master_key:
            return MasterKeys.read(settings.master_key.get_secret_value())
        if may_make and settings.master_key_file is None and not path.exists():
            _make(path)
        return MasterKeys.read(path.read_text("ascii"))
    except FileNotFoundError:
        raise NoMasterKey(
            f"There is no master key at {path}: make one with `python -m bot keys new > {path}`."
        ) from None
    except (ValueError, OSError) as error:
        where = "PORTRAIT_MASTER_KEY" if settings.master_key else str(path)
        raise NoMasterKey(f"{where} cannot be used: {error}.") from None


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Under its name there is a whole key or none: an empty file would keep the bot from ever starting.
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(f"{written_key(new_key())}\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster
            os.link(unfinished, path)
    finally:
        os.unlink(unfinished)


class UserKeys:
    """Gives every user's key, made when first needed. Opens a transaction: never call it inside of one."""

    def __init__(self, db: Database, master: MasterKeys) -> None:
        self._db, self._master, self._making = db, master, asyncio.Lock()
        self._known: OrderedDict[str, bytes] = OrderedDict()

    async def of(self, user_id: str) -> bytes:
        """Raises BlobNotFound for a user who is not known (any more), and CannotOpen."""
        if user_id not in self._known:
            key = self._master.unwrap(await self.wrapped(user_id))
            self._known[user_id] = key
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return self._known[user_id]

    async def wrapped(self, user_id: str) -> str:
        """As it is stored, and as jobs carry it. Raises BlobNotFound."""
        async with self._making, self._db.transaction() as store:
            wrapped = await store.people.key(user_id)
            if wrapped is None:
                if not await store.people.exists(user_id):
                    raise BlobNotFound(f"users/{user_id}")
                wrapped = self._master.wrap(new_key())
                await store.people.keep_key(user_id, wrapped)
        return wrapped

    def forget(self, user_id: str) -> None:
        self._known.pop(user_id, None)

    async def unopenable(self) -> int:
        """How many users' keys none of the master keys opens."""
        async with self._db.transaction() as store:
            return sum(not self._master.opens(wrapped) for wrapped in (await store.people.keys()).values())

    async def rotate(self) -> int:
        """Wraps every user's key by the newest master key; how many were not. All or none: CannotOpen."""
        async with self._db.transaction() as store:
            old = {u: w for u, w in (await store.people.keys()).items() if not self._master.is_newest(w)}
            for user_id, wrapped in old.items():
                await store.people.keep_key(user_id, self._master.wrap(self._master.unwrap(wrapped)))
        return len(old)


def main(arguments: Sequence[str]) -> int:
    """`new` prints a master key; `rotate` wraps all users' keys by the first master key."""
    parser = argparse.ArgumentParser(prog="python -m bot keys", description="The operator's master keys.")
    parser.add_argument("what", choices=("new", "rotate"), help="new: print a key; rotate: use the first key for all")
    if parser.parse_args(arguments).what == "new":
        sys.stdout.write(f"{written_key(new_key())}\n")
        return 0
    try:
        count = asyncio.run(_rotate(read_settings()))
    except (WrongSettings, NoMasterKey, CannotOpen, SQLAlchemyError) as error:
        sys.stderr.write(f"{str(error).splitlines()[0]}\n")
        return 1
    sys.stdout.write(f"{count} users' keys are now wrapped by the first master key; the others are needed no more.\n")
    return 0


async def _rotate(settings: Settings) -> int:
    keys, db = master_keys(settings, may_make=False), open_database(settings.database)
    try:
        return await UserKeys(db, keys).rotate()
    finally:
        await db.close()
