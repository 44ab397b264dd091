"""A small client of the service: publish sequences, read predictions and dead letters, await the answers of a run."""

from __future__ import annotations

from virnucpro_client.answers import Answer
from virnucpro_client.client import Client, Limits, Topics
from virnucpro_client.errors import BrokerUnavailable, ClientError, PublishFailed, Unanswered
from virnucpro_client.runs import Run

__all__ = [
    "Answer",
    "BrokerUnavailable",
    "Client",
    "ClientError",
    "Limits",
    "PublishFailed",
    "Run",
    "Topics",
    "Unanswered",
]
