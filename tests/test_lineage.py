"""A sample's family tree: every parent, back to the seeds, and nothing twice."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from isara.errors import RunError
from isara.lineage import lineage


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def known(run):
    folders = [run / f"round-{n}" for n in (1, 2)]
    records = [r for folder in folders for name in ("kept", "dropped") for r in lines(folder / f"{name}.jsonl")]
    return {record["id"]: record for record in (*lines(run / "seeds.jsonl"), *records)}


@pytest.fixture(scope="module")
def grandchild(finished):
    """A sample of round 2 that was shown one of round 1."""
    return next(r for r in lines(finished / "round-2" / "kept.jsonl") if any(p.startswith("r1-") for p in r["parents"]))


def test_a_seed_has_no_ancestors(finished):
    seed = lines(finished / "seeds.jsonl")[0]
    (only,) = lineage(finished, seed["id"])
    assert (only.depth, only.role, only.origin, only.repeated) == (0, "", "seed", False)
    assert (only.question, only.answer) == (seed["question"], seed["answer"])


def test_a_held_out_sample_is_found_and_nobody_descends_from_one(finished, grandchild):
    heldout = {record["id"] for record in lines(finished / "heldout.jsonl")}
    assert [each.origin for each in lineage(finished, min(heldout))] == ["held out"]
    assert not heldout & {parent for record in known(finished).values() for parent in record["parents"]}
    assert not heldout & {ancestor.id for ancestor in lineage(finished, grandchild["id"])}


def test_every_line_of_descent_ends_at_a_seed(finished, grandchild):
    tree = lineage(finished, grandchild["id"])
    records = known(finished)
    assert tree[0].id == grandchild["id"]
    for this, after in zip(tree, [*tree[1:], None], strict=True):
        ends = after is None or after.depth <= this.depth
        assert not ends or this.origin == "seed" or this.repeated
    everyone, found = {grandchild["id"]}, set()
    while everyone - found:
        name = (everyone - found).pop()
        found.add(name)
        everyone |= set(records[name]["parents"])
    assert {ancestor.id for ancestor in tree} == everyone


def test_children_stand_under_their_parents_with_what_they_were_shown_for(finished, grandchild):
    tree = lineage(finished, grandchild["id"])
    records = known(finished)
    above = {}
    for ancestor in tree:
        above[ancestor.depth] = ancestor
        if ancestor.depth:
            child = records[above[ancestor.depth - 1].id]
            shown_for = {
                "question": ancestor.id in child["question_parents"],
                "answer": ancestor.id in child["answer_parents"],
            }
            assert ancestor.role == " and ".join(word for word, shown in shown_for.items() if shown)
            assert ancestor.role
    assert [a.id for a in tree if a.depth == 1] == grandchild["parents"]


def test_who_stands_there_twice_is_followed_once(finished, grandchild):
    tree = lineage(finished, grandchild["id"])
    generated = [ancestor for ancestor in tree if ancestor.origin != "seed"]
    followed = [ancestor.id for ancestor in generated if not ancestor.repeated]
    assert len(followed) == len(set(followed))
    assert {a.id for a in generated if a.repeated} <= set(followed)
    assert not any(ancestor.repeated for ancestor in tree if ancestor.origin == "seed")


def test_a_dropped_candidate_says_which_rule_and_why(finished):
    dropped = next(r for r in lines(finished / "round-1" / "dropped.jsonl") if r["rule"] == "rouge")
    first = lineage(finished, dropped["id"])[0]
    assert first.origin == f"round 1, dropped (rouge): {dropped['reason']}"


def test_a_candidate_without_an_answer_is_shown_with_an_empty_one(finished):
    dropped = next(r for r in lines(finished / "round-1" / "dropped.jsonl") if r["answer"] is None)
    assert lineage(finished, dropped["id"])[0].answer == ""


def test_an_id_that_nobody_has_brings_the_close_ones(finished):
    with pytest.raises(RunError, match=r"no sample 'seed-222' here\. Did you mean .*seed-22"):
        lineage(finished, "seed-222")
    with pytest.raises(RunError, match=r"no sample 'xyzzy' here\. Ids look like seed-7 or r1-00042\."):
        lineage(finished, "xyzzy")


def test_a_round_under_way_is_read_up_to_its_last_step(run):
    with (run / "round-2" / "kept.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "r2-00099", "quest')
    assert lineage(run, lines(run / "seeds.jsonl")[0]["id"])
    with pytest.raises(RunError, match="no sample 'r2-00099' here"):
        lineage(run, "r2-00099")


def test_a_long_run_is_read_and_not_held(run):
    path = run / "round-1" / "dropped.jsonl"
    dropped = lines(path)[0]
    with path.open("a", encoding="utf-8") as file:
        for number in range(5000):
            file.write(json.dumps(dropped | {"id": f"r1-1{number:05}", "answer": f"{number} " * 40}) + "\n")
    size = path.stat().st_size
    with (run / "round-1" / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": "long", "lengths": {"dropped.jsonl": size}}) + "\n")
    tracemalloc.start()
    try:
        assert lineage(run, "r1-104999")[0].answer == "4999 " * 40
        assert tracemalloc.get_traced_memory()[1] < size / 4
    finally:
        tracemalloc.stop()


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunError, match="no run here"):
        lineage(tmp_path, "seed-1")


def test_the_command_indents_each_generation_and_keeps_the_labels(isara, finished, grandchild):
    told = isara("lineage", finished, grandchild["id"])
    tree = lineage(finished, grandchild["id"])
    assert told.code == 0
    shown = told.out.splitlines()
    assert len(shown) == 3 * len(tree)
    for ancestor, (head, question, answer) in zip(tree, zip(*[iter(shown)] * 3, strict=True), strict=True):
        indent = "    " * ancestor.depth
        role = f"for the {ancestor.role}: " if ancestor.role else ""
        more = " (its own ancestors are listed above)" if ancestor.repeated else ""
        assert head == f"{indent}{role}{ancestor.id} [{ancestor.origin}]{more}"
        assert question == f"{indent}  Q: {ancestor.question}"
        assert answer == f"{indent}  A: {' '.join(ancestor.answer.split())}".rstrip(" ") or not ancestor.answer


def test_what_a_sample_holds_does_not_steer_the_terminal(isara, run):
    path = run / "seeds.jsonl"
    records = lines(path)
    records[0]["question"] = "red \x1b[31m\x07\u202e and\nmore"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    told = isara("lineage", run, records[0]["id"])
    assert told.out.splitlines()[1] == r"  Q: red \x1b[31m\x07\u202e and more"
