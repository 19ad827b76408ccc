"""A portrait before anything is learned: for people to look at while their training runs."""

from __future__ import annotations

from engine.errors import NoFaceInTemplate
from engine.portraits import make_portraits
from engine.profiles import Profile
from engine.progress import Report, silent
from engine.subject import Subject
from engine.types import Embedding, Inspection, Photo, Rgb


def first_look(inspection: Inspection, template: Photo | None, profile: Profile, report: Report = silent) -> Rgb:
    """The subject's usable photos and a template (None: the ID photo that is most like the subject) as a portrait.

    What takes part besides face fusion is the profile's choice (`Profile.first_look`). Raises what `make_portraits`
    does.
    """
    subject = Subject.untrained(inspection.usable)
    chosen = template or _likest(profile, subject)
    return make_portraits(subject, chosen, profile, profile.first_look, report).portrait


def _likest(profile: Profile, subject: Subject) -> Photo:
    def likeness(own: Embedding) -> float:
        return max(profile.recogniser.likeness(own, reference.embedding) for reference in subject.references)

    found = [(template, faces[0]) for template in profile.id_templates() if (faces := profile.detector(template.rgb))]
    if not found:
        raise NoFaceInTemplate("the profile has no ID photos with a face")
    embeddings = [profile.recogniser.embed(template.rgb, face) for template, face in found]
    likest = max(range(len(found)), key=lambda k: likeness(embeddings[k]))
    return found[likest][0]
