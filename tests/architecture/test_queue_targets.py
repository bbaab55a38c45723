"""The queue names functions as text; each is there and takes one row id."""

import importlib
import inspect

import pytest

from service.records.topics import TARGETS, Topic


def test_every_topic_has_a_target() -> None:
    assert set(TARGETS) == set(Topic)


@pytest.mark.parametrize("topic", TARGETS)
def test_a_target_can_be_called_with_one_id(topic: Topic) -> None:
    module, _, name = TARGETS[topic].rpartition(".")
    target = getattr(importlib.import_module(module), name)
    inspect.signature(target).bind("an-id")
