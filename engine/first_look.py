"""A portrait before anything is learned: for people to look at while their training runs."""

from __future__ import annotations

from engine.errors import NoFaceInTemplate
from engine.portraits import make_portraits
from engine.profiles import Profile
from engine.progress import Report, silent
from engine.subject import Subject
from engine.types import Inspection, Photo, Rgb


def first_look(inspection: Inspection, template: Photo | None, profile: Profile, report: Report = silent) -> Rgb:
    """The subject's usable photos and a template (None: the ID photo that is most like the subject) as a portrait.

    What takes part besides face fusion is the profile's choice (`Profile.first_look`). Raises what `make_portraits`
    does.
    """
    subject = Subject.untrained(inspection.usable)
    chosen = template or _likest(profile, subject)
    return make_portraits(subject, chosen, profile, profile.first_look, report).portrait


def _likest(profile: Profile, subject: Subject) -> Photo:
    def likeness(template: Photo) -> float:
        faces = profile.detector(template.rgb)
        if not faces:
            return -1.0
        own = profile.recogniser.embed(template.rgb, faces[0])
        return max(profile.recogniser.likeness(own, reference.embedding) for reference in subject.references)

    templates = profile.id_templates()
    if not templates:
        raise NoFaceInTemplate("the profile has no ID photos")
    return max(templates, key=likeness)
