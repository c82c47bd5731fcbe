from __future__ import annotations

import pytest

from isara.backends.address import base_of, is_near, key_from, refuse_secrets
from isara.errors import SettingsError
from isara.settings import ServerSettings


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://localhost:8000/v1", "http://localhost:8000"),
        ("http://localhost:8000/v1/", "http://localhost:8000"),
        (" https://Models.Example/api/v1 ", "https://models.example/api"),
        ("http://[::1]:8080/v1", "http://[::1]:8080"),
    ],
)
def test_an_address_is_taken_with_and_without_its_version(given, base):
    assert base_of(given) == base


@pytest.mark.parametrize("given", ["localhost:8000", "8000", "", "ftp://host", "http://", "http://ho st", "http://h:x"])
def test_what_is_no_address_is_named_and_refused(given):
    with pytest.raises(SettingsError, match=r"^server\.url: .*Write it as http://localhost:8000\.$"):
        base_of(given)


@pytest.mark.parametrize(
    "given",
    ["http://me:sesame@host", "http://sesame@host", "http://host/v1?api_key=sesame", "http://host/#sesame"],
)
def test_an_address_with_a_secret_is_refused_and_not_shown(given):
    with pytest.raises(SettingsError) as refused:
        refuse_secrets(ServerSettings(url=given))
    assert "sesame" not in str(refused.value)
    assert "server.key_variable" in str(refused.value)


@pytest.mark.parametrize("given", ["sk-sesame-123", "open sesame", "", "sesame\n"])
def test_a_key_in_place_of_the_name_of_a_variable_is_refused_and_not_shown(given):
    with pytest.raises(SettingsError) as refused:
        refuse_secrets(ServerSettings(key_variable=given))
    assert "sesame" not in str(refused.value)


def test_a_key_that_looks_like_a_name_is_not_shown_either(monkeypatch):
    monkeypatch.delenv("sesame123", raising=False)
    settings = ServerSettings(key_variable="sesame123")
    refuse_secrets(settings)
    with pytest.raises(SettingsError, match="no environment variable of that name") as refused:
        key_from(settings)
    assert "sesame" not in str(refused.value)


def test_the_key_is_that_of_the_variable(monkeypatch):
    monkeypatch.delenv("ISARA_SERVER_KEY", raising=False)
    assert key_from(ServerSettings()) is None
    monkeypatch.setenv("ISARA_SERVER_KEY", " sesame\n")
    assert key_from(ServerSettings()) == "sesame"
    monkeypatch.setenv("OTHER", "open")
    assert key_from(ServerSettings(key_variable="OTHER")) == "open"


@pytest.mark.parametrize("key", ["open sesame", "sésame", "ses\x00ame".replace("\x00", "\x01")])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("ISARA_SERVER_KEY", key)
    with pytest.raises(SettingsError, match="the key in ISARA_SERVER_KEY has characters") as refused:
        key_from(ServerSettings())
    assert key not in str(refused.value)


def test_near_is_this_machine():
    near = ["http://localhost:1", "http://127.0.0.1", "http://127.9.9.9", "http://[::1]:80"]
    far = ["http://10.0.0.1", "http://example.org", "http://localhost.example.org"]
    assert [is_near(url) for url in [*near, *far]] == [True] * 4 + [False] * 3
