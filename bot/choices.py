"""Which buttons belong to which reply, in rows. Platforms lay them out; the words are in bot/texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bot import replies as r
from bot.domain import PortraitView, Template
from bot.replies import Choice, Reply


@dataclass(frozen=True)
class Button:
    """`number` tells several of a kind apart (from 1; 0: there is only one), or counts what there is.

    `name` is a category's or a subject's name, "<" and ">" for paging, a mark that shows how something stands (★ ☆ ☑
    ☐), or who shall be a face: "-" nobody, "*" nobody for all that are left.
    """

    choice: Choice
    number: int = 0
    name: str = ""


Rows = tuple[tuple[Button, ...], ...]


def gallery_page(category: str, index: int) -> Choice:
    return Choice("gallery", f"{category}.{index}")


def use(template: Template) -> Choice:
    """A portrait in it; where it shows several people, the choice of who goes where comes first."""
    if template.faces > 1:
        return Choice("seat", f"{template.template_id}.{template.faces}")
    return Choice("use", template.template_id)


def _row(*choices: Choice) -> tuple[Button, ...]:
    return tuple(Button(choice) for choice in choices)


def _gallery(reply: r.Gallery) -> Rows:
    template = reply.template
    rows: list[tuple[Button, ...]] = []
    if reply.count > 1:
        before, after = (reply.index - 1) % reply.count, (reply.index + 1) % reply.count
        rows.append(
            (
                Button(gallery_page(reply.category, before), name="<"),
                Button(gallery_page(reply.category, after), name=">"),
            )
        )
    rows.append(_row(use(template) if reply.can_use else Choice("train")))
    others = [c for c in reply.categories if c != reply.category]
    rows += [
        tuple(Button(gallery_page(c, 0), name=c) for c in others[start : start + 3])
        for start in range(0, len(others), 3)
    ]
    own = [Choice("own_template")]
    if template.owner_id is not None:
        own.append(Choice("delete_template", template.template_id))
    return (*rows, _row(*own))


def _star(portrait: PortraitView, page: str = "") -> Choice:
    """Its page travels along where that is to be shown anew."""
    return Choice("favourite", f"{page}.{portrait.portrait_id}" if page else portrait.portrait_id)


def _ready(reply: r.PortraitsReady) -> Rows:
    """What can be done with the best one; more of its kind, and the way on."""
    rows: list[tuple[Button, ...]] = []
    for portrait in reply.portraits:
        this = portrait.portrait_id
        rows.append(_row(Choice("again", reply.job_id), Choice("more", this)))
        rows.append((_favourite(portrait), Button(Choice("original", this))))
        rows.append(_row(Choice("report", this), Choice("delete_portrait", this)))
    others = (Button(Choice("others", reply.job_id), reply.others),) if reply.others else ()
    return (*rows, (*others, Button(Choice("gallery"))))


def _favourite(portrait: PortraitView, page: str = "", number: int = 0) -> Button:
    return Button(_star(portrait, page), number, name="★" if portrait.is_favourite else "☆")


def _others(portraits: tuple[PortraitView, ...]) -> Rows:
    many = len(portraits) > 1
    return tuple(
        (
            _favourite(portrait, number=number if many else 0),
            Button(Choice("original", portrait.portrait_id), number if many else 0),
            Button(Choice("delete_portrait", portrait.portrait_id), number if many else 0),
        )
        for number, portrait in enumerate(portraits, 1)
    )


def _collection(reply: r.CollectingPhotos) -> Rows:
    here = reply.session_id
    rows = [_row(Choice("start", here))] if reply.can_start else []
    fixes = []
    if any(photo.verdict == "refused" for photo in reply.photos):
        fixes.append(Choice("remove_refused", here))
    if reply.photos:
        fixes.append(Choice("remove_last", here))
    if fixes:
        rows.append(_row(*fixes))
    rows.append((Button(Choice("keep_photos", here), name="☑" if reply.keeps_photos else "☐"),))
    return (*rows, _row(Choice("cancel_collection", here)))


def _results(reply: r.Results) -> Rows:
    rows: list[tuple[Button, ...]] = []
    kind = "f" if reply.only_favourites else ""
    if reply.pages > 1:
        before, after = (reply.page - 1) % reply.pages, (reply.page + 1) % reply.pages
        turns = ((before, "<"), (after, ">"))
        rows.append(tuple(Button(Choice("results", f"{kind}{page}"), name=name) for page, name in turns))
    for portrait in reply.portraits:
        this = portrait.portrait_id
        rows.append((_favourite(portrait, f"{kind}{reply.page}"), Button(Choice("original", this))))
        rows.append(_row(Choice("more", this)))
        rows.append(_row(Choice("report", this), Choice("delete_portrait", this)))
    if reply.only_favourites:
        rows.append(_row(Choice("results", "0"), Choice("gallery")))
    elif reply.favourites:
        rows.append((Button(Choice("results", "f0"), reply.favourites, "★"), Button(Choice("gallery"))))
    else:
        rows.append(_row(Choice("gallery")))
    return tuple(rows)


def _models(reply: r.Models) -> Rows:
    rows = tuple((Button(Choice("subject", subject.subject_id), name=subject.name),) for subject in reply.subjects)
    return (*rows, _row(Choice("train")))


def _subject(reply: r.SubjectCard) -> Rows:
    this = reply.subject.subject_id
    first = Choice("gallery") if reply.is_current else Choice("use_subject", this)
    return (
        (Button(first, name="" if reply.is_current else reply.subject.name),),
        _row(Choice("rename", this), Choice("retrain", this)),
        (Button(Choice("delete_subject", this), name=reply.subject.name), Button(Choice("models", "back"))),
    )


def _faces(reply: r.ChooseFace) -> Rows:
    """A button for everybody who could be there, and for nobody."""
    if reply.face > reply.template.faces:
        return ()
    people = tuple(
        (Button(Choice("face", f"{reply.face}.{subject.subject_id}"), name=subject.name),) for subject in reply.subjects
    )
    left = [Button(Choice("face", f"{reply.face}."), name="-")]
    if reply.face < reply.template.faces:
        left.append(Button(Choice("face", f"{reply.face}.*"), name="*"))
    return (*people, tuple(left))


def _job(reply: r.Working | r.AlreadyBusy) -> Rows:
    return () if reply.job.status.is_final else (_row(Choice("cancel_job", reply.job.job_id)),)


def _queue(reply: r.QueueStatus) -> Rows:
    many = len(reply.jobs) > 1
    return tuple(
        (Button(Choice("cancel_job", job.job_id), number if many else 0),) for number, job in enumerate(reply.jobs, 1)
    )


def _own_template(reply: r.OwnTemplateReady) -> Rows:
    return (_row(use(reply.template), Choice("delete_template", reply.template.template_id)),)


def _delete_subject(reply: r.ConfirmDeleteSubject) -> Rows:
    this = reply.subject.subject_id
    return (_row(Choice("delete_subject_yes", this), Choice("subject", this)),)


def _welcome(reply: r.Welcome) -> Rows:
    return (_row(Choice("gallery")), _row(Choice("train"), Choice("help"))) if reply.has_subject else _BEGIN


def _always(*rows: tuple[Button, ...]) -> Callable[[Any], Rows]:
    return lambda reply: rows


_BEGIN: Rows = (_row(Choice("train"), Choice("help")),)
_ROWS: dict[type, Callable[[Any], Rows]] = {
    r.Welcome: _welcome,
    r.AskConsent: lambda reply: (_row(Choice("agree", reply.text_version)), _row(Choice("decline"))),
    r.ConsentDeclined: _always(*_BEGIN),
    r.CollectingPhotos: _collection,
    r.NoCollection: _always(_row(Choice("train"), Choice("own_template"))),
    r.Working: _job,
    r.AlreadyBusy: _job,
    r.JobFailed: lambda reply: (_row(Choice("retry", reply.job_id)),) if reply.can_retry and reply.job_id else (),
    r.QueueStatus: _queue,
    r.SubjectReady: lambda reply: (_row(Choice("gallery"), Choice("rename", reply.subject.subject_id)),),
    r.NoSubject: lambda reply: () if reply.is_training else _BEGIN,
    r.Models: _models,
    r.SubjectCard: _subject,
    r.ConfirmDeleteSubject: _delete_subject,
    r.Gallery: _gallery,
    r.OwnTemplateReady: _own_template,
    r.OwnTemplateRefused: _always(_row(Choice("own_template"), Choice("gallery"))),
    r.ChooseFace: _faces,
    r.NobodyChosen: _always(_row(Choice("gallery"))),
    r.PortraitsReady: _ready,
    r.OtherCandidates: lambda reply: _others(reply.portraits),
    r.Results: _results,
    r.AdminReport: lambda reply: (
        _row(*(Choice(f"admin_{how}", reply.report_id) for how in ("dismiss", "delete", "block"))),
    ),
    r.Privacy: _always(_row(Choice("export"), Choice("forget"))),
    r.Expiring: _always(_row(Choice("keep"), Choice("results"))),
    r.ConfirmForget: _always(_row(Choice("forget_yes"), Choice("forget_no"))),
    r.ConfirmForgetAgain: _always(_row(Choice("forget_no")), _row(Choice("forget_sure"))),
}


def rows_of(reply: Reply) -> Rows:
    """The buttons of a reply; empty when it has none."""
    make = _ROWS.get(type(reply))
    return make(reply) if make else ()
