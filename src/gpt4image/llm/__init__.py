"""Describers: what answers a request for a description. One small class each behind one table."""

from gpt4image.llm.base import (
    Describer,
    DescribeRequest,
    EndpointDownError,
    PushbackError,
    Reply,
    RequestFailedError,
    Sampling,
)

__all__ = [
    "DescribeRequest",
    "Describer",
    "EndpointDownError",
    "PushbackError",
    "Reply",
    "RequestFailedError",
    "Sampling",
]
