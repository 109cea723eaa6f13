"""A real S3 server on loopback (moto's), and what the environment says of it."""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

from enecg.storage import Folder


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 with one empty bucket; yields ``s3://bucket``. The environment points to it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # one line per request otherwise
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    said = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in said}
    os.environ.update(said)
    # What earlier servers of this process held is still there otherwise.
    reset = urllib.request.Request(f"{said['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()
    try:
        boto3.client("s3", endpoint_url=said["AWS_ENDPOINT_URL"]).create_bucket(Bucket="ecgs")
        yield "s3://ecgs"
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        server.stop()


def upload(local: os.PathLike[str] | str, uri: str) -> None:
    """Copy a folder to the server."""
    target = Folder.at(uri)
    target.filesystem.put(f"{os.fspath(local)}/", f"{target.key()}/", recursive=True)
