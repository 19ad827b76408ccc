"""One call of the Bot API as it arrives (query, form, multipart or JSON), and how it is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web

from bot.sandbox.markup import MarkupError, parse_html, utf16_length, with_spotted
from bot.sandbox.world import Json

MAX_TEXT = 4096
MAX_CAPTION = 1024
MAX_CALLBACK_DATA = 64
MAX_BUTTONS = 100
MAX_IN_ROW = 8


class ApiError(Exception):
    def __init__(self, code: int, description: str, retry_after: int | None = None) -> None:
        super().__init__(description)
        self.code, self.description, self.retry_after = code, description, retry_after


def bad_request(why: str) -> ApiError:
    return ApiError(400, f"Bad Request: {why}")


@dataclass(frozen=True)
class Upload:
    name: str
    mime: str
    data: bytes


@dataclass
class Call:
    method: str
    params: Json
    uploads: dict[str, Upload] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return str(self.params.get(name, ""))

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.params.get(name, default)
        try:
            return int(value)  # type: ignore[arg-type]  # None and lists are refused below
        except (TypeError, ValueError):
            raise bad_request(f"parameter {name} is required") from None

    def is_true(self, name: str) -> bool:
        return str(self.params.get(name, "")).lower() in ("true", "1")

    def decoded(self, name: str) -> Any:
        """A parameter that is a JSON value; forms carry it as text."""
        value = self.params.get(name)
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value) if value else None
        except ValueError:
            raise bad_request(f"can't parse {name} JSON object") from None

    def upload_of(self, value: Any, field_name: str) -> Upload | None:
        """The uploaded part that a parameter means: by `attach://name`, or the part of the parameter's own name."""
        if isinstance(value, str) and value.startswith("attach://"):
            upload = self.uploads.get(value.removeprefix("attach://"))
            if upload is None:
                raise bad_request("there is no file in the request")
            return upload
        return self.uploads.get(field_name) if not value else None


async def read_call(method: str, request: web.Request) -> Call:
    call = Call(method, dict(request.query))
    if request.content_type.startswith("multipart/"):
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            if part.filename is not None:
                data = bytes(await part.read())
                mime = part.headers.get("Content-Type", "application/octet-stream")
                call.uploads[str(part.name)] = Upload(part.filename, mime, data)
            else:
                call.params[str(part.name)] = await part.text()
    elif request.content_type == "application/json":
        call.params.update(await request.json())
    elif request.can_read_body:
        call.params.update({k: v for k, v in (await request.post()).items() if isinstance(v, str)})
    return call


def formatted(source: str, parse_mode: str, entities: Any, limit: int, too_long: str) -> tuple[str, list[Json]]:
    """The text and its entities as clients get them. The limit counts after parsing, as in Telegram."""
    if parse_mode not in ("", "HTML"):
        raise bad_request("unsupported parse_mode (the sandbox reads HTML only)")
    found: list[Json] = list(entities or [])
    text = source
    if parse_mode:
        try:
            text, found = parse_html(source)
        except MarkupError as error:
            raise bad_request(f"can't parse entities: {error}") from error
    text = text.strip()
    if utf16_length(text) > limit:
        raise bad_request(too_long)
    return text, with_spotted(text, found)


def message_text(call: Call) -> Json:
    text, entities = formatted(
        call.text("text"), call.text("parse_mode"), call.decoded("entities"), MAX_TEXT, "message is too long"
    )
    if not text:
        raise bad_request("message text is empty")
    return {"text": text, **({"entities": entities} if entities else {})}


def message_caption(source: Json) -> Json:
    """The caption of a call's parameters or of one item of an album."""
    entities = source.get("caption_entities")
    text, found = formatted(
        str(source.get("caption") or ""),
        str(source.get("parse_mode") or ""),
        json.loads(entities) if isinstance(entities, str) else entities,
        MAX_CAPTION,
        "message caption is too long",
    )
    if not text:
        return {}
    return {"caption": text, **({"caption_entities": found} if found else {})}


def keyboard(call: Call) -> Json:
    """The inline keyboard of a call, checked; nothing for other kinds of markup."""
    markup = call.decoded("reply_markup")
    if not isinstance(markup, dict) or "inline_keyboard" not in markup:
        return {}
    rows = [row for row in markup["inline_keyboard"] if row]
    buttons = [button for row in rows for button in row]
    if len(buttons) > MAX_BUTTONS or any(len(row) > MAX_IN_ROW for row in rows):
        raise bad_request("reply markup is too long")
    for button in buttons:
        _check_button(button)
    return {"reply_markup": {"inline_keyboard": rows}} if rows else {}


def _check_button(button: Json) -> None:
    if not str(button.get("text", "")).strip():
        raise bad_request('can\'t parse inline keyboard button: Field "text" must be non-empty')
    if "callback_data" in button:
        if not 1 <= len(str(button["callback_data"]).encode()) <= MAX_CALLBACK_DATA:
            raise bad_request("BUTTON_DATA_INVALID")
    elif "url" in button:
        if not str(button["url"]).startswith(("http://", "https://", "tg://")):
            raise bad_request(f"inline keyboard button URL '{button['url']}' is invalid: Unsupported URL protocol")
    else:
        raise bad_request("can't parse inline keyboard button: Text buttons are unallowed in the inline keyboard")
