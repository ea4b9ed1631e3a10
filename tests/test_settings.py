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
        ("GATEWAY_ALLOWED_ORIGINS", "https://a.example/", "https://a.example/"),
        ("GATEWAY_ALLOWED_ORIGINS", "a.example", "GATEWAY_ALLOWED_ORIGINS"),
        ("GATEWAY_ALLOWED_ORIGINS", "https://A.example", "GATEWAY_ALLOWED_ORIGINS"),
        ("GATEWAY_ALLOWED_ORIGINS", "https://[a.example", "GATEWAY_ALLOWED_ORIGINS"),
        ("GATEWAY_TRUSTED_PROXIES", "*", "GATEWAY_TRUSTED_PROXIES"),
        ("GATEWAY_TOKEN_TENANT", "a b", "token_tenant"),
        ("GATEWAY_JWKS_URL", "ftp://x/keys", "jwks_url"),
        ("GATEWAY_JWKS_URL", "https://[x/keys", "jwks_url"),
        ("GATEWAY_ISSUERS", '{"a":{"issuer":"i"}}', "issuer a: give one of jwks_url and jwks_file"),
        ("GATEWAY_ISSUERS", '{"a":{"issuer":"i","jwks_url":"https://x","jwks_file":"y"}}', "issuer a: give one of"),
        ("GATEWAY_ISSUERS", '{"a":{"jwks_file":"y"}}', "issuer a: issuer"),
        ("GATEWAY_ISSUERS", '{"a":{"issuer":"i","jwks_file":"y","tenant":"b c"}}', "tenant"),
        (
            "GATEWAY_ISSUERS",
            '{"a":{"issuer":"i","jwks_file":"y"},"b":{"issuer":"i","jwks_file":"z"}}',
            "issuer b: another one has the same claim iss",
        ),
        ("GATEWAY_CONFIG", "/nowhere/gateway.toml", "GATEWAY_CONFIG"),
    ],
)
def test_what_is_wrong_is_named(variable: str, value: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({variable: value})
    assert named in str(caught.value)


def test_issuers_come_from_tables_and_from_the_simple_settings(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[issuers.acme]\nissuer = "https://acme"\njwks_url = "https://acme/keys"\ntenant = "acme"\n')
    settings = load({"GATEWAY_CONFIG": str(file), "GATEWAY_JWKS_FILE": "keys.json", "GATEWAY_TOKEN_TENANT": "beta"})
    found = settings.all_issuers()
    assert {name: (issuer.issuer, issuer.tenant) for name, issuer in found.items()} == {
        "jwks": ("", "beta"),
        "acme": ("https://acme", "acme"),
    }
    assert load({}).all_issuers() == {}
    with pytest.raises(ConfigurationError, match="one of jwks_url and jwks_file"):
        load({"GATEWAY_JWKS_FILE": "keys.json", "GATEWAY_JWKS_URL": "https://x"})


def test_a_file_with_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("colour = 1\n")
    with pytest.raises(ConfigurationError, match="colour"):
        load({"GATEWAY_CONFIG": str(file)})


def test_every_setting_is_documented() -> None:
    text = DOCUMENT.read_text()
    for name in Settings.__struct_fields__:
        assert f"`GATEWAY_{name.upper()}`" in text
