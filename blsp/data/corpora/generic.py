"""Any recordings with their texts: a table (JSONL, CSV, TSV, parquet), or a folder of audio files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.corpora.corpus import UNKNOWN, Corpus, Part, SplitFacts, lines, noted, read_shard_rows, table
from blsp.data.manifest import ErrorCount, Utterance
from blsp.errors import DataError
from blsp.json_lines import parse_object

_FIELDS: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "audio": ("audio", "path", "file", "file_name", "wav"),
    "start": ("start", "offset"),
    "duration": ("duration",),
    "text": ("text", "sentence", "transcript", "transcription"),
    "translation": ("translation",),
    "label": ("label", "intent", "sentiment"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "lang", "locale"),
    "split": ("split",),
}
"""What a field may be called where the options do not say it."""
_QUICK_BYTES = 256 << 20
"""Tables up to this size are counted in a plan."""
_TABLES = ("manifest.jsonl", "metadata.jsonl", "manifest.tsv", "manifest.csv", "metadata.csv", "metadata.tsv")


class Generic(Corpus):
    """Reads what has no layout of its own. The split `all` takes everything."""

    name = "generic"
    about = "your own recordings: a JSONL, CSV, TSV or parquet table, or a folder of audio files with texts"
    licence = "that of the recordings"
    layout = f"a table ({', '.join(_TABLES)} or *.parquet) with audio paths; or audio files, each beside its .txt"
    splits: ClassVar[Mapping[str, SplitFacts]] = {}
    options: ClassVar[Mapping[str, str]] = {
        "table": "Name of the table below `root`, where it is not one of the usual ones.",
        **{name: f"What the table calls the field `{name}`; by default {', '.join(_FIELDS[name])}" for name in _FIELDS},
    }

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        path = _table_of(part)
        if path is None:
            yield from self._audio_files(part)
        elif path.suffix == ".parquet" or path.is_dir():
            yield from _shard_rows(path, part)
        else:
            yield from _rows(path, part)

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        return [_table_of(part) or part.root]

    def inputs(self, root: Path, split: str, **options: str) -> list[Path]:
        """See `Corpus`. What is not there yet is taken for a folder that will have a table, as another stage makes."""
        if root.exists() or root.suffix:
            return super().inputs(root, split, **options)
        return [root / options.get("table", _TABLES[0])]

    def count(self, part: Part) -> int | None:
        """Rows of a split in a table, without a look at the audio; None where that would take long."""
        path = _table_of(part)
        if path is None or not path.is_file() or path.stat().st_size > _QUICK_BYTES or path.suffix == ".parquet":
            return None
        names = _fields_of(part)["split"]
        rows = _table_rows(path, ErrorCount(share=1.0, total=_QUICK_BYTES))
        return sum(part.split == "all" or _get(row, names) == part.split for _, row in rows)

    def _audio_files(self, part: Part) -> Iterator[Utterance]:
        """Audio files of a folder, with the texts beside them; a split is a folder of it."""
        from blsp.data.speech.recordings import AUDIO_SUFFIXES

        folder = part.root if part.split == "all" else part.root / part.split
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
        if not paths:
            raise self.missing(part, f"Audio in {folder}")
        for path in paths:
            beside = path.with_suffix(".txt")
            text = " ".join(beside.read_text(encoding="utf-8").split()) if beside.is_file() else ""
            name = path.relative_to(folder).with_suffix("").as_posix()
            yield Utterance(name, str(path.absolute()), UNKNOWN, text=text)


def _table_of(part: Part) -> Path | None:
    """The table of a folder, or the folder if it holds parquet shards; None where it has neither."""
    if "table" in part.options:
        return part.root / part.options["table"]
    if part.root.is_file():
        return part.root
    found = [part.root / name for name in _TABLES if (part.root / name).is_file()]
    if found:
        return found[0]
    return part.root if any(part.root.rglob("*.parquet")) else None


def _fields_of(part: Part) -> dict[str, tuple[str, ...]]:
    """What each field may be called."""
    return {name: (part.options[name],) if name in part.options else names for name, names in _FIELDS.items()}


def _shard_rows(path: Path, part: Part) -> Iterator[Utterance]:
    """Rows of parquet shards; a split is in their names or folders where it is in no column."""
    from blsp.data.parquet import column_names

    fields = _fields_of(part)
    shards = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    has_column = bool(shards) and any(name in column_names(shards[0]) for name in fields["split"])
    if not has_column and part.split != "all":
        shards = [s for s in shards if any(n.startswith(part.split) for n in s.relative_to(part.root).parts)]
    if not shards:
        raise DataError(f"{path} has no parquet shards of a split {part.split!r}.")
    columns = sorted({name for names in fields.values() for name in names} - {"audio"})

    def make(row: dict[str, Any], address: str) -> Utterance | None:
        row = {name: value for name, value in row.items() if not isinstance(value, (dict, bytes))}
        if has_column and part.split != "all" and _get(row, fields["split"]) != part.split:
            return None
        shard, _, number = address.rpartition("#")
        return _utterance(row, fields, address, f"{Path(shard).stem}-{number}")

    yield from read_shard_rows(shards, columns, part.errors, make)


def _rows(path: Path, part: Part) -> Iterator[Utterance]:
    """Rows of a table of text, audio paths relative to its folder."""
    fields, seen = _fields_of(part), set[int]()
    n_rows = n_taken = 0
    for number, row in _table_rows(path, part.errors):
        n_rows += 1
        if part.split != "all" and _get(row, fields["split"]) != part.split:
            continue
        n_taken += 1
        utterance = noted(part.errors, path, number, _utterance_of_row, row, fields, path, number)
        if utterance is None:
            continue
        if hash(utterance.id) in seen:
            part.errors.note(path, number, f"has the id {utterance.id!r} of another one")
            continue
        seen.add(hash(utterance.id))
        yield utterance
    if n_rows and not n_taken:
        raise DataError(f"{path} has no row whose split is {part.split!r}.", hint="For all rows: split=all")


def _table_rows(path: Path, errors: ErrorCount) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a table with their line numbers."""
    if path.suffix == ".tsv":
        for row in table(path, errors, needs=()):
            yield int(row.pop("#")), row
    elif path.suffix == ".csv":
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                for cells in reader:
                    yield reader.line_num, cells
        except (OSError, UnicodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    else:
        for number, line in lines(path):
            values = noted(errors, path, number, parse_object, line)
            if values is not None:
                yield number, values


def _utterance_of_row(
    row: Mapping[str, Any], fields: Mapping[str, tuple[str, ...]], path: Path, number: int
) -> Utterance:
    audio = _get(row, fields["audio"])
    if not audio:
        raise ValueError(f"has no audio (a field named {' or '.join(fields['audio'])})")
    folder = path.parent.absolute()
    name = folder.name if path.name in _TABLES else path.stem
    return _utterance(row, fields, str(folder / audio), f"{name}-{number:06d}")


def _utterance(row: Mapping[str, Any], fields: Mapping[str, tuple[str, ...]], audio: str, name: str) -> Utterance:
    """An utterance of a row; what the row does not say stays open."""
    values = {field: _get(row, fields[field]) for field in fields}
    return Utterance(
        id=values["id"] or name,
        audio=audio,
        duration=_seconds("duration", values["duration"]),
        start=_seconds("start", values["start"]),
        text=values["text"] or "",
        translation=values["translation"],
        label=values["label"],
        speaker=values["speaker"],
        language=values["language"],
    )


def _get(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of some fields that a row has, as text; None for an empty one. `slots.size` is a field of a field."""
    for name in names:
        value = row.get(name)
        if value is None and "." in name:
            value = _below(row, name.split("."))
        if value is not None and not isinstance(value, (dict, list)) and str(value).strip():
            return str(value).strip()
    return None


def _below(row: Mapping[str, Any], parts: Sequence[str]) -> Any:
    """The value of a field of a field; None where there is none."""
    value: Any = row
    for part in parts:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _seconds(name: str, value: str | None) -> float:
    if value is None:
        return UNKNOWN
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{name} must be a number of seconds, but is {value!r}")
    return seconds
