"""The dialogue's transitions, and that no walk through it gets lost."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bot import replies as r
from bot.acts import (
    Act,
    AskFace,
    CancelAllJobs,
    CheckOwnTemplate,
    DropCollection,
    DropPicture,
    Forget,
    KeepPhoto,
    KeepPhotos,
    LookUp,
    NameModel,
    OpenCollection,
    OrderPortrait,
    RecordConsent,
    RemovePhotos,
    Retrain,
    Settle,
    ShowCollection,
    StartTraining,
    Tell,
)
from bot.choices import rows_of
from bot.conversation import ACTIONS, COMMANDS, advance, takes_pictures
from bot.dialogue import (
    CONSENT_VERSION,
    Asked,
    AwaitingName,
    AwaitingTemplatePicture,
    ChoosingFaces,
    Collecting,
    ConfirmingForget,
    Consenting,
    Dialogue,
    Facts,
    Filled,
    Heard,
    Idle,
    PictureKept,
    PictureNotTaken,
    Pressed,
    Step,
    Typed,
)
from bot.domain import MAX_PHOTOS, Collection, JobStatus, JobView, PhotoVerdict, Subject
from bot.packing import pack_dialogue, pack_telling, unpack_dialogue, unpack_telling
from bot.replies import Choice

SESSION = "session0000000"


def collection(usable: int, refused: int = 0, *, is_checking: bool = False) -> Collection:
    verdicts = ["ok"] * usable + ["refused"] * refused
    photos = tuple(PhotoVerdict(f"photo{n:06}", n, verdict) for n, verdict in enumerate(verdicts, 1))  # type: ignore[arg-type]
    return Collection(SESSION, photos, is_checking)


NEW = Facts(new_id="newid00000")
AGREED = replace(NEW, has_consented=True)
FILLING = replace(AGREED, collection=collection(6))
TRAINING = replace(AGREED, training=JobView("job0000000", "train", JobStatus.RUNNING), has_jobs=True)
SUBJECT = Subject("subject000000000", "Model 1", datetime(2026, 11, 22, tzinfo=UTC), 0.6, 0.7)
READY = replace(AGREED, subjects=(SUBJECT,))
HERE = Collecting(SESSION)


MODEL = SUBJECT.subject_id
SHOW, ANEW = ShowCollection(SESSION), ShowCollection(SESSION, anew=True)
FIVE = (MODEL,) * 5 + ("",) * 4
OLD_BUTTON = Step(ChoosingFaces("group", 2, (MODEL,)), alert=r.OutOfDate())


def press(action: str, value: str = "") -> Pressed:
    return Pressed(Choice(action, value))


def named(name: str) -> tuple[Act, ...]:
    return NameModel("subject", MODEL, name), LookUp("subject", MODEL)


@pytest.mark.parametrize(
    ("dialogue", "heard", "facts", "expected"),
    [
        (Idle(), Asked("train"), NEW, Step(Consenting(), (Tell(r.AskConsent(CONSENT_VERSION)),))),
        (
            Consenting(),
            press("agree", CONSENT_VERSION),
            NEW,
            Step(
                Collecting("newid00000"),
                (
                    Settle(r.ConsentGiven()),
                    RecordConsent(CONSENT_VERSION),
                    OpenCollection("newid00000"),
                    ShowCollection("newid00000"),
                ),
            ),
        ),
        (
            Consenting(),
            press("agree", "2001-01"),
            NEW,
            Step(Consenting(), (Tell(r.AskConsent(CONSENT_VERSION)),), alert=r.OutOfDate()),
        ),
        (Consenting(), press("decline"), NEW, Step(Idle(), (Tell(r.ConsentDeclined(), in_place=True),))),
        (Idle(), press("decline"), NEW, Step(Idle(), alert=r.OutOfDate())),
        (Consenting(), PictureNotTaken("expired"), NEW, Step(Consenting(), (Tell(r.AskConsent(CONSENT_VERSION)),))),
        (HERE, PictureKept("p"), FILLING, Step(HERE, (KeepPhoto(SESSION, "p"), ShowCollection(SESSION)))),
        (
            HERE,
            PictureKept("p"),
            replace(AGREED, collection=collection(MAX_PHOTOS)),
            Step(HERE, (DropPicture("p"), Tell(r.PhotoNotTaken("too_many_photos")))),
        ),
        (HERE, PictureNotTaken("animated"), FILLING, Step(HERE, (Tell(r.PhotoNotTaken("animated")),))),
        (HERE, press("start", SESSION), FILLING, Step(Idle(), (StartTraining(SESSION),))),
        (HERE, press("start", "another"), FILLING, Step(HERE, alert=r.OutOfDate())),
        (
            HERE,
            press("start", SESSION),
            replace(AGREED, collection=collection(4, 3)),
            Step(HERE, (Tell(r.NotEnoughPhotos(4, 5)),)),
        ),
        (
            HERE,
            press("start", SESSION),
            replace(AGREED, collection=collection(6, is_checking=True)),
            Step(HERE, (ShowCollection(SESSION),)),
        ),
        (
            HERE,
            press("remove_refused", SESSION),
            FILLING,
            Step(HERE, (RemovePhotos(SESSION, "refused"), ShowCollection(SESSION))),
        ),
        (
            HERE,
            Asked("cancel"),
            FILLING,
            Step(Idle(), (DropCollection(SESSION), Tell(r.Cancelled("collection")))),
        ),
        (HERE, Asked("train"), FILLING, Step(HERE, (ShowCollection(SESSION, anew=True),))),
        (Idle(), Asked("train"), TRAINING, Step(Idle(), (Tell(r.AlreadyBusy(TRAINING.training)),))),  # type: ignore[arg-type]
        (Idle(), Asked("cancel"), TRAINING, Step(Idle(), (CancelAllJobs(),))),
        (Idle(), Asked("cancel"), AGREED, Step(Idle(), (Tell(r.NothingToCancel()),))),
        (Idle(), Asked("portrait"), NEW, Step(Idle(), (Tell(r.NoSubject(is_training=False)),))),
        (Idle(), Asked("portrait"), TRAINING, Step(Idle(), (Tell(r.NoSubject(is_training=True)),))),
        (Idle(), Asked("portrait"), READY, Step(Idle(), (LookUp("gallery"),))),
        (Idle(), Asked("portrait", "sunset"), READY, Step(Idle(), (OrderPortrait("sunset"),))),
        (Idle(), press("own_template"), READY, Step(AwaitingTemplatePicture(), (Tell(r.AskTemplatePicture()),))),
        (AwaitingTemplatePicture(), PictureKept("p"), READY, Step(Idle(), (CheckOwnTemplate("p"),))),
        (
            AwaitingTemplatePicture(),
            PictureNotTaken("animated"),
            READY,
            Step(AwaitingTemplatePicture(), (Tell(r.OwnTemplateRefused("animated")),)),
        ),
        (Idle(), Asked("forget"), READY, Step(ConfirmingForget(Idle()), (LookUp("forget"),))),
        (
            ConfirmingForget(HERE),
            press("forget_yes"),
            FILLING,
            Step(ConfirmingForget(HERE, said_yes=True), (Tell(r.ConfirmForgetAgain(), in_place=True),)),
        ),
        (ConfirmingForget(HERE, said_yes=True), press("forget_sure"), FILLING, Step(Idle(), (Forget(),))),
        (ConfirmingForget(HERE), press("forget_sure"), FILLING, Step(HERE, alert=r.OutOfDate())),
        (ConfirmingForget(HERE, said_yes=True), press("forget_yes"), FILLING, Step(HERE, alert=r.OutOfDate())),
        (ConfirmingForget(HERE, said_yes=True), Typed("yes"), FILLING, Step(HERE, (Tell(r.NotUnderstood()), ANEW))),
        (Idle(), press("rename", MODEL), READY, Step(AwaitingName(MODEL), (Tell(r.AskName(SUBJECT)),))),
        (Idle(), press("rename", "somebodyelses"), READY, Step(Idle(), alert=r.OutOfDate())),
        (AwaitingName(MODEL), Typed("  Me,\u202e 2026\n"), READY, Step(Idle(), named("Me, 2026"))),
        (
            AwaitingName(MODEL),
            Typed("x" * 33),
            READY,
            Step(AwaitingName(MODEL), (Tell(r.AskName(SUBJECT, "too_long")),)),
        ),
        (AwaitingName(MODEL), Typed("\u200b"), READY, Step(AwaitingName(MODEL), (Tell(r.AskName(SUBJECT, "empty")),))),
        (AwaitingName(MODEL), Asked("cancel"), READY, Step(Idle(), (Tell(r.Cancelled("name")),))),
        (AwaitingName(MODEL), Typed("Me"), AGREED, Step(Idle(), (Tell(r.OutOfDate()),))),
        (Idle(), Filled(Choice("rename", MODEL), "Me"), READY, Step(Idle(), named("Me"))),
        (
            HERE,
            Filled(Choice("name_model"), "Me"),
            FILLING,
            Step(HERE, (NameModel("collection", SESSION, "Me"), SHOW)),
        ),
        (Idle(), press("retrain", MODEL), READY, Step(Idle(), (Retrain("newid00000", MODEL),))),
        (Idle(), press("retrain", "somebodyelses"), READY, Step(Idle(), alert=r.OutOfDate())),
        (
            HERE,
            press("retrain", MODEL),
            replace(FILLING, subjects=(SUBJECT,)),
            Step(HERE, (Tell(r.AlreadyCollecting()), ShowCollection(SESSION, anew=True))),
        ),
        (HERE, press("keep_photos", SESSION), FILLING, Step(HERE, (KeepPhotos(SESSION, True), SHOW))),
        (Idle(), press("seat", "group.2"), READY, Step(ChoosingFaces("group", 2), (AskFace("group", (), False),))),
        (Idle(), press("seat", "group.99"), READY, Step(Idle(), alert=r.OutOfDate())),
        (
            ChoosingFaces("group", 2),
            press("face", f"1.{MODEL}"),
            READY,
            Step(ChoosingFaces("group", 2, (MODEL,)), (AskFace("group", (MODEL,), True),)),
        ),
        (
            ChoosingFaces("group", 2, (MODEL,)),
            press("face", "2."),
            READY,
            Step(Idle(), (AskFace("group", (MODEL, ""), True), OrderPortrait("group", (MODEL, "")))),
        ),
        (
            ChoosingFaces("group", 3, ("",)),
            press("face", "2.*"),
            READY,
            Step(Idle(), (Tell(r.NobodyChosen(), in_place=True),)),
        ),
        (
            ChoosingFaces("group", 9, (MODEL,) * 4),
            press("face", f"5.{MODEL}"),
            READY,
            Step(Idle(), (AskFace("group", FIVE, True), OrderPortrait("group", FIVE))),
        ),
        (ChoosingFaces("group", 2, (MODEL,)), press("face", "1."), READY, OLD_BUTTON),
        (ChoosingFaces("group", 2, (MODEL,)), press("face", "2.somebodyelses"), READY, OLD_BUTTON),
        (ChoosingFaces("group", 2), Asked("cancel"), TRAINING, Step(Idle(), (Tell(r.Cancelled("faces")),))),
        (
            AwaitingName(MODEL),
            PictureKept("p"),
            replace(FILLING, subjects=(SUBJECT,)),
            Step(HERE, (KeepPhoto(SESSION, "p"), SHOW)),
        ),
        (HERE, press("forget_yes"), FILLING, Step(HERE, alert=r.OutOfDate())),
        (ConfirmingForget(HERE), Asked("help"), FILLING, Step(HERE, (Tell(r.Help()),))),
        (HERE, Asked("help"), AGREED, Step(Idle(), (Tell(r.Help()),))),  # its collection is gone
        (Idle(), Asked("start", "train"), NEW, Step(Consenting(), (Tell(r.AskConsent(CONSENT_VERSION)),))),
        (Idle(), Asked("start"), replace(NEW, is_private=False), Step(Idle(), (Tell(r.PrivateChatOnly()),))),
        (Idle(), Typed("hi all"), replace(NEW, is_private=False), Step(Idle(), ())),
    ],
    ids=str,
)
def test_what_follows_from_what_is_said(dialogue: Dialogue, heard: Heard, facts: Facts, expected: Step) -> None:
    assert advance(dialogue, heard, facts) == expected


STATES: list[Dialogue] = [
    Idle(),
    Consenting(),
    HERE,
    AwaitingTemplatePicture(),
    AwaitingName(MODEL),
    ChoosingFaces("group", 2, (MODEL,)),
    ConfirmingForget(HERE),
    ConfirmingForget(AwaitingName(MODEL), said_yes=True),
]
WORLDS = [NEW, AGREED, FILLING, TRAINING, READY, replace(FILLING, subjects=(SUBJECT,), training=TRAINING.training)]
HEARD: list[Heard] = [
    *(Asked(command) for command in (*COMMANDS, "nonsense")),
    *(press(action, value) for action in (*ACTIONS, "nonsense") for value in ("", SESSION, "studio.3", "'; --")),
    PictureKept("picture000"),
    PictureNotTaken("animated"),
    Typed("hello"),
    Filled(Choice("rename", MODEL), "hello"),
    Filled(Choice("nonsense"), "hello"),
]


@pytest.mark.parametrize("facts", WORLDS)
@pytest.mark.parametrize("dialogue", STATES, ids=str)
def test_everything_is_answered_in_every_state(dialogue: Dialogue, facts: Facts) -> None:
    for heard in HEARD:
        step = advance(dialogue, heard, facts)
        assert step.acts or step.alert, heard


@pytest.mark.parametrize("facts", WORLDS)
@pytest.mark.parametrize("dialogue", STATES, ids=str)
def test_every_state_can_be_left_by_command(dialogue: Dialogue, facts: Facts) -> None:
    after = advance(dialogue, Asked("cancel"), facts)
    assert isinstance(after.dialogue, Idle | Collecting)


@pytest.mark.parametrize("seed", range(20))
def test_random_walks_never_raise_and_never_strand(seed: int) -> None:
    """Facts change as they like between two words of a person: nothing may depend on their fitting together."""
    dice = random.Random(seed)
    dialogue: Dialogue = Idle()
    for _ in range(200):
        step = advance(dialogue, dice.choice(HEARD), dice.choice(WORLDS))
        assert step.acts or step.alert
        dialogue = unpack_dialogue(pack_dialogue(step.dialogue))
        assert dialogue == step.dialogue, "states survive being stored"
        for act in step.acts:
            if isinstance(act, Tell):
                assert unpack_telling(pack_telling(act)) == act
    assert isinstance(advance(dialogue, Asked("train"), NEW).dialogue, Consenting)


def test_every_offered_button_is_understood() -> None:
    replies: list[r.Reply] = [
        r.Welcome(True),
        r.Welcome(False),
        r.AskConsent("1"),
        r.CollectingPhotos(SESSION, collection(6, 1).photos, 5, 20, False, True),
        r.NoCollection(),
        r.JobFailed("train", "internal", can_retry=True, job_id="j"),
        r.Privacy(0, (), 0),
        r.ConfirmForget(0, 0, 0),
        r.ConfirmForgetAgain(),
        r.SubjectReady(SUBJECT, (), None, 1),
        r.SubjectCard(SUBJECT, False, 0),
        r.ConfirmDeleteSubject(SUBJECT),
        r.NobodyChosen(),
        r.OwnTemplateRefused("no_face"),
    ]
    offered = {button.choice.action for reply in replies for row in rows_of(reply) for button in row}
    assert len(offered) > 8
    assert offered <= set(ACTIONS)


def test_pictures_are_decoded_only_where_they_are_wanted() -> None:
    assert takes_pictures(Idle(), FILLING)
    assert takes_pictures(ConfirmingForget(AwaitingTemplatePicture()), READY)
    assert not takes_pictures(Idle(), READY)
    assert not takes_pictures(Consenting(), NEW)
    assert not takes_pictures(AwaitingTemplatePicture(), replace(READY, is_private=False))


def test_a_state_of_another_version_reads_as_idle() -> None:
    assert unpack_dialogue({"state": "WaitingForTheMoon"}) == Idle()
    assert unpack_dialogue({}) == Idle()
