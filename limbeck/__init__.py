"""Limbeck's client: submit distillation searches, watch them, fetch what they found.

from limbeck import Client

job = Client().jobs.create(teacher="test_resnet", student="test_efficientnet", data="digits")
print(job.wait().report().verdict.sentence)
"""

from limbeck.client import AsyncClient, Client
from limbeck.documents import Artifact, Event, MetricRow, RecipeDocument, Report, Trial
from limbeck.errors import (
    ApiError,
    ChecksumMismatch,
    Conflict,
    ConnectionFailed,
    Fault,
    Forbidden,
    InvalidRequest,
    InvalidSpec,
    JobFailed,
    LimbeckError,
    NotFound,
    RateLimited,
    ServerError,
    ServiceUnavailable,
    TimedOut,
    TooLarge,
    Unauthorized,
    WaitTimeout,
)
from limbeck.jobs import Job
from limbeck.submission import UnreadableSpec
from limbeck.version import VERSION

__version__ = VERSION

__all__ = [
    "ApiError",
    "Artifact",
    "AsyncClient",
    "ChecksumMismatch",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Event",
    "Fault",
    "Forbidden",
    "InvalidRequest",
    "InvalidSpec",
    "Job",
    "JobFailed",
    "LimbeckError",
    "MetricRow",
    "NotFound",
    "RateLimited",
    "RecipeDocument",
    "Report",
    "ServerError",
    "ServiceUnavailable",
    "TimedOut",
    "TooLarge",
    "Trial",
    "Unauthorized",
    "UnreadableSpec",
    "WaitTimeout",
    "__version__",
]
