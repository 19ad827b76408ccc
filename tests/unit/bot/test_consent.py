"""What people agree to is known by its version, so no word of it may change under the same one."""

from __future__ import annotations

import hashlib

from bot import replies as r
from bot import texts
from bot.dialogue import CONSENT_VERSION

AGREED_TO = {
    "2026-11": {
        "en": "18e97935574c67d8",
        "zh": "9a329489c118741c",
    },
}


def test_the_consent_text_has_a_version_of_its_own() -> None:
    said = {language: str(texts.say(r.AskConsent(CONSENT_VERSION), language)) for language in ("en", "zh")}
    found = {language: hashlib.sha256(words.encode()).hexdigest()[:16] for language, words in said.items()}
    assert AGREED_TO[CONSENT_VERSION] == found, (
        "another text is another consent: raise CONSENT_VERSION and note it here"
    )
