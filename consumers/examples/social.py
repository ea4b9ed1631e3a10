"""`social.notify`: somebody did something; each of many users hears of it in a channel of their own."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from consumers import Context, GiveUp, task
from consumers.examples.inputs import one_of, parse
from gateway.events import MAX_CHANNELS

MAX_USERS: Final = 10_000

UserId = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9_.:@/-]{1,150}\Z", description="1 to 150 characters of A-Z a-z 0-9 _ . : @ / -"),
]


class NotifyInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input of `social.notify`: either `users` or `sample`.

    Attributes:
        actor: the user who did it, and is not told.
        verb: what it was, a word such as `liked`; the event's type is `social.<verb>`.
        object: to what, for people.
        url: where it can be seen.
        users: who is told, at most 10,000; each hears of it in the channel `user:<id>`.
        sample: so many made-up users, `follower-1`, `follower-2`, ….
    """

    actor: UserId
    verb: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{1,40}\Z")]
    object: Annotated[str, msgspec.Meta(max_length=500)]
    url: Annotated[str, msgspec.Meta(max_length=2048)] | None = None
    users: Annotated[tuple[UserId, ...], msgspec.Meta(min_length=1, max_length=MAX_USERS)] | None = None
    sample: Annotated[int, msgspec.Meta(ge=1, le=MAX_USERS)] | None = None


# Tried again within seconds: the channels know the event for five minutes, and take it no second time.
@task("social.notify", timeout=120, backoff=(0.5, 30))
async def notify(ctx: Context, job_input: object) -> dict[str, Any]:
    """Publish one event to the channels of all users, 64 at a time; see `NotifyInput`.

    Returns:
        `event` (its id, the same for everybody), `type`, `notified` (users), `publications` (calls it took) and
        `left_out`: {`actor`, `repeated`}.

    Raises:
        GiveUp: the input is not valid.
    """
    wanted = parse(job_input, NotifyInput)
    one_of(users=wanted.users, sample=wanted.sample)
    given = wanted.users or tuple(f"follower-{number}" for number in range(1, (wanted.sample or 0) + 1))
    users = [user for user in dict.fromkeys(given) if user != wanted.actor]
    if not users:
        raise GiveUp("there is nobody to tell but the actor")
    event_id, type_ = f"{ctx.idempotency_key}-notify", f"social.{wanted.verb}"
    data = {"actor": wanted.actor, "verb": wanted.verb, "object": wanted.object, "url": wanted.url}
    for start in range(0, len(users), MAX_CHANNELS):
        channels = [f"user:{user}" for user in users[start : start + MAX_CHANNELS]]
        await ctx.publish(channels, type_, data, event_id=event_id, subject=f"user/{wanted.actor}")
        done = start + len(channels)
        ctx.progress(done, len(users), f"{done:,} of {len(users):,} users")
    actor = given.count(wanted.actor)
    return {
        "event": event_id,
        "type": type_,
        "notified": len(users),
        "publications": -(-len(users) // MAX_CHANNELS),
        "left_out": {"actor": actor, "repeated": len(given) - len(users) - actor},
    }
