"""The promises that the layout of the project makes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "data_manifests": set(),
    "extractors": set(),
    "feature_store": {"data_manifests"},
    "pipeline": {"data_manifests", "extractors", "feature_store"},
    "train": {"data_manifests", "feature_store"},
}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                if top in MAY_IMPORT:
                    assert top == package or top in MAY_IMPORT[package], f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("command", [["--help"], ["extract", "--help"], ["status", "nowhere"], ["verify", "nowhere"]])
def test_commands_that_compute_nothing_start_without_torch(command: list[str]) -> None:
    program = (
        "import sys, typer.testing, pipeline.cli as cli;"
        f"typer.testing.CliRunner().invoke(cli.app, {command!r});"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
