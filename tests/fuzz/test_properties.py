"""What holds for every input: buttons, stored dialogues, the conversation, keys, markup; hostile words in the core."""

from __future__ import annotations

import html
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import replies as r
from bot.callback import MAX_BYTES, ForgedButton, OldButton, pack, unpack
from bot.conversation import advance
from bot.dialogue import Asked, Dialogue, Facts, PictureKept, PictureNotTaken, Pressed, Typed
from bot.packing import pack_dialogue, unpack_dialogue
from bot.replies import Choice
from bot.sandbox.markup import parse_html, utf16_length
from gpu_worker.contract.folder_blobs import FolderBlobs
from gpu_worker.contract.jobs import PhotoRef
from tests.bot_bench import bot_bench
from tests.integration.conftest import valkey
from tests.integration.postgres import database_url
from tests.valkey import ValkeyServer

__all__ = ["database_url", "valkey"]

HOSTILE = (
    "\0",
    "a\0b",
    "\ud800",
    "'; DROP TABLE users;--",
    "9" * 5000,
    "../../etc/passwd",
    "{0.__class__}",
    "<b>x</b>",
)
SECRET, OTHER = b"s" * 32, b"o" * 32
ANYTHING = st.text(st.characters(), max_size=80)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PEOPLE = st.integers(0, 2**63).map(str)
MOMENTS = st.datetimes(timezones=st.just(UTC), min_value=datetime(2020, 1, 1), max_value=datetime(2040, 1, 1))
st.register_type_strategy(datetime, MOMENTS)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
ACTIONS = [
    *("train", "agree", "decline", "start", "remove_last", "remove_refused", "cancel_job", "use", "again", "gallery"),
    *("forget", "forget_yes", "forget_no", "results", "delete_portrait", "retry", "own_template", "cancel_collection"),
]
STATES = [kind.__name__ for kind in get_args(Dialogue)]
STORED = st.fixed_dictionaries({"state": st.sampled_from(STATES) | WORDS}, optional={"session_id": JSON, "back": JSON})


@given(st.from_regex(r"[a-z_]{1,20}", fullmatch=True), WORDS, PEOPLE)
def test_a_button_means_to_its_person_what_it_was_made_for(action: str, value: str, person: str) -> None:
    try:
        packed = pack(Choice(action, value), person, SECRET)
    except ValueError:
        return  # too long for a button
    assert len(packed.encode()) <= MAX_BYTES
    assert unpack(packed, person, SECRET) == Choice(action, value)
    for someone, secret in ((person + "0", SECRET), (person, OTHER)):
        with pytest.raises(ForgedButton):
            unpack(packed, someone, secret)


@given(ANYTHING, ANYTHING)
def test_no_made_up_button_is_believed(data: str, person: str) -> None:
    with pytest.raises((ForgedButton, OldButton)):
        unpack(data, person, SECRET)


@given(STORED | st.dictionaries(WORDS, JSON, max_size=4))
def test_every_stored_dialogue_is_read_as_some_dialogue(data: dict[str, Any]) -> None:
    dialogue = unpack_dialogue(data)
    assert unpack_dialogue(pack_dialogue(dialogue)) == dialogue


@given(STORED.map(unpack_dialogue), st.from_type(Facts), st.data())
def test_the_conversation_has_an_answer_to_everything(dialogue: Dialogue, facts: Facts, data: st.DataObject) -> None:
    heard = data.draw(
        st.builds(Asked, st.sampled_from(["train", "portrait", "forget", "cancel", "help"]) | ANYTHING, ANYTHING)
        | st.builds(Typed, ANYTHING)
        | st.builds(Pressed, st.builds(Choice, st.sampled_from(ACTIONS) | WORDS, WORDS))
        | st.sampled_from([PictureKept("photo1photo1"), PictureNotTaken("unreadable"), PictureNotTaken("expired")])
    )
    step = advance(dialogue, heard, facts)
    assert unpack_dialogue(pack_dialogue(step.dialogue)) == step.dialogue


@given(ANYTHING)
def test_a_key_of_the_contract_is_a_key_of_the_folder_and_stays_inside(key: str) -> None:
    folder = FolderBlobs(Path("/store"))
    try:
        path = folder._path(key)
    except ValueError:
        with pytest.raises(ValueError, match="key"):
            PhotoRef(photo_id="photo1", key=key)
        return
    assert path.is_relative_to("/store")
    assert ".." not in path.parts


@given(ANYTHING)
def test_escaped_words_come_through_markup_unchanged(words: str) -> None:
    text, entities = parse_html(f"<b>{html.escape(words)}</b>")
    assert text == words
    assert sum(entity["length"] for entity in entities) == utf16_length(words)


async def test_hostile_words_reach_the_database_and_come_to_nothing(
    database_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Names, arguments and free text, on both databases: an answer to each, and never an apology."""
    async with bot_bench(database_url, valkey.url, tmp_path) as bench:
        await bench.train()
        for words in HOSTILE:
            for command in ("portrait", "train", words or "x"):
                await bench.ask(command, words)
            await bench.type(words)
            for action in ("use", "cancel_job", "use_subject", "results", "gallery"):
                await bench.press(Choice(action, words))
        await bench.settle()
        assert not [reply for _, reply in bench.chat.said if isinstance(reply, r.Apology)]
