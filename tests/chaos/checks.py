"""What must hold when it is quiet again, looked at from outside: the chats, the database, Redis, blobs, processes."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bot import replies as r
from bot import texts
from bot.choices import rows_of
from bot.domain import Subject
from bot.parts import utc_now
from bot.sandbox.person import buttons, choice_in, words
from bot.sandbox.world import Json
from tests.chaos.faults import WORKERS, Mischief
from tests.chaos.people import Visitor
from tests.chaos.town import LEASE_S, Town, descendants

# A job may end in these without a result: a limit was reached, and the person was told so.
TOLD = {"worker_died", "lost", "storage", "engine_died", "cancelled"}
# What may come between the sending of a message and the noting of its id.
_NEAR_THE_BOT = ("bot", "platform", "postgres", "disk", "valkey", "refuse")
# A worker hears of the loss of its lease at its next renewal, and kills its engine then.
HANDOVER_S = LEASE_S / 4 + 3
# A checkpoint is in the blob store that long after the engine wrote it.
ON_ITS_WAY_S = 2.5


@dataclass
class Findings:
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def wrong(self, what: str) -> None:
        self.violations.append(what)


class Look:
    """Reads the round's database and Redis directly, past all that was played to the bot."""

    def __init__(self, town: Town) -> None:
        self._engine: AsyncEngine = create_async_engine(town.database_url)
        self.redis = Redis.from_url(f"unix://{town.valkey_socket}", socket_timeout=5)
        self._log = town.platform_log

    async def rows(self, query: str) -> list[dict[str, Any]]:
        async with self._engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(text(query))).mappings()]

    async def count(self, query: str) -> int:
        return int((await self.rows(query))[0]["n"])

    async def close(self) -> None:
        await self._engine.dispose()
        await self.redis.aclose()

    def events(self) -> list[Json]:
        return [json.loads(line) for line in self._log.read_text("utf-8").splitlines()]

    async def unrest(self) -> list[str]:
        """What is not finished yet."""
        waiting = {
            "updates in the inbox": "SELECT count(*) AS n FROM inbox",
            "answers not given": "SELECT count(*) AS n FROM turns WHERE said_at IS NULL",
            "open jobs": "SELECT count(*) AS n FROM jobs WHERE status IN ('queued', 'running')",
            "outcomes not shown": "SELECT count(*) AS n FROM jobs"
            " WHERE status NOT IN ('queued', 'running') AND shown <> 'yes'",
            "jobs in the outbox": "SELECT count(*) AS n FROM outbox WHERE sent_at IS NULL",
        }
        found = [f"{n} {what}" for what, query in waiting.items() if (n := await self.count(query))]
        pending = _pending_updates(self.events())
        return [*found, *([f"{pending} updates not fetched"] if pending else [])]


def _pending_updates(log: list[Json]) -> int:
    pending: set[int] = set()
    for line in log:
        if line["kind"] == "given":
            pending.add(line["update"])
        elif line["kind"] == "confirmed":
            pending = {update for update in pending if update >= line["before"]}
    return len(pending)


class Reckoning:
    """All checks of one round. `findings` is what they say."""

    def __init__(self, town: Town, look: Look, visitors: list[Visitor], mischief: Mischief) -> None:
        self._town, self._look, self._visitors, self._mischief = town, look, visitors, mischief
        self.findings = Findings()
        self._log = [line for line in look.events() if "chat_id" in line]

    async def all(self) -> Findings:
        await self._jobs()
        await self._outcomes_in_chats()
        await self._unfinished_messages()
        await self._photos()
        await self._quotas()
        await self._forgotten()
        await self._redis()
        await self._blobs(is_swept=False)
        self._engine_work()
        return self.findings

    # --- jobs

    async def _jobs(self) -> None:
        counts = self.findings.counts
        query = (
            "SELECT jobs.id, kind, status, failure, session_version, version FROM jobs"
            " LEFT JOIN sessions ON sessions.id = jobs.session_id"
        )
        for job in await self._look.rows(query):
            if job["kind"] == "inspect" and job["session_version"] != job["version"] and job["status"] == "failed":
                counts["checks of photos that were removed meanwhile"] += 1
                continue
            counts[f"{job['kind']} {job['status']}"] += 1
            if job["status"] == "failed":
                reason = _json(job["failure"])["reason"]
                counts[f"failed: {reason}"] += 1
                if reason not in TOLD:
                    self.findings.wrong(f"job {job['id']} ({job['kind']}) failed: {_json(job['failure'])}")

    async def _outcomes_in_chats(self) -> None:
        sent: dict[str, set[int]] = defaultdict(set)
        edited: dict[str, set[int]] = defaultdict(set)
        for event in self._of_bot():
            for action, value in _choices(event["message"]):
                if action == "again":
                    where = sent if event["kind"] == "message" else edited
                    where[value].add(event["message"]["message_id"])
        for job in await self._look.rows("SELECT id FROM jobs WHERE kind = 'portrait' AND status = 'succeeded'"):
            messages, edits = sent[job["id"]], edited[job["id"]] - sent[job["id"]]
            self.findings.counts["portraits shown"] += bool(messages | edits)
            if not messages and not edits:
                self.findings.wrong(f"LOST: the portrait of job {job['id']} was never shown")
            if len(messages) > 1:
                self.findings.wrong(f"SHOWN TWICE: the portrait of job {job['id']} in messages {sorted(messages)}")
            if messages and edits:
                self.findings.counts["shown again in the progress message"] += 1
        await self._trainings_in_chats()

    async def _trainings_in_chats(self) -> None:
        subject = Subject("x", "x", utc_now(), 0.5, 0.5)
        ready = {b.choice.action for row in rows_of(r.SubjectReady(subject, (), None, 1.0)) for b in row}
        forgetful = {visitor.user for visitor in self._visitors if visitor.ledger.forgot_at}
        shown: dict[int, set[int]] = defaultdict(set)
        for event in self._of_bot():
            if "photo" in event["message"] and {action for action, _ in _choices(event["message"])} == ready:
                shown[event["chat_id"]].add(event["message"]["message_id"])
        done: Counter[int] = Counter()
        for job in await self._look.rows("SELECT chat FROM jobs WHERE kind = 'train' AND status = 'succeeded'"):
            done[int(job["chat"])] += 1
        for chat, count in done.items():
            self.findings.counts["trainings shown"] += len(shown[chat])
            if chat not in forgetful and len(shown[chat]) < count:
                self.findings.wrong(f"LOST: chat {chat} was shown {len(shown[chat])} of {count} trained models")
            if chat not in forgetful and len(shown[chat]) > count:
                self.findings.counts["training shown again in the progress message"] += len(shown[chat]) - count

    async def _unfinished_messages(self) -> None:
        """No message that the bot knows of goes on saying that something is under way."""
        jobs = {job["id"]: job for job in await self._look.rows("SELECT id, status, message_id FROM jobs")}
        for message in self._visible().values():
            for action, job_id in _choices(message):
                if action != "cancel_job":
                    continue
                job = jobs.get(job_id)
                if job and str(job["message_id"]) == str(message["message_id"]):
                    self.findings.wrong(f"a message still shows job {job_id} at work, which is {job['status']}")
                elif self._was_hit(message["at"] - 1, message["at"] + 12, _NEAR_THE_BOT):
                    self.findings.counts["progress messages whose sending was never confirmed"] += 1
                else:
                    self.findings.counts["answers “you are busy” that still offer to cancel"] += 1

    # --- people

    async def _photos(self) -> None:
        kept = {
            row["session_id"]: row["n"]
            for row in await self._look.rows("SELECT session_id, count(*) AS n FROM photos GROUP BY session_id")
        }
        sessions = {row["id"] for row in await self._look.rows("SELECT id FROM sessions")}
        for visitor in self._visitors:
            refused = self._refused_photos(visitor)
            missing = 0
            for session, sent in visitor.ledger.photos.items():
                if session in visitor.ledger.unsure:
                    continue
                if session not in sessions:
                    self.findings.wrong(f"LOST: the collection {session} of {visitor.user} with {sent} photos is gone")
                    continue
                self.findings.counts["photos sent"] += sent
                missing += max(0, sent - kept.get(session, 0))
                if kept.get(session, 0) > sent + visitor.ledger.strays:
                    self.findings.wrong(f"the collection {session} has {kept[session]} photos, {sent} were sent")
            self.findings.counts["photos refused aloud (could not be fetched)"] += min(missing, refused)
            if missing > refused:
                self.findings.wrong(f"LOST: {missing} photos of {visitor.user}, of which {refused} were refused aloud")

    def _refused_photos(self, visitor: Visitor) -> int:
        """How many photos the bot said in the chat that it could not take, whatever its words for that are."""
        language = visitor.language
        told = {}
        for count in range(1, 21):
            for reason in ("expired", "unreadable", "too_many_photos", "not_a_picture"):
                told[_plain(str(texts.say(r.PhotoNotTaken(reason, count), language)))] = count  # type: ignore[arg-type]
        said = [e for e in self._of_bot() if e["chat_id"] == visitor.user and e["kind"] == "message"]
        return sum(told.get(_plain(words(event["message"])), 0) for event in said)

    async def _quotas(self) -> None:
        limits = {"train": self._town.settings()["trainings_per_day"]}
        limits["portrait"] = self._town.settings()["portraits_per_day"]
        query = "SELECT user_id, kind, count(*) AS n FROM jobs WHERE status = 'succeeded' GROUP BY user_id, kind"
        for row in await self._look.rows(query):
            if row["n"] > limits.get(row["kind"], 1_000_000):
                self.findings.wrong(f"user {row['user_id']} got {row['n']} of {row['kind']} in a day")

    async def _forgotten(self) -> None:
        people = {row["person"] for row in await self._look.rows("SELECT person FROM identities")}
        visible = self._visible()
        for visitor in self._visitors:
            if not visitor.ledger.forgot_at:
                continue
            self.findings.counts["people forgotten"] += 1
            if visitor.ledger.has_left and str(visitor.user) in people:
                self.findings.wrong(f"{visitor.user} had everything forgotten, and is still known")
            moment = visitor.ledger.forgot_at[-1]
            for (chat, _), message in visible.items():
                if chat == visitor.user and message["from"]["is_bot"] and message["at"] < moment - 1:
                    self._left_behind(message)

    def _left_behind(self, message: Json) -> None:
        """The bot cannot delete what it does not know: a message whose sending a fault interrupted."""
        if self._was_hit(message["at"] - 1, message["at"] + 12, _NEAR_THE_BOT):
            self.findings.counts["messages left by /forget whose sending was never confirmed"] += 1
        else:
            self.findings.wrong(f"/forget left message {message['message_id']}: {words(message)[:60]!r}")

    # --- places

    async def _redis(self) -> None:
        known = {row["id"] for row in await self._look.rows("SELECT id FROM jobs")}
        deadline = time.monotonic() + 80  # the sweep of traces of forgotten jobs runs every minute
        while (strange := await self._strange_keys(known)) and time.monotonic() < deadline:
            import asyncio

            await asyncio.sleep(2)
        for key in strange:
            self.findings.wrong(f"Redis still holds {key}")

    async def _strange_keys(self, known: set[str]) -> list[str]:
        strange = []
        async for raw in self._look.redis.scan_iter(count=500):
            key = raw.decode()
            if key in ("portrait:epoch", "portrait:events") or key.startswith("portrait:worker:"):
                continue
            if key.endswith(":health-check"):
                continue
            prefix = next((p for p in ("arq:result:", "portrait:claims:", "portrait:cancel:") if key.startswith(p)), "")
            if prefix and key.removeprefix(prefix).partition(":")[0] in known:
                continue
            strange.append(key)
        if length := await self._look.redis.xlen("portrait:events"):
            strange.append(f"{length} job events")
        return strange

    async def _blobs(self, *, is_swept: bool) -> None:
        """Everything that a row speaks of is there."""
        root = self._town.blobs
        photos = "SELECT id, user_id FROM photos WHERE is_stored"
        keys = [f"users/{row['user_id']}/photos/{row['id']}.jpg" for row in await self._look.rows(photos)]
        keys += [row["key"] for row in await self._look.rows("SELECT key FROM portraits")]
        keys += [f"{row['prefix']}/lora.safetensors" for row in await self._look.rows("SELECT prefix FROM subjects")]
        for key in keys:
            if not (root / key).is_file():
                self.findings.wrong(f"LOST: the blob {key}")
        self.findings.counts["blobs needed and there"] = len(keys)

    async def after_the_sweep(self) -> None:
        """No blob without a row, and none missing: the bot has looked twice for strays."""
        self.findings.counts["blobs needed and there"] = 0
        await self._blobs(is_swept=True)
        users = {row["id"] for row in await self._look.rows("SELECT id FROM users")}
        base = self._town.blobs / "users"
        left = [p for p in base.rglob("*") if p.is_file()] if base.exists() else []
        needed = {f"{row['id']}.jpg" for row in await self._look.rows("SELECT id FROM photos WHERE is_stored")}
        subjects = {row["id"] for row in await self._look.rows("SELECT id FROM subjects")}
        jobs = {row["job_id"] for row in await self._look.rows("SELECT job_id FROM portraits")}
        for path in left:
            if path.name.startswith(".unfinished-"):
                self.findings.counts["files half-written by a killed process (deleted an hour later)"] += 1
                continue
            user, kind, *rest = path.relative_to(base).parts
            needed_here = {"photos": needed, "subjects": subjects, "jobs": jobs}.get(kind, set())
            if user not in users or rest[0] not in needed_here:
                self.findings.wrong(f"orphan blob {path.relative_to(self._town.blobs)}")

    def after_the_end(self, codes: dict[str, int | None]) -> None:
        for name, code in codes.items():
            if code != 0:
                self.findings.wrong(f"{name}, asked to end, ended with {code}")
        self._endings()
        ours = ("engine_child", "decoder.py", "gpu_worker", "bot_process")
        for pid, command in descendants(os.getpid()):
            if any(name in command for name in ours):
                self.findings.wrong(f"orphan process {pid}: {command[:120]}")
        if self._town.work.exists():
            for folder in self._town.work.glob("worker-*/*"):
                self.findings.counts["job folders of killed workers, deleted at the next start"] += folder.is_dir()

    def _endings(self) -> None:
        for name in ("bot", "worker-1", "worker-2", "platform"):
            for at, code in self._town.daemons[name].endings:
                if name == "bot" and code == 69:
                    self.findings.counts["bot could not start yet (database or Redis away)"] += 1
                elif name in WORKERS and self._was_hit(at - 20, at, (f"engine of {name}",)):
                    self.findings.counts["worker ended because its engine was killed while it started"] += 1
                else:
                    self.findings.wrong(f"{name} ended by itself with {code} at {time.strftime('%T', time.gmtime(at))}")

    # --- the engine's record

    def _engine_work(self) -> None:
        jobs: dict[str, dict[tuple[int, int, int], list[Json]]] = defaultdict(lambda: defaultdict(list))
        for line in _lines(self._town.record):
            jobs[line["job"]][line["attempt"], line["run"], line["pid"]].append(line)
        for job, runs in jobs.items():
            ordered = sorted(runs.values(), key=lambda lines: lines[0]["at"])
            self.findings.counts["runs of the engine"] += len(ordered)
            for earlier, later in itertools.pairwise(ordered):
                self._not_at_once(job, earlier, later)
            if any(run[0]["kind"] == "train" for run in ordered):
                for number, run in enumerate(ordered):
                    self._resumed(job, ordered[:number], run)

    def _not_at_once(self, job: str, earlier: list[Json], later: list[Json]) -> None:
        overlap_s = earlier[-1]["at"] - later[0]["at"]
        if overlap_s <= HANDOVER_S:
            return
        parent = earlier[0]["parent"]
        begin, end = later[0]["at"] - LEASE_S - 2, earlier[-1]["at"]
        if self._was_hit(begin, end, ("valkey", *self._names_of(parent)), pid=parent):
            self.findings.counts["runs that went on while their worker was paused or cut off (fenced)"] += 1
        else:
            self.findings.wrong(f"two workers at job {job} at once for {overlap_s:.1f} s")

    def _resumed(self, job: str, before: list[list[Json]], run: list[Json]) -> None:
        resume = next((line for line in run if line["what"] == "resume"), None)
        if resume is None:
            return
        owed = 0
        for earlier in before:
            parent, last = earlier[0]["parent"], earlier[-1]["at"]
            hits = [begin for begin, _, _, pid in self._mischief.log if pid == parent and begin >= earlier[0]["at"] - 1]
            cutoff = min([last, resume["at"], *hits]) - ON_ITS_WAY_S
            names = ("valkey", "disk", *self._names_of(parent))
            done = [line for line in earlier if line["what"] == "checkpoint" and line["at"] <= cutoff]
            done = [line for line in done if not self._was_hit(line["at"] - 12, line["at"] + ON_ITS_WAY_S, names)]
            owed = max([owed, *(line["step"] for line in done)])
        if before:
            self.findings.counts["trainings resumed"] += 1
        if resume["step"] < owed:
            self.findings.wrong(f"job {job} went on from step {resume['step']}, the checkpoint of step {owed} was kept")

    def _names_of(self, parent: int) -> tuple[str, ...]:
        return tuple(name for name, daemon in self._town.daemons.items() if parent in daemon.pids)

    def _was_hit(self, begin: float, end: float, names: Iterable[str], pid: int | None = None) -> bool:
        """Whether one of these (parts of) names, or that process, was played a fault in that time."""
        return any(
            since <= end and until >= begin and (hit == pid or any(n in f"{fault.kind} {fault.on}" for n in names))
            for since, until, fault, hit in self._mischief.log
        )

    # --- chats

    def _of_bot(self) -> list[Json]:
        return [line for line in self._log if line["kind"] in ("message", "edit") and line["message"]["from"]["is_bot"]]

    def _visible(self) -> dict[tuple[int, int], Json]:
        """(chat, message) -> the message as it is now, with `at`, when it was sent."""
        shown: dict[tuple[int, int], Json] = {}
        for line in self._log:
            if line["kind"] in ("message", "edit"):
                key = (line["chat_id"], line["message"]["message_id"])
                sent_at = shown[key]["at"] if key in shown else line["at"]
                shown[key] = {**line["message"], "at": sent_at}
            elif line["kind"] == "delete":
                shown.pop((line["chat_id"], line["message_id"]), None)
        return shown


def _choices(message: Json) -> list[tuple[str, str]]:
    return [choice_in(button) for button in buttons(message)]


def _plain(sentence: str) -> str:
    return " ".join(sentence.split())


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text().splitlines()]
