"""Everything that is stored, as seen from inside one transaction."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from bot.db.collections import Collections
from bot.db.expiry import Expiry
from bot.db.jobs import Jobs
from bot.db.library import Library
from bot.db.mail import Mail
from bot.db.operations import Operations
from bot.db.people import People
from bot.db.records import Records
from bot.db.turns import Turns


class Store:
    """Every query, by what it is about. Returns values of bot/domain, never rows. Lives as long as its transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.people = People(session)
        self.turns = Turns(session)
        self.collections = Collections(session)
        self.jobs = Jobs(session)
        self.library = Library(session)
        self.mail = Mail(session)
        self.operations = Operations(session)
        self.expiry = Expiry(session)
        self.records = Records(session)
