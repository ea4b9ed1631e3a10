"""Logs: one renderer for everybody, with the trace, and no secret in them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings import Settings
from gateway.telemetry.logs import REDACTED, configure, is_secret, redact, redact_text

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave structlog and logging as they were. A server of another test has silenced uvicorn's loggers."""
    root, others = logging.getLogger(), [logging.getLogger(f"uvicorn.{name}") for name in ("error", "access")]
    handlers, levels = root.handlers[:], [logger.level for logger in (root, *others)]
    for logger in others:
        logger.setLevel(logging.NOTSET)
    yield
    root.handlers[:] = handlers
    for logger, level in zip((root, *others), levels, strict=True):
        logger.setLevel(level)
    structlog.reset_defaults()


def configured(log_format: Literal["json", "console"] = "json", **settings: Any) -> io.StringIO:
    stream = io.StringIO()
    configure(Settings(log_format=log_format, **settings), stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_events_and_everyone_elses_look_the_same() -> None:
    stream = configured()
    structlog.get_logger("gateway.x").info("thing.done", count=3)
    logging.getLogger("uvicorn.error").info("Started %s", "it")
    ours, theirs = lines(stream)
    assert (ours["event"], ours["count"], ours["level"], ours["logger"]) == ("thing.done", 3, "info", "gateway.x")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("Started it", "info", "uvicorn.error")
    assert ours.keys() - {"count"} == theirs.keys()
    assert ours["timestamp"].endswith("Z")


def test_the_context_is_on_every_line() -> None:
    stream = configured()
    with structlog.contextvars.bound_contextvars(trace_id="t1", tenant="acme"):
        structlog.get_logger("a").info("one")
        logging.getLogger("uvicorn.access").info("two")
    assert [(line["trace_id"], line["tenant"]) for line in lines(stream)] == [("t1", "acme")] * 2


def test_levels() -> None:
    stream = configured(log_level="warning")
    structlog.get_logger("a").info("no")
    structlog.get_logger("a").warning("yes")
    logging.getLogger("aiormq.connection").info("no")
    assert [line["event"] for line in lines(stream)] == ["yes"]
    stream = configured(log_level="debug")
    logging.getLogger("aiormq.connection").debug("frame")
    assert stream.getvalue() == ""


def test_the_last_call_wins() -> None:
    first, second = configured(), configured()
    logging.getLogger("uvicorn").info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_secrets_do_not_appear(log_format: Literal["json", "console"]) -> None:
    stream = configured(log_format)
    log = structlog.get_logger("gateway.x")
    log.info(
        "a", token="hunter2a", root_key="hunter2b", headers={"Authorization": "hunter2c", "X-Api-Key": ["hunter2d"]}
    )
    log.info("b", url="amqp://guest:hunter2e@host/", path="/v1/stream?ticket=hunter2f&x=1", raw=b"token=hunter2g")
    log.info("connected with Bearer hunter2hhhhhh", deep={"a": [{"password": "hunter2i"}]}, other={"k": (JWT,)})
    logging.getLogger("uvicorn.access").info('%s - "%s" %d', "1.2.3.4", "GET /v1/stream?token=hunter2j HTTP/1.1", 200)
    log.error("c", secret="hunter2m", exc_info=RuntimeError("redis://:hunter2k@host and gk_hunter2llllllllllllll"))
    text = stream.getvalue()
    assert "hunter2" not in text
    assert JWT not in text
    assert "RuntimeError" in text
    assert "guest" in text
    assert "x=1" in text


def test_a_traceback_shows_no_local_variables() -> None:
    stream = configured("console")

    def fail(local: str) -> None:
        del local
        raise RuntimeError("oops")

    try:
        fail("hunter2" + "x" * 3)
    except RuntimeError:
        structlog.get_logger("a").exception("failed")
    assert "RuntimeError: oops" in stream.getvalue()
    assert "hunter2xxx" not in stream.getvalue()


@pytest.mark.parametrize(
    "name",
    ["token", "TOKEN", "token_secret", "root_key", "X-Api-Key", "apiKey", "accessToken", "password", "db_password_old",
     "Authorization", "proxy-authorization", "cookie", "Set-Cookie", "tickets", "key", "webhook_signature"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["", "event", "key_id", "token_id", "ticket_hash", "routing_key", "monkey", "keyboard", "tenant", "tokens_per_s"],
)
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret(name)


def test_values_that_cannot_be_secret_stay() -> None:
    event = {"tokens": 5, "key": None, "ticket": True, "n": 1.5}
    assert redact(None, "info", dict(event)) == event


def test_deep_and_odd_values_do_not_break_a_line() -> None:
    nested: list[object] = []
    nested.append(nested)
    stream = configured()
    structlog.get_logger("a").info("x", loop=nested, odd=object(), keys_by={1: "a"}, half="\ud800", some={1, 2})
    (line,) = lines(stream)
    assert line["event"] == "x"


@given(st.text())
def test_redacting_twice_changes_nothing(text: str) -> None:
    assert redact_text(redact_text(text)) == redact_text(text)


def test_text_around_a_secret_stays() -> None:
    assert redact_text("GET /x?a=1&ticket=abc&b=2 HTTP") == f"GET /x?a=1&ticket={REDACTED}&b=2 HTTP"
    assert redact_text("https://host:8000/path@x") == "https://host:8000/path@x"
