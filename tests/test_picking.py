"""Which rows of a file count, by the values of their fields, whatever kind of file it is."""

from __future__ import annotations

import pytest

from isara.errors import InputError, SeedError
from isara.readers import read_seeds

LINES = (
    '{"question": "One?", "answer": "1", "topic": "Law", "round": 1, "kept": true}\n'
    '{"question": "Two?", "answer": "2", "topic": "law ", "round": 2, "kept": false}\n'
    '{"question": "Three?", "answer": "3", "topic": "Health", "round": 2}\n'
)


def found(path, **options):
    return [sample.question for sample in read_seeds(path, **options)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(LINES, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("where", "unless", "left"),
    [
        ({"topic": "law"}, {}, ["One?", "Two?"]),
        ({"topic": ["Law", "Health"], "round": 2}, {}, ["Two?", "Three?"]),
        ({}, {"topic": "LAW"}, ["Three?"]),
        ({}, {"topic": "Law", "round": 2}, ["One?", "Three?"]),
        ({"kept": True}, {}, ["One?"]),
        ({}, {"kept": True}, ["Two?", "Three?"]),
    ],
)
def test_rows_are_picked_by_the_values_of_their_fields(file, where, unless, left):
    assert found(file, where=where, unless=unless) == left


def test_a_table_and_a_parquet_file_are_picked_from_alike(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = {"question": ["One?", "Two?"], "answer": ["1", "2"], "topic": ["Law", "Health"], "round": [1, 2]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("question,answer,topic,round\nOne?,1,Law,1\nTwo?,2,Health,2\n", encoding="utf-8")
    for name in ("rows.parquet", "rows.csv"):
        assert found(tmp_path / name, where={"topic": "health", "round": 2}) == ["Two?"]


@pytest.mark.parametrize(
    ("where", "unless", "said"),
    [
        ({"tpic": "Law"}, {}, "no field 'tpic' here (found: question, answer, topic, round, kept). Name one of these."),
        ({}, {"topic": ["Law", "Sport"]}, "no row whose topic is 'Sport' (found: law , Health). Name one of these."),
        ({}, {"topic": ["Law", "Health"]}, "no row is left of 3. Ask for fewer values at once."),
    ],
)
def test_a_name_that_picks_nothing_is_a_mistake(file, where, unless, said):
    with pytest.raises(InputError) as caught:
        read_seeds(file, where=where, unless=unless)
    assert str(caught.value) == f"{file}: {said}"


def test_what_is_wrong_with_a_picked_row_keeps_its_line(file):
    file.write_text(LINES + '{"question": "Four?", "topic": "Law"}\n', encoding="utf-8")
    with pytest.raises(SeedError, match=r"rows\.jsonl:4: no 'answer' here"):
        read_seeds(file, where={"topic": "Law"})
    assert found(file, where={"topic": "Health"}) == ["Three?"]
