"""Celery's events, read: what they mean for a job, and what is none."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.celery_events import Unreadable, change_of, input_of, of_result, read, repr_json, trace_of, type_of
from consumers.celery_rules import birth, filled, rule_for
from gateway.jobs.foreign import Change
from gateway.jobs.model import TYPE
from gateway.settings import CeleryRule

JSON = "application/json"
ID = "1f6c2b1e-7b7a-4f0c-9a3e-3f2c8f4f0a11"


def event(type_: str, **fields: object) -> bytes:
    told = {
        "type": type_,
        "uuid": ID,
        "hostname": "celery@host",
        "clock": 7,
        "pid": 1,
        "timestamp": 1.5,
        "utcoffset": 0,
    }
    return json.dumps(told | fields).encode()


def only(type_: str, **fields: object) -> dict[str, Any]:
    [told] = read(event(type_, **fields), JSON)
    change = change_of(told)
    return {name: value for name, value in change._asdict().items() if value is not None}


@pytest.mark.parametrize(
    ("type_", "fields", "expected"),
    [
        ("task-sent", {"name": "a", "retries": 0}, {"state": "queued", "attempt": 1}),
        ("task-received", {"name": "a", "retries": 2}, {"state": "queued", "attempt": 3}),
        ("task-started", {}, {"state": "running", "worker": '"celery@host"', "by": "celery@host:1:7"}),
        ("task-revoked", {"expired": False, "terminated": True}, {"state": "cancelled"}),
        ("task-revoked", {"expired": True}, {"state": "expired"}),
        ("task-rejected", {"requeue": True}, {"state": "requeued"}),
    ],
)
def test_what_an_event_means(type_: str, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert only(type_, **fields) == {"attempt": 1, **expected}


def test_a_success_and_a_failure() -> None:
    assert only("task-succeeded", result="{'sum': 3}", runtime=0.1)["result"] == '{"sum":3}'
    failed = only("task-failed", exception="ValueError('no luck')", traceback="Traceback: secret")
    assert failed["state"] == "failed"
    assert json.loads(failed["error"] + "}") == {"type": "ValueError", "message": "no luck", "retryable": False}
    retried = only("task-retried", exception="ConnectionError('not yet', 5)")
    assert json.loads(retried["error"] + "}") == {
        "type": "ConnectionError",
        "message": "('not yet', 5)",
        "retryable": True,
    }


def test_a_list_of_events_is_read_and_those_of_workers_are_left_out() -> None:
    body = b"[" + b",".join([event("task-started"), event("worker-heartbeat"), event("task-succeeded")]) + b"]"
    assert [told.type for told in read(body, JSON)] == ["task-started", "task-succeeded"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (event("task-started"), "application/x-python-serialize"),
        (b"\x80\x04K\x01.", "application/x-python-serialize"),
        (b"{", JSON),
        (b"[1]", JSON),
        (b'{"type": 5}', JSON),
        (b"\xff", JSON),
        (event("task-started"), ""),
    ],
)
def test_what_is_no_event(body: bytes, content_type: str) -> None:
    with pytest.raises(Unreadable):
        read(body, content_type)


DEEP = b"[" * 200_000 + b"]" * 200_000


def test_an_applications_own_events_are_left_out() -> None:
    own = event("task-progress", result={"done": 3}, name=["x"], pid="main")
    assert read(b"[" + own + b"," + event("task-started") + b"]", JSON) == read(event("task-started"), JSON)
    assert read(event("task-started", uuid=5), JSON) == []


def test_an_event_may_lack_fields() -> None:
    (told,) = read(b'{"type":"task-started","uuid":"a","hostname":null,"clock":null,"pid":null}', JSON)
    assert change_of(told).state == "running"


@pytest.mark.parametrize("body", [DEEP, b'{"type":"task-sent","uuid":"a","args":' + DEEP + b"}"])
def test_what_is_nested_too_deep_is_no_event(body: bytes) -> None:
    with pytest.raises(Unreadable):
        read(body, JSON)


@pytest.mark.parametrize("result", [DEEP, b'{"a":' + DEEP + b"}", b'"\xff"', b'{"message":"\xff"}', b'{"a":"\xff"}'])
@pytest.mark.parametrize("status", [b"SUCCESS", b"FAILURE", b"PROGRESS"])
def test_a_result_that_is_no_json_means_nothing(status: bytes, result: bytes) -> None:
    assert of_result(b'{"status":"' + status + b'","task_id":"a","result":' + result + b"}") is None


def test_a_result_is_told_on_one_line_and_a_repr_is_cut() -> None:
    found = of_result(b'{"status":"SUCCESS","task_id":"a","result":{\n"a":\n1}}')
    assert found is not None
    assert found[1].result == '{"a":1}'
    (told,) = read(event("task-succeeded", result="<" + "x" * 10_000_000), JSON)
    assert len(change_of(told).result or "") < 100_000


@given(st.binary(max_size=200))
def test_nothing_that_arrives_is_more_than_unreadable(body: bytes) -> None:
    try:
        for told in read(body, JSON):
            change_of(told)
    except Unreadable:
        pass


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"current": 3, "total": 10}, (3, 10, 0.3, "PROGRESS")),
        ({"done": 1, "total": 4, "message": "rows"}, (1, 4, 0.25, "rows")),
        ({"percent": 40}, (40, 100, 0.4, "PROGRESS")),
        ({"status": "loading"}, (0, None, None, "loading")),
        ({"current": True, "total": "x"}, (0, None, None, "PROGRESS")),
    ],
)
def test_the_meta_of_update_state_is_progress(meta: dict[str, Any], expected: tuple[Any, ...]) -> None:
    stored = json.dumps({"status": "PROGRESS", "task_id": ID, "result": meta}).encode()
    found = of_result(stored)
    assert found is not None
    progress = json.loads(found[1].progress or "")
    assert (progress["done"], progress["total"], progress["fraction"], progress["message"]) == expected


def test_what_the_backend_says_of_an_end() -> None:
    stored = {"status": "SUCCESS", "task_id": ID, "result": {"big": 2**60}}
    assert of_result(json.dumps(stored).encode()) == (
        ID,
        Change("succeeded", result='{"big":1152921504606846976}'),
    )
    broken = {"exc_type": "KeyError", "exc_message": ["a", 1], "exc_module": "builtins"}
    found = of_result(json.dumps({"status": "FAILURE", "task_id": ID, "result": broken}).encode())
    assert found is not None
    assert json.loads((found[1].error or "") + "}") == {"type": "KeyError", "message": "a, 1", "retryable": False}
    for other in ("STARTED", "RETRY", "REVOKED", "PENDING"):
        assert of_result(json.dumps({"status": other, "task_id": ID, "result": {}}).encode()) is None
    for nonsense in (b"", b"[]", b"{}", b'{"status":"PROGRESS","task_id":"a b","result":{}}', b"\xff"):
        assert of_result(nonsense) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("shop.tasks.add", "shop.tasks.add"), ("shop tasks:add", "shop_tasks_add"), ("..", "task"), ("é.b", "_.b")],
)
def test_a_tasks_name_becomes_a_job_type(name: str, expected: str) -> None:
    assert type_of(name) == expected


@given(st.text(max_size=300))
def test_every_name_becomes_a_job_type(name: str) -> None:
    assert TYPE.match(type_of(name))
    assert len(type_of(name)) <= 100


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_trace_is_well_formed(root: str, uuid: str) -> None:
    [told] = read(event("task-received"), JSON)
    parts = trace_of(msgspec.structs.replace(told, root_id=root or None, uuid=uuid)).split("-")
    assert [len(part) for part in parts] == [2, 32, 16, 2]
    assert set(parts[1]) != {"0"} != set(parts[2])


def test_arguments_are_values_or_their_reprs() -> None:
    [told] = read(event("task-received", name="a", args="(1, 'x')", kwargs="{'user_id': 'u1'}"), JSON)
    assert json.loads(input_of(told)) == {"args": [1, "x"], "kwargs": {"user_id": "u1"}}
    [cut] = read(event("task-received", name="a", args="(1, 'x...", kwargs="{}"), JSON)
    assert json.loads(input_of(cut)) == {"args": "(1, 'x...", "kwargs": "{}"}
    assert repr_json("<Thing at 0x1>") == '"<Thing at 0x1>"'
    assert repr_json(None) == "null"


RULES = {
    "shop.pay": CeleryRule(tenant="acme", owner="{user_id}", channels=("order:{order}", "all"), arguments=False),
    "shop.*": CeleryRule(owner="{0}"),
}


def test_the_first_rule_that_matches_counts() -> None:
    assert rule_for(RULES, "shop.pay").tenant == "acme"
    assert rule_for(RULES, "shop.add").owner == "{0}"
    assert rule_for(RULES, "other") == CeleryRule()


def test_a_job_gets_its_owner_and_channels_from_the_arguments() -> None:
    [told] = read(event("task-received", name="shop.pay", args="()", kwargs="{'user_id': 'u1', 'order': 17}"), JSON)
    born = birth(told, RULES["shop.pay"])
    assert (born.owner, born.channels) == ("u1", (f"celery:{ID}", "order:17", "all"))
    assert (born.type, born.input, born.max_attempts) == ("shop.pay", "{}", 4)


@pytest.mark.parametrize(
    "kwargs", ["{}", "{'user_id': None, 'order': True}", "{'user_id': 'a b', 'order': 'x y'}", "?"]
)
def test_names_that_cannot_be_are_left_out(kwargs: str) -> None:
    [told] = read(event("task-received", name="shop.pay", args="()", kwargs=kwargs), JSON)
    born = birth(told, RULES["shop.pay"])
    assert (born.owner, born.channels) == (None, (f"celery:{ID}", "all"))


def test_a_task_cannot_name_the_channel_of_a_job() -> None:
    [told] = read(event("task-received", name="a", args="('job:job_1',)", kwargs="{}"), JSON)
    assert birth(told, CeleryRule(channels=("{0}",))).channels == (f"celery:{ID}",)


def test_holes_are_filled() -> None:
    assert filled("a-{0}-{b}", {"0": 1, "b": "x"}) == "a-1-x"
    assert filled("{missing}", {}) is None
    assert filled("plain", {}) == "plain"
