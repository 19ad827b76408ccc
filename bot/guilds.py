"""What a Discord server settles for its members: who may use the bot there, where, how often, and how results look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Hurdle = Literal["role", "channel"]


@dataclass(frozen=True)
class Place:
    """Where in a server something was asked for, and by whom."""

    guild_id: str
    channel_id: str
    role_ids: tuple[str, ...] = ()
    may_manage: bool = False


@dataclass(frozen=True)
class GuildRules:
    """No roles, no channels: all of them. A limit of None: the operator's alone counts."""

    roles: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    trainings_per_day: int | None = None
    portraits_per_day: int | None = None
    is_spoiler: bool = False

    def hurdle(self, place: Place) -> Hurdle | None:
        """What keeps this person from ordering at this place. Who manages the server is kept from nothing."""
        if place.may_manage:
            return None
        if self.channels and place.channel_id not in self.channels:
            return "channel"
        if self.roles and not set(self.roles) & set(place.role_ids):
            return "role"
        return None
