"""Languages as a user names them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from blsp.errors import ForeignSpeechError
from blsp.languages import LANGUAGES, find_language, known_names
from blsp.suggestion import nearest_name
from voicechat.errors import UsageError


def language_code(language: str) -> str:
    """Code of a language given by its code or its name, in any case; as `blsp.languages.find_language`.

    Raises:
        UsageError: There is no such language; the message names the nearest one.
    """
    return _found(language)[0]


def language_name(language: str) -> str:
    """English name of a language given by its code or its name.

    Raises:
        UsageError: There is no such language.
    """
    return _found(language)[1]


def spoken_code(language: str) -> str:
    """Code of a language that Whisper can hear.

    Raises:
        UsageError: There is no such language.
    """
    code, name = _found(language)
    if code not in LANGUAGES:
        raise UsageError(f"Whisper does not know {name}.", hint="Leave out --language.")
    return code


def listed(codes: Collection[str]) -> str:
    """Names of languages for a sentence: English, French and German."""
    names = sorted(LANGUAGES.get(code, code) for code in codes)
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def foreign_speech(language: str, known: Sequence[str], what: str, model: str, hint: str) -> ForeignSpeechError:
    """That something is said in a language that a model does not know.

    Args:
        language: Code of the language.
        known: Codes of those that it knows.
        what: What sounds like it.
        model: What the user calls the model.
        hint: The way out, if Whisper is right.
    """
    from blsp.models.spec import PRESETS

    name = f"the {model} model" if model in PRESETS else "this model"
    hint = f"{hint}; if it is {listed(known[:1])} after all: --language {known[0]}"
    return ForeignSpeechError(f"{what} sounds like {listed([language])}; {name} hears {listed(known)}.", hint=hint)


def _found(language: str) -> tuple[str, str]:
    found = find_language(language)
    if found is None:
        near = nearest_name(language.strip().casefold(), known_names())
        example = (find_language(near) if near else None) or ("de", "German")
        raise UsageError(
            f"There is no language {language!r}.", hint=f"Give a name or a code, for example: {example[1]}"
        )
    return found
