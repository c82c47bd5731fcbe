"""A checkpoint on OpenVINO, compiled, with room for keys and values; and with less of it where memory ran out."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from weakref import WeakSet

from isara.backends.adapter import PARTS, read_scale, read_state
from isara.backends.checkpoints import Checkpoint
from isara.backends.hf import no_room
from isara.backends.memory import Budget, attempt
from isara.backends.openvino_export import FILE, export, exported
from isara.backends.openvino_graph import (
    Batch,
    Factors,
    Graph,
    Runner,
    Tensors,
    add_adapter,
    compress,
    read_graph,
    refuse_format,
)
from isara.backends.openvino_pages import Lease, Pages
from isara.errors import BackendError

_MOST_TOKENS = 2048
"""Tokens computed at once; more would fill memory with what is between the layers, and win nothing."""
_MOST_LOGITS = 1 << 26
"""Logits made at once (256 MiB)."""


class Room:
    """Pages of keys and values, which all sessions of a checkpoint use in turn; half of them where memory ran out."""

    def __init__(self, tokens: int) -> None:
        self.budget = Budget(tokens, "writing or scoring")
        self.pages = Pages(0, 1)
        self._tensors: Tensors = []
        self._users: WeakSet[Runner] = WeakSet()

    def begin(self, runner: Runner, longest: int) -> None:
        """
        Begin a call: with enough pages for its longest sequence, and none of them known.

        What is shared is shared within a call. Were it kept, a run that goes on after a kill would begin with other
        pages than one that was never stopped, and might round in another way.
        """
        self.pages.forget()
        wanted = -(-max(self.budget.tokens, longest) // runner.page_size)
        if wanted > self.pages.count:
            self.clear()
            self._tensors = runner.new_pages(wanted)
            self.pages = Pages(wanted, runner.page_size)
        self._users.add(runner)
        runner.use(self._tensors)

    def clear(self) -> None:
        """Give back all pages, and what sessions keep for what is between the layers."""
        for runner in self._users:
            runner.release()
        self._users.clear()
        self.pages, self._tensors = Pages(0, 1), []


class Session:
    """A compiled graph at work."""

    def __init__(self, compiled: Callable[[], Runner], room: Room) -> None:
        """Take what compiles the graph, and the room that it shares with others."""
        self.compiled = compiled
        self.runner = compiled()
        self.room = room

    @property
    def pages(self) -> Pages:
        """The pages of the call under way."""
        return self.room.pages

    @property
    def most_tokens(self) -> int:
        """How many tokens to compute at once."""
        return max(1, int(_MOST_TOKENS * self.room.budget.left))

    def lease(self, prompt: Sequence[int], length: int) -> Lease | None:
        """Return pages for a prompt that is to grow to `length` tokens, what it need not compute in them; or None."""
        lease = self.pages.lease(prompt, length)
        if lease is not None and lease.copied is not None:
            self.runner.copy(lease.copied, lease.pages[lease.known // self.pages.size])
        return lease

    def fits(self, batch: Batch) -> bool:
        """Whether a batch can take in another sequence."""
        logits = len(batch.places) * self.runner.vocabulary
        return len(batch.tokens) < self.most_tokens and logits < _MOST_LOGITS * self.room.budget.left

    def work(self, sizes: Mapping[int, int], do: Callable[[deque[int], dict[int, Lease]], None]) -> None:
        """
        Call `do` with texts that wait, and a place for the pages of those under way, until none waits.

        `sizes` has the most tokens that each text can come to. Where memory runs out, there is half of everything from
        then on, and what was under way waits again. Afterwards the memory for pages and for what lies between the
        layers is given back: a gigabyte that a training may need, and 50 ms to have it again.
        """
        try:
            self._work(sizes, do)
        finally:
            self.room.clear()

    def _work(self, sizes: Mapping[int, int], do: Callable[[deque[int], dict[int, Lease]], None]) -> None:
        waiting = deque(sizes)
        while waiting:
            leases: dict[int, Lease] = {}
            longest = max(sizes[i] for i in waiting)

            def go_on() -> None:
                self.room.begin(self.runner, longest)  # noqa: B023  (called at once)
                do(waiting, leases)  # noqa: B023

            try:
                said = attempt(go_on)
            finally:
                self.abandon(leases.values())
            if said is not None:
                self.lessen([sizes[i] for i in leases], longest, said)
                waiting.extendleft(reversed(leases))

    def lessen(self, under_way: list[int], longest: int, said: str) -> None:
        """Go on with half of the pages, and half as much at once; BackendError: that was a single text."""
        budget = self.room.budget
        alone = len(under_way) < 2 and budget.tokens <= longest
        halves = [budget.tokens // 2, budget.tokens - budget.tokens // 2]
        budget.shrink(under_way or [longest] if alone else halves, said)
        self.room.clear()
        # What OpenVINO was about to make when it had no room stays broken in its caches, so nothing of it is kept.
        del self.runner
        self.runner = self.compiled()

    def abandon(self, leases: Iterable[Lease]) -> None:
        """Give back what is still in use after an error; nothing that it may have left half computed stays known."""
        for lease in list(leases):
            self.pages.give_back(lease)
            self.pages.forget()


class Opened:
    """
    A converted checkpoint, compiled when it is first used: bare, and with the tuned weights that are in use.

    It is read, and its weights are rounded to 8 bits, once: what is compiled are copies of its graph, which share them.
    """

    def __init__(self, checkpoint: Checkpoint, number_format: str, batch_tokens: int, *, int8: bool = False) -> None:
        refuse_format(number_format)
        self.file = exported(checkpoint)
        self.number_format = number_format
        self.int8 = int8
        self.room = Room(batch_tokens)
        self._graph: Graph | None = None
        self._bare: Session | None = None
        self._tuned: Session | None = None
        self._worn = ""

    def bare(self) -> Session:
        """Return the session of the untouched checkpoint."""
        if self._bare is None:
            self._bare = Session(lambda: self.compiled(self.graph), self.room)
        return self._bare

    def tuned(self, folder: Path, content: str) -> Session:
        """
        Return the session with the tuned weights in a folder; `content` is the hash of them.

        It is kept until others are asked for: compiling takes a second or two, and two of them much memory. Fully
        tuned weights are converted each time, and the file is not kept.
        """
        if self._tuned is None or self._worn != content:
            self._tuned = None
            whole = (folder / "config.json").exists()
            self._tuned = Session(self.whole(folder) if whole else self.adapted(folder), self.room)
            self._worn = content
        return self._tuned

    def adapted(self, folder: Path) -> Callable[[], Runner]:
        """Return what compiles the checkpoint with the adapter in a folder."""
        factors = read_factors(folder)

        def wearing() -> Graph:
            graph = self.graph()
            add_adapter(graph, factors)
            return graph

        return lambda: self.compiled(wearing)

    def whole(self, folder: Path) -> Callable[[], Runner]:
        """Return what converts and compiles the fully tuned weights in a folder."""

        def compiled() -> Runner:
            with tempfile.TemporaryDirectory(prefix="isara-openvino-") as scratch:
                export(folder, Path(scratch))
                # Read as a whole: some systems do not let go of a file that is mapped.
                return self.compiled(lambda: self.read(Path(scratch) / FILE, mapped=False))

        return compiled

    def graph(self) -> Graph:
        """Return a copy of the checkpoint's graph, to be changed and compiled."""
        if self._graph is None:
            self._graph = self.read(self.file, mapped=True)
        return self._graph.clone()

    def read(self, file: Path, *, mapped: bool) -> Graph:
        """Return the graph in a file, its weights in the format in use."""
        graph = read_graph(file, mapped=mapped)
        if self.int8:
            compress(graph)
        return graph

    def compiled(self, graph: Callable[[], Graph]) -> Runner:
        """Return a graph made ready to run; BackendError: there is not enough memory for it."""
        try:
            return Runner(graph(), self.number_format)
        except (RuntimeError, MemoryError) as error:
            # Nothing of what was begun without room is relied on again.
            self._graph = None
            raise no_room(self.file, error) from error


def read_factors(folder: Path) -> dict[str, Factors]:
    """Return the factors of the adapter in a folder by the names of their layers; raises BackendError."""
    rank, alpha = read_scale(folder)
    state = read_state(folder)
    names = sorted({key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in state})
    try:
        pairs = {name: [state[f"base_model.model.{name}.{part}.weight"].float() for part in PARTS] for name in names}
    except KeyError as error:
        raise BackendError(f"{folder}: this adapter has more or less than A and B for a layer ({error}).") from error
    return {name: ((a * (alpha / rank)).numpy(), b.numpy()) for name, (a, b) in pairs.items()}
