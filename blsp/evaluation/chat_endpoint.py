"""Answers of a language model behind an OpenAI-compatible address: a service, vLLM, llama.cpp, Ollama ..."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from blsp.errors import ConfigError, EndpointError

_ABOUT_THE_PROMPT = (400, 413, 422)
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Statuses after which the same request may succeed."""
_LONGEST_PAUSE_SECONDS = 60.0
_MAX_BYTES = 16 << 20
_EXCERPT = 200


@dataclass(frozen=True)
class EndpointConfig:
    """Where a language model answers, and how it is asked."""

    base_url: str
    """Address up to the version, such as `https://api.openai.com/v1` or `http://localhost:8000/v1`."""
    model: str
    """Name of the model there."""
    key_variable: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; None where none is needed."""
    max_tokens: int | None = 256
    """Longest answer, in tokens; None leaves it to the service."""
    temperature: float | None = 0.0
    """Randomness of answers; None leaves it to the service."""
    timeout_seconds: float = 60.0
    """Longest wait for one answer."""
    attempts: int = 5
    """How often a request is sent while the service is busy or cannot be reached."""
    workers: int = 4
    """Requests under way at a time."""

    def __post_init__(self) -> None:
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ConfigError(
                f"`base_url` must be an http or https address, but is {self.base_url!r} instead.",
                hint="For instance: base_url=http://localhost:8000/v1",
            )
        for name in ("attempts", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be at least 1, but is {getattr(self, name)} instead.")


class ChatEndpoint:
    """Writes an answer to each of many prompts, several at a time.

    Args:
        config: Where and how to ask.
        sleep: Waits for some seconds; tests need not.

    Raises:
        ConfigError: The variable that should hold the key does not.
    """

    def __init__(self, config: EndpointConfig, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._config = config
        self._sleep = sleep
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if config.key_variable is not None:
            key = os.environ.get(config.key_variable, "").strip()
            if not key:
                raise ConfigError(
                    f"The environment variable {config.key_variable} must hold the key for {config.base_url}, but is "
                    "not set.",
                    hint=f"Set it: export {config.key_variable}=...",
                )
            self._headers["Authorization"] = f"Bearer {key}"
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._has_answered = False
        self.n_refused = 0
        """Prompts that the service would not answer, as its filter or their length may have it."""

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """Answers, in the order of the prompts; nothing for a prompt that is refused where others are answered.

        Raises:
            EndpointError: A request failed for good; the requests that wait are dropped.
        """
        failed = threading.Event()

        def answer(prompt: str) -> str | EndpointError:
            if failed.is_set():  # nobody will read it
                return ""
            try:
                return self._answer(prompt)
            except _PromptRefusedError as error:
                return error
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(self._config.workers, thread_name_prefix="chat-endpoint") as executor:
            answers = list(executor.map(answer, prompts))
        refusals = [each for each in answers if isinstance(each, EndpointError)]
        self._has_answered = self._has_answered or len(refusals) < len(answers)
        if refusals and not self._has_answered:  # it is not the prompts then
            raise refusals[0]
        self.n_refused += len(refusals)
        return [each if isinstance(each, str) else "" for each in answers]

    def _answer(self, prompt: str) -> str:
        body: dict[str, Any] = {"model": self._config.model, "messages": [{"role": "user", "content": prompt}]}
        if self._config.max_tokens is not None:
            body["max_tokens"] = self._config.max_tokens
        if self._config.temperature is not None:
            body["temperature"] = self._config.temperature
        data = json.dumps(body).encode()
        reason = ""
        for attempt in range(1, self._config.attempts + 1):
            answer = self._attempt(data)
            if isinstance(answer, str):
                return answer
            reason = answer.reason
            if attempt < self._config.attempts:
                pause = 2.0 ** (attempt - 1) if answer.retry_after is None else answer.retry_after
                self._sleep(min(pause, _LONGEST_PAUSE_SECONDS))
        raise EndpointError(
            f"{self._config.base_url} gave no answer in {self._config.attempts} attempts: {reason}.",
            hint="Check the address and the service, then run the same command again.",
        )

    def _attempt(self, data: bytes) -> str | _Busy:
        """The answer, or why another attempt may succeed.

        Raises:
            EndpointError: None would.
        """
        url = self._config.base_url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, data=data, headers=self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._config.timeout_seconds) as response:
                text = response.read(_MAX_BYTES).decode("utf-8", errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(_MAX_BYTES).decode("utf-8", errors="replace")
            if error.code in _BUSY:
                return _Busy(f"status {error.code}", _seconds(error.headers.get("Retry-After")))
            message = f"{url} refused with status {error.code}: {_excerpt(said)}"
            kind = _PromptRefusedError if error.code in _ABOUT_THE_PROMPT else EndpointError
            raise kind(message, hint=self._hint(error.code)) from error
        except (OSError, http.client.HTTPException) as error:
            return _Busy(str(getattr(error, "reason", error)) or type(error).__name__)
        return _content(url, text)

    def _hint(self, status: int) -> str | None:
        if status in (401, 403) and self._config.key_variable is not None:
            return f"Check the key in {self._config.key_variable}."
        if status in (301, 302, 303, 307, 308, 404):
            return "Check `base_url`: the part before /chat/completions, mostly ending in /v1."
        return f"Check the model's name: {self._config.model}" if status == 400 else None


class _PromptRefusedError(EndpointError):
    """A refusal that may be of this prompt only."""


@dataclass(frozen=True)
class _Busy:
    """An attempt that failed in a way that passes."""

    reason: str
    retry_after: float | None = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes no redirections, which would carry the key to another address."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:  # noqa: ARG002
        return None


def _content(url: str, text: str) -> str:
    """The answer in a service's JSON."""
    try:
        content = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EndpointError(
            f"{url} must answer with a chat completion, but said: {_excerpt(text)}", hint="Check `base_url`."
        ) from error
    return content if isinstance(content, str) else ""


def _seconds(retry_after: str | None) -> float | None:
    """Pause that a service asks for; None where it gives a date or nothing."""
    try:
        return max(0.0, float(retry_after or ""))
    except ValueError:
        return None


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."
