"""Describers: what answers a request for a description. One small class each behind one table."""

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
