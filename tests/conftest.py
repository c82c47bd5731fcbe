"""What every test may count on: a home of its own, no way out of this machine, and one small finished run."""

from __future__ import annotations

import io
import ipaddress
import json
import logging
import os
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

# Before anything loads torch. Threads that spin at barriers crawl as soon as anything else runs on the machine, and
# workers that run side by side have a core each.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read once, as huggingface_hub is loaded, which collecting the tests may do before any fixture.
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SETTINGS = (
    "rounds=2",
    "gate.patience=2",
    "target.accepted=10",
    "target.batch=8",
    "split.least=6",
    "train.batch=16",
    "train.epochs=1",
    "train.checks=2",
    "train.start='previous'",
)
"""Of a run that is over in a moment, and still drafts, drops, tunes and keeps in both of its rounds."""


SLOW = {
    "test_adapter",
    "test_api",
    "test_checkpoints",
    "test_classify",
    "test_cli",
    "test_compare",
    "test_decode",
    "test_disturbed",
    "test_docs",
    "test_doctor",
    "test_endpoint",
    "test_engines",
    "test_eta",
    "test_evaluate",
    "test_export",
    "test_files",
    "test_forest",
    "test_harness",
    "test_kill",
    "test_kills",
    "test_long",
    "test_measures",
    "test_memory",
    "test_openvino",
    "test_packing",
    "test_parts",
    "test_positions",
    "test_prefixes",
    "test_readers",
    "test_rouge",
    "test_rundirs",
    "test_security",
    "test_server",
    "test_server_run",
    "test_stopping",
    "test_targets",
    "test_template",
    "test_training",
    "test_values",
    "test_vectors",
    "test_verify",
}
"""Modules that take many seconds: tiny torch models, killed processes, whole studies, every command of the docs."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


class NetworkUsedError(Exception):
    """A test tried to leave this machine. Not an OSError, which code under test might forgive."""


def is_near(host):
    """Whether an address is this machine's own; a name is, when it is `localhost`."""
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def no_network():
    def guarded(name):
        real = getattr(socket.socket, name)

        def call(self, *args):
            address = args[-1]
            if self.family != socket.AF_UNIX and not is_near(address[0]):
                raise NetworkUsedError(f"socket.{name} to {address}")
            return real(self, *args)

        return call

    def look_up(host, *args, _real=socket.getaddrinfo, **options):
        if not is_near(host.decode() if isinstance(host, bytes) else host):
            raise NetworkUsedError(f"getaddrinfo of {host}")
        return _real(host, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, guarded(name))
        patch.setattr(socket, "getaddrinfo", look_up)
        yield


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """Nothing is read from the home of who runs the tests, nor left there; ISARA_CACHE may name a warm cache."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("HF_HOME", str(folder / "huggingface"))
        for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(autouse=True)
def heard():
    """Let isara's loggers be heard, as in a fresh process: some libraries silence those that are there before them."""
    logging.disable(logging.NOTSET)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "isara" and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)
    # Not the root's level, which some libraries raise.
    logging.getLogger("isara").setLevel(logging.WARNING)


@pytest.fixture
def unsynced(monkeypatch):
    """Leave out waiting for the disk, which takes most of the time of a small run."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@dataclass(frozen=True)
class Small:
    """What the small run is made of."""

    records: list[dict[str, str]]
    seeds: Path
    settings: tuple[str, ...] = SETTINGS

    @property
    def flags(self):
        """The same settings, for the command line."""
        return ["--model", "scripted", *(word for setting in self.settings for word in ("--set", setting))]


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    from isara.readers import read_seeds

    records = [{"question": s.question, "answer": s.answer} for s in read_seeds("misconceptions")[:30]]
    seeds = tmp_path_factory.mktemp("seeds") / "seeds.jsonl"
    seeds.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return Small(records, seeds)


@pytest.fixture(scope="session")
def finished(small, tmp_path_factory):
    """The small run, complete. Look, and do not touch: `run` is a copy to touch."""
    from isara import align

    folder = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        align(str(small.seeds), out=folder, model="scripted", settings=small.settings)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "small"))


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def isara(capsys, monkeypatch):
    """The command line, in this process."""
    from isara.cli import main

    def command(*words, stdin=""):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
        monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        monkeypatch.setattr(sys, "argv", ["isara", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        out, err = capsys.readouterr()
        return Ended(ended.value.code, out, err)

    return command


@pytest.fixture
def again(isara, small):
    """Start the command that made the small run, with more options, on a run directory."""

    def command(run, *more):
        return isara("run", small.seeds, *small.flags, "--out", run, *more)

    return command
