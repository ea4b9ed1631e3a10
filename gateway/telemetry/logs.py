"""Logs: one renderer for our events and everyone else's, with the trace, without the secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from gateway.settings import Settings

REDACTED = "[redacted]"
MAX_DEPTH = 6  # of containers in a log field

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# These tell of every frame, and of what is in it.
_NOISY = ("asyncio", "websockets", "aiohttp", "httpx", "httpcore")
_SILENT = ("aio_pika", "aiormq")  # a traceback for every lost connection; our own line says it
_SERVER = ("uvicorn", "uvicorn.error", "uvicorn.access")

_ALWAYS = frozenset({"secret", "secrets", "password", "passwd", "authorization", "cookie", "credential", "bearer"})
_LAST = frozenset({"token", "tokens", "key", "keys", "ticket", "tickets", "signature", "apikey"})
# Names that end like a secret and are none.
_HARMLESS = frozenset({"routing_key", "idempotency_key", "conflation_key", "header_keys", "registry_key"})
_WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")

_IN_TEXT = (
    (re.compile(r"(?i)\b([a-z_]*(?:ticket|token|secret|password|api_?key))=[^&\s\"'#]+"), rf"\1={REDACTED}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {REDACTED}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), REDACTED),
    (re.compile(r"\b(gk|whsec)_[A-Za-z0-9_+/=-]{8,}"), rf"\1_{REDACTED}"),
    (re.compile(r"(://[^/\s:@\"']*):[^/\s@\"']+@"), rf"\1:{REDACTED}@"),
)


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging; the last call wins.

    Args:
        settings: `log_format` and `log_level`.
        stream: where the lines go; standard error by default. Run uvicorn with `log_config=None`.
    """
    output = stream or sys.stderr
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                _renderer(settings, output),
            ],
        )
    )
    _install(handler, _LEVELS[settings.log_level])


def _renderer(settings: Settings, output: TextIO) -> Processor:
    if settings.log_format == "json":
        return structlog.processors.JSONRenderer(default=repr)
    # Pretty tracebacks print the local variables: tokens, bodies, keys.
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(colors=output.isatty(), exception_formatter=plain)


def _install(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _SERVER:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Structlog processor: no value of a secret's name, no token, key, ticket or password inside a text."""
    return {name: _clean(name, value, MAX_DEPTH) for name, value in event.items()}


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret: `root_key`, `X-Api-Key`, `tokenSecret`; not `key_id`."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or "_".join(words) in _HARMLESS:
        return False
    return words[-1] in _LAST or not _ALWAYS.isdisjoint(words)


def redact_text(text: str) -> str:
    """Blot out what looks like a secret in a text: `ticket=…`, `Bearer …`, JWTs, keys, passwords in URLs."""
    for pattern, replacement in _IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _clean(name: str, value: Any, depth: int) -> Any:  # noqa: ANN401 - log fields are anything
    if value is None or isinstance(value, bool | int | float):
        return value
    if is_secret(name):
        return REDACTED
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _clean_container(name, value, depth - 1) if depth else "…"
    if isinstance(value, bytes | bytearray):
        return redact_text(bytes(value).decode("utf-8", "replace"))
    return redact_text(value if isinstance(value, str) else repr(value))


def _clean_container(name: str, value: Mapping[Any, Any] | Collection[Any], depth: int) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), item, depth) for key, item in value.items()}
    return [_clean(name, item, depth) for item in value]
