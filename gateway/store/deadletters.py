"""Dead letters: what could not be dealt with and waits for a person; what became of it is theirs to say.

The index holds failed jobs (their own scripts put them in) and *messages*: bodies that are no job or event of ours. A
tenant sees its own. A message whose tenant nobody knows is unowned (owner `""`): it may hold anything, so only the
operator sees it. The index is bounded: entries over its limits drop the oldest, and are counted.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import structlog

from gateway.auth.principals import DEFAULT_TENANT
from gateway.events import TENANT
from gateway.settings import Settings
from gateway.store.dead_schemas import DEAD_LETTERS
from gateway.store.fingerprints import clean, group_of
from gateway.store.redis import Script, Store

log = structlog.get_logger(__name__)

UNOWNED: Final = ""
MAX_BODY: Final = 512 * 1024  # bytes kept of a message: all of any message of ours
MAX_HEADERS: Final = 8 * 1024  # bytes of JSON
MAX_TEXT: Final = 500  # characters of the detail, a source, a header's value
MAX_DEPTH: Final = 4  # of a header's value
MORE_HEADERS: Final = "…"
LETTER_ID: Final = re.compile(r"dl_[0-9a-f]{26}\Z")

# For every script that changes the index.
PRELUDE: Final = (
    f"local OPERATOR, DEAD_SCHEMA = '{DEFAULT_TENANT}', '{DEAD_LETTERS.uri}'\n"
    + resources.files("gateway.store").joinpath("lua/dead_prelude.lua").read_text()
)
_BURY, _PRUNE, _GROUPS = (
    Script.load("gateway.store", f"lua/{name}.lua", prelude=PRELUDE) for name in ("bury", "bury_prune", "dead_groups")
)
_REASON = re.compile(r"[a-z][a-z-]{0,39}\Z")


class Place(NamedTuple):
    """Where a list goes on: after the entry or group `name` that died, or grew last, at `ms`."""

    ms: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
    name: Annotated[str, msgspec.Meta(max_length=100)]


class GroupCount(NamedTuple):
    """A group of errors and how it fares.

    Attributes:
        json: the group, see `fingerprints.Group`.
        entries: how many it has.
        first_seen: when the oldest of them died, ms.
        last_seen: when the newest did, ms.
        sample: the newest one's id.
    """

    json: bytes
    entries: int
    first_seen: int
    last_seen: int
    sample: str


class DeadLetterStore:
    """Buries messages, and says what the errors of dead letters have in common."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._retention_ms = int(settings.job_retention * 1000)

    async def bury(  # noqa: PLR0913 - these are what AMQP says of a message
        self,
        tenant: str | None,
        reason: str,
        source: str,
        body: bytes,
        headers: Mapping[str, Any],
        *,
        detail: str = "",
        message_id: str = "",
        content_type: str = "",
    ) -> str:
        """Keep a message nobody can deal with; returns the dead letter's id. Safe to repeat.

        The same message (source, message id, body) again is the same dead letter, counted. What is over `MAX_BODY` or
        `MAX_HEADERS` bytes is cut, and cannot be put back into its queue.

        Args:
            tenant: whose it is; None, or what is no tenant's name, when nobody knows.
            reason: a word such as `undecodable`.
            source: the queue it came from: where it goes when somebody requeues it.
            body: as it was received.
            headers: likewise; what JSON cannot say is shown as text.
            detail: a sentence about what is wrong with it.
            message_id: the sender's, if there is one.
            content_type: likewise.

        Raises:
            ValueError: the reason is not a word of a-z and `-`.
            StoreUnavailable: it may not be kept.
        """
        if not _REASON.match(reason):
            raise ValueError(f"not a reason: {reason!r}")
        owner = tenant if tenant and TENANT.match(tenant) else UNOWNED
        group = group_of(reason.title().replace("-", ""), detail)
        letter_id = _id_of(source, message_id, body)
        fresh = await self._store.run(
            _BURY,
            shard_tag(self._store, owner),
            owner=owner,
            id=letter_id,
            reason=reason,
            group=list(group),
            meta=_meta(source, body, headers, detail=detail, message_id=message_id, content_type=content_type),
            body=base64.b64encode(body[:MAX_BODY]).decode(),
        )
        if fresh:
            log.warning("dead_letter.buried", id=letter_id, tenant=owner, reason=reason, source=source, detail=detail)
        return letter_id

    async def prune(self, tag: str, *, limit: int = 100) -> int:
        """Forget messages of a shard that are older than ended jobs are kept; returns how many there were."""
        return int(await self._store.run(_PRUNE, tag, retention_ms=self._retention_ms, limit=limit))

    async def groups(
        self, owner: str, *, limit: int, after: Place | None = None
    ) -> tuple[Sequence[GroupCount], Place | None, int]:
        """Return groups, the one that grew last first, where to go on after them, and how many groups there are."""
        (name, ms), total, *found = await self._store.run(
            _GROUPS, shard_tag(self._store, owner), owner=owner, limit=limit, **before(after)
        )
        counts = [GroupCount(text, count, first, last, sample.decode()) for text, count, first, last, sample in found]
        return counts, Place(ms, name.decode()) if name else None, total

    def tags(self) -> list[str]:
        """Return the tags of all shards."""
        return self._store.tags()


def shard_tag(store: Store, owner: str) -> str:
    """Return the tag of the shard an owner's dead letters live on: unowned ones with the operator's tenant."""
    return store.tag(owner or DEFAULT_TENANT)


def before(after: Place | None) -> dict[str, object]:
    """Write a place as the arguments of the scripts."""
    return {"before_ms": after.ms, "before": after.name} if after else {}


def shown_headers(headers: Mapping[str, Any]) -> dict[str, object]:
    """Return headers as JSON can say them, at most `MAX_HEADERS` bytes; `MORE_HEADERS` stands for what is left out."""
    kept: dict[str, object] = {}
    size = 0
    for name, value in headers.items():
        shown = {_text(str(name)): _plain(value, MAX_DEPTH)}
        size += len(msgspec.json.encode(shown))
        if size > MAX_HEADERS:
            return {**kept, MORE_HEADERS: "left out"}
        kept |= shown
    return kept


def _plain(value: object, depth: int) -> object:
    """Return what JSON can say of a value, bounded."""
    shown: object
    match value:
        case bool() | None | float():
            shown = value
        case int():
            shown = value if abs(value) < 1 << 53 else str(value)
        case bytes():
            shown = _text(value[:MAX_TEXT].decode("utf-8", "backslashreplace"))
        case datetime():
            shown = value.isoformat()
        case Mapping() if depth:
            shown = {_text(str(name)): _plain(item, depth - 1) for name, item in list(value.items())[:MAX_TEXT]}
        case list() | tuple() if depth:
            shown = [_plain(item, depth - 1) for item in value[:MAX_TEXT]]
        case _:
            shown = _text(str(value))
    return shown


def _text(value: str) -> str:
    return clean(value[:MAX_TEXT])


def _meta(source: str, body: bytes, headers: Mapping[str, Any], **texts: str) -> str:
    shown = shown_headers(headers)
    fields = {
        "source": _text(source),
        **{name: _text(text) for name, text in texts.items()},
        "size": len(body),
        "cut": len(body) > MAX_BODY or MORE_HEADERS in shown,
        "headers": shown,
    }
    return msgspec.json.encode(fields)[1:-1].decode()


def _id_of(source: str, message_id: str, body: bytes) -> str:
    digest = hashlib.blake2b(f"{source}\n{message_id}\n".encode("utf-8", "replace") + body, digest_size=13)
    return f"dl_{digest.hexdigest()}"
