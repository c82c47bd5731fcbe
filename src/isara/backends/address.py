"""Where a server is and which key it gets: both checked before anything is written, so that no key ends in a file."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import urlsplit

from isara.errors import SettingsError
from isara.settings import ServerSettings


def refuse_secrets(settings: ServerSettings) -> None:
    """Raise SettingsError where the address is none, or where a key stands in a setting: settings are written down."""
    if settings.url is not None:
        base_of(settings.url)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", settings.key_variable):
        # Not shown, for it may be the key itself.
        raise SettingsError(
            "server.key_variable: this is not the name of an environment variable. Put the key into one, "
            "and give its name here: settings are written into the run directory."
        )


def base_of(url: str) -> str:
    """Return a server's address without a trailing `/v1`; raises SettingsError where it is none, or holds a secret."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SettingsError(f"server.url: this is no address ({error}). Write it as http://localhost:8000.") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not shown: what stands there is often a password or a key.
        raise SettingsError(
            "server.url: the address holds a user name, a password or a query. Give the bare address, and put a key "
            "into the environment variable that server.key_variable names."
        )
    if parts.scheme not in ("http", "https") or not host or any(character.isspace() for character in url.strip()):
        raise SettingsError(f"server.url: {url!r} is no address of a server. Write it as http://localhost:8000.")
    name = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{name}{f':{port}' if port is not None else ''}{path}"


def is_near(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def key_from(settings: ServerSettings) -> str | None:
    """Return the key in the environment variable that the settings name; None where there is none."""
    name = settings.key_variable
    key = os.environ.get(name, "").strip()
    if key:
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise SettingsError(f"server.key_variable: the key in {name} has characters that no key has. Set it again.")
        return key
    if name != ServerSettings().key_variable:
        # The name is not shown: somebody may have given the key in its place.
        raise SettingsError(
            "server.key_variable: no environment variable of that name is set. Export it, with the key."
        )
    return None
