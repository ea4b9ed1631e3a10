"""What a message on the exchange `events` means."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.relay_message import RAW_TYPE, STRUCTURED, Relayed, Unreadable, properties_as_headers, read
from gateway.events import MAX_EVENT_BYTES, channel_fault, is_event_id, is_event_type
from gateway.jobs.queue import Incoming
from tests.support.messages import TRACE

ATTRIBUTES = {"specversion": "1.0", "id": "e1", "source": "/shop", "type": "order.paid"}


def structured(**changes: Any) -> Incoming:
    event = {**ATTRIBUTES, "data": {"n": 1}, **changes}
    body = json.dumps({name: value for name, value in event.items() if value is not ...}).encode()
    return Incoming(body, "orders:1", f"{STRUCTURED}; charset=utf-8")


def binary(prefix: str = "cloudEvents:", **changes: Any) -> Incoming:
    headers = {prefix + name: value for name, value in {**ATTRIBUTES, **changes}.items() if value is not ...}
    return Incoming(b'{"n": 1}', "orders:1", "application/json", headers)


def raw(body: bytes = b'{"n": 1}', **changes: Any) -> Incoming:
    return Incoming(body, "orders:1")._replace(**changes)


def event_of(relayed: Relayed) -> dict[str, Any]:
    made = relayed.outgoing.event
    event: dict[str, Any] = json.loads(f'{made.head},"time":"t","sequence":"s"{made.tail}')
    return event


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce-", "ce_", "CE-"])
def test_binary_and_structured_say_the_same(prefix: str) -> None:
    more = {"subject": "o/1", "dataschema": "https://shop.example/order/1", "traceparent": TRACE, "channels": "a,b"}
    one, other = read(structured(**more)), read(binary(prefix, **more))
    assert one == other
    assert event_of(one) == {
        **ATTRIBUTES,
        "subject": "o/1",
        "dataschema": "https://shop.example/order/1",
        "time": "t",
        "sequence": "s",
        "traceparent": TRACE,
        "datacontenttype": "application/json",
        "data": {"n": 1},
    }
    assert one.outgoing.channels == ("a", "b")
    assert one.tenant == "default"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (raw(), {"type": RAW_TYPE, "source": "/amqp"}),
        (raw(routing_key="order.paid"), {"type": "order.paid"}),
        (raw(routing_key="job.succeeded", headers={"channels": "a"}), {"type": RAW_TYPE}),
        (raw(type="order.paid", app_id="shop 1", message_id="m-1"),
         {"type": "order.paid", "source": "/amqp/shop%201", "id": "m-1"}),
        (raw(b"hello", content_type="text/plain"), {"data": "hello"}),
        (raw(content_type="application/vnd.shop+json"), {"data": {"n": 1}}),
        (raw(headers={"traceparent": TRACE}), {"traceparent": TRACE}),
        (raw(headers={"traceparent": "nonsense"}), {"data": {"n": 1}}),
    ],
)  # fmt: skip
def test_raw_messages_get_their_attributes_from_the_properties(message: Incoming, expected: dict[str, Any]) -> None:
    assert expected.items() <= event_of(read(message)).items()


@pytest.mark.parametrize(
    ("message", "tenant", "channels"),
    [
        (structured(), "default", ("orders:1",)),
        (structured(channels=["a", "b", "a"], tenant="acme"), "acme", ("a", "b")),
        (structured(channels=" a , b,"), "default", ("a", "b")),
        (binary(tenant="acme", channels="x/y"), "acme", ("x/y",)),
        (binary(channels=["a", b"b"]), "default", ("a", "b")),
        (raw(headers={"tenant": "acme", "channels": "a,b"}), "acme", ("a", "b")),
        (raw(routing_key="user:ann"), "default", ("user:ann",)),
    ],
)
def test_where_it_goes(message: Incoming, tenant: str, channels: tuple[str, ...]) -> None:
    relayed = read(message)
    assert (relayed.tenant, relayed.outgoing.channels) == (tenant, channels)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (raw(b"{"), "JSON"),
        (raw(b"\xff", content_type="text/plain"), "UTF-8"),
        (raw(content_type="image/png"), "image/png"),
        (raw(routing_key=""), "/channels must have at least 1 item"),
        (raw(routing_key="not a channel"), "/channels/0"),
        (raw(type="nodot"), "/type"),
        (raw(headers={"tenant": "a b"}), "/tenant"),
        (structured(type="job.succeeded"), "/type"),
        (structured(type="gateway.reset"), "/type"),
        (structured(channels="job:job_1"), "/channels/0"),
        (structured(channels="jobs"), "/channels/0"),
        (structured(channels=",".join(f"c{n}" for n in range(65))), "/channels"),
        (structured(channels=""), "/channels"),
        (structured(specversion="0.3"), "/specversion"),
        (structured(id=...), "/id is required"),
        (structured(id=""), "/id"),
        (structured(source=...), "/source is required"),
        (structured(data_base64="AA=="), "/data_base64"),
        (structured(datacontenttype="image/png"), "/datacontenttype"),
        (structured(dataschema="urn:gateway:schema:job:1"), "/dataschema"),
        (structured(dataschema="no uri"), "/dataschema"),
        (structured(tenant=5), "/tenant"),
        (structured(data="x" * MAX_EVENT_BYTES), "over"),
        (binary(source=...), "/source is required"),
        (binary(data_base64="AA==", type="nodot"), "/type"),
        (Incoming(b"[]", "a", STRUCTURED), "object"),
    ],
)
def test_what_is_refused_and_why(message: Incoming, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        read(message)


def test_an_id_that_is_none_of_ours_becomes_a_hash_of_source_and_id() -> None:
    ids = [event_of(read(structured(id=id_, source=source)))["id"] for id_ in ("a b", "ü") for source in ("/1", "/2")]
    assert len(set(ids)) == 4
    assert all(is_event_id(id_) for id_ in ids)
    assert event_of(read(structured(id="a b")))["id"] == event_of(read(binary(id="a b")))["id"]


def test_events_are_known_by_source_and_id_together() -> None:
    def key(**changes: Any) -> object:
        return read(structured(**changes)).outgoing.dedupe

    assert key() == key(data=2)
    assert len({key(), key(id="e2"), key(source="/other")}) == 3
    assert read(raw(message_id="m")).outgoing.dedupe == read(raw(b"2", message_id="m")).outgoing.dedupe
    without = [read(raw()).outgoing.event.id for _ in range(2)]
    assert without[0] != without[1]  # nothing says that the one is the other


def test_a_dead_letter_that_is_published_again_means_what_it_meant() -> None:
    for message in (raw(type="order.paid", app_id="shop", message_id="m"), structured(), binary(), raw(message_id="m")):
        headers = {**message.headers, **properties_as_headers(message)}
        again = Incoming(message.body, "gateway.events", message.content_type, headers, "again:1")
        assert read(again) == read(message)


def test_data_stays_as_it_was_written() -> None:
    body = b'{"float": 1.0, "big":1e400, "none":[]}'
    tail = b',"datacontenttype":"application/json","data":{"float":1.0,"big":1e400,"none":[]}}'
    event = json.dumps(ATTRIBUTES)[:-1].encode() + b', "data": ' + body + b"}"
    for message in (raw(body), binary()._replace(body=body), Incoming(event, "a", STRUCTURED)):
        assert read(message).outgoing.event.tail.encode().endswith(tail)


NAMES = st.sampled_from(["channels", "tenant", "traceparent", *(f"ce-{name}" for name in (*ATTRIBUTES, "subject"))])
OBJECTS = st.dictionaries(NAMES, st.text(max_size=9)).map(lambda found: json.dumps(found).encode())
HEADER = st.none() | st.text(max_size=20) | st.integers() | st.binary(max_size=9) | st.lists(st.text(max_size=5))


@given(
    st.builds(
        Incoming,
        st.binary(max_size=40) | OBJECTS,
        st.text(max_size=20) | st.just("a.b"),
        st.sampled_from(["", "application/json", "text/plain", STRUCTURED, "x"]),
        st.dictionaries(NAMES, HEADER),
        st.text(max_size=9),
        st.text(max_size=9),
        st.text(max_size=9),
    )
)  # fmt: skip
def test_whatever_comes_is_an_event_of_ours_or_refused(message: Incoming) -> None:
    try:
        relayed = read(message)
    except Unreadable:
        return
    event = event_of(relayed)
    assert is_event_id(event["id"])
    assert is_event_type(event["type"])
    assert all(channel_fault(channel) is None for channel in relayed.outgoing.channels)
