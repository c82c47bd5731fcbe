"""Requests to a real process on this machine that fails in every way that a server can."""

from __future__ import annotations

import logging
import time

import pytest

pytest.importorskip("httpx2")

from isara.backends import endpoint as module
from isara.backends.dialect import read_completion
from isara.backends.endpoint import AbandonedError, Endpoint, RefusedError, message_in
from isara.backends.patience import Limits
from isara.errors import BackendError
from serverproc import serving, start

KEY = "sesame-and-lily-1234567890"
BODY = {"model": "tiny", "prompt": "Question: Why is it so?\nAnswer:", "max_tokens": 40, "temperature": 0.0, "seed": 1}


class Halt:
    """Stands for the event that ends a wait: notes how long the wait was to be, and lets none happen."""

    def __init__(self):
        self.waits = []

    def is_set(self):
        return False

    def wait(self, seconds):
        self.waits.append(seconds)
        return False


@pytest.fixture(scope="module")
def shared():
    with serving("text") as server:
        yield server


@pytest.fixture
def server(shared):
    shared.faults()
    return shared


@pytest.fixture
def halt():
    return Halt()


def endpoint(server, *, timeout=30.0, retries=4, deadline=1e6, key=None):
    limits = Limits(timeout, retries, deadline)
    return Endpoint(server.url, limits, key=key, key_variable="ISARA_SERVER_KEY", most=4)


def ask(server, halt, **options):
    return endpoint(server, **options).post("/v1/completions", BODY, read_completion, halt=halt)


def test_an_answer_is_read(server, halt):
    written = ask(server, halt)
    assert written.text
    assert written.prompt_tokens == 6
    assert halt.waits == []


@pytest.mark.parametrize(
    "fault", ["500", "502", "503", "529", "429", "408", "cut", "hang up", "no json", "empty", "no text", "list", "deep"]
)
def test_what_may_pass_is_asked_again(server, halt, fault):
    server.faults(fault, fault)
    assert ask(server, halt).text
    assert len(halt.waits) == 2
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", 'status 500, "as told,"'),
        ("429", 'status 429, "slow down"'),
        ("cut", "the connection was cut"),
        ("hang up", "the connection was cut"),
        ("no json", "no JSON: '<html>It works</html>'"),
        ("empty", "an answer without choices"),
        ("list", "an answer without choices"),
        ("no text", "an answer without a text"),
    ],
)
def test_what_does_not_pass_ends_in_one_error_that_says_what_to_do(server, halt, fault, words):
    server.faults(fault + "*")
    with pytest.raises(BackendError) as failed:
        ask(server, halt)
    assert len(server.asked) == 5
    told = str(failed.value)
    assert told.startswith(f"{server.url}/v1/completions: no usable answer in 5 tries")
    assert words in told
    assert told.endswith("start the same command again: what is done is kept.")
    assert failed.value.__cause__ is failed.value.__context__ is None


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("400", "longer context"),
        ("401", "It wants a key: export it as ISARA_SERVER_KEY"),
        ("403", "It wants a key"),
        ("404", "Check server.url and server.model."),
        ("413", "longer context"),
        ("422", "does not take this request"),
        ("501", "does not take this request"),
        ("307", "sends us to http://elsewhere.example/v1. Set server.url to that."),
    ],
)
def test_a_refusal_is_not_asked_again(server, halt, status, advice):
    server.faults(status + "*")
    with pytest.raises(RefusedError) as refused:
        ask(server, halt)
    assert len(server.asked) == 1
    assert f"/v1/completions: status {status}" in str(refused.value)
    assert advice in str(refused.value)
    assert refused.value.status == int(status)
    assert refused.value.exit_code == 5


def test_a_wait_that_is_asked_for_is_kept(server, halt):
    server.faults("429:45", "503", "429:date:300")
    ask(server, halt)
    first, second, third = halt.waits
    assert first == 45
    assert second < 45
    assert 250 < third <= 300


def test_a_wait_beyond_the_deadline_is_an_error_at_once(server, halt):
    server.faults("429:3600")
    with pytest.raises(BackendError, match=r"It asks to wait 3600 s \(server\.deadline is less\)"):
        ask(server, halt, deadline=600.0)
    assert halt.waits == []


def test_a_server_that_stalls_or_drips_is_asked_again(server, halt):
    server.faults("stall:5", "drip")
    pressed = []
    written = endpoint(server, timeout=0.3).post(
        "/v1/completions", BODY, read_completion, halt=halt, pressed=lambda: pressed.append(1)
    )
    assert written.text
    assert len(halt.waits) == len(pressed) == 2


def test_an_answer_without_end_is_not_read_to_its_end(server, halt, monkeypatch):
    monkeypatch.setattr(module, "_LARGEST", 3)
    server.faults("drip")
    with pytest.raises(BackendError, match="an answer of more than 0 MiB"):
        ask(server, halt, retries=0)


def test_nobody_there_is_an_error_after_all_tries_and_early_when_starting(halt):
    server = start("text")
    server.stop()
    with pytest.raises(BackendError, match=r"in 5 tries .*no connection: .*Is it running, and is server\.url its"):
        ask(server, halt)
    assert len(halt.waits) == 4
    with pytest.raises(BackendError, match=r"/v1/models: no usable answer in 2 tries"):
        endpoint(server).get("/v1/models", lambda answer: answer)


def test_a_server_that_comes_back_is_used_again(halt):
    server = start("text")
    server.faults("die")
    found = []

    class Revive(Halt):
        def wait(self, seconds):
            if not found:
                found.append(start("text", "--port", server.port))
            return False

    try:
        assert ask(server, Revive()).text
        assert found
    finally:
        server.stop()
        for other in found:
            other.stop()


def test_a_request_that_nobody_waits_for_any_more_is_abandoned(server):
    class Set(Halt):
        def wait(self, seconds):
            return True

    server.faults("503*")
    with pytest.raises(AbandonedError):
        ask(server, Set())
    assert len(server.asked) == 1


def test_a_long_wait_is_said_once_in_a_while(server, halt, caplog):
    server.faults("503", "429:9", "429:8")
    with caplog.at_level(logging.WARNING):
        ask(server, halt)
    assert [record.getMessage() for record in caplog.records] == [
        f'{server.url}: status 429, "slow down"; asking again in 9 s'
    ]


def test_the_key_is_sent_and_shown_nowhere(halt, caplog):
    with serving("text", "--key", KEY) as server, caplog.at_level(logging.DEBUG):
        assert ask(server, halt, key=KEY).text
        assert server.asked[0]["key"]
        open_door = endpoint(server, key=KEY)
        assert KEY not in repr(vars(open_door))
        assert KEY not in repr(open_door._client) + repr(open_door._client.headers) + repr(vars(open_door._client))
        for faults in (["500*"], ["400"], ["307"]):
            server.faults(*faults)
            with pytest.raises(BackendError) as failed:
                ask(server, halt, key=KEY)
            assert KEY not in str(failed.value)
            assert "***" in str(failed.value) or faults == ["307"]
        with pytest.raises(RefusedError, match=r"does not accept the key in ISARA_SERVER_KEY") as refused:
            ask(server, halt, key="lily")
        assert "lily" not in str(refused.value).replace("ISARA", "")
    assert KEY not in caplog.text


def test_what_an_error_body_says_is_found():
    assert message_in('{"error": {"message": "no\\n such  model", "code": 404}}') == "no such model"
    assert message_in('{"error": "loading"}') == "loading"
    assert message_in('{"detail": "Not Found"}') == "Not Found"
    assert message_in('{"detail": [{"loc": ["body"]}]}') == '[{"loc": ["body"]}]'
    assert message_in("<h1>Bad gateway</h1>") == "<h1>Bad gateway</h1>"
    assert message_in("") == ""
    assert len(message_in("word " * 1000)) == 200


def test_waits_are_real_where_nobody_stands_in():
    server = start("text")
    try:
        server.faults("503")
        begun = time.monotonic()
        assert endpoint(server).post("/v1/completions", BODY, read_completion).text
        assert time.monotonic() - begun >= 0.25
    finally:
        server.stop()
