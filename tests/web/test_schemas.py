"""The schemas of events, over HTTP."""

from __future__ import annotations

import httpx
from starlette.applications import Starlette

from gateway.catalogue import CATALOGUE
from gateway.web.problems import exception_handlers
from gateway.web.schemas import schema_routes


async def test_every_version_of_every_schema_is_there_for_everyone() -> None:
    app = Starlette(routes=schema_routes(CATALOGUE), exception_handlers=exception_handlers())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        listed = (await http.get("/schemas")).json()["schemas"]
        assert {"job", "channel.message"} <= {schema["name"] for schema in listed}
        for version in (version for schema in listed for version in schema["versions"]):
            answer = await http.get(version["url"])
            assert answer.headers["content-type"] == "application/schema+json"
            assert answer.json()["$id"] == version["dataschema"]
        assert (await http.get("/schemas/job/99")).status_code == 404
        assert (await http.get("/schemas/none/1")).status_code == 404
