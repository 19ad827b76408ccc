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
    AskFace,
    CancelAllJobs,
    CancelJob,
    CheckOwnTemplate,
    Delete,
    DropCollection,
    DropPicture,
    Export,
    Favourite,
    Forget,
    Keep,
    KeepPhoto,
    KeepPhotos,
    LookUp,
    NameModel,
    OpenCollection,
    OrderAgain,
    OrderMore,
    OrderPortrait,
    RecordConsent,
    RemovePhotos,
    Report,
    Retrain,
    Settle,
    ShowCollection,
    StartTraining,
    Tell,
    UseSubject,
)
from bot.admission import is_open_to_all
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
from bot.domain import MAX_NAME, MAX_PHOTOS, MIN_PHOTOS, MOST_FACES, MOST_PEOPLE, Collection, clean_name
from bot.replies import Choice


def advance(dialogue: Dialogue, heard: Heard, facts: Facts) -> Step:
    """The next state and what to do. Total: every state answers everything, and every state can be left."""
    if not facts.is_private:
        return _in_public(dialogue, heard)
    if isinstance(dialogue, ConfirmingForget):
        return _asked_to_forget(dialogue, heard, facts)
    return _heard(_as_it_is(dialogue, facts), heard, facts)


def _asked_to_forget(dialogue: ConfirmingForget, heard: Heard, facts: Facts) -> Step:
    if heard == Pressed(Choice("forget_yes")) and not dialogue.said_yes:
        return Step(replace(dialogue, said_yes=True), (Tell(r.ConfirmForgetAgain(), in_place=True),))
    if heard == Pressed(Choice("forget_sure")) and dialogue.said_yes:
        return Step(Idle(), (Forget(),))
    return _heard(_as_it_is(dialogue.back, facts), heard, facts)


def _heard(dialogue: Dialogue, heard: Heard, facts: Facts) -> Step:
    if facts.refusal and not is_open_to_all(heard):
        return Step(dialogue, (Tell(facts.refusal),))
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
        case Typed(text):
            return _typed(dialogue, facts, text)
        case Filled(Choice(action, value), text):
            return _filled(dialogue, facts, action, value, text)


def takes_pictures(dialogue: Dialogue, facts: Facts) -> bool:
    """Whether a picture is wanted now: asked before anybody decodes and stores it."""
    if isinstance(dialogue, ConfirmingForget):
        dialogue = dialogue.back
    is_wanted = isinstance(dialogue, AwaitingTemplatePicture) or facts.collection is not None
    return is_wanted and facts.is_private and not facts.refusal


def _at_rest(facts: Facts) -> Dialogue:
    return Collecting(facts.collection.session_id) if facts.collection else Idle()


def _as_it_is(dialogue: Dialogue, facts: Facts) -> Dialogue:
    """A collection may have been deleted or finished, or come back, since the person last spoke."""
    return _at_rest(facts) if isinstance(dialogue, Collecting | Idle) else dialogue


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
    step = _train(dialogue, replace(facts, has_consented=True))
    recorded = () if facts.has_consented else (RecordConsent(version),)
    return replace(step, acts=(Settle(r.ConsentGiven()), *recorded, *step.acts))


def _decline(dialogue: Dialogue, facts: Facts, _: str) -> Step:
    if not isinstance(dialogue, Consenting):
        return Step(dialogue, alert=r.OutOfDate())
    return Step(Idle(), (Tell(r.ConsentDeclined(), in_place=True),))


def _picture(dialogue: Dialogue, facts: Facts, picture_id: str) -> Step:
    match _without_questions(dialogue, facts):
        case AwaitingTemplatePicture():
            return Step(Idle(), (CheckOwnTemplate(picture_id),))
        case Collecting(session_id) if facts.collection:
            if len(facts.collection.photos) >= MAX_PHOTOS:
                return Step(dialogue, (DropPicture(picture_id), Tell(r.PhotoNotTaken("too_many_photos"))))
            return Step(Collecting(session_id), (KeepPhoto(session_id, picture_id), ShowCollection(session_id)))
        case _:
            step = _no_picture(dialogue, facts, "expired")
            return replace(step, acts=(DropPicture(picture_id), *step.acts))


def _without_questions(dialogue: Dialogue, facts: Facts) -> Dialogue:
    """A picture is no answer to a question for a name or for a face."""
    return _at_rest(facts) if isinstance(dialogue, AwaitingName | ChoosingFaces) else dialogue


def _no_picture(dialogue: Dialogue, facts: Facts, reason: str) -> Step:
    dialogue = _without_questions(dialogue, facts)
    match dialogue:
        case AwaitingTemplatePicture():
            return Step(dialogue, (Tell(r.OwnTemplateRefused(reason)),))
        case Collecting():
            return Step(dialogue, (Tell(r.PhotoNotTaken(reason)),))
        case Consenting():
            return Step(dialogue, (Tell(r.AskConsent(CONSENT_VERSION)),))
        case _:
            return Step(dialogue, (Tell(r.NoCollection()),))


def _typed(dialogue: Dialogue, facts: Facts, text: str) -> Step:
    match dialogue:
        case AwaitingName(subject_id):
            return _named(dialogue, facts, subject_id, text)
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
    quota = facts.retraining_quota if collection.retrains_id else facts.training_quota
    if quota:
        return Step(dialogue, (Tell(quota),))
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


def _keep_photos(dialogue: Collecting, collection: Collection, _: Facts) -> Step:
    keeps = not collection.keeps_photos
    return Step(dialogue, (KeepPhotos(dialogue.session_id, keeps), ShowCollection(dialogue.session_id)))


def _cancel_collection(dialogue: Collecting, collection: Collection, facts: Facts) -> Step:
    cancelled = Tell(r.Cancelled(_kind_of(collection, facts)), in_place=True)
    return Step(Idle(), (DropCollection(dialogue.session_id), cancelled))


def _kind_of(collection: Collection, facts: Facts) -> str:
    """Photos that are kept with a model stay with it when its retraining is cancelled."""
    subject = facts.subject(collection.retrains_id) if collection.retrains_id else None
    return "retraining" if subject and subject.photos else "collection"


def _cancel(dialogue: Dialogue, facts: Facts, _: str) -> Step:
    match dialogue:
        case AwaitingTemplatePicture():
            return Step(Idle(), (Tell(r.Cancelled("template")),))
        case Consenting():
            return Step(Idle(), (Tell(r.ConsentDeclined()),))
        case AwaitingName():
            return Step(_at_rest(facts), (Tell(r.Cancelled("name")),))
        case ChoosingFaces():
            return Step(_at_rest(facts), (Tell(r.Cancelled("faces")),))
        case _:
            pass
    if facts.has_jobs:
        return Step(dialogue, (CancelAllJobs(),))
    if facts.collection:
        cancelled = Tell(r.Cancelled(_kind_of(facts.collection, facts)))
        return Step(Idle(), (DropCollection(facts.collection.session_id), cancelled))
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
    if not facts.has_subject:
        return _no_subject(dialogue, facts)
    return Step(dialogue, (OrderAgain(job_id, only_failed=False),))


def _more(dialogue: Dialogue, facts: Facts, portrait_id: str) -> Step:
    return Step(dialogue, (OrderMore(portrait_id),)) if facts.has_subject else _no_subject(dialogue, facts)


def _favourite(dialogue: Dialogue, _: Facts, value: str) -> Step:
    """`portrait`, or `page.portrait` where a page of the results is to be shown anew."""
    page, __, portrait_id = value.rpartition(".")
    return Step(dialogue, (Favourite(portrait_id, page),))


def _seat(dialogue: Dialogue, facts: Facts, value: str) -> Step:
    """`template.faces`: a template with several faces; who goes where is asked face by face."""
    template_id, _, faces = value.rpartition(".")
    if not facts.has_subject:
        return _no_subject(dialogue, facts)
    if not template_id or not faces.isdecimal() or not 1 <= int(faces) <= MOST_FACES:
        return Step(dialogue, alert=r.OutOfDate())
    return Step(ChoosingFaces(template_id, int(faces)), (AskFace(template_id, (), in_place=False),))


def _face(dialogue: Dialogue, facts: Facts, value: str) -> Step:
    """`face.subject`; without a subject the face stays as it is, with "*" all that are left stay."""
    number, _, who = value.partition(".")
    if not isinstance(dialogue, ChoosingFaces) or number != str(len(dialogue.chosen) + 1):
        return Step(dialogue, alert=r.OutOfDate())
    if who not in ("", "*") and facts.subject(who) is None:
        return Step(dialogue, alert=r.OutOfDate())
    template_id = dialogue.template_id
    chosen = dialogue.chosen if who == "*" else (*dialogue.chosen, who)
    people = sum(bool(one) for one in chosen)
    if who != "*" and len(chosen) < dialogue.faces and people < MOST_PEOPLE:
        return Step(replace(dialogue, chosen=chosen), (AskFace(template_id, chosen, in_place=True),))
    if not people:
        return Step(_at_rest(facts), (Tell(r.NobodyChosen(), in_place=True),))
    chosen += ("",) * (dialogue.faces - len(chosen))
    return Step(_at_rest(facts), (AskFace(template_id, chosen, in_place=True), OrderPortrait(template_id, chosen)))


def _rename(dialogue: Dialogue, facts: Facts, subject_id: str) -> Step:
    subject = facts.subject(subject_id)
    if subject is None:
        return Step(dialogue, alert=r.OutOfDate())
    return Step(AwaitingName(subject_id), (Tell(r.AskName(subject)),))


def _named(dialogue: Dialogue, facts: Facts, subject_id: str, text: str) -> Step:
    subject, name = facts.subject(subject_id), clean_name(text)
    if subject is None:
        return Step(_at_rest(facts), (Tell(r.OutOfDate()),))
    if not 0 < len(name) <= MAX_NAME:
        return Step(AwaitingName(subject_id), (Tell(r.AskName(subject, "too_long" if name else "empty")),))
    after = _at_rest(facts) if isinstance(dialogue, AwaitingName) else dialogue
    return Step(after, (NameModel("subject", subject_id, name), LookUp("subject", subject_id)))


def _filled(dialogue: Dialogue, facts: Facts, action: str, value: str, text: str) -> Step:
    if action == "rename":
        return _named(dialogue, facts, value, text)
    if action == "name_model" and facts.collection and 0 < len(clean_name(text)) <= MAX_NAME:
        session_id = facts.collection.session_id
        return Step(dialogue, (NameModel("collection", session_id, clean_name(text)), ShowCollection(session_id)))
    return Step(dialogue, alert=r.OutOfDate())


def _retrain(dialogue: Dialogue, facts: Facts, subject_id: str) -> Step:
    if facts.subject(subject_id) is None:
        return Step(dialogue, alert=r.OutOfDate())
    if not facts.has_consented or facts.training:
        return _train(dialogue, facts)
    if facts.collection:
        show = ShowCollection(facts.collection.session_id, anew=True)
        return Step(dialogue, (Tell(r.AlreadyCollecting()), show))
    if facts.retraining_quota:
        return Step(dialogue, (Tell(facts.retraining_quota),))
    return Step(Idle(), (Retrain(facts.new_id, subject_id),))


def _forget(dialogue: Dialogue, _: Facts, __: str) -> Step:
    back = dialogue.back if isinstance(dialogue, ConfirmingForget) else dialogue
    return Step(ConfirmingForget(back), (LookUp("forget"),))


def _welcome(dialogue: Dialogue, facts: Facts, argument: str) -> Step:
    return _train(dialogue, facts) if argument == "train" else Step(dialogue, (Tell(r.Welcome(facts.has_subject)),))


def _acts(*acts: Act) -> Handler:
    return lambda dialogue, facts, value: Step(dialogue, acts)


def _look(what: Literal["gallery", "results", "models"]) -> Handler:
    """A button that pages edits the message it is on; one that opens asks for a new message."""
    return lambda dialogue, facts, place: Step(dialogue, (LookUp(what, place, in_place=bool(place)),))


def _of(what: Literal["original", "others", "subject", "delete_subject"], *, in_place: bool = False) -> Handler:
    """Shows what belongs to the id that the button carries."""
    return lambda dialogue, facts, thing_id: Step(dialogue, (LookUp(what, thing_id, in_place=in_place),))


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
    "keep_photos": _in_collection(_keep_photos),
    "cancel_collection": _in_collection(_cancel_collection),
    "cancel_job": lambda dialogue, facts, job_id: Step(dialogue, (CancelJob(job_id),)),
    "retry": lambda dialogue, facts, job_id: Step(dialogue, (OrderAgain(job_id, only_failed=True),)),
    "gallery": _look("gallery"),
    "use": _portrait,
    "own_template": _own_template,
    "delete_template": lambda dialogue, facts, thing: Step(dialogue, (Delete("template", thing),)),
    "seat": _seat,
    "face": _face,
    "again": _again,
    "more": _more,
    "others": _of("others"),
    "favourite": _favourite,
    "original": _of("original"),
    "delete_portrait": lambda dialogue, facts, thing: Step(dialogue, (Delete("portrait", thing),)),
    "results": _look("results"),
    "models": _look("models"),
    "subject": _of("subject", in_place=True),
    "rename": _rename,
    "retrain": _retrain,
    "use_subject": lambda dialogue, facts, subject_id: Step(dialogue, (UseSubject(subject_id),)),
    "delete_subject": _of("delete_subject", in_place=True),
    "delete_subject_yes": lambda dialogue, facts, thing: Step(dialogue, (Delete("subject", thing),)),
    "privacy": _acts(LookUp("privacy")),
    "forget": _forget,
    "forget_yes": lambda dialogue, facts, value: Step(dialogue, alert=r.OutOfDate()),
    "forget_sure": lambda dialogue, facts, value: Step(dialogue, alert=r.OutOfDate()),
    "forget_no": lambda dialogue, facts, value: Step(dialogue, (Tell(r.Cancelled("forget"), in_place=True),)),
    "keep": _acts(Keep()),
    "export": _acts(Export()),
    "report": lambda dialogue, facts, portrait_id: Step(dialogue, (Report(portrait_id),)),
    "help": _acts(Tell(r.Help())),
}
ACTIONS = tuple(_PRESSES)
