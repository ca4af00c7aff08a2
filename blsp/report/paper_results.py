"""The paper's own numbers, to stand beside ours.

A score of ours belongs to a column if its task is the column's, or if its details name that task as `paper_task`:
our data need not be the paper's for the comparison to say something, as long as the report names both.

Source: BLSP, arXiv 2309.00916, tables 2-5, 7-10, 12, 13.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT = "Text+LLM"
WHISPER = "Whisper+LLM"
CTC = "CTC+LLM"
ASR_PRETRAINING = "ASR pretraining"
BLSP = "BLSP"
BLSP_RP = "BLSP+RP"
NO_PRETRAINING = "w/o pretraining"

COVOST2_TARGETS = ("ca", "de", "id", "sl", "sv")
MUSTC_TARGETS = ("de", "es", "fr", "it", "nl", "pt", "ro", "ru")
INSTRUCTION_PAIRS = ("CW-SA", "CW-SR", "CW-ST", "SA-SR", "SA-ST", "SR-ST")
"""The cells above the diagonal of tables 7 and 12, row by row."""
INSTRUCTIONS = ("CW", "SA", "SR", "ST")


@dataclass(frozen=True)
class PaperColumn:
    """A task and its metric, as a column of a table."""

    task: str
    """Our name of the task."""
    metric: str
    """Name of the metric."""
    label: str
    """Heading of the column."""
    group: str = ""
    """Heading above several columns."""


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: a row per system."""

    number: str
    """The paper's number or numbers."""
    title: str
    """What is shown."""
    columns: tuple[PaperColumn, ...]
    """Tasks."""
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    """System and its numbers, one per column; None where the paper has none."""
    note: str = ""
    """What a reader must know of the paper's numbers."""

    def value(self, system: str, task: str, metric: str) -> float | None:
        """The paper's number for a system and a column, if it has one."""
        for name, values in self.rows:
            for column, value in zip(self.columns, values):
                if (name, column.task, column.metric) == (system, task, metric):
                    return value
        return None


def instruction_pair_task(pair: str) -> str:
    """Name of the similarity of one speech input under two instructions, such as `CW-SA`."""
    return f"similarity-of-instructions/{pair}"


def modality_task(instruction: str) -> str:
    """Name of the similarity of speech and its transcript under an instruction, such as `CW`."""
    return f"similarity-of-modalities/{instruction}"


def _directions(prefix: str, pairs: tuple[str, ...], *metrics: str) -> tuple[PaperColumn, ...]:
    """A column per direction and metric; the direction is the group where there are several metrics."""
    return tuple(
        PaperColumn(f"{prefix}-{pair}", metric, metric if len(metrics) > 1 else pair, pair if len(metrics) > 1 else "")
        for pair in pairs
        for metric in metrics
    )


_OVERVIEW = PaperTable(
    "2",
    "Zero-shot speech-to-text tasks",
    (
        PaperColumn("asr-alone/librispeech-test-clean", "WER", "LibriSpeech test-clean, recogniser", "ASR (WER ↓)"),
        PaperColumn("asr/librispeech-test-clean", "WER", "LibriSpeech test-clean, LLM", "ASR (WER ↓)"),
        PaperColumn("asr-alone/tedlium3", "WER", "TED-LIUM 3, recogniser", "ASR (WER ↓)"),
        PaperColumn("asr/tedlium3", "WER", "TED-LIUM 3, LLM", "ASR (WER ↓)"),
        PaperColumn("st/mustc", "BLEU", "MUST-C", "ST (BLEU ↑)"),
        PaperColumn("st/covost2", "BLEU", "CoVoST 2", "ST (BLEU ↑)"),
        PaperColumn("slu/snips-light-close", "accuracy", "SNIPS light-close", "SLU (accuracy ↑)"),
        PaperColumn("slu/fsc", "accuracy", "FSC", "SLU (accuracy ↑)"),
        PaperColumn("slu/slue-voxceleb", "accuracy", "SLUE-VoxCeleb", "SLU (accuracy ↑)"),
    ),
    (
        (TEXT, (0.0, 5.6, 0.0, 14.5, 19.7, 21.9, 86.3, 72.4, 75.0)),
        (WHISPER, (3.4, 5.9, 4.3, 20.4, 16.6, 16.9, 83.2, 56.3, 74.1)),
        (CTC, (6.2, 10.8, 8.4, 20.7, 13.3, 13.2, 79.0, 60.4, 74.7)),
        (ASR_PRETRAINING, (None, 3.7, None, 4.5, 0.0, 0.0, 0.0, 0.0, 0.0)),
        (BLSP, (None, 10.4, None, 23.1, 12.3, 12.7, 75.8, 60.9, 76.0)),
        (BLSP_RP, (None, 6.4, None, 8.1, 14.9, 13.8, 78.8, 77.5, 75.5)),
    ),
    "BLEU is the mean over the directions of tables 9 and 10. For BLSP+RP on MUST-C the paper prints 14.9 here; its "
    "table 10 averages to 14.3.",
)

_QUESTIONS = PaperTable(
    "3",
    "General questions, answers judged by ChatGPT",
    (PaperColumn("qa/gigaspeech", "accept_rate", "Accept rate (%)"),),
    (
        (TEXT, (94.5,)),
        (WHISPER, (91.3,)),
        (CTC, (88.6,)),
        (ASR_PRETRAINING, (0.0,)),
        (BLSP, (88.5,)),
        (BLSP_RP, (88.3,)),
    ),
    "The paper's 1460 questions and their judgements are ChatGPT's.",
)

_FINE_TUNED = PaperTable(
    "4",
    "Translation after fine-tuning, MUST-C",
    _directions("st-tuned/mustc", tuple(f"en-{t}" for t in MUSTC_TARGETS), "BLEU", "COMET"),
    (
        (
            NO_PRETRAINING,
            (21.1, 74.4, 25.4, 76.1, 29.9, 75.6, 20.6, 76.1, 23.6, 76.8, 25.3, 76.7, 16.4, 74.7, 13.7, 73.5),
        ),
        (
            ASR_PRETRAINING,
            (22.7, 76.6, 27.9, 78.7, 32.1, 77.7, 22.3, 78.2, 25.4, 78.7, 27.3, 79.6, 18.6, 77.4, 14.9, 76.2),
        ),
        (BLSP, (23.3, 77.7, 27.4, 79.5, 31.9, 78.5, 23.2, 79.0, 26.4, 80.0, 28.5, 80.4, 19.2, 78.6, 15.6, 77.3)),
    ),
)

_INTO_ENGLISH = PaperTable(
    "5",
    "Translation into English, languages unseen in training",
    (
        *_directions("st/bstc", ("zh-en",), "BLEU", "COMET"),
        *_directions("st/mslt", ("de-en", "fr-en"), "BLEU", "COMET"),
    ),
    (
        (TEXT, (16.1, 58.7, 32.8, 84.2, 29.6, 76.3)),
        (WHISPER, (11.1, 54.3, 25.3, 79.4, 24.1, 71.5)),
        (CTC, (1.1, 41.3, 5.3, 60.4, 4.0, 53.4)),
        (BLSP, (5.0, 49.8, 13.1, 70.9, 13.4, 64.8)),
    ),
)

_COVOST2 = PaperTable(
    "9",
    "Zero-shot translation, CoVoST 2 (BLEU)",
    _directions("st/covost2", tuple(f"en-{t}" for t in COVOST2_TARGETS), "BLEU"),
    (
        (TEXT, (24.8, 21.9, 22.0, 12.9, 27.8)),
        (WHISPER, (19.2, 17.3, 15.8, 10.0, 22.2)),
        (CTC, (14.5, 14.0, 12.3, 7.9, 17.5)),
        (BLSP, (13.9, 14.0, 12.1, 7.0, 16.6)),
        (BLSP_RP, (14.8, 14.9, 12.3, 7.9, 19.3)),
    ),
)

_MUSTC = PaperTable(
    "10",
    "Zero-shot translation, MUST-C (BLEU)",
    _directions("st/mustc", tuple(f"en-{t}" for t in MUSTC_TARGETS), "BLEU"),
    (
        (TEXT, (20.2, 21.7, 24.2, 20.5, 24.4, 20.3, 13.3, 13.3)),
        (WHISPER, (16.9, 19.2, 20.5, 16.4, 20.7, 17.1, 10.9, 11.4)),
        (CTC, (13.6, 15.3, 15.7, 12.6, 17.0, 13.9, 8.2, 9.9)),
        (BLSP, (13.0, 14.7, 14.4, 11.6, 17.0, 12.6, 6.2, 9.2)),
        (BLSP_RP, (14.2, 16.4, 17.5, 13.2, 17.5, 16.1, 9.2, 10.2)),
    ),
    "The paper's table calls Whisper+LLM ASR+LLM.",
)

_BETWEEN_INSTRUCTIONS = PaperTable(
    "7 and 12",
    "Cosine between two instructions on the same speech",
    tuple(PaperColumn(instruction_pair_task(pair), "cosine", pair) for pair in INSTRUCTION_PAIRS),
    (
        (ASR_PRETRAINING, (0.997, 0.997, 0.991, 0.997, 0.992, 0.993)),
        (BLSP, (0.494, 0.745, 0.381, 0.501, 0.278, 0.477)),
    ),
    "Near 1: the instruction is ignored. The cells above the diagonal of the paper's square tables.",
)

_BETWEEN_MODALITIES = PaperTable(
    "8 and 13",
    "Cosine between speech and its transcript under the same instruction",
    tuple(PaperColumn(modality_task(name), "cosine", name) for name in INSTRUCTIONS),
    ((ASR_PRETRAINING, (0.270, 0.106, 0.328, 0.176)), (BLSP, (0.785, 0.866, 0.808, 0.900))),
    "Near 1: speech means to the LLM what its transcript means.",
)

PAPER_TABLES = (
    _OVERVIEW,
    _QUESTIONS,
    _FINE_TUNED,
    _INTO_ENGLISH,
    _BETWEEN_INSTRUCTIONS,
    _BETWEEN_MODALITIES,
    _COVOST2,
    _MUSTC,
)
"""The paper's tables of results, in its order."""
