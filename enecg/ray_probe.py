"""What answers at the address of a Ray cluster, asked with a deadline.

Ray's own client waits for minutes where nothing answers, and does not say why. This asks the
cluster's control store (GCS) in Ray's protocol, without starting anything of Ray in this process.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray._private.services import find_node_ids
from ray._private.utils import compute_version_info
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc
from ray.exceptions import AuthenticationError

from enecg.errors import UserError, one_line
from enecg.ray_token import has_token

_GCS: Any = gcs_service_pb2  # made by protoc, without types
_ALIVE: Any = gcs_pb2.GcsNodeInfo.GcsNodeState.ALIVE  # type: ignore[attr-defined]
ANSWER_SECONDS = 8.0
"""For one answer; a busy machine needs some."""
NODE_SECONDS = 5.0
"""For a node of the cluster to show up on this machine."""
_TOKEN_REMEDY = (
    "put the cluster's token in ~/.ray/auth_token, or its path in RAY_AUTH_TOKEN_PATH, and set "
    "RAY_AUTH_MODE=token"
)


def check_cluster(address: str) -> None:
    """Make sure that the cluster at ``host:port`` can be joined; turn on its token if it asks.

    Raises
    ------
    UserError
        Nobody answers; what answers is no Ray cluster; it asks for another token; it runs another
        version of Ray or Python; none of its nodes is on this machine.
    """
    host, _, port = address.rpartition(":")
    try:
        _within(ANSWER_SECONDS, lambda: _knock(host.strip("[]"), int(port)))
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({one_line(error)}): start it, correct "
            "RAY_ADDRESS or --address, or leave both out to start a local cluster"
        ) from None
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        token = _token_asked_for(channel, address)
        _check_version(channel, address, token)
        _check_node(channel, address, token)


def _knock(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()


def _within(seconds: float, ask: Callable[[], None]) -> None:
    """Do something that may hang (to look up a name, say) in a thread, and wait so long only."""
    raised: list[OSError] = []

    def run() -> None:
        try:
            ask()
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:.0f} s")


def _ask(channel: Any, address: str, token: str, stub: Any, method: str, request: Any) -> Any:
    """Ask the cluster something; UserError where what answers is none, None for a wrong token."""
    sent = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        return getattr(stub(channel), method)(request, timeout=ANSWER_SECONDS, metadata=sent)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            return None
        raise UserError(
            f"what answers at {address} is no Ray cluster that can be joined "
            f"({error.code().name.lower().replace('_', ' ')}); give the host:port that "
            "`ray start --head` printed"
        ) from None


def _metadata(channel: Any, address: str, token: str) -> Any:
    request = _GCS.InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster")
    stub = gcs_service_pb2_grpc.InternalKVGcsServiceStub
    return _ask(channel, address, token, stub, "InternalKVGet", request)


def _token_asked_for(channel: Any, address: str) -> str:
    """Return the token that the cluster asks for, empty where it asks for none."""
    loader = AuthenticationTokenLoader.instance()
    if _metadata(channel, address, "") is not None:
        if has_token() and not loader.has_token(
            ignore_auth_mode=True
        ):  # Ray's own client would not go on
            raise UserError(
                f"the Ray cluster at {address} asks for no token, but RAY_AUTH_MODE=token is set "
                "here and there is none to send: leave RAY_AUTH_MODE out"
            )
        return ""
    refusal = f"the Ray cluster at {address} asks for a token that this process does not have"
    try:
        if not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            raise UserError(f"{refusal}: {_TOKEN_REMEDY}")
        token: str = loader.get_raw_token(ignore_auth_mode=True)
    except (AuthenticationError, RuntimeError) as error:
        why = one_line(error).partition(". ")[0]  # then Ray's own advice
        raise UserError(f"{refusal} ({why}): {_TOKEN_REMEDY}") from None
    if not token or _metadata(channel, address, token) is None:
        raise UserError(f"{refusal} (it has another one): {_TOKEN_REMEDY}")
    return token


def _check_version(channel: Any, address: str, token: str) -> None:
    told = _metadata(channel, address, token).value
    theirs, ours = json.loads(told) if told else {}, compute_version_info()
    versions = [theirs.get("ray_version", ours[0]), theirs.get("python_version", ours[1])]
    if versions != list(ours[:2]):
        raise UserError(
            f"the Ray cluster at {address} runs another version: Ray {versions[0]} with Python "
            f"{versions[1]}, here it is Ray {ours[0]} with Python {ours[1]}; use the same in both"
        )


def _check_node(channel: Any, address: str, token: str) -> None:
    """A driver talks to the cluster through a node on its own machine."""
    until = time.monotonic() + NODE_SECONDS
    request = _GCS.GetAllNodeInfoRequest()
    stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub
    while True:
        answer = _ask(channel, address, token, stub, "GetAllNodeInfo", request)
        nodes = {node.node_id.hex() for node in answer.node_info_list if node.state == _ALIVE}
        if nodes & set(find_node_ids()):
            return
        if time.monotonic() > until:
            raise UserError(
                f"the Ray cluster at {address} has no node on this machine: submit the job to it "
                "(`ray job submit --address http://…:8265`), or run it on one of its nodes"
            )
        time.sleep(0.5)
