"""The composition root: everything is made and joined here, and nowhere else."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import ASGIApp

from gateway.auth import routes as auth_routes
from gateway.auth.access import Access
from gateway.auth.authenticator import Authenticator
from gateway.auth.issuers import Issuers, issuers_from
from gateway.auth.keyring import MAX_DOCUMENT
from gateway.auth.keys import KeyStore
from gateway.auth.middleware import Authentication
from gateway.auth.principals import Principal
from gateway.auth.revocation import Revocations
from gateway.auth.secret import server_secret
from gateway.auth.tickets import Tickets
from gateway.auth.tokens import Tokens
from gateway.catalogue import CATALOGUE
from gateway.errors import StoreUnavailable
from gateway.fanout import routes as fanout_routes
from gateway.fanout.evictions import Evictions
from gateway.fanout.hub import Hub
from gateway.fanout.origins import lends_cookies
from gateway.fanout.overload import turn_away
from gateway.fanout.watch import watch
from gateway.jobs.attachments import Attachments, open_attachments
from gateway.jobs.calls import JobCalls
from gateway.jobs.confirmations import Confirmations
from gateway.jobs.control_routes import ControlRoutes
from gateway.jobs.dead_routes import DeadLetterRoutes
from gateway.jobs.deadletters import DeadLetters
from gateway.jobs.queue import JobQueue
from gateway.jobs.queues import open_queue
from gateway.jobs.reaper import Reaper
from gateway.jobs.rebuild import Rebuilder
from gateway.jobs.routes import JobRoutes
from gateway.jobs.scheduler import Scheduler
from gateway.jobs.service import JobService
from gateway.jobs.store import JobStore
from gateway.jobs.task_types import TaskTypes
from gateway.jobs.undertaker import Undertaker
from gateway.settings import Settings
from gateway.store.channels import ChannelStore
from gateway.store.deadletters import DeadLetterStore
from gateway.store.rates import Rates
from gateway.store.redis import Store
from gateway.telemetry.health import Readiness, readiness
from gateway.telemetry.supervisor import Supervisor
from gateway.web.context import RequestContext
from gateway.web.direct import Direct
from gateway.web.health import HealthRoutes
from gateway.web.pages import page_routes
from gateway.web.problems import Errors, exception_handlers
from gateway.web.ratelimit import RateLimit
from gateway.web.schemas import schema_routes
from gateway.webhooks.download import DownloadFailed, download
from gateway.webhooks.guard import networks

log = structlog.get_logger(__name__)

SECRET_NAP = 1.0
# Without these the process cannot do its work; without the broker it accepts jobs and fans out all the same.
REQUIRED = frozenset({"redis", "feed", "process"})
KEYS_TIMEOUT = 5.0
# Where an issuer's keys are is the operator's choice, not a tenant's: any address will do.
_ANYWHERE = networks(("0.0.0.0/0", "::/0"))
_EXPOSED = ("Location", "Retry-After", "ETag", "X-Request-Id", "Idempotent-Replayed")


@dataclass(frozen=True)
class Services:
    """What a running process is made of."""

    settings: Settings
    store: Store
    queue: JobQueue
    hub: Hub
    supervisor: Supervisor
    keys: KeyStore
    tokens: Tokens
    issuers: Issuers
    revocations: Revocations
    secret: bytes
    rates: Rates
    attachments: Attachments
    confirmations: Confirmations

    @property
    def authenticator(self) -> Authenticator:
        """Reads API keys and tokens."""
        return Authenticator(self.keys, self.tokens, self.issuers, revoked=self.revocations.revoked)


def build_app(
    settings: Settings, *, queue: JobQueue | None = None, samples: Mapping[str, Path] | None = None
) -> Starlette:
    """Return the application; what it needs is opened by its lifespan.

    Args:
        settings: everything an operator can set.
        queue: an open queue to share with workers of this process, instead of one of its own.
        samples: files to offer below `/static/` for trying things out.
    """
    sockets: dict[str, ASGIApp] = {}

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with _services(settings, queue) as services:
            app.state.hub, app.state.services, app.state.draining = services.hub, services, False
            added = _routes(app, services, samples or {})
            app.router.routes.extend(added)
            sockets.update({route.path: route.endpoint for route in added if isinstance(route, WebSocketRoute)})
            try:
                yield
            finally:
                app.state.draining = True
                sockets.clear()
                del app.router.routes[-len(added) :]

    inner = _inner(lambda: app.state.services, sockets)
    app = Starlette(lifespan=lifespan, middleware=_middleware(settings, inner), exception_handlers=exception_handlers())
    app.state.turn_away = turn_away(settings)
    return app


def _inner(services: Callable[[], Services], sockets: Mapping[str, ASGIApp]) -> list[Middleware]:
    """What a request passes last: who it is, the short way to a WebSocket, what its tenant may still ask."""

    async def verify(credential: str) -> Principal:
        return await services().authenticator.verify(credential)

    async def spend(tenant: str) -> None:
        await services().rates.spend(tenant)

    return [
        Middleware(Authentication, verify=verify),
        Middleware(Direct, endpoints=sockets),
        Middleware(RateLimit, spend=spend),
    ]


def _middleware(settings: Settings, inner: list[Middleware]) -> list[Middleware]:
    cross_origin = Middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "If-None-Match",
            "Last-Event-ID",
            "Prefer",
            "traceparent",
        ],
        allow_credentials=lends_cookies(settings),
        expose_headers=_EXPOSED,
    )
    allowed = [cross_origin] if settings.allowed_origins else []
    return [Middleware(RequestContext), *allowed, Middleware(Errors), *inner]


@asynccontextmanager
async def _services(settings: Settings, shared: JobQueue | None) -> AsyncIterator[Services]:
    """Open everything; a dependency that is away is waited for, not given up on."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store.open(settings))
        queue = shared if shared is not None else await stack.enter_async_context(open_queue(settings))
        channels = ChannelStore(store, settings)
        secret = await _secret(store, settings)

        async def job_state(tenant: str, job_id: str) -> bytes | None:
            newest = await channels.history(tenant, f"job:{job_id}", since=None, limit=1, reverse=True)
            return newest.publications[0].event if newest.publications else None

        hub = await stack.enter_async_context(Hub(settings.redis_url, channels, job_state))
        supervisor = await stack.enter_async_context(Supervisor())
        jobs = JobStore(store)
        attachments = await stack.enter_async_context(open_attachments(settings))
        confirmations = Confirmations(jobs)
        supervisor.keep("confirmations", confirmations.run)
        supervisor.keep("reaper", Reaper(jobs, queue, settings, attachments.forget).run)
        supervisor.keep("scheduler", Scheduler(jobs, TaskTypes(store), channels, settings).run)
        undertaker = Undertaker(store, queue, DeadLetterStore(store, settings), Rebuilder(jobs, channels, settings))
        supervisor.keep("undertaker", undertaker.run)
        revocations, issuers = Revocations(store), issuers_from(settings, fetch_public_keys)
        supervisor.keep("evictions", Evictions(hub, revocations).run)
        for issuer in issuers.issuers:
            supervisor.keep(f"keys of {issuer.name}", issuer.keyring.run)
        tokens = Tokens(secret, issuer=settings.token_issuer, audience=settings.token_audience)
        keys, rates = KeyStore(store, settings), Rates(store, settings.rate_limit, settings.rate_burst)
        yield Services(
            settings=settings,
            store=store,
            queue=queue,
            hub=hub,
            supervisor=supervisor,
            keys=keys,
            tokens=tokens,
            issuers=issuers,
            revocations=revocations,
            secret=secret,
            rates=rates,
            attachments=attachments,
            confirmations=confirmations,
        )


async def fetch_public_keys(url: str) -> bytes:
    """Fetch an issuer's key set: bounded in size and time, no redirects; raises ValueError."""
    document = io.BytesIO()
    try:
        await download(url, document, allow=_ANYWHERE, limit=MAX_DOCUMENT, total=KEYS_TIMEOUT)
    except DownloadFailed as error:
        raise ValueError(str(error)) from error
    return document.getvalue()


async def _secret(store: Store, settings: Settings) -> bytes:
    while True:
        try:
            return await server_secret(store, settings)
        except StoreUnavailable:
            log.warning("gateway.waiting_for_redis", why="GATEWAY_TOKEN_SECRET is not set, so the secret is kept there")
            await asyncio.sleep(SECRET_NAP)


def _routes(app: Starlette, services: Services, samples: Mapping[str, Path]) -> list[BaseRoute]:
    settings, store, hub = services.settings, services.store, services.hub
    channels, jobs = ChannelStore(store, settings), JobStore(store)
    tickets = Tickets(store, services.keys, revoked=services.revocations.revoked)

    async def job_owner(tenant: str, job_id: str) -> str | None:
        job = await jobs.get(tenant, job_id)
        return job.owner or None if job is not None else None

    class Watcher:
        def watch(self, tenant: str, channel: str) -> AbstractAsyncContextManager[asyncio.Event]:
            return watch(hub, tenant, channel)

    service = JobService(jobs, services.queue, channels, Watcher(), settings, confirmations=services.confirmations)
    fanout = fanout_routes.Dependencies(
        settings=settings,
        hub=hub,
        channels=channels,
        access=Access(settings, job_owner),
        authenticator=services.authenticator,
        tickets=tickets,
        secret=lambda: services.secret,
        calls=JobCalls(service).methods(),
        spend=services.rates.spend,
    )
    return [
        *HealthRoutes(lambda: _readiness(app, services)).routes(),
        *JobRoutes(service, channels, services.attachments).routes(),
        *ControlRoutes(TaskTypes(store), services.queue).routes(),
        *DeadLetterRoutes(DeadLetters(store, services.queue, settings), DeadLetterStore(store, settings)).routes(),
        *fanout_routes.routes(fanout),
        *auth_routes.routes(auth_routes.AuthServices(services.keys, tickets, services.tokens, services.revocations)),
        *schema_routes(CATALOGUE),
        *page_routes(samples),
    ]


async def _readiness(app: Starlette, services: Services) -> Readiness:
    async def redis() -> str | None:
        await services.store.ping()
        return None

    async def feed() -> str | None:
        return None if services.hub.ready else "not connected"

    async def broker() -> str | None:
        return None if services.queue.healthy() else "not connected"

    async def process() -> str | None:
        if app.state.draining:
            return "draining"
        down = ", ".join(sorted(services.supervisor.down))
        return f"restarted: {down}" if down else None

    return await readiness({"redis": redis, "feed": feed, "broker": broker, "process": process}, REQUIRED)
