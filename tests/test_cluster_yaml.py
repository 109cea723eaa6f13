"""cluster.yaml passes Ray's own validation, offline; broken copies of it do not."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from runs import REPOSITORY


def shipped() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())
    return config


def test_ray_accepts_it() -> None:
    validate_config(prepare_config(shipped()))


def test_ray_refuses_an_unknown_head_type() -> None:
    with pytest.raises(Exception, match="head_node_type"):
        validate_config(prepare_config(shipped() | {"head_node_type": "nothing"}))


def test_ray_refuses_an_unknown_key() -> None:
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(shipped() | {"max_worker": 4}))


def test_what_it_sends_to_the_nodes_is_in_the_repository() -> None:
    mounts = shipped()["file_mounts"]
    assert mounts.pop("/home/ubuntu/.ray/auth_token") == "~/.ray/auth_token"  # the laptop's own
    for local in mounts.values():
        assert (REPOSITORY / local).is_file()


def test_ray_asks_for_the_token_on_every_node() -> None:
    for of in ("head_start_ray_commands", "worker_start_ray_commands"):
        [start] = [command for command in shipped()[of] if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
