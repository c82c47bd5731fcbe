"""How the code hangs together: who imports whom, what is imported where, and how long things may get."""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

import isara as package

SOURCE = Path(package.__file__).parent
ROOT = Path(__file__).parent.parent
FILES = sorted(SOURCE.rglob("*.py"))

# From bottom to top: a module imports only from rows above its own. `backends`, `report` and `cli` count as one module
# each, and have rows of their own.
ROWS = """
errors settings samples protocols events tokenizer postings approximate stats eta tomllines rawfiles shapes beginnings
prefixes vectors values turning
rouge
neighbours
config fields prompts retrieve rundir lock filter gate diversity symptoms topics scripted console
digests targetfiles spent rates
textfiles columns picking stage drafted study heldout manifest replay lineage likeness advice testing report backends
passages readers context sharing tally generate summary doctor seal
distil verify evals iterations
tuning
plan judging
loop
api
checkup talk export evaluate recalled
measures
compare
workers
__init__
cli
__main__
"""
INNER_ROWS = {
    "report": """
        text records
        rows
        load charts settings_view
        embed items tables
        sections
        page
        markdown
        standings
        rounds choices scaling
        comparison
        __init__
        """,
    "backends": """
        __init__ quiet attention products loss parts template memory address patience pacing positions trust
        rounding drawing
        forest targets adapter
        packing
        checkpoints decode scoring selfcheck savepoints dialect endpoint openvino_graph openvino_pages
        hf probing averages
        openvino_export
        openvino_session
        openvino_stems
        openvino
        openvino_choice
        classify embed training merged server
        outside opening
        engines
        """,
    "evals": """
        __init__ agreement files language rates refusals sentences server
        audit benchmark instructions likeness safety
        forgetting harness ifeval judges truthfulqa
        answered recorded
        """,
    "cli": """
        app stopping
        export inspect judge prepare work
        evaluate study
        __init__
        """,
}
HEAVY = {"transformers", "peft", "sentence_transformers", "huggingface_hub", "gguf", "openvino"}
MODEL_LIBRARIES = HEAVY | {"torch", "safetensors"}
AT_HOME = {
    "pyarrow": {"columns"},
    "datasets": {"columns"},
    "langdetect": {"evals.language"},
    "lm_eval": {"evals.harness"},
    "usearch": {"approximate"},
    "httpx2": {"backends.endpoint"},
    "typer": {
        "cli.app",
        *(f"cli.{name}" for name in INNER_ROWS["cli"].split() if name not in ("app", "stopping", "__init__")),
    },
    "rich": {"cli.study", "cli.work", "console"},
    "pydantic": {"settings", "config", "study", "report.records", "report.rows"},
}
"""What else is imported from outside, and the only modules that may name it."""
LAZY = HEAVY | {"langdetect", "pyarrow", "datasets", "usearch", "rich", "httpx2"}
"""What is imported inside functions, where it is needed."""


def name_of(path):
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


TREES = {name_of(path): tree_of(path) for path in FILES}


def imports(tree):
    """Yield the name of every module, or of a name in one, that a module imports, and whether that waits."""
    at_once = {id(node) for node in running_at_import(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in at_once
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) not in at_once


def running_at_import(node):
    """Yield the nodes that run as soon as a module is imported."""
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not for_types and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from running_at_import(child)


def own_imports(name):
    """Yield the modules of isara that one imports, by their names in TREES."""
    for target, _ in imports(TREES[name]):
        if target.partition(".")[0] != "isara":
            continue
        inside = target.partition(".")[2]
        candidates = (inside, inside.rpartition(".")[0])
        found = (each for c in candidates for each in (c, f"{c}.__init__".lstrip(".")) if each in TREES)
        yield next(found, "__init__")


def place(name):
    """The module as the outer rows know it."""
    first = name.partition(".")[0]
    return first if first in INNER_ROWS else name


def ranks(rows):
    return {name: rank for rank, row in enumerate(rows.strip().splitlines()) for name in row.split()}


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def functions():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{name}.{node.name}", node


def test_every_module_has_a_row_and_every_row_a_module():
    assert sorted(ranks(ROWS)) == sorted({place(name) for name in TREES})
    for outer, rows in INNER_ROWS.items():
        inside = {name.partition(".")[2] for name in TREES if place(name) == outer}
        assert sorted(ranks(rows)) == sorted(inside)


def test_the_rows_are_those_of_the_design_page():
    drawn = re.search(r"never from its own row\..*?```\n(.*?)```", (ROOT / "docs" / "design.md").read_text(), re.DOTALL)
    rows = [sorted(row.replace(" · ", " ").split()) for row in drawn[1].strip().splitlines()]
    assert rows == [sorted(row.split()) for row in ROWS.strip().splitlines()]


def test_the_tree_of_the_design_page_has_every_module():
    drawn = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    # the two __init__ of sub-packages stand for their folders
    names = [path.name for path in FILES if path.name != "__init__.py" or path.parent == SOURCE]
    assert sorted(re.findall(r"[├└]── (\w+\.py) ", drawn)) == sorted(names)


def test_a_module_imports_only_from_rows_above_its_own():
    rank = ranks(ROWS)
    wrong = [
        f"{name} imports {target}"
        for name in TREES
        for target in own_imports(name)
        if place(target) != place(name) and rank[place(target)] >= rank[place(name)]
    ]
    assert wrong == []


@pytest.mark.parametrize("outer", INNER_ROWS)
def test_a_module_of_a_sub_package_imports_only_from_rows_above_its_own(outer):
    rank = {f"{outer}.{name}": number for name, number in ranks(INNER_ROWS[outer]).items()}
    pairs = [(name, target) for name in rank for target in own_imports(name) if place(target) == outer]
    assert [f"{name} imports {target}" for name, target in pairs if rank[target] >= rank[name]] == []
    assert pairs


def test_only_backends_name_the_model_libraries():
    named = {name for name, tree in TREES.items() for target, _ in imports(tree) if outside(target) in MODEL_LIBRARIES}
    assert named
    assert {place(name) for name in named} == {"backends"}


def outside(target):
    return target.partition(".")[0]


@pytest.mark.parametrize("library", AT_HOME)
def test_a_library_is_named_in_its_own_place_only(library):
    named = {name for name, tree in TREES.items() for target, _ in imports(tree) if outside(target) == library}
    assert named == AT_HOME[library]


def test_what_is_slow_to_import_is_imported_where_it_is_needed():
    early = [
        f"{name} imports {target}"
        for name, tree in TREES.items()
        for target, waits in imports(tree)
        if outside(target) in LAZY and not waits
    ]
    assert early == []


def test_nothing_else_is_imported_than_what_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    words = [*project["dependencies"], *(word for name, some in optional.items() if name != "dev" for word in some)]
    declared = {re.match(r"[\w-]+", word)[0].replace("-", "_") for word in words}
    used = {outside(target) for tree in TREES.values() for target, _ in imports(tree)} - {"isara", "__future__"}
    assert used - set(sys.stdlib_module_names) <= declared | {"huggingface_hub"}


def test_importing_isara_loads_nothing_and_its_parts_load_no_model_library():
    script = """
import json, sys
def loaded():
    return sorted({name.partition(".")[0] for name in sys.modules})
import isara
first = sorted(name for name in sys.modules if name.startswith("isara")), loaded()
import isara.cli
second = loaded()
import isara.api, isara.checkup, isara.export, isara.replay, isara.lineage, isara.report, isara.talk, isara.testing
print(json.dumps([*first, second, loaded()]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ours, first, second, third = json.loads(done.stdout)
    assert ours == ["isara"]
    assert not {"numpy", "pydantic", "rich", "typer", "rapidfuzz"} & set(first)
    assert not {"numpy", "pydantic", "rich", "rapidfuzz"} & set(second)
    for loaded in (first, second, third):
        assert not (MODEL_LIBRARIES | LAZY) & set(loaded)


@pytest.mark.parametrize("name", TREES)
def test_no_module_prints_guesses_or_swallows(name):
    tree = TREES[name]
    called = {node.func.id for node in calls(tree) if isinstance(node.func, ast.Name)}
    assert not called & {"print", "getattr", "hasattr", "eval", "exec", "breakpoint"}
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global), ast.unparse(node)
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert not {"everything", "Exception", "BaseException"} & set(re.findall(r"\w+", caught)), caught
    made = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert "__getattr__" not in made or name == "__init__"


@pytest.mark.parametrize("name", TREES)
def test_every_module_says_what_it_holds(name):
    tree = TREES[name]
    assert ast.get_docstring(tree)
    if len(tree.body) > 1 and name != "__main__":
        assert ast.unparse(tree.body[1]) == "from __future__ import annotations"


def test_no_module_is_too_long():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_no_function_is_too_long():
    lengths = {name: node.end_lineno - node.lineno + 1 for name, node in functions()}
    assert {name: length for name, length in lengths.items() if length > 60} == {}
    assert sorted(lengths.values())[len(lengths) * 9 // 10] <= 40


def test_no_module_is_named_for_nothing():
    assert not {name.rpartition(".")[2] for name in TREES} & {"utils", "util", "helpers", "helper", "common", "misc"}


def test_what_is_not_code_comes_along():
    files = resources.files("isara")
    found = ["py.typed", *(f"seeds/{name}.jsonl" for name in ("misconceptions", "supportdesk"))]
    found += [f"report/assets/{name}" for name in ("report.css", "report.js")]
    found += ["evals/passages.txt"]
    assert [name for name in found if not files.joinpath(name).is_file()] == []


def test_the_wheel_has_the_whole_package():
    """Hatchling takes the folder that it is told to, but for what git ignores or the settings exclude."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hatch = project["tool"]["hatch"]["build"]
    assert hatch["targets"]["wheel"] == {"packages": ["src/isara"]}
    assert set(hatch) == {"targets"}
    assert set(hatch["targets"]) <= {"wheel", "sdist"}
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split() if not line.startswith("/")]
    assert ignored
    for path in SOURCE.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and "__pycache__" not in parts:
            assert not [p for p in parts for pattern in ignored if fnmatch.fnmatch(p, pattern)], path


def test_the_installed_package_says_what_the_project_does():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = importlib.metadata.metadata("isara")
    assert installed["Version"] == project["version"]
    scripts = importlib.metadata.entry_points(group="console_scripts", name="isara")
    assert {script.value for script in scripts} == {project["scripts"]["isara"]} == {"isara.cli:main"}
