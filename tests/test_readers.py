import csv
import hashlib
import io
import json
import pickle
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isara.errors import InputError, IsaraError, SeedError
from isara.readers import SHIPPED, from_records, read_seeds, sha256_of
from isara.samples import Sample

relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Text that survives reading as it is: visible, stripped, with plain newlines.
BLANK = "\u115f\u1160\u3164\uffa0"
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1).map(str.strip)
VISIBLE = TEXTS.filter(lambda text: any(char.isalnum() and char not in BLANK for char in text)).filter(
    lambda text: text[0] != "\ufeff"
)
PAIRS = st.lists(st.tuples(VISIBLE, VISIBLE), min_size=1, max_size=6)


def read(folder, name, content, **options):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_seeds(path, **options)


def pairs_of(samples):
    return [(sample.question, sample.answer) for sample in samples]


def mistakes_in(folder, name, content, **options):
    with pytest.raises(SeedError) as caught:
        read(folder, name, content, **options)
    return [mistake.replace(f"{folder}/", "") for mistake in caught.value.mistakes]


def outcome(attempt):
    """Return what was read, and the lines that say why nothing was."""
    try:
        return attempt(), []
    except IsaraError as error:
        return [], str(error).split("\n")


def as_jsonl(pairs, *, ascii_only=False):
    lines = [json.dumps({"question": q, "answer": a}, ensure_ascii=ascii_only) for q, a in pairs]
    return "\n".join(lines) + "\n"


def as_csv(pairs, delimiter=",", end="\n"):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    writer.writerows([("question", "answer"), *pairs])
    return out.getvalue()


# Round trips


@relaxed
@given(PAIRS, st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_jsonl_round_trip(tmp_path, pairs, encoding, end, ascii_only):
    text = as_jsonl(pairs, ascii_only=ascii_only).replace("\n", end)
    assert pairs_of(read(tmp_path, "s.jsonl", text.encode(encoding))) == pairs


@relaxed
@given(PAIRS, st.sampled_from([None, 1]), st.booleans(), st.sampled_from(["s.json", "s.jsonl", "s.unknown"]))
def test_json_round_trip(tmp_path, pairs, indent, wrapped, name):
    records = [{"question": q, "answer": a} for q, a in pairs]
    text = json.dumps({"version": 1, "data": records} if wrapped else records, indent=indent)
    assert pairs_of(read(tmp_path, name, text)) == pairs


@relaxed
@given(
    PAIRS,
    st.sampled_from([("s.csv", ","), ("s.csv", ";"), ("s.csv", "\t"), ("s.tsv", "\t"), ("s", ",")]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_round_trip(tmp_path, pairs, kind, encoding, end):
    name, delimiter = kind
    assert pairs_of(read(tmp_path, name, as_csv(pairs, delimiter, end).encode(encoding))) == pairs


@relaxed
@given(PAIRS)
def test_parquet_round_trip(tmp_path, pairs):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    columns = {"question": [q for q, _ in pairs], "n": list(range(len(pairs))), "answer": [a for _, a in pairs]}
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    assert pairs_of(read_seeds(tmp_path / "s.parquet")) == pairs


@relaxed
@given(PAIRS)
def test_records_and_pairs_in_memory(pairs):
    assert pairs_of(from_records(pairs)) == pairs
    assert pairs_of(from_records([list(pair) for pair in pairs])) == pairs
    assert pairs_of(from_records({"prompt": q, "completion": a} for q, a in pairs)) == pairs


NAMES = st.sampled_from(["s.jsonl", "s.json", "s.csv", "s.tsv", "s.txt", "s", "s.parquet"])
FRAGMENTS = st.sampled_from(
    [b'{"question": "a", "answer": "b"}', b"question,answer", b'"a","b"', b"\n", b"\r", b"[", b"]", b"{", b"}", b",",
     b'"messages"', b":", b'"', b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"PAR1", b"\xe9", b"NaN", b"1e999", b"\\ud800",
     b"null", b'"role"', b'{"data": ', b" "]
)  # fmt: skip


@settings(relaxed, max_examples=400)
@given(NAMES, st.binary(max_size=80) | st.lists(FRAGMENTS, max_size=14).map(b"".join))
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line_each(tmp_path, name, content):
    samples, refused = outcome(lambda: read(tmp_path, name, content))
    assert samples or refused
    assert all(line.isprintable() for line in refused)
    assert all(sample.question.strip() and sample.answer.strip() for sample in samples)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = st.sampled_from(["question", "answer", "prompt", "completion", "messages", "conversations", "Question", "x"])


@relaxed
@given(st.lists(st.dictionaries(FIELDS, JSON, max_size=4) | JSON, max_size=4), NAMES, st.booleans())
def test_whatever_the_values_are_they_are_read_or_refused(tmp_path, records, name, by_line):
    text = "\n".join(map(json.dumps, records)) if by_line else json.dumps(records)
    for attempt in (lambda: read(tmp_path, name, text), lambda: from_records(records)):
        samples, refused = outcome(attempt)
        assert len(samples) == (0 if refused else len(records))


# Layouts


@pytest.mark.parametrize(
    "record",
    [
        {"question": "Q", "answer": "A", "id": 7},
        {"Question": "Q", "Best Answer": "A", "Correct Answers": "B; C"},
        {"QUESTION": "Q", "best_answer": "A"},
        {"prompt": "Q", "completion": "A"},
        {"prompt": "Q", "response": "A"},
        {"instruction": "Q", "output": "A"},
        {"instruction": "Q", "input": " ", "output": "A"},
        {"instruction": "Q", "input": None, "output": "A"},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]},
        {"question": " Q\n", "answer": "\tA\r\n"},
    ],
)
def test_layouts_that_are_understood(record, tmp_path):
    assert from_records([record]) == [Sample("seed-1", "Q", "A")]
    assert read(tmp_path, "one.json", json.dumps(record)) == [Sample("seed-1", "Q", "A")]
    assert read(tmp_path, "s.jsonl", f"{json.dumps(record)}\n" * 2)[1] == Sample("seed-2", "Q", "A")


def test_an_input_is_joined_to_its_instruction():
    record = {"instruction": "Translate.", "input": "Bonjour", "output": "Hello"}
    assert pairs_of(from_records([record])) == [("Translate.\nBonjour", "Hello")]
    assert pairs_of(from_records([{**record, "response": "Hi"}], answer_field="response")) == [
        ("Translate.\nBonjour", "Hi")
    ]


def test_line_ends_inside_a_text_become_newlines(tmp_path):
    assert pairs_of(read(tmp_path, "s.csv", 'question,answer\r\n"a\r\nb",c\r\n')) == [("a\nb", "c")]


def test_the_named_fields_win(tmp_path):
    record = {"question": "q", "answer": "a", "Best Answer": "b", "topic": "t"}
    named = [
        ({"answer_field": "answer"}, ("q", "a")),
        ({"answer_field": "best answer"}, ("q", "b")),
        ({"question_field": "topic", "answer_field": "question"}, ("t", "q")),
    ]
    for options, pair in named:
        assert pairs_of(from_records([record], **options)) == [pair]
    chat = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]
    assert pairs_of(from_records([{**record, "messages": chat}], question_field="messages")) == [("u", "v")]
    assert pairs_of(read(tmp_path, "s.csv", "a;b\n1;2\n", question_field="a", answer_field="b")) == [("1", "2")]


def test_a_name_spelt_exactly_wins_over_one_that_only_matches():
    assert pairs_of(from_records([{"question": "q", "QUESTION": "x", "answer": "a"}])) == [("q", "a")]
    assert pairs_of(from_records([{"instruction": "q", "input": "a"}], answer_field="input")) == [("q", "a")]


def test_a_list_of_conversations_may_be_called_conversations(tmp_path):
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    wrapped = {"conversations": [{"messages": chat}, {"messages": chat}]}
    assert pairs_of(read(tmp_path, "s.json", json.dumps(wrapped))) == [("q", "a")] * 2


def test_byte_order_marks_between_joined_files_do_no_harm(tmp_path):
    assert len(read(tmp_path, "s.jsonl", GOOD.encode("utf-8-sig") * 2)) == 2


def test_ids_number_the_samples_and_not_the_lines(tmp_path):
    samples = read(tmp_path, "s.jsonl", '\n{"question":"a","answer":"b"}\n\n{"question":"c","answer":"d"}', prefix="h")
    assert [sample.id for sample in samples] == ["h-1", "h-2"]


def test_the_later_of_two_equal_keys_counts():
    assert pairs_of(from_records([json.loads('{"question": "a", "answer": "b", "answer": "c"}')])) == [("a", "c")]


# Mistakes


GOOD = '{"question": "a", "answer": "b"}\n'
ONE_EACH = 'Write one object on each line, such as {"question": "...", "answer": "..."}, or one list of them.'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": "a", "response": "b"}',
         ["no 'answer' here (found: question, response). Rename the field to 'answer'."]),
        ('{"question": "a"}', ["no 'answer' here (found: question). Add the answer as 'answer'."]),
        ('{"answer": "a", "text": "b", "n": "c"}',
         ["no 'question' here (found: answer, text, n). Rename the right field to 'question', or set question_field."]),
        ('{"prompt": "a", "x": "b"}', ["no 'completion' here (found: prompt, x). Rename the field to 'completion'."]),
        ('{"x": "a", "y": "b"}',
         ["no question and no answer here (found: x, y). Rename two fields to 'question' and 'answer', or set "
          "question_field and answer_field."]),
        ('{"prompt": "a", "completion": "b", "response": "c"}',
         ["'prompt' with 'completion' and 'prompt' with 'response' both fit. Set question_field and answer_field to "
          "the two to use."]),
        ('{"question": "a", "answer": "b", "messages": []}',
         ["'question' with 'answer' and 'messages' both fit. Set question_field and answer_field to the two to use, "
          "or question_field alone to 'messages'."]),
        ('{"question": null, "answer": 7}',
         ["'question' is null. Write it, or remove the sample.", "'answer' is a number. Write it as text."]),
        ('{"question": true, "answer": ["a"]}',
         ["'question' is true. Write it as text.", "'answer' is a list. Write it as text."]),
        ('{"question": " \\u200b", "answer": ""}',
         ["'question' is empty. Write it, or remove the sample.",
          "'answer' is empty. Write it, or remove the sample."]),
        ('{"question": "a\\ud83d", "answer": "b\\u0000"}',
         ["'question' has half a character (\\ud83d, a lone surrogate) at position 2. Write the whole character.",
          "'answer' has a NUL character at position 2. Remove it."]),
        ('["a", "b"]', ["a list here. Write an object with a question and an answer."]),
        ('{"question": "a", "answer": "b',
         ["not JSON: Unterminated string starting at at column 29. Write one object, such as "
          '{"question": "...", "answer": "..."}.']),
        ("[" * 100_000,
         ["not JSON: Brackets nested too deep at column 1. Write one object, such as "
          '{"question": "...", "answer": "..."}.']),
        ("9" * 5000,
         ["not JSON: A number with too many digits at column 1. Write one object, such as "
          '{"question": "...", "answer": "..."}.']),
        ('{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, '
         '{"role": "assistant", "content": "a"}]}',
         ["'messages' has a system message, and isara uses no instructions. Remove it, or say it in the question."]),
        ('{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, '
         '{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
         ["'messages' has 4 messages. Leave one question and one answer."]),
        ('{"messages": [{"role": "user", "content": "q"}]}',
         ["'messages' has user. It must have one user message, then one assistant message."]),
        ('{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": null}]}',
         ["the assistant message of 'messages' is null. Write it, or remove the sample."]),
        ('{"messages": [{"role": "tool", "content": "q"}]}',
         ["message 1 of 'messages' has the role 'tool'. Only 'user' and 'assistant' can be used."]),
        ('{"messages": [{"speaker": "user"}]}',
         ["message 1 of 'messages' has no 'role' and 'content' (found: speaker). Name them so."]),
        ('{"conversations": "q"}',
         ["'conversations' is text. It must be a list of a user and an assistant message."]),
    ],
)  # fmt: skip
def test_mistakes_in_a_line(tmp_path, line, words):
    assert mistakes_in(tmp_path, "s.jsonl", f"{GOOD}\n{line}\n{GOOD}") == [
        f"s.jsonl:3: {sentence}" for sentence in words
    ]


def test_all_mistakes_are_told_in_the_order_of_the_file(tmp_path):
    text = '{"question": "a", "answer": 1}\n{"q": \n' + GOOD + '{"question": "a"}\n{"question": "", "answer": "b"}\n'
    lines = [mistake.split(":")[1] for mistake in mistakes_in(tmp_path, "s.jsonl", text)]
    assert lines == ["1", "2", "4", "5"]


def test_a_fault_of_all_samples_is_told_once(tmp_path):
    assert mistakes_in(tmp_path, "s.jsonl", '{"question": "a", "reply": "b"}\n' * 9) == [
        "s.jsonl:1: no 'answer' here (found: question, reply). Rename the field to 'answer'. All 9 are so."
    ]


def test_the_message_shows_fifty_mistakes_and_the_error_holds_them_all(tmp_path):
    with pytest.raises(SeedError) as caught:
        read(tmp_path, "s.jsonl", '{"question": "a", "answer": ""}\n' * 120)
    assert len(caught.value.mistakes) == 120
    shown = str(caught.value).splitlines()
    assert len(shown) == 51
    assert shown[-1] == "... and 70 more"
    assert pickle.loads(pickle.dumps(caught.value)).mistakes == caught.value.mistakes


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("s.jsonl", b"", ["s.jsonl: the file is empty. Write one question and answer on each line, as JSON."]),
        (
            "s.csv",
            b"\xef\xbb\xbf \r\n",
            ["s.csv: the file is empty. Write one question and answer on each line, as JSON."],
        ),
        ("s.json", b"[]", ["s.json: no samples here. Write at least a handful of questions and answers."]),
        ("s.csv", b"question,answer\n", ["s.csv: no samples here. Write at least a handful of questions and answers."]),
        ("s.json", b"\n7", [f"s.json:2: a number and no object. {ONE_EACH}"]),
        (
            "s.json",
            b'[\n{"question": "a",\n"answer": "b"\n},\n{"question": "a",\n"answer": 1}]',
            ["s.json:5: 'answer' is a number. Write it as text."],
        ),
        (
            "s.json",
            b'{"v": 1, "data":\n[{"question": "a", "answer": "b"},\n{"question": "", "answer": "b"}]}',
            ["s.json:3: 'question' is empty. Write it, or remove the sample."],
        ),
        (
            "s.json",
            b'[\n{"question": "a", "answer": 1},\n{"question": "a" "answer": "b"},\n' + GOOD.encode() + b"]",
            [f"s.json:3: not JSON: Expecting ',' delimiter at column 18. {ONE_EACH}"],
        ),
        (
            "s.json",
            b'[{"question": "a", "answer": "b"},\n {"question": "a, "answer": "b"}]',
            [f"s.json:2: not JSON: Expecting ',' delimiter at column 20. {ONE_EACH}"],
        ),
        (
            "s.json",
            b'{"a": [{}], "b": [{}]}',
            ["s.json:1: 2 lists in one object ('a', 'b'). Leave the one that holds the samples."],
        ),
        (
            "s.json",
            b'{"question": ["a", "b"], "answer": ["c", "d"]}',
            [f"s.json:1: 'question' is a list of 2. {ONE_EACH}"],
        ),
        (
            "s.csv",
            "question,answer\nWo?,Köln\nWer?,K\u00f6rt\n".encode("latin-1"),
            ["s.csv:2: byte 0xf6 at offset 21 is not UTF-8. Save the file as UTF-8."],
        ),
        (
            "s.jsonl",
            GOOD.encode("utf-16-le"),
            ["s.jsonl:1: every other byte is NUL, as in UTF-16 without a mark. Save the file as UTF-8."],
        ),
        (
            "s.jsonl",
            GOOD.encode("utf-16")[:-1],
            ["s.jsonl:1: byte 0x0a at offset 66 is not UTF-16. Save the file as UTF-8."],
        ),
        ("s.jsonl", GOOD.encode("utf-32"), ["s.jsonl: this is UTF-32. Save the file as UTF-8."]),
        (
            "s.jsonl",
            GOOD.encode() + b'{"question": "\0"}',
            ["s.jsonl:2: a NUL byte at offset 47, which no text has. Remove it."],
        ),
        (
            "s.jsonl",
            f"{GOOD}😀\0".encode("utf-16"),
            ["s.jsonl:2: a NUL byte at offset 72, which no text has. Remove it."],
        ),
        ("s.csv", b"question,answer\n1,2\n3\n", ["s.csv:3: 'answer' is empty. Write it, or remove the sample."]),
        (
            "s.csv",
            b'question,answer\n"a\nb",c\n\nd,e,f\n',
            ["s.csv:5: 3 columns, and the first line names 2. Put quotes around a field that contains commas."],
        ),
        (
            "s.csv",
            b'question;answer\na;b\nc;"d\ne;f\n',
            ["s.csv:3: a quoted field begins in this record and does not end. Close the quote."],
        ),
        (
            "s.csv",
            b'question,answer\n"a"b,c\nd,\n',
            [
                's.csv:2: text follows a closing quote. Write a quote inside a quoted field twice ("").',
                "s.csv:3: 'answer' is empty. Write it, or remove the sample.",
            ],
        ),
        (
            "s.csv",
            b"question,answer,answer\n1,2,3\n",
            ["s.csv:1: 2 columns are called 'answer'. Rename or remove all but one."],
        ),
        (
            "s.csv",
            b"What is it?,A thing\nWhat else?,Nothing\n",
            [
                "s.csv:1: no question and no answer here (found: What is it?, A thing). Rename two fields to "
                "'question' and 'answer', or set question_field and answer_field. The first line of "
                "a table names its columns."
            ],
        ),
        (
            "s.tsv",
            b"question\treply\na\tb\nc\td\n",
            ["s.tsv:1: no 'answer' here (found: question, reply). Rename the field to 'answer'."],
        ),
        (
            "s.txt",
            b"Hello there\n",
            ["s.txt: neither JSON nor a table that names its columns. Save it as JSONL, JSON, CSV, TSV or Parquet."],
        ),
        (
            "s.xlsx",
            b"PK\x03\x04...",
            ["s.xlsx: this is packed with zip (as Excel files are). Save it as JSONL, JSON, CSV, TSV or Parquet."],
        ),
    ],
)
def test_mistakes_in_a_file(tmp_path, name, content, words):
    assert mistakes_in(tmp_path, name, content) == words


def test_an_unknown_field_that_was_asked_for(tmp_path):
    assert mistakes_in(tmp_path, "s.csv", "a,b\n1,2\n", question_field="q", answer_field="b") == [
        "s.csv:1: no 'q' here (found: a, b). Set question_field to one of the fields."
    ]
    with pytest.raises(InputError, match="both 'a'"):
        from_records([], question_field="a", answer_field="a")


def test_mistakes_in_memory_name_the_record():
    with pytest.raises(SeedError) as caught:
        from_records([("a", "b"), ("a", None), "ab", {"question": "a"}])
    assert caught.value.mistakes == (
        "record 2: 'answer' is null. Write it, or remove the sample.",
        "record 3: text here. Write an object with a question and an answer.",
        "record 4: no 'answer' here (found: question). Add the answer as 'answer'.",
    )


# Sources


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("seeds.jsnl", "{0}/seeds.jsnl: no such file. Did you mean '{0}/seeds.jsonl'?"),
        (
            "other.bin",
            "{0}/other.bin: no such file (found there: seeds.jsonl). Give the path of a JSONL, JSON, CSV, TSV or "
            "Parquet file, or one of 'misconceptions' and 'supportdesk'.",
        ),
        ("no/seeds.jsonl", "{0}/no/seeds.jsonl: no such file, and no folder '{0}/no'. Check the path."),
        (
            "",
            "{0}: a folder, and not a dataset that was saved with save_to_disk. "
            "Name a file in it (found: seeds.jsonl).",
        ),
    ],
)
def test_sources_that_are_not_there(tmp_path, source, words):
    (tmp_path / "seeds.jsonl").write_text(GOOD)
    with pytest.raises(InputError) as caught:
        read_seeds(tmp_path / source)
    assert str(caught.value) == words.format(tmp_path)


@pytest.mark.parametrize("source", ["", "  ", "a\0b", "x" * 5000, "x/" * 500, ":train", "a:b:c"])
def test_strange_sources_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        read_seeds(source)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_seeds_are_found_by_name_unless_a_file_has_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = read_seeds(name)
    assert len(samples) >= 30
    assert len(sha256_of(name)) == 64
    (tmp_path / name).write_text(GOOD)
    assert pairs_of(read_seeds(name)) == [("a", "b")]


@pytest.mark.parametrize(("library", "name"), [("pyarrow", "s.parquet"), ("datasets", "owner/name")])
def test_a_missing_library_is_named(library, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError) as caught:
        read_seeds(name)
    assert str(caught.value) == f'{name}: reading this needs {library}. Install it with: pip install "isara[data]"'


def test_rows_of_a_parquet_file_are_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"question": ["a", None], "answer": ["b", "c"]}), path)
    with pytest.raises(SeedError) as caught:
        read_seeds(path)
    assert caught.value.mistakes == (f"{path}, row 2: 'question' is null. Write it, or remove the sample.",)
    pq.write_table(pa.table({"question": ["a", "b"], "text": ["b", "c"]}), path)
    with pytest.raises(SeedError) as caught:
        read_seeds(path)
    assert caught.value.mistakes == (
        f"{path}: no 'answer' here (found: question, text). Rename the field to 'answer'.",
    )


def test_a_path_into_a_folder_is_no_dataset_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match="data/seeds: no such file"):
        read_seeds("data/seeds")


def test_a_saved_dataset_is_read_one_split_at_a_time(tmp_path):
    datasets = pytest.importorskip("datasets")
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    train = datasets.Dataset.from_list([{"messages": chat, "n": 1}])
    test = datasets.Dataset.from_list([{"question": "c", "answer": "d", "n": 2}])
    train.with_format("numpy").save_to_disk(tmp_path / "single")
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "both")
    datasets.DatasetDict(valid=test).save_to_disk(tmp_path / "named")
    assert pairs_of(read_seeds(tmp_path / "single")) == pairs_of(read_seeds(f"{tmp_path}/both:train")) == [("a", "b")]
    assert pairs_of(read_seeds(tmp_path / "named")) == pairs_of(read_seeds(f"{tmp_path}/both:test")) == [("c", "d")]
    assert sha256_of(tmp_path / "named") == sha256_of(f"{tmp_path}/both:test") != sha256_of(tmp_path / "single")
    hashes = {sha256_of(tmp_path / "single", question_field=name) for name in (None, "n")}
    assert len(hashes) == 2
    refused = {
        f"{tmp_path}/both": f"2 splits here (train, test). Name one, as in '{tmp_path}/both:train'.",
        f"{tmp_path}/both:dev": "no split 'dev' here (found: train, test). Name one of these.",
        f"{tmp_path}/single:dev": "no split 'dev': this dataset has none. Leave out ':dev'.",
    }
    for source, words in refused.items():
        with pytest.raises(InputError) as caught:
            read_seeds(source)
        assert str(caught.value).endswith(words)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"_data_files": [{"filename": "no.arrow"}]}'])
def test_a_damaged_dataset_is_refused(tmp_path, content):
    pytest.importorskip("datasets")
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="this dataset cannot be loaded"):
        read_seeds(tmp_path)


def test_a_dataset_of_the_hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    asked = []

    def load(name, **options):
        asked.append((name, options))
        return datasets.Dataset.from_list([{"Question": "a", "Best Answer": options["split"]}])

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: ["validation", "test"])
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert pairs_of(read_seeds("owner/name:test")) == [("a", "test")]
    assert asked == [("owner/name", {"split": "test"})]
    with pytest.raises(
        InputError, match=r"2 splits here \(validation, test\). Name one, as in 'owner/name:validation'"
    ):
        read_seeds("owner/name")

    def unreachable(name):
        raise ConnectionError("Couldn't reach the Hub\nfor many reasons")

    monkeypatch.setattr(datasets, "get_dataset_split_names", unreachable)
    with pytest.raises(InputError) as caught:
        read_seeds("owner/name")
    assert str(caught.value) == (
        "owner/name: there is no such file, and no such dataset can be loaded (Couldn't reach the Hub). "
        "Give the path of a file, or load the dataset yourself and pass its records."
    )


def test_sha256_is_that_of_the_bytes_or_of_the_records(tmp_path):
    (tmp_path / "s.jsonl").write_text(GOOD)
    assert sha256_of(tmp_path / "s.jsonl") == hashlib.sha256(GOOD.encode()).hexdigest()
    assert sha256_of([{"question": "ä", "answer": "b"}]) == sha256_of([{"answer": "b", "question": "ä"}])
    assert sha256_of([("a", "b")]) != sha256_of([("b", "a")])
    with pytest.raises(InputError):
        sha256_of(tmp_path / "no.jsonl")
    loop: list = []
    loop.append(loop)
    with pytest.raises(InputError):
        sha256_of([loop])
