"""What is installed: two files of pins, and the image that is made from one of them."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
RUNTIME, DEVELOPMENT = "requirements.lock", "requirements-dev.lock"
TOOLS = {"hypothesis", "moto", "mypy", "pytest", "pytest-xdist", "ruff"}
PIN = re.compile(r"^(?P<pin>\S+==[^\\]+?) \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)
Extras = frozenset[str]


def pins(lock: str) -> dict[str, Requirement]:
    """The pins of a file by name, whatever the platform."""
    text = (ROOT / lock).read_text()
    found = [Requirement(match["pin"]) for match in PIN.finditer(text)]
    assert len(found) == sum(line[0].isalnum() for line in text.splitlines()), "a pin without hashes"
    by_name = {canonicalize_name(pin.name): pin for pin in found}
    assert len(by_name) == len(found), "a package stands twice"
    return by_name


def pinned_here(lock: str) -> set[str]:
    """The names in a file that are installed on this platform, with this Python."""
    return {name for name, pin in pins(lock).items() if pin.marker is None or pin.marker.evaluate()}


def needed_here(*extras: str) -> set[str]:
    """All packages that Reelcache needs with these extras, and that these need in turn, as each says of itself."""
    seen: set[tuple[str, Extras]] = set()
    todo: list[tuple[str, Extras]] = [("reelcache", frozenset(extras))]
    while todo:
        package, its_extras = todo.pop()
        if (package, its_extras) in seen:
            continue
        seen.add((package, its_extras))
        for text in requires(package) or []:
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in its_extras | {""}):
                todo.append((canonicalize_name(need.name), frozenset(need.extras)))
    return {package for package, _ in seen} - {"reelcache"}


def test_the_lock_holds_exactly_what_reelcache_needs_to_run() -> None:
    assert pinned_here(RUNTIME) == needed_here("s3")
    assert not TOOLS & pins(RUNTIME).keys()


def test_the_developers_lock_holds_exactly_what_they_need_besides() -> None:
    assert pinned_here(DEVELOPMENT) == needed_here("s3", "torchcodec", "dev") - needed_here("s3")
    assert pins(DEVELOPMENT).keys() > TOOLS
    assert not pins(RUNTIME).keys() & pins(DEVELOPMENT).keys()


@pytest.mark.parametrize("lock", [RUNTIME, DEVELOPMENT])
def test_every_pin_is_one_version_and_no_registry_is_named(lock: str) -> None:
    for name, pin in pins(lock).items():
        assert [part.operator for part in pin.specifier] == ["=="], name
        assert pin.url is None
    assert "://" not in (ROOT / lock).read_text()


def dockerfile() -> str:
    """The statements of the Dockerfile, each on a line of its own."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return re.sub(r"\s*\\\n\s*", " ", text)


def test_the_image_holds_every_package_of_ours_and_no_developers_tools() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    copied = re.findall(r"^COPY (\w+) \1$", dockerfile(), flags=re.MULTILINE)
    assert set(copied) == {package.split(".")[0] for package in packages}
    assert re.findall(r"-r (\S+)", dockerfile()) == [RUNTIME]
    assert "COPY requirements.lock ./" in dockerfile()


def test_the_image_is_made_for_the_cuda_that_torch_is_made_for() -> None:
    toolkit = next(iter(pins(RUNTIME)["cuda-toolkit"].specifier)).version
    assert f"FROM nvidia/cuda:{toolkit}-base-" in dockerfile()


def test_all_that_is_fetched_goes_to_the_volume_of_weights() -> None:
    assert "ENV REELCACHE_CACHE=/weights HF_HOME=/weights/huggingface" in dockerfile()
    assert 'VOLUME ["/data", "/weights"]' in dockerfile()
