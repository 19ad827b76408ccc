"""Dialogues and tellings as plain JSON data and back, so that they can be stored."""

from __future__ import annotations

import types
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from bot.acts import ShowCollection, ShowJob, Tell, Telling
from bot.dialogue import ConfirmingForget, Dialogue, Idle
from bot.replies import Reply


def pack_dialogue(dialogue: Dialogue) -> dict[str, Any]:
    kind: type = type(dialogue)
    if isinstance(dialogue, ConfirmingForget):
        return {"state": kind.__name__, "back": pack_dialogue(dialogue.back), "said_yes": dialogue.said_yes}
    return {"state": kind.__name__, **_adapter(kind).dump_python(dialogue, mode="json")}


def unpack_dialogue(data: dict[str, Any]) -> Dialogue:
    """A state that this version does not know (after a downgrade) reads as Idle: nothing is lost but the step."""
    kind = _by_name(Dialogue).get(str(data.get("state")), Idle)
    if kind is ConfirmingForget:
        inner = data.get("back")
        back = unpack_dialogue(inner) if isinstance(inner, dict) else Idle()
        return back if isinstance(back, ConfirmingForget) else ConfirmingForget(back, bool(data.get("said_yes")))
    try:
        dialogue: Dialogue = _adapter(kind).validate_python({k: v for k, v in data.items() if k != "state"})
    except ValidationError:
        return Idle()
    return dialogue


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
