"""Which buttons belong to which reply, in rows. Platforms lay them out; the words are in bot/texts."""

from __future__ import annotations

from dataclasses import dataclass

from bot import replies as r
from bot.domain import PortraitView
from bot.replies import Choice, Reply


@dataclass(frozen=True)
class Button:
    """`number` tells several of a kind apart (from 1; 0: there is only one).

    `name` is a category's or a subject's name, or "<" and ">" for paging.
    """

    choice: Choice
    number: int = 0
    name: str = ""


Rows = tuple[tuple[Button, ...], ...]


def gallery_page(category: str, index: int) -> Choice:
    return Choice("gallery", f"{category}.{index}")


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
    rows.append(_row(Choice("use", template.template_id) if reply.can_use else Choice("train")))
    others = [c for c in reply.categories if c != reply.category]
    rows += [
        tuple(Button(gallery_page(c, 0), name=c) for c in others[start : start + 3])
        for start in range(0, len(others), 3)
    ]
    own = [Choice("own_template")]
    if template.owner_id is not None:
        own.append(Choice("delete_template", template.template_id))
    return (*rows, _row(*own))


def _portrait_buttons(portraits: tuple[PortraitView, ...]) -> Rows:
    many = len(portraits) > 1
    return tuple(
        tuple(
            Button(Choice(action, portrait.portrait_id), number if many else 0)
            for action in ("original", "delete_portrait")
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
    return (*rows, _row(Choice("cancel_collection", here)))


def _results(reply: r.Results) -> Rows:
    rows = _portrait_buttons(reply.portraits)
    if reply.pages > 1:
        before, after = (reply.page - 1) % reply.pages, (reply.page + 1) % reply.pages
        rows = (
            (Button(Choice("results", str(before)), name="<"), Button(Choice("results", str(after)), name=">")),
            *rows,
        )
    return (*rows, _row(Choice("gallery")))


def _models(reply: r.Models) -> Rows:
    many = len(reply.subjects) > 1
    rows = []
    for number, subject in enumerate(reply.subjects, 1):
        row = [Button(Choice("delete_subject", subject.subject_id), number if many else 0, subject.name)]
        if subject.subject_id != reply.current_id:
            row.insert(0, Button(Choice("use_subject", subject.subject_id), number, subject.name))
        rows.append(tuple(row))
    return (*rows, _row(Choice("train")))


def rows_of(reply: Reply) -> Rows:
    """The buttons of a reply; empty when it has none."""
    match reply:
        case r.AskConsent(text_version=version):
            return _row(Choice("agree", version)), _row(Choice("decline"))
        case r.CollectingPhotos():
            return _collection(reply)
        case r.Working(job=job) | r.AlreadyBusy(job=job):
            return () if job.status.is_final else (_row(Choice("cancel_job", job.job_id)),)
        case r.Gallery():
            return _gallery(reply)
        case r.PortraitsReady(job_id=job_id, portraits=portraits):
            return (_row(Choice("again", job_id), Choice("gallery")), *_portrait_buttons(portraits))
        case r.Results():
            return _results(reply)
        case r.Models():
            return _models(reply)
        case r.QueueStatus(jobs=jobs):
            many = len(jobs) > 1
            return tuple(
                (Button(Choice("cancel_job", job.job_id), number if many else 0),) for number, job in enumerate(jobs, 1)
            )
        case _:
            return _row_of(reply)


def _row_of(reply: Reply) -> Rows:
    """The replies whose buttons do not depend on much."""
    match reply:
        case r.Welcome(has_subject=True):
            return _row(Choice("gallery")), _row(Choice("train"), Choice("help"))
        case r.Welcome() | r.ConsentDeclined() | r.NoSubject(is_training=False):
            return (_row(Choice("train"), Choice("help")),)
        case r.NoCollection():
            return (_row(Choice("train"), Choice("own_template")),)
        case r.SubjectReady():
            return (_row(Choice("gallery")),)
        case r.OwnTemplateReady(template=template):
            return (_row(Choice("use", template.template_id), Choice("delete_template", template.template_id)),)
        case r.OwnTemplateRefused():
            return (_row(Choice("own_template"), Choice("gallery")),)
        case r.JobFailed(can_retry=True, job_id=job_id):
            return (_row(Choice("retry", job_id)),)
        case r.Privacy():
            return (_row(Choice("forget")),)
        case r.ConfirmForget():
            return (_row(Choice("forget_yes"), Choice("forget_no")),)
        case _:
            return ()
