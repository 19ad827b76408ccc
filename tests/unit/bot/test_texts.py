"""Every fact has words, in both languages, and they fit where they are shown."""

from __future__ import annotations

import re
import string
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest

import engine
from bot import replies as r
from bot import texts
from bot.choices import Button, rows_of
from bot.conversation import ACTIONS, COMMANDS
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
from bot.texts import en, zh
from bot.texts.sentences import SENTENCES
from engine.progress import Stage
from engine.types import Reason
from gpu_worker import failures
from gpu_worker.contract import events

LANGUAGES: tuple[Language, ...] = get_args(Language)
NOW = datetime(2026, 11, 22, tzinfo=UTC)
SUBJECT = Subject("subject0", "Model 1", NOW, 0.61, 0.7)
TEMPLATE = Template("sunset", "painting", {"en": "Sunset", "zh": "夕阳"}, "templates/sunset.jpg")
GROUP = replace(TEMPLATE, faces=3)
PORTRAIT = PortraitView("portrait", "k.jpg", 10, 10, 0.5, template=TEMPLATE, created_at=NOW)
PHOTOS = (
    PhotoVerdict("p1", 1, "ok", is_reference=True),
    PhotoVerdict("p2", 2, "refused", "blurred"),
    PhotoVerdict("p3", 3, "refused", "blurred"),
    PhotoVerdict("p4", 4, "warning", "too_dark"),
    PhotoVerdict("p5", 5),
)


def job(status: JobStatus, kind: Any = "train", stage: str | None = None) -> JobView:
    return JobView("job00000", kind, status, stage, 0.4, QueuePlace(3, 250))


CANCELLABLE = ("train", "portrait", "inspect", "check_template")
ADMIN_SAYS = [key.removeprefix("admin.") for key in en.PHRASES if key.startswith("admin.") and key != "admin.report"]
EXAMPLES: list[Reply] = [
    *(r.Welcome(flag) for flag in (True, False)),
    r.Help(),
    r.AskConsent("1"),
    r.ConsentGiven(),
    r.ConsentDeclined(),
    r.AlreadyCollecting(),
    r.CollectingPhotos("s", (), 5, 20, False, False, retrains="Model 1"),
    r.CollectingPhotos("s", PHOTOS, 5, 20, False, False, keeps_photos=True, retrains="Model 1"),
    r.CollectingPhotos("s", (), 5, 20, False, False),
    r.CollectingPhotos("s", PHOTOS, 5, 20, True, False),
    r.CollectingPhotos("s", PHOTOS[:1] * 6, 5, 20, False, True),
    r.CollectingPhotos("s", PHOTOS[:1] * 20, 5, 20, False, True),
    *(r.PhotoNotTaken(reason, 2) for reason in ("unreadable", "animated", "too_big", "too_many_pixels", "expired")),
    r.NoCollection(),
    r.NotEnoughPhotos(4, 5),
    *(r.Working(job(status, kind, "train"), TEMPLATE) for status in JobStatus for kind in ("train", "portrait")),
    r.Working(job(JobStatus.QUEUED, "inspect")),
    r.Working(job(JobStatus.QUEUED, "check_template")),
    r.SubjectReady(SUBJECT, PHOTOS, None, 100),
    r.SubjectReady(Subject("s", "n", NOW, 0.6, None), (), None, 100),
    *(r.Gallery(TEMPLATE, 0, 3, "painting", ("painting", "own"), flag) for flag in (True, False)),
    r.AskTemplatePicture(),
    r.OwnTemplateChecking(),
    r.OwnTemplateReady(TEMPLATE, 2),
    r.OwnTemplateRefused("no_face"),
    r.PortraitsReady("job00000", (PORTRAIT,), 30),
    r.PortraitsReady("job00000", (PORTRAIT, PORTRAIT), 30),
    r.OriginalFile(PORTRAIT),
    r.Results((), 0, 0),
    r.Results((PORTRAIT,), 0, 3),
    *(r.NoSubject(flag) for flag in (True, False)),
    r.QueueStatus((), 0, 1),
    r.QueueStatus((job(JobStatus.QUEUED), job(JobStatus.RUNNING, "portrait")), 5, 0),
    r.QueueStatus((replace(job(JobStatus.QUEUED), place=QueuePlace(1, None, is_starting=True)),), 1, 1),
    r.NothingToCancel(),
    *(r.Cancelled(kind) for kind in (*CANCELLABLE, "collection", "retraining", "template", "name", "faces", "forget")),
    *(r.JobFailed(kind, "internal", PHOTOS, "abc123", True) for kind in ("train", "portrait", "inspect")),
    r.JobFailed("check_template", "internal"),
    *(r.AlreadyBusy(job(JobStatus.RUNNING, kind)) for kind in ("train", "portrait", "inspect")),
    *(
        r.QuotaReached(what, 3, 4000)
        for what in ("trainings", "portraits", "open_portraits", "subjects", "own_templates")
    ),
    *(r.ChooseFace(GROUP, "g.faces.jpg", (), face, ("Anna", "", "Ben")[: face - 1], (SUBJECT,)) for face in (1, 3, 4)),
    r.NobodyChosen(),
    r.PortraitsReady("job00000", (PORTRAIT,), 30, 3, (r.SkippedFace(2, "face_failed"),)),
    r.OtherCandidates("job00000", (PORTRAIT, replace(PORTRAIT, portrait_id="portrai2", is_favourite=True))),
    *(r.FavouriteSet(flag) for flag in (True, False)),
    r.Results((replace(PORTRAIT, is_favourite=True),), 0, 3, 1, only_favourites=True),
    r.Results((PORTRAIT,), 0, 3, 2),
    *(r.SubjectCard(replace(SUBJECT, photos=6, preview_key="k.jpg"), flag, 3) for flag in (True, False)),
    r.SubjectCard(Subject("s", "n", NOW, None, None), False, 1),
    r.SubjectCard(Subject("s", "n", NOW, 0.5, None), False, 1),
    *(r.AskName(SUBJECT, problem) for problem in ("", "empty", "too_long")),
    r.ConfirmDeleteSubject(SUBJECT),
    r.ConfirmForgetAgain(),
    r.Models((), None),
    r.Models((SUBJECT, Subject("s", "n", NOW, None, None)), "subject0"),
    r.Privacy(3, (SUBJECT,), 2),
    r.ConfirmForget(1, 2, 3),
    r.Forgotten(DeletionReceipt({"photos": 1, "subjects": 2, "messages": 3, "messages_left": 1})),
    *(r.Deleted(what) for what in ("portrait", "template", "subject")),
    r.NotYours(),
    r.OutOfDate(),
    r.PrivateChatOnly(),
    r.NotUnderstood(),
    r.Apology("abc123"),
    *(r.Refused(reason) for reason in ("blocked", "role", "channel")),
    *(r.QuotaReached(what, 3, 60) for what in ("guild_trainings", "guild_portraits", "closed")),
    r.Reported(),
    r.Exporting(),
    *(r.ExportPart("users/u/exports/e/my-data-1.zip", 1, count) for count in (1, 3)),
    *(r.Expiring(n, names, 3) for n, names in ((2, ()), (0, ("Anna",)), (1, ("Anna", "Ben")))),
    r.Kept(1, 0),
    r.Kept(2, 3),
    *(r.AdminSays(what, "telegram:1", 2, ("x: 1",)) for what in ADMIN_SAYS),
    r.AdminReport("report1", "users/u/jobs/j/p.jpg", "telegram:1", "2026-11-22 12:00"),
]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reply_has_words(language: Language) -> None:
    assert {type(example) for example in EXAMPLES} == set(get_args(Reply)), "an example for every reply"
    assert set(SENTENCES) == set(get_args(Reply))
    for example in EXAMPLES:
        words = texts.say(example, language)
        assert words.title
        assert not re.search(r"[{}|]", str(words)), words
        assert len(str(words)) < 2000
        if language == "zh":
            assert re.search(r"[一-鿿]", str(words)), words


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reason_has_words(language: Language) -> None:
    module = {"en": en, "zh": zh}[language]
    of_failures = {value.reason for value in vars(failures).values() if isinstance(value, failures.Failure)}
    source = open(failures.__file__, encoding="utf-8").read()  # noqa: SIM115
    of_failures |= set(re.findall(r'reason="(\w+)"', source))
    of_failures |= events.FAILURE_REASONS | events.SKIP_REASONS
    of_files = {"unreadable", "animated", "too_big", "too_many_pixels", "not_a_picture", "too_many_photos", "expired"}
    ours = {"lost", "internal"}
    missing = ({reason.value for reason in Reason} | of_failures | of_files | ours) - set(module.REASONS)
    assert not missing


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_stage_has_words(language: Language) -> None:
    for stage in Stage:
        assert texts.stage(stage.value, language)
    assert texts.stage("unheard_of", language) == ""


def test_both_languages_say_the_same_things() -> None:
    for name in (
        "PHRASES",
        "COMMANDS",
        "REASONS",
        "STAGES",
        "CATEGORIES",
        "LABELS",
        "COUNTED",
        "NAMES",
        "NOTES",
        "DISCORD",
        "DIALOGS",
    ):
        english, chinese = getattr(en, name), getattr(zh, name)
        assert set(english) == set(chinese), name
        if name in ("PHRASES", "LABELS", "NAMES"):
            for key in english:
                fields = [
                    {f for _, f, _, _ in string.Formatter().parse(text) if f} for text in (english[key], chinese[key])
                ]
                assert fields[0] >= fields[1] - {"n"}, key


def test_every_command_is_in_the_menu() -> None:
    for language in LANGUAGES:
        assert set(texts.commands(language)) == set(COMMANDS)
        assert all(len(words) <= 100 for words in texts.commands(language).values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_button_has_a_short_label(language: Language) -> None:
    for action in ACTIONS:
        for number in (0, 2):
            words = texts.label(Button(Choice(action, "x"), number, "A name"), language)
            assert 0 < len(words) <= 40
    assert texts.label(Button(Choice("gallery", "a.1"), name=">"), language) == "›"
    assert texts.label(Button(Choice("gallery", "studio.0"), name="studio"), language) == texts.category(
        "studio", language
    )


def test_every_button_fits_the_platforms() -> None:
    for example in EXAMPLES:
        for row in rows_of(example):
            for button in row:
                assert len(button.choice.value) <= 24
                assert len(row) <= 5


def test_a_photo_is_named_with_its_reason_and_what_to_do() -> None:
    words = str(texts.say(r.CollectingPhotos("s", PHOTOS, 5, 20, False, False), "en"))
    assert "Photos 2, 3: blurred" in words
    assert "Hold the camera still" in words
    assert "3 more usable photos" in words


def test_an_unknown_reason_is_told_as_ours() -> None:
    words = str(texts.say(r.JobFailed("train", "quantum_flux", job_id="j"), "en"))
    assert "broke on my side" in words


def test_alerts_fit_in_one_line() -> None:
    for example in (r.NotYours(), r.OutOfDate(), r.Apology("abc123")):
        assert len(texts.alert(example, "zh")) <= 200


def test_notes_of_the_engine_that_people_need_have_words() -> None:
    """They are known by how they begin, so they must begin so where the engine makes them."""
    source = "".join(path.read_text(encoding="utf-8") for path in Path(engine.__file__).parent.rglob("*.py"))
    for note in en.NOTES:
        assert f'"{note}:' in source, note
    ready = r.PortraitsReady("j", (replace(PORTRAIT, notes=("face fusion skipped: no landmarks", "other: 7")),), 30)
    told = str(texts.say(ready, "en"))
    assert en.NOTES["face fusion skipped"] in told
    assert "landmarks" not in told
