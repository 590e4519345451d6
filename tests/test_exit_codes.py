"""A command's exit code is that of the class of the error that ends it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from pipeline.commands.console import told

PACKAGES = ("data_manifests", "extractors", "feature_store", "pipeline", "train")
NOT_COMPLETED, WRONG_USAGE = 1, 2
EXIT_CODES = {
    "data_manifests.rows.ManifestError": NOT_COMPLETED,
    "extractors.download.DownloadError": NOT_COMPLETED,
    "extractors.spec.ExpertError": WRONG_USAGE,
    "extractors.weights.WeightsError": NOT_COMPLETED,
    "extractors.weights.WeightsMissing": NOT_COMPLETED,
    "feature_store.clean_processes.ProcessDied": NOT_COMPLETED,
    "feature_store.foreign.source.ImportUsageError": WRONG_USAGE,
    "feature_store.layout.NoFeatures": NOT_COMPLETED,
    "feature_store.layout.NotInStore": NOT_COMPLETED,
    "feature_store.layout.StoreError": NOT_COMPLETED,
    "feature_store.mirror.NotFetched": NOT_COMPLETED,
    "feature_store.writer.NoMetadata": NOT_COMPLETED,
    "pipeline.backends.DecoderMissing": NOT_COMPLETED,
    "pipeline.errors.ExtractError": WRONG_USAGE,
    "pipeline.errors.WorkerLost": NOT_COMPLETED,
    "pipeline.fetching.NotFetched": NOT_COMPLETED,
    "pipeline.media.MediaError": NOT_COMPLETED,
    "train.TrainError": NOT_COMPLETED,
    "train.RecipeError": WRONG_USAGE,
    "train.scores.ScoresError": NOT_COMPLETED,
    "train.text.parses.ParseError": NOT_COMPLETED,
    "train.text.role_graphs.RoleGraphError": NOT_COMPLETED,
}
INTERNAL = {"pipeline.engine.Stopped"}  # ends the stages of a run that an error has ended


def errors() -> Iterator[type[Exception]]:
    """Every exception that a module of the packages defines, but for private ones."""
    for package in map(importlib.import_module, PACKAGES):
        names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
        for module in map(importlib.import_module, [package.__name__, *names]):
            for found in vars(module).values():
                public = isinstance(found, type) and not found.__name__.startswith("_")
                if public and issubclass(found, Exception) and found.__module__ == module.__name__:
                    yield found


def ending(error: Exception) -> int:
    """How a command ends that raises this."""
    with pytest.raises(typer.Exit) as end, told():
        raise error
    return end.value.exit_code


def test_every_error_of_every_package_ends_a_command_with_the_documented_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {f"{error.__module__}.{error.__qualname__}": error for error in errors()}
    assert set(found) - INTERNAL == set(EXIT_CODES)
    for name, code in EXIT_CODES.items():
        error = found[name]
        what = error("open", "it is empty") if name == "pipeline.media.MediaError" else error("it is empty")
        assert ending(what) == code, name
        assert capsys.readouterr().err.rstrip().endswith("it is empty"), name


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_a_disk_that_fails_ends_a_command_with_1(error: OSError) -> None:
    assert ending(error) == NOT_COMPLETED


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device: make room, then run the same"),
        (OSError(28, "No space left on device"), "error: No space left on device: make room"),
        (FileExistsError(17, "File exists", "a"), "a: File exists, and is no folder"),
        (NotADirectoryError(20, "Not a directory", b"a/b"), "a/b: Not a directory: a part of this path is a file"),
        (FileNotFoundError(2, "No such file or directory", "a"), "error: a: No such file or directory"),
        (PermissionError(13, "Permission denied", Path("a\x1b[1mb")), "error: a\\x1b[1mb: Permission denied"),
        (OSError("3 requested and 0 written"), "error: 3 requested and 0 written"),
    ],
    ids=str,
)
def test_an_error_of_the_system_names_the_file_and_what_helps(
    error: OSError, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ending(error)
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("bug", [ValueError("shapes differ"), KeyError("s3d"), RuntimeError("no such device")])
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)), told():
        raise bug


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_that_names_its_own_code_ends_with_it(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(typer.Exit(code)) == code
    assert capsys.readouterr().err == ""
