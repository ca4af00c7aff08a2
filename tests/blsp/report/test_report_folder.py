"""A small report, word for word, and what no report may do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from blsp.errors import DataError
from blsp.evaluation.scores import Comparison, Figure, Hypothesis, Report, Score, Table
from blsp.report.compare import compare, difference_interval
from blsp.report.paper_results import PAPER_TABLES
from blsp.report.report_folder import html, markdown, read_report, write_report

SVG = (
    '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "http://www.w3.org/x.dtd">'
    '<svg xmlns="http://www.w3.org/2000/svg"><metadata>http://purl.org</metadata>'
    '<clipPath id="a"><rect/></clipPath><g clip-path="url(#a)"><use href="#a"/></g></svg>'
)
DETAILS = {"normalizer": "whisper-english", "paper_task": "asr/librispeech-test-clean"}


@pytest.fixture
def report() -> Report:
    return Report(
        title="Small & <quick>",
        headlines=("BLSP: WER 9.0.",),
        findings=("BLSP beats chance.",),
        scores=(
            Score("CTC+LLM", "asr/dev", "WER", 12.34, 10.0, 15.0, 200, False, DETAILS),
            Score("ours", "asr/dev", "WER", 9.0, None, None, 1, False, DETAILS),
            Score("BLSP", "coffee/intent", "accuracy", 75.0, 70.0, 80.0, 40),
        ),
        comparisons=(
            Comparison("asr/dev", "WER", "CTC+LLM", "ours", 3.34, 1.0, 5.0, 0.0004, 200),
            Comparison("asr/dev", "WER", "CTC+LLM", "BLSP", 0.5, -1.0, 2.0, 0.04, 200),
        ),
        figures=(Figure("one", "A dot", "There is a dot.", SVG, "One dot"), Figure("two", "B", "C.", SVG, "Two")),
        tables=(Table("Free", ("a|b", "c"), (("1", "2"),), "Note."),),
        worst=(Hypothesis("BLSP", "asr/dev", "u1", "two words", "<s> *x*", "speech/u1.flac", 1.0, 0.1),),
        facts={"commit": "abc1234", "versions": {"torch": "2.13.0"}, "real-time factor": {"BLSP": 0.123456}},
    )


EXPECTED = r"""# Small & \<quick>

## In short

- BLSP: WER 9.0.

## Beside the paper

Each cell: our score, its 95 % bootstrap interval over utterances, and the paper's own number. The paper's systems are built on Whisper-small and Llama-2-7B; see the facts for ours.

### Table 2: Zero-shot speech-to-text tasks

TABLE 2

## All scores

### WER ↓

| Task | System | Score | 95 % interval | n |
| --- | --- | --- | --- | --- |
| **asr/dev** | CTC+LLM | **12.3** | [10.0, 15.0] | 200 |
|  | ours | **9.0** |  | 1 |

normalizer whisper-english

### accuracy ↑

| Task | System | Score | 95 % interval | n |
| --- | --- | --- | --- | --- |
| **coffee/intent** | BLSP | **75.0** | [70.0, 80.0] | 40 |

## Differences between systems

### WER

| Task | Systems | Difference | 95 % interval | p | p, Holm | n |
| --- | --- | --- | --- | --- | --- | --- |
| asr/dev | CTC+LLM − ours | **+3.3** | [+1.0, +5.0] | \< 0.001 | **\< 0.001** | 200 |
| asr/dev | CTC+LLM − BLSP | +0.5 | [-1.0, +2.0] | 0.040 | **0.040** | 200 |

Interval: paired bootstrap. p: approximate randomisation, two-sided; Holm's correction is for the 2 comparisons of this table. Bold: p below 0.05 after it, and then a difference of at least 1, which matters.

## Findings

- BLSP beats chance.

## Figures

### A dot

![One dot](figures/one.svg)

There is a dot.

### B

![Two](figures/two.svg)

C.

## More tables

### Free

| a\|b | c |
| --- | --- |
| 1 | 2 |

Note.

## Worst answers

| System | Reference | Answer | Speech |
| --- | --- | --- | --- |
| BLSP<br>asr/dev | two words | \<s> \*x\* | [listen](<speech/u1.flac>)<br>u1 |

## How this was measured

| Fact | Value |
| --- | --- |
| **commit** | abc1234 |
| **versions.torch** | 2.13.0 |
| **real-time factor.BLSP** | 0.1235 |
"""  # noqa: E501


def test_the_whole_page_in_markdown(report: Report) -> None:
    head, _, rest = markdown(report).partition("tasks\n\n")
    table, _, tail = rest.partition("\n\n## All")
    assert f"{head}tasks\n\nTABLE 2\n\n## All{tail}" == EXPECTED
    lines = table.splitlines()
    assert len(lines) == 2 + 6 + 1 + 2  # header, the paper's six systems and ours, a note
    assert "| ASR (WER ↓): LibriSpeech test-clean, LLM<br>ours: asr/dev, n = 1 to 200 |" in lines[0]
    ctc = next(line for line in lines if line.startswith("| **CTC+LLM** |"))
    assert ctc.startswith(r"| **CTC+LLM** | –<br>paper 6.2 | **12.3**<br>[10.0, 15.0]<br>paper 10.8 | –<br>paper 8.4 |")
    ours = next(line for line in lines if line.startswith("| **ours** |"))
    assert ours == "| **ours** | – | **9.0** | – | – | – | – | – | – | – |"


class Reader(HTMLParser):
    """Collects text, links and ids, and checks that tags close in order."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.rows: list[int] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        values = dict(attrs)
        assert tag != "script"
        self.links += [str(values[name]) for name in ("href", "src") if name in values]
        self.ids += [str(values["id"])] if "id" in values else []
        if tag == "tr":
            self.rows.append(0)
        elif tag in ("td", "th"):
            self.rows[-1] += int(values.get("colspan") or 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if data.strip() else ""


def test_the_page_holds_everything_and_needs_nothing(report: Report) -> None:
    page = html(report)
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert [link for link in reader.links if not link.startswith("#")] == ["speech/u1.flac"]
    assert not re.search(r"@import|https?://(?!www\.w3\.org/2000/svg)", page)
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)
    assert "Small & <quick>" in reader.text
    assert "<s> *x*" in reader.text
    for number in ("12.3", "[10.0, 15.0]", "paper 10.8", "< 0.001", "0.1235", "commit abc1234"):
        assert number in reader.text, number
    assert page.count('<svg role="img" aria-label="One dot"') == 1


def paper_scores() -> tuple[Score, ...]:
    """The paper's own results, as if they were ours."""
    return tuple(
        Score(system, column.task, column.metric, value, None, None, 1)
        for table in PAPER_TABLES
        for system, values in table.rows
        for column, value in zip(table.columns, values)
        if value is not None
    )


def test_rows_of_a_table_are_of_one_width(report: Report) -> None:
    reader = Reader()
    page = html(Report("All", scores=paper_scores()))
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        reader.rows.clear()
        reader.feed(table)
        assert len(set(reader.rows)) == 1
        assert reader.rows[0] > 1


def test_our_numbers_equal_to_the_papers_stand_beside_them() -> None:
    """Each number in its own place: feeding the paper its own results shows every one twice."""
    scores = paper_scores()
    cells = re.findall(r"\*\*([\d.]+)\*\*<br>paper ([\d.]+) ", markdown(Report("All", scores=scores)))
    assert len(cells) == len(scores)
    assert all(ours == paper for ours, paper in cells)


@pytest.mark.parametrize(
    "svg",
    ["<p/>", "<svg><script>x</script></svg>", '<svg><a href="http://x"/></svg>', '<svg><g onclick="x"/></svg>'],
)
def test_pictures_that_are_more_than_pictures_are_refused(svg: str) -> None:
    with pytest.raises(ValueError, match="`svg` of figure 'f' must "):
        html(Report("t", figures=(Figure("f", "t", "c", svg, "a"),)))


def test_words_in_a_picture_are_no_event_handlers() -> None:
    assert "depends on x = 1" in html(
        Report("t", figures=(Figure("f", "t", "c", "<svg><text>depends on x = 1, once = 2</text></svg>", "a"),))
    )


def test_a_report_comes_back_as_it_was_written(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = replace(report.worst[0], audio="data/test.parquet#7")
    written = replace(report, worst=(*report.worst, row))
    folder = tmp_path / "runs" / "report"
    write_report(written, folder)
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) == [
        "figures",
        "figures/one.svg",
        "figures/two.svg",
        "report.html",
        "report.json",
        "report.md",
    ]
    linked = replace(report.worst[0], audio="../../speech/u1.flac")
    expected = replace(report, worst=(linked, replace(row, audio=None)))
    assert read_report(folder) == read_report(folder / "report.json") == expected
    assert json.loads((folder / "report.json").read_text())["scores"][0]["value"] == 12.34
    assert (folder / "report.md").read_text() == markdown(expected)
    assert (folder / "report.html").read_text() == html(expected)


def test_a_report_that_fails_leaves_the_old_one(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report")
    broken = replace(report, figures=(replace(report.figures[0], name="../x"),))
    with pytest.raises(ValueError, match=r"`name` of a figure must be a file name, but is '\.\./x' instead\."):
        write_report(broken, tmp_path / "report")
    assert read_report(tmp_path / "report").title == report.title
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_what_is_no_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read a report from .*report\.json"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"title": "t"}')
    with pytest.raises(DataError, match="findings"):
        read_report(tmp_path)


def test_the_difference_of_two_scores_by_hand() -> None:
    a = Score("s", "t", "WER", 20.0, 17.0, 24.0, 10, False)
    b = Score("s", "t", "WER", 10.0, 7.0, 13.0, 10, False)
    assert difference_interval(a, b) == pytest.approx((-15.0, -10 + 18**0.5))
    assert difference_interval(a, replace(b, low=None)) is None


def test_two_reports_side_by_side(report: Report) -> None:
    first, second, third = report.scores
    details = {**DETAILS, "normalizer": "none"}
    other = Report(
        "New",
        scores=(
            replace(first, value=8.0, low=7.0, high=9.0, details=details, n=100),
            replace(second, value=9.5),
            replace(third, metric="F1"),
        ),
        facts={"commit": "fff", "versions": {"torch": "2.13.0"}},
    )
    assert compare(report, other).markdown() == (
        r"""# A: Small & \<quick> · B: New

## Scores

Of 2 scores, B is better in 1, worse in 0, and in 1 no difference that matters is sure.

| Task | System | Metric | A | B | B − A | B is |
| --- | --- | --- | --- | --- | --- | --- |
| **asr/dev** | CTC+LLM | WER ↓ | 12.3<br>[10.0, 15.0] | 8.0<br>[7.0, 9.0] | −4.3<br>[-7.2, -1.8] | **better** |
| **asr/dev** | ours | WER ↓ | 9.0 | 9.5 | +0.5 | – |

Intervals are 95 %. That of the difference takes the utterances of A and B for different ones, so it is too wide where they are the same. B is judged so: better or worse needs p below 0.05 after Holm's correction for all of these comparisons, and a difference that matters: at least 1 point of WER, BLEU or a percentage, 0.05 nats of KL, 0.02 of a cosine.

## Not comparable

- CTC+LLM, asr/dev, WER: normalizer: whisper-english in A, none in B; utterances: 200 in A, 100 in B.

## In one report only

- A: BLSP, coffee/intent, accuracy 75.0
- B: BLSP, coffee/intent, F1 75.0

## Facts that differ

| Fact | A | B |
| --- | --- | --- |
| **commit** | abc1234 | fff |
| **real-time factor.BLSP** | 0.1235 | – |
"""  # noqa: E501
    )
    reader = Reader()
    reader.feed(compare(report, other).html())
    assert reader.open == []


def test_one_of_many_scores_is_better_by_chance() -> None:
    """Each interval of a difference just leaves out zero, which is nothing special among so many."""
    a = [Score("s", f"t{i}", "accuracy", 50.0, 45.0, 55.0, 100) for i in range(20)]
    b = [replace(score, value=57.2, low=52.2, high=62.2) for score in a]
    low, high = difference_interval(a[0], b[0]) or (0.0, 0.0)
    assert 0 < low < 0.2 < high
    assert (
        "B is better in 0, worse in 0, and in 20"
        in compare(Report("A", scores=tuple(a)), Report("B", scores=tuple(b))).markdown()
    )
    alone = compare(Report("A", scores=tuple(a[:1])), Report("B", scores=tuple(b[:1])))
    assert "B is better in 1" in alone.markdown()
    tiny = compare(
        Report("A", scores=(Score("s", "t", "BLEU", 0.3, 0.25, 0.35, 16),)),
        Report("B", scores=(Score("s", "t", "BLEU", 0.5, 0.45, 0.55, 16),)),
    )
    assert "| a difference too small to matter |" in tiny.markdown()


def test_reports_of_one_system_each_are_compared_whatever_its_name() -> None:
    score = Score("old", "t", "accuracy", 50.0, 45.0, 55.0, 100)
    a, b = (
        Report("A", scores=(score,)),
        Report("B", scores=(replace(score, system="new", value=30.0, low=25, high=35),)),
    )
    text = compare(a, b).markdown()
    assert "| **t** | old → new | accuracy ↑ |" in text
    assert "**worse**" in text
    assert "No system, task and metric is in both reports." in compare(a, Report("B")).markdown()
