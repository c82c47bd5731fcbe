"""Requests to a server over HTTP: repeated while that may help, and one clear error when it does not."""

from __future__ import annotations

import json
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from isara.backends.address import is_near
from isara.backends.patience import PASSING, Limits, Patience, TroubleError, asked_to_wait
from isara.errors import BackendError, SettingsError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
_LARGEST = 64 * 2**20
"""Bytes of the longest answer that is read; ours have some thousands."""
_LONG_WAIT = 5.0
"""Seconds of a wait that is worth a word."""
_QUIET = 30.0
"""Seconds before the next such word."""

log = logging.getLogger(__name__)


class RefusedError(BackendError):
    """The server answered that it will not do this, and will not when asked again."""

    def __init__(self, message: str, status: int, words: str) -> None:
        super().__init__(message)
        self.status = status
        self.words = words


class AbandonedError(Exception):
    """Another request has failed for good, so nobody waits for this one."""


class Endpoint:
    """
    A server at an address.

    The key lives in a closure only: no attribute, no repr and no message of ours holds it, and where a server sends it
    back to us it is taken out of what was read.
    """

    def __init__(self, url: str, limits: Limits, *, key: str | None, key_variable: str, most: int) -> None:
        self.url = url
        self.limits = limits
        self.key_variable = key_variable
        self.has_key = key is not None
        self._quiet_until = 0.0
        self._client = client_for(url, limits, key, most)
        # Connections stay open between requests, and go with this object.
        weakref.finalize(self, self._client.close)
        self._hide: Callable[[str], str] = lambda text: text.replace(key, "***") if key else text

    def get(self, path: str, read: Callable[[Any], T]) -> T:
        """Return what `read` makes of the JSON at a path."""
        return self._insist(
            "GET", path, None, lambda text: read(parsed(text)), threading.Event(), lambda: None, eager=True
        )

    def tell(self, path: str, body: dict[str, Any], *, eager: bool = False) -> None:
        """Send a request whose answer says nothing but that it was heard."""
        self._insist("POST", path, body, lambda text: None, threading.Event(), lambda: None, eager=eager)

    def post(
        self,
        path: str,
        body: dict[str, Any],
        read: Callable[[Any], T],
        *,
        halt: threading.Event | None = None,
        pressed: Callable[[], None] = lambda: None,
        eager: bool = False,
    ) -> T:
        """
        Return what `read` makes of the JSON that answers a request; `read` raises TroubleError where it is malformed.

        Raises RefusedError where the server refuses, BackendError where it fails for too long, AbandonedError as soon
        as `halt` is set. `eager` gives up early on a server that nobody runs, or that crashes on what it is asked.
        """
        return self._insist(
            "POST", path, body, lambda text: read(parsed(text)), halt or threading.Event(), pressed, eager=eager
        )

    def _insist(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        read: Callable[[str], T],
        halt: threading.Event,
        pressed: Callable[[], None],
        *,
        eager: bool,
    ) -> T:
        """Ask until there is a usable answer, a refusal, or no patience left."""
        patience = Patience(self.limits, time.monotonic())
        crashes = 0
        while True:
            if halt.is_set():
                raise AbandonedError
            try:
                return read(self._once(method, path, body))
            except TroubleError as error:
                trouble = error
            if trouble.pressed:
                pressed()
            pause = patience.pause(trouble, time.monotonic())
            crashes = crashes + 1 if trouble.status == 500 else 0
            # Asked for what it does not know, a server may crash each time; once or twice is bad luck.
            if eager and crashes > 2:
                raise RefusedError(f"{self.url}{path}: {trouble.words}.", 500, trouble.words)
            if pause is None or (eager and patience.tries > 1 and trouble.silent):
                raise self._given_up(path, trouble, patience)
            if pause > _LONG_WAIT and time.monotonic() > self._quiet_until:
                # Requests fail together, and one of them speaks for all.
                self._quiet_until = time.monotonic() + _QUIET
                log.warning("%s: %s; asking again in %.0f s", self.url, trouble.words, pause)
            if halt.wait(pause):
                raise AbandonedError

    def _given_up(self, path: str, trouble: TroubleError, patience: Patience) -> BackendError:
        """Return the error that ends it: what was tried, what happened last, what to do."""
        seconds = time.monotonic() - patience.begun
        asked = "" if trouble.after is None else f" It asks to wait {trouble.after:.0f} s (server.deadline is less)."
        if trouble.silent:
            advice = "Is it running, and is server.url its address?"
        else:
            advice = "Look into the server's own log."
        return BackendError(
            f"{self.url}{path}: no usable answer in {patience.tries} tries and {seconds:.0f} s "
            f"(last: {trouble.words}).{asked} {advice} Then start the same command again: what is done is kept."
        )

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> str:
        """Ask once; return the text of the answer."""
        import httpx2

        begun = time.monotonic()
        with translated(self.limits), self._client.stream(method, self.url + path, json=body) as response:
            content = bytearray()
            # A server that sends a byte now and then never times out by itself.
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > _LARGEST:
                    raise TroubleError(f"an answer of more than {_LARGEST >> 20} MiB")
                if time.monotonic() - begun > self.limits.timeout:
                    raise httpx2.ReadTimeout("still sending")
        text = self._hide(content.decode("utf-8", errors="replace"))
        if response.status_code == httpx2.codes.OK:
            return text
        raise self._failure(path, response, message_in(text))

    def _failure(self, path: str, response: httpx2.Response, words: str) -> TroubleError | RefusedError:
        """Return the error for a status that is not 200."""
        status = response.status_code
        said = f'status {status}, "{words}"' if words else f"status {status}"
        if status in PASSING:
            after = asked_to_wait(response.headers.get("retry-after"), datetime.now(UTC))
            return TroubleError(said, pressed=status in (429, 503), after=after, status=status)
        if status in (401, 403):
            advice = f"It does not accept the key in {self.key_variable}."
            if not self.has_key:
                advice = f"It wants a key: export it as {self.key_variable}, or name a variable in server.key_variable."
        elif 300 <= status < 400:
            advice = (
                f"It sends us to {self._hide(response.headers.get('location', 'nowhere'))}. Set server.url to that."
            )
        elif status == 404:
            advice = "Check server.url and server.model."
        else:
            advice = (
                "It does not take this request. Where it is too long, give the server a longer context, or lower "
                "questions.demonstrations and answers.demonstrations."
            )
        return RefusedError(f"{self.url}{path}: {said}. {advice}", status, words)


def client_for(url: str, limits: Limits, key: str | None, most: int) -> httpx2.Client:
    """Return an HTTP client that sends the key with each request; raises SettingsError where httpx2 is missing."""
    try:
        import httpx2
    except ModuleNotFoundError as error:
        raise SettingsError(
            f'server.url: talking to a server needs {error.name}. Run: pip install "isara[server]".'
        ) from error

    def sign(request: httpx2.Request) -> httpx2.Request:
        if key is not None:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    return httpx2.Client(
        auth=sign,
        timeout=httpx2.Timeout(limits.timeout, connect=min(10.0, limits.timeout), pool=None),
        limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
        # A redirect could lead anywhere, and the key with it.
        follow_redirects=False,
        # A proxy named in the environment cannot reach this machine's own addresses.
        trust_env=not is_near(url),
        headers={"User-Agent": "isara", "Accept": "application/json", "Accept-Encoding": "identity"},
    )


@contextmanager
def translated(limits: Limits) -> Iterator[None]:
    """Raise what goes wrong on the way to a server and back as TroubleError."""
    import httpx2

    try:
        yield
    except httpx2.TimeoutException:
        raise TroubleError(f"no answer within {limits.timeout:g} s", pressed=True) from None
    except httpx2.ConnectError as error:
        raise TroubleError(f"no connection: {error}", silent=True) from None
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        raise TroubleError(f"the connection was cut: {error or type(error).__name__}") from None


def parsed(text: str) -> Any:
    """Return the JSON in a text; raises TroubleError where there is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise TroubleError(f"an answer that is no JSON: {shortened(text)!r}") from None


def message_in(text: str) -> str:
    """Return what an error body says, in whichever of the usual places it says so."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return shortened(text)
    for key in ("error", "message", "detail"):
        while isinstance(found, dict) and key in found:
            found = found[key]
    return shortened(found if isinstance(found, str) else json.dumps(found))


def shortened(text: str) -> str:
    """Return text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:197] + "..."
