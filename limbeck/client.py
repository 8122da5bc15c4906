"""`Client` and `AsyncClient`: where Limbeck is, who asks, and how patient the asker is."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Generic, Self

import httpx

from limbeck.api import Api
from limbeck.catalogue import Datasets, Methods, Models, Recipes, Workers
from limbeck.drivers import Awaiting, Blocking
from limbeck.jobs import Jobs
from limbeck.operation import D
from limbeck.retry import RetryPolicy
from limbeck.version import VERSION

DEFAULT_ADDRESS = "http://127.0.0.1:8300"
DEFAULT_TIMEOUT_SECONDS = 30.0


class _Resources(Generic[D]):
    """The groups of operations that both clients have."""

    def __init__(self, api: Api, driver: D) -> None:
        self.jobs: Jobs[D] = Jobs(api, driver)
        self.methods: Methods[D] = Methods(api, driver)
        self.models: Models[D] = Models(api, driver)
        self.datasets: Datasets[D] = Datasets(api, driver)
        self.recipes: Recipes[D] = Recipes(api, driver)
        self.workers: Workers[D] = Workers(api, driver)


class Client(_Resources[Blocking]):
    """Limbeck from Python.

        with Client() as client:
            job = client.jobs.create(teacher="test_resnet", student="test_efficientnet", budget={"trials": 4})
            print(job.wait().report().verdict.sentence)

    Without arguments the environment says where and who: `LIMBECK_URL` (default http://127.0.0.1:8300) and
    `LIMBECK_API_KEY`. `timeout` is in seconds per request. A call that gets no answer, or "not now", is
    repeated up to `max_retries` times with growing pauses; every POST carries an Idempotency-Key, so that
    repeating it is safe. `wait_for_worker_seconds`: how long to submit against a server without workers yet.
    May be shared between threads.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        max_retries: int = 3,
        wait_for_worker_seconds: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = _address(base_url)
        http = httpx.Client(**_connection(self.base_url, api_key, timeout), transport=transport)
        api = _api(max_retries, wait_for_worker_seconds)
        self._driver = Blocking(http)
        super().__init__(api, self._driver)

    def close(self) -> None:
        """Close all connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Resources[Awaiting]):
    """Limbeck from asyncio: what `Client` has, awaited; lists and events are asynchronous iterators.

    async with AsyncClient() as client:
        job = await client.jobs.create(teacher="test_resnet", student="test_efficientnet")
        async for event in job.events():
            print(event.message)
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        max_retries: int = 3,
        wait_for_worker_seconds: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = _address(base_url)
        http = httpx.AsyncClient(**_connection(self.base_url, api_key, timeout), transport=transport)
        api = _api(max_retries, wait_for_worker_seconds)
        self._driver = Awaiting(http)
        super().__init__(api, self._driver)

    async def close(self) -> None:
        """Close all connections."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _address(base_url: str | None) -> str:
    return (base_url or os.environ.get("LIMBECK_URL") or DEFAULT_ADDRESS).rstrip("/")


def _connection(address: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    key = os.environ.get("LIMBECK_API_KEY") if api_key is None else api_key
    headers = {"user-agent": f"limbeck/{VERSION}", "accept": "application/json, application/problem+json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    return {
        "base_url": address,
        "headers": headers,
        "timeout": httpx.Timeout(timeout, connect=5.0),
        # A proxy for the outside world must not come between a client and its own machine.
        "trust_env": not _is_loopback(address),
    }


def _is_loopback(address: str) -> bool:
    return httpx.URL(address).host in ("127.0.0.1", "localhost", "::1")


def _api(max_retries: int, wait_for_worker_seconds: float) -> Api:
    return Api(RetryPolicy(max_retries=max_retries, wait_for_worker_seconds=wait_for_worker_seconds))
