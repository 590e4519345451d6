"""The `reelcache` command in the process of the tests: torch is imported once."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from pipeline.cli import app


def reelcache(*words: object, code: int = 0) -> Result:
    """Run a command; its exit code must be `code`, and what is wrong is told, not raised."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result
