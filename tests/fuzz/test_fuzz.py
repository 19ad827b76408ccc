"""Ten thousand inputs by a fixed seed: whatever strangers send, the program neither breaks nor hangs.

A million are fed by `make fuzz`; its figures are in docs/reliability.md. A fault is found again by its number:
`python -m tests.fuzz --target picture --seed 1 --number 4711`.
"""

from __future__ import annotations

import pytest

from tests.fuzz.target import feed_all
from tests.fuzz.targets import SHARES, make_target

INPUTS = 12_000
SEED = 20_261_122

# What each target shows when it is alive: without these outcomes it would test nothing.
EXPECTED = {
    "picture": {"taken", "unreadable", "not_a_picture", "animated", "too_many_pixels"},
    "button": {"understood", "forged", "old"},
    "telegram update": {"heard, stored one read", "heard, stored one put away"},
    "discord interaction": {"heard", "answered"},
    "job payload": {"taken", "refused"},
    "job event": {"taken", "refused"},
    "blob key": {"found", "refused", "not there"},
    "sealed blob": {"blob opened, key opened", "blob refused, key refused"},
    "settings": {"bot taken, worker taken", "bot refused, worker refused"},
    "LoRA file": {"taken", "refused"},
    "sandbox call": {"answered", "refused"},
}


@pytest.mark.parametrize("name", list(SHARES))
def test_nothing_that_strangers_send_breaks_it(name: str) -> None:
    target = make_target(name)
    count = INPUTS * SHARES[name] // sum(SHARES.values())
    try:
        tally = feed_all(target, SEED, range(count))
    finally:
        target.close()
    assert not tally.crashes, "\n".join(tally.crashes[:3])
    assert not tally.hangs
    assert tally.fed == count
    assert set(tally.outcomes) >= EXPECTED[name]


def test_at_least_ten_thousand_are_fed() -> None:
    assert sum(INPUTS * share // sum(SHARES.values()) for share in SHARES.values()) >= 10_000
