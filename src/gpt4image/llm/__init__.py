"""Clients of multimodal models: servers with OpenAI's protocol, batch interfaces, models in this process."""

from gpt4image.llm.base import (
    Describer,
    DescribeRequest,
    EndpointDownError,
    RateLimitedError,
    Reply,
    RequestFailedError,
    Sampling,
)

__all__ = [
    "DescribeRequest",
    "Describer",
    "EndpointDownError",
    "RateLimitedError",
    "Reply",
    "RequestFailedError",
    "Sampling",
]
