"""Short texts for the embedded model: what people say to an assistant, and what prose never says.

Questions and requests, times, dates, prices, telephone numbers, names and their spellings, short answers; written for
this project (Apache-2.0). Numbers are written as they are spoken.

Run: python -m recipes.embedded_texts
Makes: recipes/data/embedded/short.jsonl. A line's `spoken` is how it is read aloud where that is not its `text`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from blsp.json_lines import json_line
from recipes import embedded_words as words
from recipes.question_templates import requests

OUT = Path(__file__).parent / "data" / "embedded" / "short.jsonl"
N_REQUESTS, N_EVERYDAY, N_NUMBERS, N_NAMES = 800, 1000, 600, 450
"""How many sentences are taken of what the templates make."""
ANSWER_COPIES = 2
"""Short answers are said more often: they are soon over, and matter."""
Line = dict[str, str]


def number_words(number: int) -> str:
    """A number from 0 to 999 in words."""
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return f"{words.ONES[hundreds]} hundred" + (f" {number_words(rest)}" if rest else "")
    if number < 20:
        return words.ONES[number]
    tens, ones = divmod(number, 10)
    return words.TENS[tens] + (f" {words.ONES[ones]}" if ones else "")


def year_words(year: int) -> str:
    """A year from 1700 to 2099 as it is spoken: `nineteen oh five`, `twenty twenty six`, `two thousand three`."""
    century, rest = divmod(year, 100)
    if 2000 <= year < 2010:
        return "two thousand" + (f" {number_words(rest)}" if rest else "")
    if rest == 0:
        return f"{number_words(century)} hundred"
    return f"{number_words(century)} " + (f"oh {words.ONES[rest]}" if rest < 10 else number_words(rest))


def time_words(rng: random.Random) -> str:
    """A time of day in one of the ways people say it."""
    number = rng.randint(1, 12)
    hour, following = words.ONES[number], words.ONES[number % 12 + 1]
    minute = rng.choice([5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 0])
    part = rng.choice(["", "", "", " in the morning", " in the afternoon", " at night", " p m", " a m"])
    plain = f"{hour} {'oh five' if minute == 5 else number_words(minute)}" if minute else f"{hour} o'clock"
    spoken = {15: f"quarter past {hour}", 30: f"half past {hour}", 45: f"quarter to {following}"}
    return (rng.choice([plain, spoken[minute]]) if minute in spoken else plain) + part


def date_words(rng: random.Random) -> str:
    """A day of the year as it is spoken."""
    day, month = rng.choice(words.ORDINALS), rng.choice(words.MONTHS)
    return rng.choice([f"{month} {day}", f"the {day} of {month}"])


def telephone_words(rng: random.Random) -> str:
    """Seven digits, one by one, in two groups."""
    digits = ["oh" if d == 0 else words.ONES[d] for d in (rng.randint(0, 9) for _ in range(7))]
    return f"{' '.join(digits[:3])}, {' '.join(digits[3:])}"


FILLERS: dict[str, Callable[[random.Random], str]] = {
    **{name: (lambda rng, values=values: rng.choice(values)) for name, values in words.LISTS.items()},  # type: ignore[misc]
    "small": lambda rng: number_words(rng.randint(2, 20)),
    "number": lambda rng: number_words(rng.randint(0, 999)),
    "round": lambda rng: number_words(5 * rng.randint(1, 19)),
    "year": lambda rng: year_words(rng.randint(1750, 2035)),
    "time": time_words,
    "date": date_words,
    "telephone": telephone_words,
}


def fill(template: str, rng: random.Random) -> str:
    """A sentence of a template: `{name}` is replaced, each time anew, and the first letter made a capital."""
    pieces = template.split("{")
    text = pieces[0] + "".join(
        FILLERS[name](rng) + rest for name, _, rest in (piece.partition("}") for piece in pieces[1:])
    )
    return text[0].upper() + text[1:]


def filled(templates: tuple[str, ...], n: int, rng: random.Random) -> list[Line]:
    """`n` different sentences, templates in turn; fewer where the templates do not make so many."""
    found: dict[str, None] = {}
    for template in itertools.islice(itertools.cycle(templates), 20 * n):
        found.setdefault(fill(template, rng))
        if len(found) == n:
            break
    return [{"text": text} for text in found]


def spellings(rng: random.Random) -> Iterator[Line]:
    """Names and words with their letters. A lone A would be read as an article; "eh" is the letter's name."""
    for name in (*words.FIRST_NAMES, *words.LAST_NAMES, *words.SPELLED):
        letters = [letter for letter in name.upper() if letter.isalpha()]
        spoken = rng.choice([" ", ", "]).join("eh" if letter == "A" else letter for letter in letters)
        is_name = name[0].isupper()
        template = rng.choice(words.NAME_SPELLINGS if is_name else words.WORD_SPELLINGS)
        text, aloud = (template.format(name, how) for how in (" ".join(letters), spoken))
        yield {"text": text[0].upper() + text[1:], "spoken": aloud}


def lines() -> list[Line]:
    """All texts, in the order of the file."""
    rng = random.Random(0)
    asked = rng.sample(requests(), N_REQUESTS)
    made = [
        *({"text": text} for text in asked),
        *filled(words.EVERYDAY, N_EVERYDAY, rng),
        *filled(words.NUMBERS, N_NUMBERS, rng),
        *filled(words.NAMES, N_NAMES, rng),
        *spellings(rng),
        *({"text": text} for text in words.STATEMENTS),
    ]
    unique = {line["text"]: line for line in made}
    return [*unique.values(), *({"text": text} for text in words.ANSWERS for _ in range(ANSWER_COPIES))]


def main() -> None:
    """Write the file."""
    OUT.write_text("".join(map(json_line, lines())), encoding="utf-8")


if __name__ == "__main__":
    main()
