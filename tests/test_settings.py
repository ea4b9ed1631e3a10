"""Settings: sources, precedence, and a sentence for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import ConfigurationError
from gateway.settings import Settings, load

DOCUMENT = Path(__file__).parent.parent / "docs" / "settings.md"


def test_defaults() -> None:
    settings = load({})
    assert settings == Settings()
    assert settings.rules("anything").subscribe == "granted"


def test_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('lease = 7\nlog_level = "error"\n[channels.chat]\nhistory_size = 5\n')
    settings = load({"GATEWAY_CONFIG": str(file), "GATEWAY_LEASE": "9", "OTHER": "x"}, log_format="console")
    assert (settings.lease, settings.log_level, settings.log_format) == (9, "error", "console")
    assert settings.rules("chat").history_size == 5


def test_lists_tables_and_switches_from_the_environment() -> None:
    settings = load(
        {
            "GATEWAY_ALLOWED_ORIGINS": "https://a.example, https://b.example",
            "GATEWAY_CHANNELS": '{"*":{"subscribe":"anyone"},"":{"publish":"granted"}}',
            "GATEWAY_ANONYMOUS": "true",
        }
    )
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.anonymous is True
    assert settings.rules("news").subscribe == "anyone"
    assert settings.rules("").publish == "granted"


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("GATEWAY_COLOUR", "red", "GATEWAY_COLOUR"),
        ("GATEWAY_LEASE", "soon", "lease"),
        ("GATEWAY_LEASE", "0", "lease"),
        ("GATEWAY_SHARDS", "0", "shards"),
        ("GATEWAY_REDIS_URL", "http://x", "GATEWAY_REDIS_URL"),
        ("GATEWAY_AMQP_URL", "redis://x", "GATEWAY_AMQP_URL"),
        ("GATEWAY_TOKEN_SECRET", "short", "GATEWAY_TOKEN_SECRET"),
        ("GATEWAY_WEBHOOK_ALLOW", "10.0.0.0/99", "GATEWAY_WEBHOOK_ALLOW"),
        ("GATEWAY_CHANNELS", "{", "GATEWAY_CHANNELS"),
        ("GATEWAY_CHANNELS", '{"a":{"colour":1}}', "colour"),
        ("GATEWAY_CHANNELS", '{"a":{"subscribe":"everybody"}}', "everybody"),
        ("GATEWAY_CONFIG", "/nowhere/gateway.toml", "GATEWAY_CONFIG"),
    ],
)
def test_what_is_wrong_is_named(variable: str, value: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({variable: value})
    assert named in str(caught.value)


def test_a_file_with_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("colour = 1\n")
    with pytest.raises(ConfigurationError, match="colour"):
        load({"GATEWAY_CONFIG": str(file)})


def test_every_setting_is_documented() -> None:
    text = DOCUMENT.read_text()
    for name in Settings.__struct_fields__:
        assert f"`GATEWAY_{name.upper()}`" in text
