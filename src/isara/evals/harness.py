"""
Any task of lm-evaluation-harness, done by a model of isara's: the same engine and adapter as everywhere else.

The tasks, their data and their metrics are the harness's own (github.com/EleutherAI/lm-evaluation-harness, MIT; Gao et
al., doi 10.5281/zenodo.10256836). Its data comes from the Hugging Face hub, so a task can be done where that can be
reached, or where a YAML file of a task says that its data is a local file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isara.errors import InputError
from isara.evals.benchmark import Benchmark, Measure, Rows
from isara.protocols import Model, Sampling

Task = Any
"""A task of the harness; its classes are not ours."""

_DOABLE = ("multiple_choice", "generate_until")


def load_task(name: str) -> Task:
    """Return a task by its name, or by the path of its YAML file; InputError where it or its data is not there."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(f'lm_eval:{name} needs lm-evaluation-harness. Run: pip install "isara[lm-eval]"') from error
    try:
        # Without the thousands of tasks that come with the harness, where a file says what the task is: they take
        # half a minute to read.
        found = TaskManager(include_defaults=not name.endswith((".yaml", ".yml"))).load([name])["tasks"]
    except (KeyError, ValueError, TypeError, OSError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise InputError(
            f"lm_eval:{name}: no such task, or its data cannot be reached ({reason}). `lm_eval ls tasks` lists the "
            "names; data comes from the Hugging Face hub, unless you give the path of a task's YAML file that names "
            "local files."
        ) from error
    if len(found) != 1:
        names = ", ".join(sorted(found)[:8]) or "none"
        raise InputError(f"lm_eval:{name}: a group of {len(found)} tasks ({names}). Name one task.")
    return next(iter(found.values()))


def benchmark(name: str, limit: int | None) -> Benchmark:
    """Return a task as a benchmark; its rows have the metrics of the harness for each document."""
    task = load_task(name)
    kind = str(task.get_config("output_type"))
    if kind not in _DOABLE:
        raise InputError(
            f"lm_eval:{name}: a task of the kind '{kind}', which isara's models cannot do (they can: "
            f"{', '.join(_DOABLE)}). For perplexity on text, take --on forgetting."
        )
    count = len(task.eval_docs) if limit is None else min(limit, len(task.eval_docs))
    better: Mapping[str, bool] = task.higher_is_better()
    return Benchmark(
        f"lm_eval-{task.config.task}",
        [(task, count)],
        {"task": str(task.config.task), "version": str(task.VERSION), "documents": count},
        perform,
        tuple(Measure(metric, metric, "higher" if higher else "lower") for metric, higher in better.items()),
        chunk=1,
        notes=(f"{count} documents of the harness's task {task.config.task}, version {task.VERSION}.",),
    )


def perform(model: Model, items: Sequence[tuple[Task, int]]) -> Rows:
    """Return `{id, prompt, responses, ...metrics}` for each document of a task, as the harness scores it."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    (task, count) = items[0]
    manager = TaskManager(include_defaults=False)
    found = simple_evaluate(
        as_lm(model), tasks=[task], task_manager=manager, limit=count, bootstrap_iters=0, log_samples=True
    )
    rows = []
    for sample in next(iter(found["samples"].values())):
        prompt = str(next(iter(sample["arguments"]))[0])
        responses = [str(each) for each in sample["filtered_resps"]]
        rows.append({"id": str(sample["doc_id"]), "prompt": prompt, "responses": responses, **_numbers(sample)})
    return sorted(rows, key=lambda row: int(row["id"]))


def as_lm(model: Model) -> Any:
    """Return a model as the harness asks for one."""
    from lm_eval.api.model import LM

    class Bridge(LM):  # type: ignore[misc]
        """Passes the harness's requests on, all at once, so that the engine can share what they begin with."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Return the log-likelihood of each continuation; whether it is the likeliest text is not known."""
            scored = model.score([split(*request.args) for request in requests])
            return [(likelihood.total, False) for likelihood in scored]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            """Raise InputError: windows over long documents are not what isara's models are asked for."""
            raise InputError(
                "--on lm_eval: this task scores whole documents in windows, which is not done here. "
                "Use --on forgetting with a text of your own."
            )

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """Return what the model writes after each context, up to its stops."""
            texts = []
            for request in requests:
                context, given = request.args
                stops = given.get("until") or []
                sampling = Sampling(
                    int(given.get("max_gen_toks") or 256), stop=tuple([stops] if isinstance(stops, str) else stops)
                )
                texts.append(model.complete([context], sampling, seeds=[0])[0].text)
            return texts

    return Bridge()


def split(context: str, continuation: str) -> tuple[str, str]:
    """
    Return a context and what follows it as isara's models take them: the space between belongs to neither.

    The harness writes it at the head of the continuation, or moves it there; a model of isara's puts it back.
    """
    bare = context.rstrip(" ")
    return bare, (context[len(bare) :] + continuation).removeprefix(" ")


def _numbers(sample: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a document that are numbers; others only mean something over all documents."""
    found = {}
    for name in sample["metrics"]:
        try:
            found[str(name)] = float(sample[name])
        except (TypeError, ValueError):
            continue
    return found
