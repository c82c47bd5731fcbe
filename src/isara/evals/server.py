"""An OpenAI-compatible server as a judge: one question at a time, answered in a word."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urldefrag

from isara.errors import BackendError

KEY = "ISARA_JUDGE_KEY"
"""The environment variable with the key of a server that asks for one."""
_WAIT = 120.0


def ask(address: str, text: str, *, most: int = 16) -> str:
    """
    Return what the model of a server says to a text, of `most` tokens, at temperature 0.

    `address` is the base such as `http://localhost:8000/v1`, with `#model` where the server has several. Raises
    BackendError where it cannot be reached or says no.
    """
    base, model = urldefrag(address)
    body = {
        "model": model or "default",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": most,
    }
    found = _post(f"{base.rstrip('/')}/chat/completions", body)
    try:
        return str(found["choices"][0]["message"]["content"])
    except (KeyError, IndexError, TypeError) as error:
        raise BackendError(f"{base}: the answer has no choices[0].message.content. Is it OpenAI-compatible?") from error


def _post(url: str, body: Mapping[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    request = urllib.request.Request(url, json.dumps(body).encode("utf-8"), headers)
    try:
        with urllib.request.urlopen(request, timeout=_WAIT) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read(300).decode("utf-8", errors="replace").strip()
        raise BackendError(f"{url}: the server answered {error.code} ({said}). Check the address and {KEY}.") from error
    except OSError as error:
        raise BackendError(f"{url}: cannot be reached ({error}). Start the server, or check --judge.") from error
    except ValueError as error:
        raise BackendError(f"{url}: the answer is not JSON ({error}). Is it OpenAI-compatible?") from error
