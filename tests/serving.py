"""
A small OpenAI-compatible server for tests: a process of its own, scripted completions, every way to fail on request.

    python tests/serving.py STYLE [--tokenizer FOLDER] [--key KEY]

It prints its port. Styles: `vllm` takes token ids, adapters and scoring; `llamacpp` token ids only; `text` is as strict
as `transformers serve`; `chat` has no plain completions. What to do wrong is sent to `/test/faults`, one for each
request to come; the last one stays where it ends in `*`. `/test/log` returns what was asked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from isara.protocols import Chat, Sampling, Turn
from isara.testing import ScriptedModel

OPENAI = {"model", "prompt", "messages", "max_tokens", "temperature", "top_p", "seed", "stop"}
BODIES = {
    "no json": b"<html>It works</html>",
    "empty": b'{"choices": []}',
    "no text": b'{"choices": [{"index": 0}]}',
    "list": b"[1, 2]",
    "deep": b"[" * 100_000,
}
_TURN = re.compile(r"<\|im_start\|>(user|assistant)\n(.*?)(?:<\|im_end\|>\n|\Z)", re.DOTALL)


class State:
    """What the handlers of one server share."""

    def __init__(self, style, tokenizer, key):
        self.style, self.key = style, key
        self.deaf, self.extra = False, 0
        self.tokenizer = None
        if tokenizer:
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json"))
        self.lock = threading.Lock()
        self.faults, self.log, self.adapters = [], [], {}
        self.under_way = self.most = 0

    def fault(self):
        with self.lock:
            if not self.faults:
                return None
            return self.faults[0][:-1] if self.faults[0].endswith("*") else self.faults.pop(0)

    def decoded(self, ids):
        if self.tokenizer:
            return self.tokenizer.decode(ids, skip_special_tokens=False)
        return " ".join(map(str, ids))

    def count(self, text):
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids) if self.tokenizer else len(text.split())


def prompt_in(text):
    """A prompt as the scripted model takes it, from text with ChatML markers or without."""
    turns = _TURN.findall(text)
    if not turns:
        return text
    role, _ = turns.pop()
    return Chat(tuple(Turn(who, said) for who, said in turns), opens=role)


def log_of(model, token, place):
    """A made-up log-probability, the same for the same model, token and place."""
    found = hashlib.sha256(f"{model}/{token}/{place}".encode()).digest()[0]
    return -0.5 - found / 256 - (0.5 if "isara" not in model else 0.0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *words):
        pass

    def do_GET(self):
        if self.path == "/test/log":
            self.answer(200, {"asked": self.state.log, "most": self.state.most})
        elif self.path.endswith("/v1/models") and self.allowed():
            data = [{"id": "tiny", "object": "model", "owned_by": self.state.style, "created": int(time.time())}]
            data += [{"id": name, "parent": "tiny", "owned_by": "vllm"} for name in self.state.adapters]
            self.answer(200, {"object": "list", "data": data})
        elif not self.path.endswith("/v1/models"):
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/test/faults":
            self.state.faults = body
            self.state.log.clear()
            self.state.most = 0
            self.answer(200, {})
            return
        with self.state.lock:
            self.state.log.append({"path": self.path, "body": body, "key": "Authorization" in self.headers})
            self.state.under_way += 1
            self.state.most = max(self.state.most, self.state.under_way)
        try:
            if self.allowed() and not (self.path.endswith("completions") and self.failed(self.state.fault())):
                self.serve(body)
        finally:
            with self.state.lock:
                self.state.under_way -= 1

    def allowed(self):
        sent = self.headers.get("Authorization", "")
        if self.state.key and sent != f"Bearer {self.state.key}":
            # Some servers do show what they were sent.
            self.answer(401, {"error": {"message": f"Incorrect API key provided: {sent}"}})
            return False
        return True

    def failed(self, fault):
        """Whether something was done wrong on purpose, and the request is over."""
        name, _, detail = (fault or "").partition(":")
        if name == "429":
            seconds = detail.removeprefix("date:")
            after = formatdate(time.time() + float(seconds), usegmt=True) if "date" in detail else seconds
            self.answer(429, {"error": {"message": "slow down"}}, {"Retry-After": after} if detail else {})
        elif name.isdigit():
            words = f"as told, {self.headers.get('Authorization', '')}"
            self.answer(int(name), {"error": {"message": words}}, {"Location": "http://elsewhere.example/v1"})
        elif name in BODIES:
            self.send(200, BODIES[name])
        elif name in ("cut", "hang up"):
            if name == "cut":
                self.head(200, 1000)
                self.wfile.write(b'{"choices": [{"te')
            self.close_connection = True
        elif name == "drip":
            self.head(200, 10_000)
            for _ in range(200):
                time.sleep(0.05)
                self.wfile.write(b" ")
                self.wfile.flush()
        elif name == "stall":
            time.sleep(float(detail))
            return False
        elif name == "die":
            os._exit(1)
        else:
            return False
        return True

    def serve(self, body):
        style = self.state.style
        if style == "vllm" and self.path.endswith("/v1/load_lora_adapter"):
            self.load(body)
        elif style == "vllm" and self.path.endswith("/v1/unload_lora_adapter"):
            known = self.state.adapters.pop(body["lora_name"], None)
            self.answer(200 if known else 404, {} if known else {"error": {"message": "cannot be found"}})
        elif self.path.endswith("/v1/chat/completions") and style in ("chat", "vllm"):
            turns = tuple(Turn(message["role"], message["content"]) for message in body["messages"])
            counted = sum(self.state.count(turn.text) for turn in turns)
            self.complete(body, Chat(turns), counted)
        elif self.path.endswith("/v1/completions") and style != "chat":
            prompt = body["prompt"]
            if style == "text" and set(body) - OPENAI:
                self.answer(422, {"detail": f"Unexpected fields in the request: {set(body) - OPENAI}"})
            elif style == "text" and not isinstance(prompt, str):
                self.answer(400, {"detail": "prompt must be a string."})
            else:
                text = prompt if isinstance(prompt, str) else self.state.decoded(prompt)
                counted = self.state.count(text) if isinstance(prompt, str) else len(prompt)
                self.complete(body, prompt_in(text), counted)
        else:
            self.answer(404, {"detail": "Not Found"})

    def load(self, body):
        """As vLLM does: the folder has to be there, and a name can be taken only once."""
        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.state.adapters:
            self.answer(400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}})
        elif not (folder / "adapter_config.json").exists():
            words = f"Loading lora {name} failed: No adapter found for {folder}"
            self.answer(404, {"error": {"message": words, "type": "NotFoundError"}})
        else:
            self.state.adapters[name] = str(folder)
            self.send(200, f"Success: LoRA adapter '{name}' added successfully.".encode())

    def complete(self, body, prompt, counted):
        model = body["model"]
        if model != "tiny" and model not in self.state.adapters:
            self.answer(404, {"error": {"message": f"The model `{model}` does not exist.", "code": 404}})
            return
        # A stop string as it comes is cut by the scripted model; one server in two forgets, and so does this one.
        sampling = Sampling(body["max_tokens"], body.get("temperature", 1.0), body.get("top_p", 1.0))
        seed = 0 if self.state.deaf else body.get("seed", 0)
        done = ScriptedModel().complete([prompt], sampling, seeds=[seed])[0]
        choice = {"index": 0, "finish_reason": "stop" if done.finished else "length", "logprobs": None}
        choice |= (
            {"message": {"role": "assistant", "content": done.text}} if "messages" in body else {"text": done.text}
        )
        if self.state.style == "vllm":
            self.add_logs(body, choice)
        usage = {"prompt_tokens": counted + self.state.extra, "completion_tokens": done.tokens}
        self.answer(200, {"object": "text_completion", "model": model, "choices": [choice], "usage": usage})

    def add_logs(self, body, choice):
        if body.get("prompt_logprobs") is not None:
            ids = body["prompt"]
            logs = [{str(t): {"logprob": log_of(body["model"], t, i), "rank": 1}} for i, t in enumerate(ids)]
            choice["prompt_logprobs"] = [None, *logs[1:]]
        if body.get("logprobs") is not None and self.state.tokenizer:
            ids = self.state.tokenizer.encode(choice["text"], add_special_tokens=False).ids
            end = self.state.tokenizer.token_to_id("<|im_end|>")
            ids += [end] if choice["finish_reason"] == "stop" else []
            start = len(body["prompt"])
            logs = [log_of(body["model"], token, start + i) for i, token in enumerate(ids)]
            choice |= {"token_ids": ids, "logprobs": {"token_logprobs": logs, "tokens": [""] * len(ids)}}

    def answer(self, status, value, headers=None):
        self.send(status, json.dumps(value).encode(), headers)

    def send(self, status, content, headers=None):
        self.head(status, len(content), headers)
        self.wfile.write(content)

    def head(self, status, length, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": length, "Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("style", choices=["vllm", "llamacpp", "text", "chat"])
    parser.add_argument("--tokenizer")
    parser.add_argument("--key")
    parser.add_argument("--deaf", action="store_true", help="ignore seeds")
    parser.add_argument("--extra", type=int, default=0, help="tokens added to each prompt")
    parser.add_argument("--port", type=int, default=0)
    wanted = parser.parse_args()
    Handler.state = State(wanted.style, wanted.tokenizer, wanted.key)
    Handler.state.deaf, Handler.state.extra = wanted.deaf, wanted.extra
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer.request_queue_size = 256
    server = ThreadingHTTPServer(("127.0.0.1", wanted.port), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
