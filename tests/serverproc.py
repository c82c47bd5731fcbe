"""Starts and stops tests/serving.py, and talks to it beside the code under test."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Process:
    """A running test server."""

    process: subprocess.Popen
    url: str

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def faults(self, *names):
        """Have the next requests fail, one after the other; forget what was asked so far."""
        self.post("/test/faults", names)

    def post(self, path, value):
        body = json.dumps(value).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request).close()

    def told(self):
        with urllib.request.urlopen(f"{self.url}/test/log") as answer:
            return json.load(answer)

    @property
    def asked(self):
        return self.told()["asked"]

    def bodies(self, path="/v1/completions"):
        return [entry["body"] for entry in self.asked if entry["path"].endswith(path)]

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def start(style, *words):
    command = [sys.executable, str(Path(__file__).with_name("serving.py")), style, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return Process(process, f"http://127.0.0.1:{int(process.stdout.readline())}")


@contextmanager
def serving(style, *words):
    server = start(style, *words)
    try:
        yield server
    finally:
        server.stop()
