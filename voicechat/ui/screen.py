"""The bottom of a terminal: a few rows that move and the line being typed, below text that scrolls away.

prompt_toolkit reads the keys and draws: it knows pasted text, the cells of wide characters, history, job control.
It runs on a thread of its own, which owns the terminal; others hand it strings.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from prompt_toolkit.application import Application, run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import BufferControl, Dimension, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.layout.processors import TabsProcessor
from prompt_toolkit.output import Output

from blsp.storage import atomic_file
from voicechat.runtime.terminal_text import harmless
from voicechat.ui.terminal import (
    TerminalSettings,
    breaks_rows_anew,
    create_terminal_output,
    open_keyboard,
    rows_above,
    when_continued,
)

ESCAPE_WAIT_SECONDS = 0.05
"""A lone escape is the key; one with bytes behind it is the beginning of another key."""
META_WAIT_SECONDS = 0.2
"""Escape and then another key is that key with Alt, if it comes within this time."""
WATCH_SECONDS = 0.1
"""Only the main thread hears of a new size by signal, so the size is asked for."""
CLOSE_SECONDS = 2.0
STOP_SECONDS = 0.5
HISTORY_LINES = 1000
COMPLETIONS = 50


class Screen(Protocol):
    """Where a view draws."""

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        ...

    def read_lines(
        self,
        on_line: Callable[[str], None],
        on_end: Callable[[], None],
        history: Path | None = None,
        complete: Callable[[str], list[str]] = lambda _: [],
    ) -> None:
        """Let lines be typed; to be called before the first `update`.

        Args:
            on_line: Takes what was typed or pasted when Enter is pressed, an empty line for the escape key.
            on_end: Called for Ctrl-D on an empty line, or when the terminal is gone.
            history: File with what was typed in earlier sessions.
            complete: Gives what a line that is being typed may become, for the tab key.
        """
        ...

    def update(self, above: str, live: str) -> None:
        """Let text scroll away above, and put other rows at the bottom; both with colours as escape sequences."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was, without the rows at the bottom."""
        ...


class TerminalScreen:
    """A terminal, drawn from the first `update` on.

    Args:
        terminal_input: Where keys come from; None for the keyboard.
        output: Where to draw; None for the standard output.
    """

    def __init__(self, terminal_input: Input | None = None, output: Output | None = None) -> None:
        self._input = terminal_input
        self._live = ""
        self._size = (80, 24)
        self._on_line: Callable[[str], None] | None = None
        self._on_end: Callable[[], None] = lambda: None
        self._history: Path | None = None
        self._complete: Callable[[str], list[str]] = lambda _: []
        self._output = output or create_terminal_output()
        self._cleanup = contextlib.ExitStack()
        self._app: Application[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_ready = threading.Event()
        self._error: BaseException | None = None
        self._drawn_columns = 0
        self._has_continued = threading.Event()
        """Cleared while the process is stopped from here."""
        self._has_continued.set()

    def read_lines(
        self,
        on_line: Callable[[str], None],
        on_end: Callable[[], None],
        history: Path | None = None,
        complete: Callable[[str], list[str]] = lambda _: [],
    ) -> None:
        """Let lines be typed."""
        self._on_line, self._on_end, self._history, self._complete = on_line, on_end, history, complete

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        with contextlib.suppress(OSError):  # the terminal is gone
            size = self._output.get_size()
            self._size = size.columns, size.rows
        return self._size

    def update(self, above: str, live: str) -> None:
        """Let text scroll away above, and put other rows at the bottom.

        Raises:
            Exception: Whatever ended the drawing.
        """
        if self._thread is None:
            self._output.write_raw(above)
            self._output.flush()
            self._live = live
            self._start()
            return
        if (error := self._error) is not None:
            self._error = None  # told once, or what is done to end in order would fail too
            raise error
        self._call(self._draw, above, live)

    def close(self) -> None:
        """Leave the terminal as it was, without the rows at the bottom."""
        if self._thread is not None:
            self._call(self._exit)
            self._thread.join(CLOSE_SECONDS)
        self._cleanup.close()

    def _call(self, function: Callable[..., None], *args: str) -> None:
        """Call a function on the thread of the screen, unless that has ended."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function, *args)

    def _start(self) -> None:
        terminal_input = self._input or self._cleanup.enter_context(
            open_keyboard(are_lines_read=self._on_line is not None)
        )
        self._settings = TerminalSettings(terminal_input.fileno())
        self._settings_before = TerminalSettings(terminal_input.fileno())
        self._cleanup.callback(self._settings_before.apply)  # however the thread has ended
        self._cleanup.enter_context(when_continued(self._take_continued))
        self._app = self._application(terminal_input)
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
        self._thread.start()
        self._is_ready.wait()

    def _take_continued(self) -> None:
        if self._has_continued.is_set():
            self._call(self._continue)
        self._has_continued.set()

    # From here on everything runs on the thread of the screen.

    def _run(self) -> None:
        try:
            asyncio.run(self._hold())
        except (Exception, SystemExit) as error:  # a guarded standard output ends the program so
            self._error = error
        self._is_ready.set()
        if isinstance(self._error, (EOFError, OSError)):  # the terminal is gone
            self._error = None
            self._on_end()

    async def _hold(self) -> None:
        assert self._app is not None
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._fail)
        self._app.create_background_task(self._watch())
        await self._app.run_async(pre_run=self._is_ready.set, set_exception_handler=False, handle_sigint=False)

    def _fail(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._error = context.get("exception") or RuntimeError(context["message"])
        self._exit()

    def _exit(self) -> None:
        if self._app is not None and self._app.is_running and not self._app.is_done:
            self._app.exit()

    def _draw(self, above: str, live: str) -> None:
        assert self._app is not None
        if above:
            self._follow_size()
            self._app.renderer.erase()
            self._output.write_raw(above)
            self._output.flush()
        self._live = live
        self._app.invalidate()

    def _application(self, terminal_input: Input) -> Application[None]:
        live = Window(
            FormattedTextControl(lambda: ANSI(self._live)),
            height=lambda: Dimension(min=0, preferred=self._live.count("\n") + 1),
            dont_extend_height=True,
        )
        rows = [live]
        if self._on_line is not None:
            rows.append(self._input_window())
        app: Application[None] = Application(
            layout=Layout(HSplit(rows), focused_element=rows[-1]),
            key_bindings=self._keys(),
            erase_when_done=True,
            input=terminal_input,
            output=self._output,
            before_render=lambda _: self._follow_size(),
            terminal_size_polling_interval=None,  # it would erase too few rows: see _follow_size
        )
        app.ttimeoutlen, app.timeoutlen = ESCAPE_WAIT_SECONDS, META_WAIT_SECONDS
        return app

    def _input_window(self) -> Window:
        def accept(buffer: Buffer) -> bool:
            assert self._on_line is not None
            self._on_line(harmless(buffer.text))
            return False

        buffer = Buffer(
            multiline=True, accept_handler=accept, history=_History(self._history) if self._history else None
        )
        return Window(
            BufferControl(buffer, input_processors=[TabsProcessor(char1=" ", char2=" ")]),
            height=lambda: Dimension(min=1, max=max(1, self.size[1] // 2)),
            dont_extend_height=True,
            wrap_lines=True,
            get_line_prefix=lambda line, wrapped: [("bold", "> ")] if line == wrapped == 0 else [("", "  ")],
        )

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        keys.add("c-c")(lambda _: _interrupt())
        keys.add("c-z")(lambda _: self._suspend())
        keys.add("c-\\")(lambda _: self._quit())
        if (on_line := self._on_line) is None:
            return keys
        keys.add("enter")(lambda event: _enter(event.current_buffer))
        keys.add("tab")(lambda event: self._complete_line(event.current_buffer))
        keys.add("escape", "enter")(lambda event: event.current_buffer.newline())
        keys.add("escape")(lambda _: on_line(""))
        keys.add("c-d", filter=Condition(self._is_line_empty))(lambda _: self._on_end())
        return keys

    def _complete_line(self, buffer: Buffer) -> None:
        """Add what all completions begin with; if that is nothing, show them."""
        line = buffer.document.text_before_cursor
        choices = self._complete(line)
        common = os.path.commonprefix(choices)  # noqa: RUF071 - characters, no parts of paths
        if len(common) > len(line):
            buffer.insert_text(common[len(line) :])
        elif len(choices) > 1:
            start = max(line.rfind("/"), line.rfind(" ")) + 1
            shown = [choice[start:].strip() for choice in choices[:COMPLETIONS]]
            more = f"  and {len(choices) - COMPLETIONS} more" if len(choices) > COMPLETIONS else ""
            self._draw("  ".join(shown) + more + "\n", self._live)

    def _is_line_empty(self) -> bool:
        return self._app is not None and not self._app.current_buffer.text

    def _quit(self) -> None:
        """End at once, for those who would find out why: the key is that of SIGQUIT."""
        if hasattr(signal, "SIGQUIT"):
            run_in_terminal(self._kill)

    def _kill(self) -> None:
        self._settings_before.apply()
        signal.pthread_kill(threading.get_ident(), signal.SIGQUIT)  # before this thread does anything more

    # Job control

    def _suspend(self) -> None:
        if hasattr(signal, "SIGTSTP"):
            run_in_terminal(self._stop)

    def _stop(self) -> None:
        self._has_continued.clear()
        self._settings_before.apply()
        os.kill(0, signal.SIGTSTP)  # to the whole job
        # another thread may take the signal, and it is not the time to draw; without job control nothing stops
        self._has_continued.wait(STOP_SECONDS)

    def _continue(self) -> None:
        """Others stopped the process, and it goes on: the terminal has had other settings and other text since."""
        assert self._app is not None
        self._settings.apply()
        self._app.renderer.reset()
        self._app.invalidate()

    # Resizing

    async def _watch(self) -> None:
        """Notice another size, and that the terminal is gone: prompt_toolkit would read its end for ever."""
        assert self._app is not None
        self._settings.keep()  # those that prompt_toolkit has set by now
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._settings.are_lost():
                self._app.exit(exception=EOFError())
                return
            if self.size[0] != self._drawn_columns:
                self._app.invalidate()

    def _follow_size(self) -> None:
        """Erase what was drawn for another width, before anything is drawn for the new one.

        Most terminals break rows anew that have become too long, so that there are more rows above the cursor than
        prompt_toolkit knows of; they would stay.
        """
        assert self._app is not None
        columns = self.size[0]
        renderer = self._app.renderer
        if columns == self._drawn_columns:
            return
        if self._drawn_columns and (drawn := renderer.last_rendered_screen) is not None:
            if breaks_rows_anew(os.environ):
                cursor = drawn.get_cursor_position(self._app.layout.current_window)
                self._output.cursor_up(rows_above(drawn, cursor.x, cursor.y, columns) - cursor.y)
            renderer.erase()
        self._drawn_columns = columns


def _interrupt() -> None:
    """What Ctrl-C does in a terminal that is not read key by key."""
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:
        os.kill(os.getpid(), signal.SIGINT)


def _enter(buffer: Buffer) -> None:
    buffer.validate_and_handle()
    buffer.load_history_if_not_yet_loaded()  # not only when next it is drawn: the next key may come first


class _History(FileHistory):
    """What was typed, in a file that only its owner reads; where it cannot be kept, it is not."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path

    def load_history_strings(self) -> Iterator[str]:
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = list(super().load_history_strings())
            if len(lines) > 2 * HISTORY_LINES:
                self._write_again(lines[:HISTORY_LINES])
        yield from lines[:HISTORY_LINES]

    def _write_again(self, newest_first: list[str]) -> None:
        """Keep only these in the file."""
        with atomic_file(self._path) as file:
            unfinished = Path(file.name)
            unfinished.chmod(0o600)
            writer = FileHistory(unfinished)
            for line in reversed(newest_first):
                writer.store_string(line)

    def store_string(self, string: str) -> None:
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(0o600)
            super().store_string(string)
