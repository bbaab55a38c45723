"""What messages in the queue may ask for; kept apart from Redis, which most rooms never touch."""

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Topic(StrEnum):
    """What a message asks for."""

    INFER = "infer"
    DELIVER = "deliver"
    PRIORS = "priors"
    WEBHOOK = "webhook"


TARGETS: Final = MappingProxyType(
    {
        Topic.INFER: "workers.infer_job.run",
        Topic.DELIVER: "workers.deliver_job.run",
        Topic.PRIORS: "workers.priors_job.run",
        Topic.WEBHOOK: "workers.webhook_job.run",
    }
)
