"""How commands take what all of them take, print, and tell what went wrong."""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.show import plain_lines

WIDTH = None if sys.stdout and sys.stdout.isatty() else 120  # a file or a pipe has no width of its own
out, err = Console(width=WIDTH), Console(stderr=True)

Store = Annotated[
    str, typer.Argument(help="The store: a folder, or a URL such as s3://bucket/corpus.zarr.", show_default=False)
]
Options = Annotated[
    list[str] | None, typer.Option("--set", help="EXPERT.OPTION=VALUE, e.g. s3d.hop=8; may be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


_ROOM = ": make room, then run the same command again"
HELP = {  # what the system's errors do not say
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EEXIST: ", and is no folder",
    errno.ENOTDIR: ": a part of this path is a file",
    errno.EROFS: ": name a place that can be written to",
}


@contextmanager
def told() -> Iterator[None]:
    """Errors that a user can mend are told in a sentence: exit code 2 for wrong usage, 1 for the rest.

    SIGTERM counts as Ctrl-C. It has a handler, since a process that is the first of a container is sent no signal
    that has none.
    """
    try:
        with _terminated_as_interrupted():
            yield
    except KeyboardInterrupt as error:
        message = str(error) or "stopped; the same command goes on from here"
        err.print(message, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except (typer.Exit, BrokenPipeError):  # nobody reads what is printed, e.g. after | head: Click ends quietly
        raise
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        err.print("error: ", style="bold red", end="")
        err.print(plain_lines(_sentence(error)), soft_wrap=True)
        raise typer.Exit(code) from None


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def telling(command: Callable[..., None]) -> Callable[..., None]:
    """The command of another package, its errors told as those of ours are."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        with told():
            command(*arguments, **options)

    return run


def _exit_code(error: Exception) -> int | None:
    """The one that its class names; 1 where a disk or a network fails; None for a bug, whose traceback is wanted."""
    return getattr(error, "exit_code", 1 if isinstance(error, OSError) else None)


def _sentence(error: Exception) -> str:
    """An error's own message; of the system's errors the file, what is wrong with it, and what helps."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{where}{error.strerror}{HELP.get(error.errno or 0, '')}"


def print_json(document: Any) -> None:
    """Print JSON, escaped where the terminal's encoding lacks a character."""
    text = json.dumps(document, ensure_ascii=False, indent=1)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(document, indent=1)
    print(text)


def prepare_streams() -> None:
    """Have everything printable on the standard streams, and those that were closed lead nowhere.

    A file that is opened later would else take the place of a closed stream, and get what is meant for that.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor: this one
        if getattr(sys, name) is None:
            nowhere = open(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parse_options(settings: list[str]) -> dict[str, dict[str, str]]:
    """Experts' options as they are typed, EXPERT.OPTION=VALUE."""
    from extractors import ExpertError

    options: dict[str, dict[str, str]] = {}
    for setting in settings:
        place, equals, value = setting.partition("=")
        expert, dot, name = place.rpartition(".")
        if not (equals and dot and expert and name):
            raise ExpertError(f"--set {setting}: write EXPERT.OPTION=VALUE, e.g. s3d.hop=8")
        options.setdefault(expert, {})[name] = value
    return options
