"""A real S3 server on loopback, moto's, for tests of object storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import s3fs
from moto.server import ThreadedMotoServer


@contextmanager
def serving() -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


def connect(server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> s3fs.S3FileSystem:
    """A client of the server, whose address and keys stand in the environment, as users have them."""
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem(use_listings_cache=False)


@contextmanager
def bucket_of(server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch, bucket: str) -> Iterator[s3fs.S3FileSystem]:
    """A client of the server, with an empty bucket within."""
    client = connect(server, monkeypatch)
    client.mkdir(bucket)
    yield client
    client.rm(bucket, recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
