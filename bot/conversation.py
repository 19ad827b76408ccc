"""The whole dialogue as one pure function: what was heard, in which state, on which facts -> what to do and to say.

Nothing here reads or writes anything. `advance` answers with acts (bot/acts.py), which are carried out in the same
transaction as the new state is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from bot import replies as r
from bot.acts import (
    Act,
    CancelAllJobs,
    CancelJob,
    CheckOwnTemplate,
    Delete,
    DropCollection,
    DropPicture,
    Forget,
    KeepPhoto,
    LookUp,
    OpenCollection,
    OrderAgain,
    OrderPortrait,
    RecordConsent,
    RemovePhotos,
    ShowCollection,
    StartTraining,
    Tell,
    UseSubject,
)
from bot.dialogue import (
    CONSENT_VERSION,
    Asked,
    AwaitingTemplatePicture,
    Collecting,
    ConfirmingForget,
    Consenting,
    Dialogue,
    Facts,
    Heard,
    Idle,
    PictureKept,
    PictureNotTaken,
    Pressed,
    Step,
    Typed,
)
from bot.domain import MAX_PHOTOS, MIN_PHOTOS, Collection
from bot.replies import Choice


def advance(dialogue: Dialogue, heard: Heard, facts: Facts) -> Step:
    """The next state and what to do. Total: every state answers everything, and every state can be left."""
    if not facts.is_private:
        return _in_public(dialogue, heard)
    if isinstance(dialogue, ConfirmingForget):
        if heard == Pressed(Choice("forget_yes")):
            return Step(Idle(), (Forget(),))
        dialogue = dialogue.back
    dialogue = _as_it_is(dialogue, facts)
    match heard:
        case Asked(command, argument):
            handler = _COMMANDS.get(command)
            return handler(dialogue, facts, argument) if handler else Step(dialogue, (Tell(r.NotUnderstood()),))
        case Pressed(Choice(action, value)):
            press = _PRESSES.get(action)
            return press(dialogue, facts, value) if press else Step(dialogue, alert=r.OutOfDate())
        case PictureKept(picture_id):
            return _picture(dialogue, facts, picture_id)
        case PictureNotTaken(reason):
            return _no_picture(dialogue, facts, reason)
        case Typed():
            return _typed(dialogue)


def takes_pictures(dialogue: Dialogue, facts: Facts) -> bool:
    """Whether a picture is wanted now: asked before anybody decodes and stores it."""
    if isinstance(dialogue, ConfirmingForget):
        dialogue = dialogue.back
    return facts.is_private and (isinstance(dialogue, AwaitingTemplatePicture) or facts.collection is not None)


def _as_it_is(dialogue: Dialogue, facts: Facts) -> Dialogue:
    """A collection may have been deleted or finished, or come back, since the person last spoke."""
    if isinstance(dialogue, Collecting | Idle):
        return Collecting(facts.collection.session_id) if facts.collection else Idle()
    return dialogue


def _in_public(dialogue: Dialogue, heard: Heard) -> Step:
    if isinstance(heard, Pressed):
        return Step(dialogue, alert=r.OutOfDate())
    return Step(dialogue, (Tell(r.PrivateChatOnly()),) if isinstance(heard, Asked) else ())


def _train(dialogue: Dialogue, facts: Facts, _: str = "") -> Step:
    if not facts.has_consented:
        return Step(Consenting(), (Tell(r.AskConsent(CONSENT_VERSION)),))
    if facts.training:
        return Step(dialogue, (Tell(r.AlreadyBusy(facts.training)),))
    if facts.collection:
        session_id = facts.collection.session_id
        return Step(Collecting(session_id), (ShowCollection(session_id, anew=True),))
    if facts.training_quota:
        return Step(dialogue, (Tell(facts.training_quota),))
    return Step(Collecting(facts.new_id), (OpenCollection(facts.new_id), ShowCollection(facts.new_id)))


def _agree(dialogue: Dialogue, facts: Facts, version: str) -> Step:
    if version != CONSENT_VERSION:
        return Step(Consenting(), (Tell(r.AskConsent(CONSENT_VERSION)),), alert=r.OutOfDate())
    if facts.has_consented:
        return _train(dialogue, facts)
    step = _train(dialogue, replace(facts, has_consented=True))
    return replace(step, acts=(RecordConsent(version), *step.acts))


def _decline(dialogue: Dialogue, facts: Facts, _: str) -> Step:
    if not isinstance(dialogue, Consenting):
        return Step(dialogue, alert=r.OutOfDate())
    return Step(Idle(), (Tell(r.ConsentDeclined(), in_place=True),))


def _picture(dialogue: Dialogue, facts: Facts, picture_id: str) -> Step:
    match dialogue:
        case AwaitingTemplatePicture():
            return Step(Idle(), (CheckOwnTemplate(picture_id),))
        case Collecting(session_id) if facts.collection:
            if len(facts.collection.photos) >= MAX_PHOTOS:
                return Step(dialogue, (DropPicture(picture_id), Tell(r.PhotoNotTaken("too_many_photos"))))
            return Step(dialogue, (KeepPhoto(session_id, picture_id), ShowCollection(session_id)))
        case _:
            step = _no_picture(dialogue, facts, "expired")
            return replace(step, acts=(DropPicture(picture_id), *step.acts))


def _no_picture(dialogue: Dialogue, facts: Facts, reason: str) -> Step:
    match dialogue:
        case AwaitingTemplatePicture():
            return Step(dialogue, (Tell(r.OwnTemplateRefused(reason)),))
        case Collecting():
            return Step(dialogue, (Tell(r.PhotoNotTaken(reason)),))
        case Consenting():
            return Step(dialogue, (Tell(r.AskConsent(CONSENT_VERSION)),))
        case _:
            return Step(dialogue, (Tell(r.NoCollection()),))


def _typed(dialogue: Dialogue) -> Step:
    match dialogue:
        case Collecting(session_id):
            return Step(dialogue, (Tell(r.NotUnderstood()), ShowCollection(session_id, anew=True)))
        case Consenting():
            return Step(dialogue, (Tell(r.AskConsent(CONSENT_VERSION)),))
        case AwaitingTemplatePicture():
            return Step(dialogue, (Tell(r.AskTemplatePicture()),))
        case _:
            return Step(dialogue, (Tell(r.NotUnderstood()),))


Handler = Callable[[Dialogue, Facts, str], Step]


def _in_collection(
    then: Callable[[Collecting, Collection, Facts], Step],
) -> Handler:
    """A button of a collection's status message: it counts only while that collection is open."""

    def handler(dialogue: Dialogue, facts: Facts, session_id: str) -> Step:
        if facts.collection is None or facts.collection.session_id != session_id:
            return Step(dialogue, alert=r.OutOfDate())
        return then(Collecting(session_id), facts.collection, facts)

    return handler


def _start_training(dialogue: Collecting, collection: Collection, facts: Facts) -> Step:
    if facts.training:
        return Step(dialogue, (Tell(r.AlreadyBusy(facts.training)),))
    if facts.training_quota:
        return Step(dialogue, (Tell(facts.training_quota),))
    if len(collection.photos) >= MIN_PHOTOS and collection.is_checking:
        return Step(dialogue, (ShowCollection(dialogue.session_id),))
    if not collection.can_start:
        usable = len(collection.photos) if collection.is_checking else collection.usable
        return Step(dialogue, (Tell(r.NotEnoughPhotos(usable, MIN_PHOTOS)),))
    return Step(Idle(), (StartTraining(dialogue.session_id),))


def _remove_refused(dialogue: Collecting, _: Collection, __: Facts) -> Step:
    return Step(dialogue, (RemovePhotos(dialogue.session_id, "refused"), ShowCollection(dialogue.session_id)))


def _remove_last(dialogue: Collecting, _: Collection, __: Facts) -> Step:
    return Step(dialogue, (RemovePhotos(dialogue.session_id, "last"), ShowCollection(dialogue.session_id)))


def _cancel_collection(dialogue: Collecting, _: Collection, __: Facts) -> Step:
    return Step(Idle(), (DropCollection(dialogue.session_id), Tell(r.Cancelled("collection"), in_place=True)))


def _cancel(dialogue: Dialogue, facts: Facts, _: str) -> Step:
    match dialogue:
        case AwaitingTemplatePicture():
            return Step(Idle(), (Tell(r.Cancelled("template")),))
        case Consenting():
            return Step(Idle(), (Tell(r.ConsentDeclined()),))
        case _:
            pass
    if facts.has_jobs:
        return Step(dialogue, (CancelAllJobs(),))
    if facts.collection:
        return Step(Idle(), (DropCollection(facts.collection.session_id), Tell(r.Cancelled("collection"))))
    return Step(dialogue, (Tell(r.NothingToCancel()),))


def _no_subject(dialogue: Dialogue, facts: Facts) -> Step:
    return Step(dialogue, (Tell(r.NoSubject(is_training=facts.training is not None)),))


def _portrait(dialogue: Dialogue, facts: Facts, template: str) -> Step:
    if not facts.has_subject:
        return _no_subject(dialogue, facts)
    return Step(dialogue, (OrderPortrait(template) if template else LookUp("gallery"),))


def _own_template(dialogue: Dialogue, facts: Facts, _: str) -> Step:
    if not facts.has_consented:
        return _train(dialogue, facts)
    if facts.template_quota:
        return Step(dialogue, (Tell(facts.template_quota),))
    return Step(AwaitingTemplatePicture(), (Tell(r.AskTemplatePicture()),))


def _again(dialogue: Dialogue, facts: Facts, job_id: str) -> Step:
    return (
        Step(dialogue, (OrderAgain(job_id, only_failed=False),)) if facts.has_subject else _no_subject(dialogue, facts)
    )


def _forget(dialogue: Dialogue, _: Facts, __: str) -> Step:
    back = dialogue.back if isinstance(dialogue, ConfirmingForget) else dialogue
    return Step(ConfirmingForget(back), (LookUp("forget"),))


def _welcome(dialogue: Dialogue, facts: Facts, argument: str) -> Step:
    return _train(dialogue, facts) if argument == "train" else Step(dialogue, (Tell(r.Welcome(facts.has_subject)),))


def _acts(*acts: Act) -> Handler:
    return lambda dialogue, facts, value: Step(dialogue, acts)


def _look(what: Literal["gallery", "results"]) -> Handler:
    """A button that pages edits the message it is on; one that opens asks for a new message."""
    return lambda dialogue, facts, place: Step(dialogue, (LookUp(what, place, in_place=bool(place)),))


_COMMANDS: dict[str, Handler] = {
    "start": _welcome,
    "train": _train,
    "portrait": _portrait,
    "templates": _acts(LookUp("gallery")),
    "models": _acts(LookUp("models")),
    "results": _acts(LookUp("results")),
    "queue": _acts(LookUp("queue")),
    "cancel": _cancel,
    "privacy": _acts(LookUp("privacy")),
    "forget": _forget,
    "help": _acts(Tell(r.Help())),
}
COMMANDS = tuple(_COMMANDS)

_PRESSES: dict[str, Handler] = {
    "agree": _agree,
    "decline": _decline,
    "train": _train,
    "start": _in_collection(_start_training),
    "remove_refused": _in_collection(_remove_refused),
    "remove_last": _in_collection(_remove_last),
    "cancel_collection": _in_collection(_cancel_collection),
    "cancel_job": lambda dialogue, facts, job_id: Step(dialogue, (CancelJob(job_id),)),
    "retry": lambda dialogue, facts, job_id: Step(dialogue, (OrderAgain(job_id, only_failed=True),)),
    "gallery": _look("gallery"),
    "use": _portrait,
    "own_template": _own_template,
    "delete_template": lambda dialogue, facts, thing: Step(dialogue, (Delete("template", thing),)),
    "again": _again,
    "original": lambda dialogue, facts, portrait_id: Step(dialogue, (LookUp("original", portrait_id),)),
    "delete_portrait": lambda dialogue, facts, thing: Step(dialogue, (Delete("portrait", thing),)),
    "results": _look("results"),
    "models": _acts(LookUp("models")),
    "use_subject": lambda dialogue, facts, subject_id: Step(dialogue, (UseSubject(subject_id),)),
    "delete_subject": lambda dialogue, facts, thing: Step(dialogue, (Delete("subject", thing),)),
    "privacy": _acts(LookUp("privacy")),
    "forget": _forget,
    "forget_yes": lambda dialogue, facts, value: Step(dialogue, alert=r.OutOfDate()),
    "forget_no": lambda dialogue, facts, value: Step(dialogue, (Tell(r.Cancelled("forget"), in_place=True),)),
    "help": _acts(Tell(r.Help())),
}
ACTIONS = tuple(_PRESSES)
