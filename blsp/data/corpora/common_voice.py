"""Common Voice: sentences read by volunteers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from blsp.data.corpora.corpus import UNKNOWN, Corpus, Part, SplitFacts, table
from blsp.data.manifest import ErrorCount, Utterance

_SOURCE = "common-voice/cv-dataset, datasets/scripted-speech/{}.json"
_V4, _V2 = _SOURCE.format("cv-corpus-4-2019-12-10"), _SOURCE.format("cv-corpus-2")


class CommonVoice(Corpus):
    """Left the hub in October 2025: it is read from its own folder.

    The paper names version 2.0, whose English training set holds 59,875 clips. Its 8.8 million pairs fit the one of
    release 4 (232,975), which CoVoST 2 is made of: with LibriSpeech and GigaSpeech XL they are 8,797,204.
    """

    name = "common_voice"
    about = "sentences read by volunteers in their own rooms, in many languages"
    licence = "CC0 1.0"
    layout = "SPLIT.tsv beside clips/*.mp3; a split is a path: RELEASE/LANGUAGE/train, LANGUAGE/train or train"
    splits: ClassVar[Mapping[str, SplitFacts]] = {
        "cv-corpus-4-2019-12-10/en/train": SplitFacts(232_975, None, _V4),
        "cv-corpus-4-2019-12-10/en/dev": SplitFacts(15_531, None, _V4),
        "cv-corpus-4-2019-12-10/en/test": SplitFacts(15_531, None, _V4),
        "cv-corpus-4-2019-12-10/en/validated": SplitFacts(854_444, 1118.35, _V4),
        "cv-corpus-2/en/train": SplitFacts(59_875, None, _V2),
        "cv-corpus-2/en/dev": SplitFacts(13_021, None, _V2),
        "cv-corpus-2/en/test": SplitFacts(13_021, None, _V2),
        "cv-corpus-2/en/validated": SplitFacts(639_080, None, _V2),
    }
    options: ClassVar[Mapping[str, str]] = {"language": "Language of a table that does not say it, e.g. en."}

    def read_folder(self, part: Part) -> Iterator[Utterance]:
        """See `Corpus`."""
        (path,) = self.sources(part)
        if not path.is_file():
            raise self.missing(part, path)
        clips = path.parent.absolute() / "clips"
        seconds = clip_seconds(path.parent, part.errors)
        language = part.options.get("language") or (path.parent.name if len(path.parent.name) == 2 else None)
        for row in table(path, part.errors, needs=("path", "sentence")):
            name = row["path"] if row["path"].endswith(".mp3") else f"{row['path']}.mp3"  # release 1 left it out
            yield Utterance(
                Path(name).stem,
                str(clips / name),
                seconds.get(name, UNKNOWN),
                text=row["sentence"],
                speaker=row.get("client_id"),
                language=row.get("locale") or language,
            )

    def sources(self, part: Part) -> list[Path]:
        """See `Corpus`."""
        return [part.root / f"{part.split}.tsv"]


def clip_seconds(folder: Path, errors: ErrorCount) -> dict[str, float]:
    """Lengths of clips, which newer releases list; empty for the others."""
    path = folder / "clip_durations.tsv"
    if not path.is_file():
        return {}
    rows = table(path, errors, needs=("clip",))
    return {row["clip"]: float(next(v for k, v in row.items() if k.startswith("duration"))) / 1000 for row in rows}
