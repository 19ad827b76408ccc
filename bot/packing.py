"""Dialogues and tellings as plain JSON data and back, so that they can be stored."""

from __future__ import annotations

import types
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import TypeAdapter

from bot.acts import ShowCollection, ShowJob, Tell, Telling
from bot.dialogue import Collecting, ConfirmingForget, Dialogue, Idle
from bot.replies import Reply


def pack_dialogue(dialogue: Dialogue) -> dict[str, Any]:
    match dialogue:
        case Collecting(session_id):
            return {"state": "Collecting", "session_id": session_id}
        case ConfirmingForget(back):
            return {"state": "ConfirmingForget", "back": pack_dialogue(back)}
        case _:
            return {"state": type(dialogue).__name__}


def unpack_dialogue(data: dict[str, Any]) -> Dialogue:
    """A state that this version does not know (after a downgrade) reads as Idle: nothing is lost but the step."""
    known = _by_name(Dialogue)
    match data:
        case {"state": "Collecting", "session_id": str(session_id)}:
            return Collecting(session_id)
        case {"state": "ConfirmingForget", "back": dict(back)}:
            inner = unpack_dialogue(back)
            return inner if isinstance(inner, ConfirmingForget) else ConfirmingForget(inner)
        case {"state": str(name)} if name in known and name not in ("Collecting", "ConfirmingForget"):
            state: Dialogue = known[name]()
            return state
        case _:
            return Idle()


def pack_telling(telling: Telling) -> dict[str, Any]:
    match telling:
        case Tell(reply, in_place):
            kind: type = type(reply)
            return {
                "tell": kind.__name__,
                "data": _adapter(kind).dump_python(reply, mode="json"),
                "in_place": in_place,
            }
        case ShowCollection(session_id, anew):
            return {"collection": session_id, "anew": anew}
        case ShowJob(job_id):
            return {"job": job_id}


def unpack_telling(data: dict[str, Any]) -> Telling:
    """Raises KeyError or pydantic.ValidationError for what another version wrote."""
    if "collection" in data:
        return ShowCollection(data["collection"], data["anew"])
    if "job" in data:
        return ShowJob(data["job"])
    kind = _by_name(Reply)[data["tell"]]
    return Tell(_adapter(kind).validate_python(data["data"]), data["in_place"])


@cache
def _by_name(union: Any) -> dict[str, type]:
    if get_origin(union) not in (Union, types.UnionType):
        return {union.__name__: union}
    return {member.__name__: member for member in get_args(union)}


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
