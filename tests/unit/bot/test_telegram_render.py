"""Every reply, in both languages, fits what Telegram takes."""

from __future__ import annotations

import typing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest

from bot import replies as r
from bot.callback import ForgedButton, OldButton, pack, secret_of, unpack
from bot.domain import (
    DeletionReceipt,
    JobStatus,
    JobView,
    Language,
    PhotoVerdict,
    PortraitView,
    QueuePlace,
    Subject,
    Template,
)
from bot.replies import Choice, Reply
from bot.sandbox.markup import parse_html
from bot.telegram_chat.render import Album, File, Message, Picture, Renderer, Text, progress_bar

SECRET = secret_of("42:token")
PERSON = "9007199254740991"  # Telegram's largest ids have 52 bits
LONGEST_VALUE = "x" * 24
NASTY = 'A <b>bold</b> & "quoted" name 😀'

PHOTOS = tuple(
    PhotoVerdict(f"photo{n:05}", n, verdict, reason)
    for n, (verdict, reason) in enumerate(
        [("ok", None), ("warning", "blurred"), ("refused", "no_face"), ("unknown", None)] * 5, 1
    )
)
SUBJECT = Subject("subject001", NASTY, datetime(2026, 1, 1, tzinfo=UTC), 0.62, 0.71)
SHEET = replace(SUBJECT, preview_key="users/u/subjects/s/1-1/sheet.jpg", photos=7)
TEMPLATE = Template("x" * 20, "studio", {"en": NASTY, "zh": NASTY}, "templates/x.jpg")
OWN = Template("y" * 20, "own", {"en": "Own", "zh": "自己的"}, "users/u/templates/y.jpg", owner_id="u")
GROUP = replace(TEMPLATE, template_id="z" * 16, faces=3)
QUEUED = JobView("job" * 6, "train", JobStatus.QUEUED, place=QueuePlace(3, 400.0))
RUNNING = JobView("job" * 6, "portrait", JobStatus.RUNNING, "train_lora", 0.42)
PREVIEWED = JobView("job" * 6, "train", JobStatus.RUNNING, "validate", 0.9, preview_key="users/u/jobs/j/preview.jpg")
FAILED = JobView("job" * 6, "train", JobStatus.FAILED, "train_lora", 0.9)
PORTRAITS = tuple(PortraitView(f"portrait{n:03}", f"p/{n}.jpg", 1024, 1024, 0.7, (), TEMPLATE) for n in range(12))

REPLIES: list[Reply] = [
    r.Welcome(True), r.Welcome(False), r.Help(), r.AskConsent("2026-11"), r.ConsentGiven(), r.ConsentDeclined(),
    r.CollectingPhotos("session001", (), 5, 20, False, False),
    r.CollectingPhotos("session001", PHOTOS, 5, 20, True, True),
    r.CollectingPhotos("session001", PHOTOS, 5, 20, True, True, keeps_photos=True, retrains=NASTY),
    r.AlreadyCollecting(), r.NoCollection(), r.NotEnoughPhotos(3, 5),
    r.Working(QUEUED), r.Working(RUNNING, TEMPLATE), r.Working(RUNNING, OWN), r.Working(PREVIEWED), r.Working(FAILED),
    r.SubjectReady(SUBJECT, PHOTOS[2:3], "users/u/preview.jpg", 130.0), r.SubjectReady(SUBJECT, (), None, 1.0),
    r.Gallery(TEMPLATE, 0, 3, "studio", ("studio", "film", "id_photo", "painting"), True),
    r.Gallery(OWN, 0, 1, "own", ("studio", "own"), False),
    r.AskTemplatePicture(), r.OwnTemplateChecking(), r.OwnTemplateReady(OWN, 1),
    r.PortraitsReady("job" * 6, PORTRAITS[:1], 20.0), r.OtherCandidates("job" * 6, PORTRAITS[:8]),
    r.PortraitsReady("job" * 6, PORTRAITS[:1], 20.0, 3, (r.SkippedFace(2, "face_failed"),)),
    r.OtherCandidates("job" * 6, PORTRAITS[1:2]), r.FavouriteSet(True), r.FavouriteSet(False),
    *(r.ChooseFace(GROUP, "g.faces.jpg", (), face, (NASTY, "")[: face - 1], (SUBJECT,) * 5) for face in (1, 2, 3, 4)),
    r.NobodyChosen(),
    r.OriginalFile(PORTRAITS[0]), r.Results((), 0, 0), r.Results(PORTRAITS[:1], 0, 3), r.Results(PORTRAITS[:4], 2, 3),
    r.Results(PORTRAITS[:1], 10**5, 10**6, 10**5), r.Results(PORTRAITS[:1], 10**5, 10**6, 10**5, True),
    r.NoSubject(True), r.NoSubject(False), r.QueueStatus((), 0, 0), r.QueueStatus((QUEUED, RUNNING), 7, 1),
    r.NothingToCancel(), r.Cancelled("train"), r.Cancelled("collection"), r.AlreadyBusy(QUEUED),
    r.JobFailed("train", "not_enough_photos", PHOTOS, "a1b2c3", True, "job" * 6), r.JobFailed("portrait", "internal"),
    r.QuotaReached("trainings", 5, 3600.0), r.QuotaReached("subjects", 5), r.Models((SUBJECT, SUBJECT), "other"),
    r.Models((), None), r.Privacy(3, (SUBJECT,), 4), r.ConfirmForget(3, 1, 4), r.ConfirmForgetAgain(),
    r.SubjectCard(SUBJECT, True, 3), r.SubjectCard(SHEET, False, 0), r.AskName(SUBJECT), r.AskName(SUBJECT, "too_long"),
    r.ConfirmDeleteSubject(SUBJECT), r.ConfirmDeleteSubject(SHEET),
    r.Forgotten(DeletionReceipt({"photos": 3, "portraits": 2})), r.Deleted("portrait"), r.NotYours(), r.OutOfDate(),
    r.PrivateChatOnly(), r.NotUnderstood(), r.Apology("a1b2c3"), r.Refused("blocked"),
    r.Exporting(), r.ExportPart("users/u/exports/e/my-data-1.zip", 1, 2), r.Expiring(3, ("a",) * 5, 2.5), r.Kept(1, 2),
    r.Reported(), r.AdminSays("queue", n=20, lines=("x" * 100,) * 20),
    r.AdminReport("r1", "k", "telegram:1", "now"),
    *(r.PhotoNotTaken(reason, count) for count in (1, 3) for reason in (
        "unreadable", "animated", "too_big", "too_many_pixels", "not_a_picture", "too_many_photos", "expired")),
    *(r.OwnTemplateRefused(reason) for reason in ("no_face", "too_small", "unreadable", "animated", "too_big")),
]  # fmt: skip


def rendered(reply: Reply, language: Language) -> list[Message]:
    return Renderer(language, partial(pack, person=PERSON, secret=SECRET), "portrait_bot").messages(reply)


def test_no_reply_is_forgotten_here() -> None:
    assert {type(reply) for reply in REPLIES} == set(typing.get_args(Reply))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_every_reply_fits_into_telegrams_limits(reply: Reply, language: Language) -> None:
    messages = rendered(reply, language)
    assert messages
    for message in messages:
        match message:
            case Album(pictures=pictures):
                assert 2 <= len(pictures) <= 10
                captions = [picture.html for picture in pictures]
            case Text(html=html):
                assert html.strip()
                captions = [html]
            case Picture(html=html) | File(html=html):
                captions = [html]
        limit = 4096 if isinstance(message, Text) else 1024
        for caption in captions:
            text, _ = parse_html(caption)  # raises when the markup is not well-formed
            assert len(text.encode("utf-16-le")) // 2 <= limit
        keyboard = None if isinstance(message, Album) else message.keyboard
        for row in keyboard.inline_keyboard if keyboard else ():
            assert 1 <= len(row) <= 8
            for button in row:
                assert button.text.strip()
                assert button.url or 1 <= len(str(button.callback_data).encode()) <= 64


def test_a_portrait_in_any_form_says_that_it_was_made_by_a_machine() -> None:
    for reply in (r.PortraitsReady("job000", PORTRAITS[:1], 2.0), r.OtherCandidates("job000", PORTRAITS[:3]),
                  r.OriginalFile(PORTRAITS[0]), r.Results(PORTRAITS[:1], 0, 1)):  # fmt: skip
        for language, word in (("en", "AI-generated"), ("zh", "AI")):
            texts = [m.html for m in rendered(reply, typing.cast(Language, language)) if not isinstance(m, Album)]
            assert any(word in text for text in texts), type(reply).__name__


def test_twelve_portraits_are_two_albums_and_one_message_with_buttons() -> None:
    first, second, last = rendered(r.OtherCandidates("job000", PORTRAITS), "en")
    assert isinstance(first, Album)
    assert isinstance(second, Album)
    assert isinstance(last, Text)
    assert [len(first.pictures), len(second.pictures)] == [6, 6]
    assert last.keyboard is not None


def test_names_cannot_break_the_markup() -> None:
    (message,) = rendered(r.Gallery(TEMPLATE, 0, 3, "studio", ("studio",), True), "en")
    assert isinstance(message, Picture)
    assert NASTY in parse_html(message.html)[0]


def test_a_running_job_shows_a_bar() -> None:
    assert progress_bar(0) == "▱▱▱▱▱▱▱▱▱▱ 0 %"
    assert progress_bar(0.42) == "▰▰▰▰▱▱▱▱▱▱ 42 %"
    assert progress_bar(1) == "▰▰▰▰▰▰▰▰▰▰ 100 %"
    (message,) = rendered(r.Working(RUNNING, TEMPLATE), "en")
    assert isinstance(message, Picture)
    assert progress_bar(0.42) in message.html


@pytest.mark.parametrize("choice", [Choice("cancel_collection", LONGEST_VALUE), Choice("use", "a:b"), Choice("help")])
def test_a_button_comes_back_as_the_choice_it_was(choice: Choice) -> None:
    packed = pack(choice, PERSON, SECRET)
    assert len(packed.encode()) <= 64
    assert unpack(packed, PERSON, SECRET) == choice


def test_a_button_is_bound_to_person_bot_choice_and_version() -> None:
    packed = pack(Choice("use", "studio"), PERSON, SECRET)
    for person, secret, data in (
        ("7", SECRET, packed),
        (PERSON, secret_of("42:other"), packed),
        (PERSON, SECRET, packed.replace("studio", "studip")),
        (PERSON, SECRET, packed.replace(":use:", ":forget_yes:")),
        (PERSON, SECRET, packed[:-1]),
        (PERSON, SECRET, ""),
        (PERSON, SECRET, "1:ü:☃:ÄÖ"),
    ):
        with pytest.raises(ForgedButton):
            unpack(data, person, secret)
    with pytest.raises(OldButton):
        unpack("0:use:studio:abcdefgh", PERSON, SECRET)


def test_a_choice_that_does_not_fit_is_an_error_and_not_a_cut_button() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        pack(Choice("use", "x" * 60), PERSON, SECRET)
