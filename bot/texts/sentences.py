"""Every reply in words: a title and paragraphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from bot import replies as r
from bot.domain import MAX_NAME, JobStatus, JobView, Language, PhotoVerdict, PortraitView
from bot.replies import Reply
from bot.texts.phrasebook import Phrasebook


@dataclass(frozen=True)
class Words:
    """A reply in words: `title` is shown bold (may be empty), `lines` below it, one paragraph each (may be empty)."""

    title: str
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(part for part in (self.title, *self.lines) if part)


def in_words(reply: Reply, book: Phrasebook, language: Language) -> Words:
    title, *lines = SENTENCES[type(reply)](reply, book, language)
    return Words(title, tuple(line.strip() for line in lines if line))


def _fixed(*keys: str) -> Callable[[Any, Phrasebook, Language], list[str]]:
    return lambda reply, book, language: [book.phrase(key) for key in keys]


def _by_photo(photos: Iterable[PhotoVerdict], verdict: str) -> dict[str | None, list[int]]:
    """Reason -> numbers of the photos with it."""
    found: dict[str | None, list[int]] = {}
    for photo in photos:
        if photo.verdict == verdict:
            found.setdefault(photo.reason, []).append(photo.number)
    return found


def _refused_photos(photos: Iterable[PhotoVerdict], book: Phrasebook) -> list[str]:
    lines = []
    for reason, numbers in _by_photo(photos, "refused").items():
        what, todo = book.reason(reason)
        lines.append(book.phrase("collect.refused", photos=book.photos(numbers), what=what, todo=todo))
    return lines


def _welcome(reply: r.Welcome, book: Phrasebook, _: Language) -> list[str]:
    body = "welcome.back" if reply.has_subject else "welcome.new"
    after = "welcome.next.back" if reply.has_subject else "welcome.next"
    return [book.phrase("welcome.title"), book.phrase(body), book.phrase(after)]


def _help(_: r.Help, book: Phrasebook, __: Language) -> list[str]:
    commands = (f"/{command} — {what}" for command, what in book.commands.items() if command != "start")
    return [book.phrase("help.title"), *commands, book.phrase("help.photos"), book.phrase("help.made")]


def _collecting(reply: r.CollectingPhotos, book: Phrasebook, _: Language) -> list[str]:
    if not reply.photos:
        gone = book.phrase("collect.retrains.gone", name=reply.retrains) if reply.retrains else ""
        return [book.phrase("collect.empty.title"), gone, book.phrase("collect.empty.how")]
    usable = sum(photo.is_usable for photo in reply.photos)
    lines = [book.phrase("collect.title", n=len(reply.photos))]
    if usable:
        lines.append(book.phrase("collect.usable", n=usable))
    for reason, numbers in _by_photo(reply.photos, "warning").items():
        what, _todo = book.reason(reason)
        lines.append(book.phrase("collect.warning", photos=book.photos(numbers), what=what))
    lines += _refused_photos(reply.photos, book)
    lines.append(_what_next(reply, usable, book))
    lines.append(book.phrase("collect.retrains", name=reply.retrains) if reply.retrains else "")
    return [*lines, book.phrase("collect.kept" if reply.keeps_photos else "collect.not_kept")]


def _what_next(reply: r.CollectingPhotos, usable: int, book: Phrasebook) -> str:
    if reply.is_checking:
        return book.phrase("collect.checking")
    if usable < reply.needed:
        return book.phrase("collect.more", n=reply.needed - usable)
    if len(reply.photos) >= reply.most:
        return book.phrase("collect.full")
    return book.phrase("collect.enough", most=reply.most)


def _not_taken(reply: r.PhotoNotTaken, book: Phrasebook, _: Language) -> list[str]:
    what, todo = book.reason(reply.reason)
    return [
        book.phrase("not_taken.title", n=reply.count),
        _sentence(what, todo),
        book.phrase("not_taken.rest"),
    ]


def _sentence(what: str, todo: str) -> str:
    """`The file is damaged. Send it again, please.`"""
    end = "。" if todo.endswith("。") else ". "
    return f"{what[:1].upper()}{what[1:]}{end}{todo}"


def _not_enough(reply: r.NotEnoughPhotos, book: Phrasebook, _: Language) -> list[str]:
    return [
        book.phrase("not_enough.title"),
        book.phrase("not_enough.how", usable=reply.usable, needed=reply.needed),
    ]


def _working(reply: r.Working, book: Phrasebook, language: Language) -> list[str]:
    job = reply.job
    if reply.template and job.kind == "portrait":
        title = book.phrase("working.portrait.in", template=reply.template.title[language])
    else:
        title = book.phrase(f"working.{job.kind}")
    return [title, *_standing(job, book)]


def _standing(job: JobView, book: Phrasebook) -> list[str]:
    if job.status.is_final:
        return [book.phrase(f"working.{job.status}")]
    eta = job.place.eta_s if job.place else None
    if job.status is JobStatus.RUNNING:
        stage = book.stages.get(job.stage or "", book.phrase("working.starting"))
        return [stage, book.phrase("working.eta", time=book.duration(eta)) if eta else ""]
    lines = []
    if job.place:
        place = job.place.position
        lines.append(book.phrase("working.place", place=place) if place > 1 else book.phrase("working.next"))
    lines.append(book.phrase("working.eta", time=book.duration(eta)) if eta else "")
    if job.place and not job.place.is_served:
        lines.append(book.phrase("queue.no_worker"))
    if job.place and job.place.is_starting:
        lines.append(book.phrase("queue.starting"))
    return [*lines, book.phrase("working.leave") if job.kind == "train" else ""]


def _percent(likeness: float) -> int:
    return round(max(likeness, 0.0) * 100)


def _subject_ready(reply: r.SubjectReady, book: Phrasebook, _: Language) -> list[str]:
    lines, subject = [book.phrase("subject.title")], reply.subject
    if subject.likeness is not None and subject.real_likeness is not None:
        real = _percent(subject.real_likeness)
        lines.append(book.phrase("subject.likeness", percent=_percent(subject.likeness), real=real))
    elif subject.likeness is not None:
        lines.append(book.phrase("subject.likeness.alone", percent=_percent(subject.likeness)))
    for reason, numbers in _by_photo(reply.refused, "refused").items():
        lines.append(book.phrase("subject.refused", photos=book.photos(numbers), what=book.reason(reason)[0]))
    lines.append(book.phrase("card.sheet") if reply.preview_key else "")
    return [*lines, book.phrase("subject.took", time=book.duration(reply.seconds)), book.phrase("subject.next")]


def _gallery(reply: r.Gallery, book: Phrasebook, language: Language) -> list[str]:
    shelf = book.categories.get(reply.category, reply.category.capitalize())
    place = book.phrase("gallery.place", category=shelf, index=reply.index + 1, count=reply.count)
    first = "" if reply.can_use else book.phrase("gallery.train_first")
    return [reply.template.title[language], place, first]


def _own_ready(reply: r.OwnTemplateReady, book: Phrasebook, language: Language) -> list[str]:
    return [reply.template.title[language], book.phrase("own.ready", n=reply.faces)]


def _own_refused(reply: r.OwnTemplateRefused, book: Phrasebook, _: Language) -> list[str]:
    reason = "no_face_in_template" if reply.reason == "no_face" else reply.reason
    return [book.phrase("own.refused.title"), _sentence(*book.reason(reason))]


def _portraits(reply: r.PortraitsReady, book: Phrasebook, language: Language) -> list[str]:
    took, template = book.duration(reply.seconds), reply.portraits[0].template if reply.portraits else None
    made = (
        book.phrase("portraits.in", template=template.title[language], time=took)
        if template
        else book.phrase("portraits.took", time=took)
    )
    skipped = [
        book.phrase("skipped.face", face=skipped.face, what=book.reason(skipped.reason)[0]) for skipped in reply.skipped
    ]
    title = book.phrase("portraits.title", n=len(reply.portraits))
    return [title, made, *skipped, *_notes(reply.portraits, book), book.phrase("portraits.ai")]


def _notes(portraits: Iterable[PortraitView], book: Phrasebook) -> list[str]:
    """What the engine could not do, once each."""
    return list(dict.fromkeys(book.note(note) for portrait in portraits for note in portrait.notes))


def _others(reply: r.OtherCandidates, book: Phrasebook, language: Language) -> list[str]:
    template = reply.portraits[0].template if reply.portraits else None
    title = book.phrase("others.title", n=len(reply.portraits))
    return [title, template.title[language] if template else "", book.phrase("portraits.ai")]


def _choose_face(reply: r.ChooseFace, book: Phrasebook, language: Language) -> list[str]:
    faces, left = reply.template.faces, book.phrase("faces.left")
    chosen = [
        book.phrase("faces.line", face=face, name=name or left) for face, name in enumerate(reply.chosen[:faces], 1)
    ]
    if reply.face > faces:
        return [book.phrase("faces.done"), reply.template.title[language], *chosen]
    count = book.phrase("faces.count", faces=faces)
    return [book.phrase("faces.title", face=reply.face), reply.template.title[language], count, *chosen]


def _original(reply: r.OriginalFile, book: Phrasebook, language: Language) -> list[str]:
    size = book.phrase("original.size", width=reply.portrait.width, height=reply.portrait.height)
    lines = [book.phrase("original.title"), _of_portrait(reply.portrait, language), size]
    return [*lines, book.phrase("portraits.ai")]


def _of_portrait(portrait: PortraitView, language: Language) -> str:
    title = portrait.template.title[language] if portrait.template else ""
    date = f"{portrait.created_at:%Y-%m-%d}" if portrait.created_at else ""
    return " · ".join(part for part in (title, date) if part)


def _results(reply: r.Results, book: Phrasebook, language: Language) -> list[str]:
    if not reply.portraits:
        return [book.phrase("results.none.title"), book.phrase("results.none.how")]
    key = "results.favourite" if reply.only_favourites else "results.title"
    mark = "★ " if any(portrait.is_favourite for portrait in reply.portraits) else ""
    title = mark + book.phrase(key, index=reply.page + 1, count=reply.pages)
    return [title, *(_of_portrait(portrait, language) for portrait in reply.portraits), book.phrase("portraits.ai")]


def _no_subject(reply: r.NoSubject, book: Phrasebook, _: Language) -> list[str]:
    how = "no_subject.training" if reply.is_training else "no_subject.how"
    return [book.phrase("no_subject.title"), book.phrase(how)]


def _queue(reply: r.QueueStatus, book: Phrasebook, _: Language) -> list[str]:
    lines = [book.phrase("queue.title" if reply.jobs else "queue.none.title")]
    for job in reply.jobs:
        what, eta = book.phrase(f"queue.{job.kind}"), job.place.eta_s if job.place else None
        if job.status is JobStatus.RUNNING:
            line = book.phrase("queue.running", what=what, percent=round(job.fraction * 100))
        else:
            line = book.phrase("queue.waiting", what=what, place=job.place.position if job.place else 1)
        lines.append(f"{line} {book.phrase('working.eta', time=book.duration(eta))}" if eta else line)
    if reply.waiting > len(reply.jobs):
        lines.append(book.phrase("queue.all", n=reply.waiting))
    if reply.jobs and not reply.workers:
        lines.append(book.phrase("queue.no_worker"))
    if any(job.place and job.place.is_starting for job in reply.jobs):
        lines.append(book.phrase("queue.starting"))
    return lines


def _failed(reply: r.JobFailed, book: Phrasebook, _: Language) -> list[str]:
    lines = [book.phrase(f"failed.{reply.kind}"), _sentence(*book.reason(reply.reason))]
    lines += _refused_photos(reply.photos, book)
    if reply.kind in ("train", "portrait"):
        lines.append(book.phrase("failed.free"))
    if reply.reference and reply.can_retry:
        lines.append(book.phrase("failed.reference", reference=reply.reference))
    return lines


def _busy(reply: r.AlreadyBusy, book: Phrasebook, _: Language) -> list[str]:
    known = f"busy.{reply.job.kind}"
    body = book.phrase(known if known in book.phrases else "busy.other")
    return [book.phrase("busy.title"), body, *_standing(reply.job, book)]


def _quota(reply: r.QuotaReached, book: Phrasebook, _: Language) -> list[str]:
    again = book.phrase("quota.again", time=book.duration(reply.again_in_s)) if reply.again_in_s else ""
    return [book.phrase(f"quota.{reply.what}", limit=reply.limit), again]


def _models(reply: r.Models, book: Phrasebook, _: Language) -> list[str]:
    if not reply.subjects:
        return [book.phrase("models.none.title"), book.phrase("models.none.how")]
    lines = [book.phrase("models.title")]
    for subject in reply.subjects:
        key = "models.line" if subject.likeness is None else "models.line.likeness"
        mark = "●" if subject.subject_id == reply.current_id else "○"
        likeness = _percent(subject.likeness or 0.0)
        date = f"{subject.created_at:%Y-%m-%d}"
        lines.append(book.phrase(key, mark=mark, name=subject.name, date=date, percent=likeness))
    return [*lines, book.phrase("models.current") if len(reply.subjects) > 1 else ""]


def _card(reply: r.SubjectCard, book: Phrasebook, _: Language) -> list[str]:
    subject, lines = reply.subject, [reply.subject.name]
    if subject.likeness is not None and subject.real_likeness is not None:
        real = _percent(subject.real_likeness)
        lines.append(book.phrase("card.likeness", percent=_percent(subject.likeness), real=real))
    elif subject.likeness is not None:
        lines.append(book.phrase("card.likeness.alone", percent=_percent(subject.likeness)))
    lines.append(book.phrase("card.sheet") if subject.preview_key else "")
    lines.append(book.phrase("card.made", n=reply.portraits, date=f"{subject.created_at:%Y-%m-%d}"))
    lines.append(book.phrase("card.photos", n=subject.photos) if subject.photos else book.phrase("card.no_photos"))
    return [*lines, book.phrase("card.current") if reply.is_current else ""]


def _ask_name(reply: r.AskName, book: Phrasebook, _: Language) -> list[str]:
    problem = book.phrase(f"name.{reply.problem}", most=MAX_NAME) if reply.problem else ""
    title = book.phrase("name.ask.title", name=reply.subject.name)
    return [title, problem, book.phrase("name.ask.how", most=MAX_NAME)]


def _delete_subject(reply: r.ConfirmDeleteSubject, book: Phrasebook, _: Language) -> list[str]:
    return [book.phrase("delete_subject.title", name=reply.subject.name), book.phrase("delete_subject.how")]


def _favourite(reply: r.FavouriteSet, book: Phrasebook, _: Language) -> list[str]:
    return [book.phrase("favourite.set" if reply.is_favourite else "favourite.unset")]


def _privacy(reply: r.Privacy, book: Phrasebook, _: Language) -> list[str]:
    stored = book.phrase("privacy.stored", counts=_owned(reply.photos, len(reply.subjects), reply.portraits, book))
    kept = {what: f"{days:g}" for what, days in asdict(reply.terms).items()}
    rest = ("privacy.use", "privacy.sealed", "privacy.erase")
    return [
        book.phrase("privacy.title"),
        stored,
        book.phrase("privacy.kept", **kept),
        *(book.phrase(key) for key in rest),
        book.phrase("privacy.remains"),
        book.phrase("help.made"),
    ]


def _owned(photos: int, subjects: int, portraits: int, book: Phrasebook) -> str:
    counts = {"photos": photos, "subjects": subjects, "portraits": portraits}
    return book.separator.join(book.count(what, n) for what, n in counts.items())


def _expiring(reply: r.Expiring, book: Phrasebook, _: Language) -> list[str]:
    counts = [book.count("portraits", reply.portraits)] if reply.portraits else []
    what = book.separator.join((*counts, *reply.models))
    return [book.phrase("expiring.title", days=f"{reply.days:g}"), what, book.phrase("expiring.how")]


def _kept(reply: r.Kept, book: Phrasebook, _: Language) -> list[str]:
    counts = {"portraits": reply.portraits, "subjects": reply.models}
    what = book.separator.join(book.count(name, n) for name, n in counts.items() if n)
    return [book.phrase("kept.title", what=what)]


def _export_part(reply: r.ExportPart, book: Phrasebook, _: Language) -> list[str]:
    key = "export.title" if reply.count == 1 else "export.part"
    return [book.phrase(key, number=reply.number, count=reply.count), book.phrase("export.how")]


def _confirm_forget(reply: r.ConfirmForget, book: Phrasebook, _: Language) -> list[str]:
    what = book.phrase("forget.what", counts=_owned(reply.photos, reply.subjects, reply.portraits, book))
    return [book.phrase("forget.title"), what]


def _forgotten(reply: r.Forgotten, book: Phrasebook, _: Language) -> list[str]:
    counts = reply.receipt.counts
    deleted = book.separator.join(book.count(what, counts[what]) for what in book.counted if counts.get(what))
    left = counts.get("messages_left", 0)
    return [
        book.phrase("forgotten.title"),
        book.phrase("forgotten.counts", counts=deleted) if deleted else "",
        book.phrase("forgotten.learnt") if counts.get("subjects") else "",
        book.phrase("forgotten.left", n=left) if left else "",
    ]


def _apology(reply: r.Apology, book: Phrasebook, _: Language) -> list[str]:
    return [book.phrase("apology.title"), book.phrase("apology.how", reference=reply.reference)]


def _refused(reply: r.Refused, book: Phrasebook, _: Language) -> list[str]:
    return [book.phrase(f"refused.{reply.reason}"), book.phrase("refused.still")]


def _admin_says(reply: r.AdminSays, book: Phrasebook, _: Language) -> list[str]:
    return [book.phrase(f"admin.{reply.what}", who=reply.who, n=reply.n), *reply.lines]


def _admin_report(reply: r.AdminReport, book: Phrasebook, _: Language) -> list[str]:
    return [book.phrase("admin.report"), f"{reply.who} · {reply.at}"]


SENTENCES: dict[type, Callable[[Any, Phrasebook, Language], list[str]]] = {
    r.Welcome: _welcome,
    r.Help: _help,
    r.AskConsent: _fixed("consent.title", "consent.what", "consent.kept", "consent.statement"),
    r.ConsentGiven: _fixed("consent.given.title", "consent.given.how"),
    r.ConsentDeclined: _fixed("declined.title", "declined.again"),
    r.CollectingPhotos: _collecting,
    r.AlreadyCollecting: _fixed("already_collecting"),
    r.PhotoNotTaken: _not_taken,
    r.NoCollection: _fixed("no_collection.title", "no_collection.how"),
    r.NotEnoughPhotos: _not_enough,
    r.Working: _working,
    r.SubjectReady: _subject_ready,
    r.Gallery: _gallery,
    r.AskTemplatePicture: _fixed("own.ask.title", "own.ask.how"),
    r.OwnTemplateChecking: _fixed("own.checking"),
    r.OwnTemplateReady: _own_ready,
    r.OwnTemplateRefused: _own_refused,
    r.ChooseFace: _choose_face,
    r.NobodyChosen: _fixed("nobody.title", "nobody.how"),
    r.PortraitsReady: _portraits,
    r.OtherCandidates: _others,
    r.FavouriteSet: _favourite,
    r.OriginalFile: _original,
    r.Results: _results,
    r.NoSubject: _no_subject,
    r.QueueStatus: _queue,
    r.NothingToCancel: _fixed("nothing_to_cancel"),
    r.Cancelled: lambda reply, book, language: [book.phrase(f"cancelled.{reply.kind}")],
    r.JobFailed: _failed,
    r.AlreadyBusy: _busy,
    r.QuotaReached: _quota,
    r.Models: _models,
    r.SubjectCard: _card,
    r.AskName: _ask_name,
    r.ConfirmDeleteSubject: _delete_subject,
    r.Privacy: _privacy,
    r.Exporting: _fixed("exporting.title", "exporting.how"),
    r.ExportPart: _export_part,
    r.Expiring: _expiring,
    r.Kept: _kept,
    r.ConfirmForget: _confirm_forget,
    r.ConfirmForgetAgain: _fixed("forget.again.title", "forget.again.what"),
    r.Forgotten: _forgotten,
    r.Deleted: lambda reply, book, language: [book.phrase(f"deleted.{reply.what}")],
    r.NotYours: _fixed("not_yours"),
    r.OutOfDate: _fixed("out_of_date"),
    r.PrivateChatOnly: _fixed("private_only.title", "private_only.how"),
    r.NotUnderstood: _fixed("not_understood.title", "not_understood.how"),
    r.Refused: _refused,
    r.Reported: _fixed("reported.title", "reported.how"),
    r.AdminSays: _admin_says,
    r.AdminReport: _admin_report,
    r.Apology: _apology,
}
