"""The schemas of events, for anyone: they hold nothing of a tenant's."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.errors import NotFound
from gateway.schemas import Catalogue
from gateway.web.responses import json_response

_FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}  # a version never changes


def schema_routes(catalogue: Catalogue) -> list[Route]:
    """Return the routes: the catalogue, and every version of every schema in it."""

    async def index(_: Request) -> Response:
        return json_response({"schemas": catalogue.index()})

    async def document(request: Request) -> Response:
        found = catalogue.document(request.path_params["name"], request.path_params["version"])
        if found is None:
            raise NotFound("there is no such schema")
        return json_response(found, 200, _FOR_EVER, media_type="application/schema+json")

    return [
        Route("/schemas", index, methods=["GET"]),
        Route("/schemas/{name}/{version:int}", document, methods=["GET"]),
    ]
