"""Progress on the terminal: tqdm where it is installed, a plain bar elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from tapejit.interpreters.cache import on_compile


class Bar(Protocol):
    """A bar of length 100."""

    def advance(self, percent: int, note: str) -> None:
        """Move on by ``percent``, at most to the end, and show ``note`` beside the bar."""

    def close(self) -> None:
        """Leave the bar as it stands and end its line."""


class PlainBar:
    """A bar of characters on one line, redrawn in place; only its end where nobody watches."""

    WIDTH = 30

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title = title
        self.stream = sys.stderr if stream is None else stream
        self.percent = 0
        self.note = ""

    def advance(self, percent: int, note: str) -> None:
        """Move on by ``percent`` and show ``note`` beside the bar."""
        self.percent = min(self.percent + percent, 100)
        self.note = note
        if self.stream.isatty():
            self.stream.write("\r" + self._line())
            self.stream.flush()

    def close(self) -> None:
        """Draw the bar a last time and end its line."""
        start = "\r" if self.stream.isatty() else ""
        self.stream.write(start + self._line() + "\n")
        self.stream.flush()

    def _line(self) -> str:
        full = self.WIDTH * self.percent // 100
        blocks = "#" * full + "." * (self.WIDTH - full)
        return f"{self.title} [{blocks}] {self.percent:3d}%  {self.note}"


class TqdmBar:
    """The same over tqdm."""

    def __init__(self, title: str) -> None:
        from tqdm import tqdm

        layout = "{desc} {percentage:3.0f}%|{bar:30}| {elapsed}{postfix}"
        self.bar = tqdm(total=100, desc=title, bar_format=layout, file=sys.stderr)

    def advance(self, percent: int, note: str) -> None:
        """Move on by ``percent`` and show ``note`` beside the bar."""
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(min(percent, 100 - self.bar.n))

    def close(self) -> None:
        """Draw the bar a last time and end its line."""
        self.bar.refresh()
        self.bar.close()


def progress_bar(title: str) -> Bar:
    """Return a bar of length 100 on standard error."""
    try:
        return TqdmBar(title)
    except ImportError:
        return PlainBar(title)


class CompileNotice:
    """Says on standard error that kernels are being compiled, which only a first run does."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.count = 0

    def __call__(self, _name: str) -> None:
        """Count one more kernel; the callback that the kernel cache calls."""
        self.count += 1
        line = f"first run on this machine: compiling kernel {self.count} (kept for later runs)"
        if self.stream.isatty():
            self.stream.write("\r" + line)
        elif self.count == 1:
            self.stream.write("first run on this machine: compiling kernels (kept for later)\n")
        self.stream.flush()

    def close(self) -> None:
        """End the notice's line, if it has one."""
        if self.count and self.stream.isatty():
            self.stream.write("\n")
            self.stream.flush()


@contextmanager
def announce_compilation() -> Iterator[CompileNotice]:
    """Show a notice as soon as a kernel has to be compiled within the ``with`` statement."""
    notice = CompileNotice()
    remove = on_compile(notice)
    try:
        yield notice
    finally:
        remove()
        notice.close()
