"""Tables that are kept by column as records: Parquet files and Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from isara.errors import InputError, SeedError
from isara.fields import Choice, Row, Rows, may_hold, not_too_many, repeated
from isara.rawfiles import LARGEST

_BATCH = 16
"""Rows unpacked at once, so that a bomb is noticed after the first of them."""
# What the loaders raise for folders and downloads that are damaged, absent or of a kind they do not know.
_LOADING = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError)


def parquet_rows(data: bytes, name: str, choice: Choice) -> Rows:
    """Return the rows of a Parquet file; InputError without pyarrow, SeedError when it is no such file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise _missing("pyarrow", name) from error
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        names = file.schema_arrow.names
        not_too_many(file.metadata.num_rows, name)
        needed = list(dict.fromkeys(column for column in names if may_hold(column, choice)))
        _refuse_bomb(file.metadata, needed, name)
        # A name with a dot would be taken for one inside another.
        chosen = None if any("." in column for column in needed) else needed
        batches = (batch.to_pydict() for batch in file.iter_batches(_BATCH, columns=chosen))
        held = _gathered(batches, needed, name)
        return _rows(names, lambda place: held[names[place]], file.metadata.num_rows, name, choice)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise SeedError(
            [f"{name}: this Parquet file cannot be read ({_first_line(error)}). Write it again."]
        ) from error


def _refuse_bomb(metadata: Any, needed: Sequence[str], name: str) -> None:
    """Raise SeedError where columns would be far larger in memory than a sample file can be, however small the file."""
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    parts = [group.column(place) for group in groups for place in range(group.num_columns)]
    used = [part for part in parts if any(f"{part.path_in_schema}.".startswith(f"{column}.") for column in needed)]
    if max(sum(part.total_uncompressed_size for part in used), sum(part.num_values for part in used)) > LARGEST:
        raise _too_large(name)


def _gathered(batches: Iterator[dict[str, list[object]]], needed: Sequence[str], name: str) -> dict[str, list[object]]:
    """Return columns joined from batches; SeedError as soon as their texts are longer than a sample file can be."""
    held: dict[str, list[object]] = {column: [] for column in needed}
    size = 0
    for batch in batches:
        for column in needed:
            held[column] += batch[column]
            size += sum(map(_size, batch[column]))
        if size > LARGEST:
            raise _too_large(name)
    return held


def _size(value: object) -> int:
    """Return how many characters and parts a value has."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list | tuple):
        return 1 + sum(map(_size, value))
    return 1 + sum(map(_size, value.values())) if isinstance(value, dict) else 1


def _too_large(name: str) -> SeedError:
    most = f"{LARGEST / 2**20:g} MB"
    return SeedError([f"{name}: more than {most} once it is unpacked, and that is the most. Take a part of it."])


def parquet_records(data: bytes, name: str) -> list[Row]:
    """Return the rows of a Parquet file with all their columns; errors as `parquet_rows`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise _missing("pyarrow", name) from error
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        not_too_many(file.metadata.num_rows, name)
        _refuse_bomb(file.metadata, file.schema_arrow.names, name)
        records = file.read().to_pylist()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise SeedError(
            [f"{name}: this Parquet file cannot be read ({_first_line(error)}). Write it again."]
        ) from error
    return [Row(number, f"{name}, row {number}", record) for number, record in enumerate(records, start=1)]


def hub_records(source: str) -> list[Row]:
    """Return all columns of `owner/name`, `owner/name:split` or `owner/name:config:split` on the Hugging Face hub."""
    name, *rest = source.split(":")
    datasets = _datasets(source)
    config = rest[0] if len(rest) > 1 else None
    try:
        split = _pick(datasets.get_dataset_split_names(name, config), rest[-1] if rest else None, name)
        records = [dict(record) for record in datasets.load_dataset(name, config, split=split)]
    except (*_LOADING, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"{source}: there is no such file, and no such dataset can be loaded ({_first_line(error)}). "
            "Give the path of a file."
        ) from error
    return [Row(number, f"{source}, row {number}", record) for number, record in enumerate(records, start=1)]


def is_saved(folder: Path) -> bool:
    """Return whether a folder is what `save_to_disk` of the datasets library leaves."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def saved_rows(folder: Path, split: str | None, choice: Choice) -> Rows:
    """Return the rows of a dataset saved to a folder; `split` may be None where there is only one."""
    datasets = _datasets(str(folder))
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (*_LOADING, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"{folder}: this dataset cannot be loaded ({_first_line(error)}). Save it again.") from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = loaded[_pick(list(loaded), split, str(folder))]
    elif split is not None and split != str(loaded.split or "train"):
        raise InputError(f"{folder}: no split '{split}': this dataset has none. Leave out ':{split}'.")
    return _dataset_rows(loaded, str(folder), choice)


def hub_rows(name: str, split: str | None, choice: Choice) -> Rows:
    """Return the rows of a dataset of the Hugging Face hub; no code that comes with it is run."""
    datasets = _datasets(name)
    try:
        chosen = _pick(datasets.get_dataset_split_names(name), split, name)
        loaded = datasets.load_dataset(name, split=chosen)
    except (*_LOADING, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"{name}: there is no such file, and no such dataset can be loaded ({_first_line(error)}). "
            "Give the path of a file, or load the dataset yourself and pass its records."
        ) from error
    return _dataset_rows(loaded, f"{name}:{chosen}", choice)


def _dataset_rows(dataset: Any, name: str, choice: Choice) -> Rows:
    names = dataset.column_names
    # Other columns may hold images or sound, which need more libraries to decode.
    needed = [column for column in names if may_hold(column, choice)]
    not_too_many(len(dataset), name)
    chosen = dataset.with_format(None).select_columns(needed)
    try:
        held = _gathered((chosen[start : start + _BATCH] for start in range(0, len(dataset), _BATCH)), needed, name)
        return _rows(names, lambda place: held[names[place]], len(dataset), name, choice)
    except _LOADING as error:
        raise InputError(f"{name}: this dataset cannot be read ({_first_line(error)}). Save it again.") from error


def _rows(names: Sequence[str], column: Callable[[int], list[object]], length: int, name: str, choice: Choice) -> Rows:
    held = [column(place) if may_hold(names[place], choice) else [None] * length for place in range(len(names))]
    rows = [
        Row(number, f"{name}, row {number}", dict(zip(names, values, strict=True)))
        for number, values in enumerate(zip(*held, strict=True), start=1)
    ]
    return Rows(rows, [(0, f"{name}: {words}") for words in repeated(names, choice)], heading=name)


def _pick(splits: Sequence[str], split: str | None, name: str) -> str:
    shown = ", ".join(splits)
    if split is not None:
        if split not in splits:
            raise InputError(f"{name}: no split '{split}' here (found: {shown}). Name one of these.")
        return split
    if len(splits) == 1:
        return splits[0]
    example = "train" if "train" in splits else (splits or ["train"])[0]
    raise InputError(f"{name}: {len(splits)} splits here ({shown}). Name one, as in '{name}:{example}'.")


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise _missing("datasets", name) from error
    return datasets


def _missing(library: str, name: str) -> InputError:
    return InputError(f'{name}: reading this needs {library}. Install it with: pip install "isara[data]"')


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200].rstrip(".")
