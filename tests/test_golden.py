"""Every version of every event we have ever told, as golden files: each can be read today.

A change of an event's shape fails here until it is a new version: a model and an upcaster beside the old ones, golden
files `tests/golden/events/<type>/v<n>/`, the schema `tests/golden/schemas/<name>.<n>.json`. What is there stays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from gateway.catalogue import CATALOGUE
from gateway.jobs.replay import replay
from gateway.jobs.schemas import JOB
from gateway.schemas import Data, Schema, UnknownSchema, Version

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted((GOLDEN / "events").glob("*/v*/*.json"))
SCHEMAS = [(schema, number) for schema in CATALOGUE for number in range(1, schema.newest + 1)]


def schema_of(file: Path) -> tuple[Schema, int]:
    schema = CATALOGUE.of(file.parent.parent.name)
    assert schema is not None, "the type is told no more: keep its schema"
    return schema, int(file.parent.name[1:])


@pytest.mark.parametrize("file", FILES, ids=lambda file: "/".join(file.parts[-3:]))
def test_a_golden_event_is_valid_and_becomes_the_newest_version(file: Path) -> None:
    schema, version = schema_of(file)
    event = json.loads(file.read_text())
    data: Any = event["data"] if schema.cloudevents else event
    jsonschema.validate(data, schema.document(version))
    if schema.cloudevents:
        assert schema.version_of(event.get("dataschema")) == version
        assert event["type"] == file.parent.parent.name
    raw = msgspec.Raw(msgspec.json.encode(data))
    uri = event.get("dataschema") if schema.cloudevents else schema.uri
    newest = json.loads(bytes(schema.upcast(raw, uri)))
    jsonschema.validate(newest, schema.document(schema.newest))
    if schema is JOB:
        told = replay([msgspec.json.encode(event)])
        assert not [fault for fault in told.faults if "cannot be the first" not in fault]
        assert {name: json.loads(bytes(value)) for name, value in told.job.items()} == newest


@pytest.mark.parametrize(("schema", "number"), SCHEMAS, ids=lambda value: getattr(value, "name", value))
def test_a_version_never_changes(schema: Schema, number: int) -> None:
    kept = GOLDEN / "schemas" / f"{schema.name}.{number}.json"
    assert kept.exists(), f"{schema.name} has a version {number}: keep its schema as {kept}"
    assert json.loads(json.dumps(schema.document(number))) == json.loads(kept.read_text()), "make it a new version"
    jsonschema.Draft202012Validator.check_schema(schema.document(number))


def test_every_type_has_golden_files_of_its_newest_version_and_no_version_is_forgotten() -> None:
    told = {(file.parent.parent.name, int(file.parent.name[1:])) for file in FILES}
    assert {(type_, schema.newest) for schema in CATALOGUE for type_ in schema.types} <= told
    kept = {file.name for file in (GOLDEN / "schemas").glob("*.json")}
    assert kept == {f"{schema.name}.{number}.json" for schema, number in SCHEMAS}


def renamed(data: Data) -> Data:
    return {"name": data["title"], **{name: data[name] for name in data if name != "title"}}


def added(data: Data) -> Data:
    return data | {"size": msgspec.Raw(b"null")}


def test_upcasters_run_in_order_and_leave_the_rest_as_it_was_written() -> None:
    schema = Schema("thing", ["thing.made"], [Version(Any), Version(Any, renamed), Version(Any, added)])
    old = msgspec.Raw(b'{"title":"a","odd":1.0e400}')
    assert bytes(schema.upcast(old, None)) == b'{"name":"a","odd":1.0e400,"size":null}'
    second = msgspec.Raw(b'{"name":"a"}')
    assert bytes(schema.upcast(second, "urn:gateway:schema:thing:2")) == b'{"name":"a","size":null}'
    assert schema.upcast(old, schema.uri) is old
    for unknown in ("urn:gateway:schema:thing:4", "urn:gateway:schema:thing:0", "urn:other:thing:1", "x"):
        with pytest.raises(UnknownSchema):
            schema.upcast(old, unknown)
