"""Names and codes of languages."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType

LANGUAGES: dict[str, str] = {
    "en": "English",
    "zh": "Chinese",
    "de": "German",
    "es": "Spanish",
    "ru": "Russian",
    "ko": "Korean",
    "fr": "French",
    "ja": "Japanese",
    "pt": "Portuguese",
    "tr": "Turkish",
    "pl": "Polish",
    "ca": "Catalan",
    "nl": "Dutch",
    "ar": "Arabic",
    "sv": "Swedish",
    "it": "Italian",
    "id": "Indonesian",
    "hi": "Hindi",
    "fi": "Finnish",
    "vi": "Vietnamese",
    "he": "Hebrew",
    "uk": "Ukrainian",
    "el": "Greek",
    "ms": "Malay",
    "cs": "Czech",
    "ro": "Romanian",
    "da": "Danish",
    "hu": "Hungarian",
    "ta": "Tamil",
    "no": "Norwegian",
    "th": "Thai",
    "ur": "Urdu",
    "hr": "Croatian",
    "bg": "Bulgarian",
    "lt": "Lithuanian",
    "la": "Latin",
    "mi": "Maori",
    "ml": "Malayalam",
    "cy": "Welsh",
    "sk": "Slovak",
    "te": "Telugu",
    "fa": "Persian",
    "lv": "Latvian",
    "bn": "Bengali",
    "sr": "Serbian",
    "az": "Azerbaijani",
    "sl": "Slovenian",
    "kn": "Kannada",
    "et": "Estonian",
    "mk": "Macedonian",
    "br": "Breton",
    "eu": "Basque",
    "is": "Icelandic",
    "hy": "Armenian",
    "ne": "Nepali",
    "mn": "Mongolian",
    "bs": "Bosnian",
    "kk": "Kazakh",
    "sq": "Albanian",
    "sw": "Swahili",
    "gl": "Galician",
    "mr": "Marathi",
    "pa": "Punjabi",
    "si": "Sinhala",
    "km": "Khmer",
    "sn": "Shona",
    "yo": "Yoruba",
    "so": "Somali",
    "af": "Afrikaans",
    "oc": "Occitan",
    "ka": "Georgian",
    "be": "Belarusian",
    "tg": "Tajik",
    "sd": "Sindhi",
    "gu": "Gujarati",
    "am": "Amharic",
    "yi": "Yiddish",
    "lo": "Lao",
    "uz": "Uzbek",
    "fo": "Faroese",
    "ht": "Haitian Creole",
    "ps": "Pashto",
    "tk": "Turkmen",
    "nn": "Nynorsk",
    "mt": "Maltese",
    "sa": "Sanskrit",
    "lb": "Luxembourgish",
    "my": "Burmese",
    "bo": "Tibetan",
    "tl": "Tagalog",
    "mg": "Malagasy",
    "as": "Assamese",
    "tt": "Tatar",
    "haw": "Hawaiian",
    "ln": "Lingala",
    "ha": "Hausa",
    "ba": "Bashkir",
    "jw": "Javanese",
    "su": "Sundanese",
    "yue": "Cantonese",
}
"""Code -> English name, as Whisper knows them."""
_WRITTEN = {"ceb": "Cebuano"}
"""Code -> English name of languages that Whisper does not hear, but some LLM writes."""
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ar": ("العربية",),
        "ca": ("català", "Valencian"),
        "cs": ("čeština",),
        "da": ("dansk",),
        "de": ("Deutsch",),
        "el": ("ελληνικά",),
        "es": ("español", "castellano", "Castilian"),
        "fa": ("Farsi", "فارسی"),
        "fi": ("suomi",),
        "fr": ("français",),
        "he": ("עברית",),
        "hi": ("हिन्दी",),
        "hr": ("hrvatski",),
        "ht": ("Haitian",),
        "hu": ("magyar",),
        "id": ("bahasa Indonesia",),
        "it": ("italiano",),
        "ja": ("日本語",),
        "jw": ("jv",),
        "ko": ("한국어",),
        "ms": ("bahasa Melayu",),
        "my": ("Myanmar",),
        "nl": ("Nederlands", "Flemish"),
        "no": ("norsk", "nb", "Bokmål"),
        "pa": ("Panjabi",),
        "pl": ("polski",),
        "ps": ("Pushto",),
        "pt": ("português",),
        "ro": ("română", "Moldavian", "Moldovan"),
        "ru": ("русский",),
        "si": ("Sinhalese",),
        "sv": ("svenska",),
        "th": ("ไทย",),
        "tl": ("Filipino", "fil"),
        "tr": ("Türkçe",),
        "uk": ("українська",),
        "vi": ("tiếng Việt",),
        "zh": ("Mandarin", "中文", "汉语", "普通话", "cmn"),
    }
)
"""What else people call them, themselves above all."""
_VARIANTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "Simplified Chinese": ("zh", "zh-Hans"),
        "Traditional Chinese": ("zh", "zh-Hant"),
        "Brazilian Portuguese": ("pt", "pt-BR"),
        "European Portuguese": ("pt", "pt-PT"),
        "British English": ("en", "en-GB"),
        "American English": ("en", "en-US"),
        "Mexican Spanish": ("es", "es-MX"),
        "Canadian French": ("fr", "fr-CA"),
    }
)
"""English name of a variant -> code of the language, and of the variant."""
_SAME_VARIANT = {"zh-cn": "zh-hans", "zh-sg": "zh-hans", "zh-tw": "zh-hant", "zh-hk": "zh-hant"}
_TAG = re.compile(r"([a-z]{2,3})([-_][a-z0-9]{2,8})+")


def find_language(text: str) -> tuple[str, str] | None:
    """Code and English name of a language or one of its variants; None where there is none.

    Args:
        text: Its code (de, pt-BR, zh_TW) or its name, in English or its own language, with or without accents, in any
            case. The name that is given back is that of the variant; of one without a name it is the language's.
    """
    return _names().get(_plain(text)) or _tagged(_plain(text).replace("_", "-"))


def known_names() -> list[str]:
    """All that `find_language` takes for sure, in small letters."""
    return list(_names())


def _tagged(tag: str) -> tuple[str, str] | None:
    tag = _SAME_VARIANT.get(tag, tag)
    match = _TAG.fullmatch(tag)
    return None if match is None else _names().get(tag) or _names().get(match[1])


@functools.cache
def _names() -> Mapping[str, tuple[str, str]]:
    """Names and codes in small letters and without accents -> code and English name."""
    found: dict[str, tuple[str, str]] = {}
    for code, name in {**LANGUAGES, **_WRITTEN}.items():
        for text in (code, name, *_OTHER_NAMES.get(code, ())):
            found.setdefault(_plain(text), (code, name))
    for name, (code, tag) in _VARIANTS.items():
        found |= {_plain(name): (code, name), _plain(tag): (code, name)}
    return found


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.strip().casefold())
    return "".join(letter for letter in letters if not "\u0300" <= letter <= "\u036f")  # accents
