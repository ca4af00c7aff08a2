"""A language model behind an address, played by a server in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from blsp.errors import ConfigError, EndpointError
from blsp.evaluation.chat_endpoint import ChatEndpoint, EndpointConfig

Reply = tuple[int, dict[str, str], str]


def completion(text: str | None) -> Reply:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


class Service:
    """Answers with what `reply` gives for the number of the request and its JSON."""

    def __init__(self, reply: Callable[[int, dict[str, Any]], Reply]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self._reply = reply
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[str]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with service._lock:
                    number = len(service.requests)
                    service.requests.append(body)
                    service.headers.append(dict(self.headers))
                    service.paths.append(self.path)
                status, headers, text = service._reply(number, body)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy stands between the test and its own machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def endpoint(url: str, pauses: list[float] | None = None, **options: Any) -> ChatEndpoint:
    config = EndpointConfig(url, "tiny", **{"key_variable": None, **options})
    return ChatEndpoint(config, sleep=(pauses if pauses is not None else []).append)


def test_answers_come_in_the_order_of_the_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    service = Service(lambda _, body: completion(body["messages"][0]["content"].upper()))
    prompts = [f"prompt {i}" for i in range(20)]
    with service.running() as url:
        answers = endpoint(url + "/", key_variable="SOME_KEY", max_tokens=7)(prompts)
    assert answers == [p.upper() for p in prompts]
    assert {headers["Authorization"] for headers in service.headers} == {"Bearer secret"}
    assert set(service.paths) == {"/v1/chat/completions"}
    request = next(r for r in service.requests if r["messages"][0]["content"] == "prompt 3")
    assert request == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "prompt 3"}],
        "max_tokens": 7,
        "temperature": 0.0,
    }


def test_what_is_left_to_the_service_is_not_sent() -> None:
    service = Service(lambda *_: completion(None))
    with service.running() as url:
        assert endpoint(url, max_tokens=None, temperature=None)(["a"]) == [""]
    assert set(service.requests[0]) == {"model", "messages"}
    assert "Authorization" not in service.headers[0]


def test_a_busy_service_is_asked_again() -> None:
    replies = [(429, {"Retry-After": "3"}, ""), (503, {}, ""), (500, {"Retry-After": "9999"}, ""), completion("yes")]
    pauses: list[float] = []
    with Service(lambda number, _: replies[number]).running() as url:
        assert endpoint(url, pauses)(["a"]) == ["yes"]
    assert pauses == [3.0, 2.0, 60.0]


def test_a_service_that_stays_busy_is_given_up() -> None:
    pauses: list[float] = []
    service = Service(lambda *_: (503, {}, "later"))
    with service.running() as url, pytest.raises(EndpointError) as caught:
        endpoint(url, pauses, attempts=3)(["a"])
    assert str(caught.value) == f"{url} gave no answer in 3 attempts: status 503."
    assert (len(service.requests), pauses) == (3, [1.0, 2.0])


def test_nobody_listens() -> None:
    with Service(lambda *_: completion("")).running() as url:
        pass
    with pytest.raises(EndpointError, match=r"gave no answer in 2 attempts: .*refused"):
        endpoint(url, attempts=2)(["a"])


def test_a_slow_service_runs_out_of_time() -> None:
    release = threading.Event()
    with Service(lambda *_: (release.wait(5), completion("late"))[1]).running() as url:
        try:
            with pytest.raises(EndpointError, match=r"gave no answer in 1 attempts: .*timed out"):
                endpoint(url, attempts=1, timeout_seconds=0.05)(["a"])
        finally:
            release.set()


def test_a_wrong_key_is_not_tried_twice_nor_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    service = Service(lambda *_: (401, {}, "no such\nkey"))
    with service.running() as url, pytest.raises(EndpointError) as caught:
        endpoint(url, key_variable="SOME_KEY", workers=1)(["a", "b", "c"])
    assert str(caught.value) == f"{url}/chat/completions refused with status 401: no such key"
    assert caught.value.hint == "Check the key in SOME_KEY."
    assert len(service.requests) == 1


def test_the_key_follows_no_redirection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    elsewhere = Service(lambda *_: completion("stolen"))
    with elsewhere.running() as target:
        service = Service(lambda *_: (302, {"Location": target}, ""))
        with service.running() as url, pytest.raises(EndpointError, match="status 302"):
            endpoint(url, key_variable="SOME_KEY")(["a"])
    assert elsewhere.requests == []


@pytest.mark.parametrize("text", ["<html>hello</html>", "{}", '{"choices": []}', "[1]"])
def test_what_is_no_answer_is_shown(text: str) -> None:
    with Service(lambda *_: (200, {}, text)).running() as url, pytest.raises(EndpointError) as caught:
        endpoint(url)(["a"])
    assert str(caught.value) == f"{url}/chat/completions must answer with a chat completion, but said: {text}"


def refusing(text: str) -> Service:
    """Refuses prompts with a text in them, as a filter does."""

    def reply(_: int, body: dict[str, Any]) -> Reply:
        prompt = body["messages"][0]["content"]
        return (400, {}, "content_filter") if text in prompt else completion(prompt.upper())

    return Service(reply)


def test_a_prompt_that_is_refused_ends_nothing() -> None:
    with refusing("bad").running() as url:
        judge = endpoint(url)
        assert judge(["one", "bad", "two"]) == ["ONE", "", "TWO"]
        assert judge(["bad", "bad too"]) == ["", ""]  # it answers others
        assert judge.n_refused == 3


def test_a_service_that_refuses_everything_ends_it() -> None:
    with refusing("").running() as url, pytest.raises(EndpointError, match="refused with status 400: content_filter"):
        endpoint(url)(["one", "two"])


def test_configs_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="`base_url` must be an http or https address, but is 'file:///etc' instead"):
        EndpointConfig("file:///etc", "m")
    with pytest.raises(ConfigError, match="`workers` must be at least 1, but is 0 instead"):
        EndpointConfig("http://x/v1", "m", workers=0)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY must hold the key for http://x/v1, but is not set") as caught:
        ChatEndpoint(EndpointConfig("http://x/v1", "m"))
    assert caught.value.hint == "Set it: export OPENAI_API_KEY=..."
