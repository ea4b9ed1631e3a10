"""Schemas of the data in our events: the versions there are, and how an old one becomes the newest. Pure.

An event says in `dataschema` (CloudEvents 1.0, an absolute URI) which version its data has. A version never changes
once it has been told to anyone: another shape is another version, with a function from the one before (an *upcaster*).
Events are kept and sent as they were written; only who parses old ones upcasts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

PREFIX = "urn:gateway:schema:"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Data = dict[str, msgspec.Raw]  # one level decoded: what is below stays as it was written
Upcaster = Callable[[Data], Data]


class UnknownSchema(ValueError):
    """A `dataschema` is none of ours, or newer than we are."""


class Version(NamedTuple):
    """One version of the data.

    Attributes:
        model: what msgspec decodes it into; it forbids unknown fields, so that every change shows.
        upcast: makes it from data of the version before; the first version has none.
    """

    model: Any
    upcast: Upcaster | None = None


class Schema(NamedTuple):
    """The data of some event types, in all its versions, the first first.

    Attributes:
        name: in the URI.
        types: of the events that have it.
        versions: version 1, 2, 3 …
        cloudevents: False for the control events of streams, which are their data alone.
    """

    name: str
    types: Sequence[str]
    versions: Sequence[Version]
    cloudevents: bool = True

    @property
    def newest(self) -> int:
        """The newest version's number."""
        return len(self.versions)

    @property
    def uri(self) -> str:
        """The `dataschema` of the newest version."""
        return f"{PREFIX}{self.name}:{self.newest}"

    def version_of(self, dataschema: str | None) -> int:
        """Read a `dataschema`; events had none before there was a second version, and are of the first.

        Raises:
            UnknownSchema: it is not one of this schema's.
        """
        if dataschema is None:
            return 1
        name, _, number = dataschema.removeprefix(PREFIX).rpartition(":")
        if name != self.name or not number.isdecimal() or not 1 <= int(number) <= self.newest:
            raise UnknownSchema(f"{dataschema} is not a version of {PREFIX}{self.name} known here")
        return int(number)

    def upcast(self, data: msgspec.Raw, dataschema: str | None) -> msgspec.Raw:
        """Return data as the newest version has it; what no upcaster touches stays byte for byte.

        Raises:
            UnknownSchema: as `version_of`.
        """
        later = self.versions[self.version_of(dataschema) :]
        if not later:
            return data
        fields = msgspec.json.decode(data, type=Data)
        for version in later:
            if version.upcast is not None:
                fields = version.upcast(fields)
        return msgspec.Raw(msgspec.json.encode(fields))

    def document(self, version: int) -> dict[str, Any]:
        """Write a version as a JSON Schema."""
        found = msgspec.json.schema(self.versions[version - 1].model)
        return {"$schema": DIALECT, "$id": f"{PREFIX}{self.name}:{version}", **found}


class Catalogue:
    """All schemas, by event type and by name."""

    def __init__(self, schemas: Sequence[Schema]) -> None:
        self._by_name = {schema.name: schema for schema in schemas}
        self._by_type = {type_: schema for schema in schemas for type_ in schema.types}

    def __iter__(self) -> Iterator[Schema]:
        return iter(self._by_name.values())

    def of(self, type_: str) -> Schema | None:
        """Return the schema of an event type, None for a producer's."""
        return self._by_type.get(type_)

    def document(self, name: str, version: int) -> dict[str, Any] | None:
        """Return a JSON Schema, None when there is no such version."""
        schema = self._by_name.get(name)
        return schema.document(version) if schema and 1 <= version <= schema.newest else None

    def index(self) -> list[dict[str, Any]]:
        """List the schemas: name, event types, and of each version its `dataschema` and where it is."""
        return [
            {
                "name": schema.name,
                "types": list(schema.types),
                "cloudevents": schema.cloudevents,
                "versions": [
                    {"dataschema": f"{PREFIX}{schema.name}:{number}", "url": f"/schemas/{schema.name}/{number}"}
                    for number in range(1, schema.newest + 1)
                ],
            }
            for schema in self
        ]
