"""How a flow becomes a method: on `Client` it returns a value, on `AsyncClient` an awaitable.

    class Jobs(Resource[D]):
        cancel = job_operation(flows.cancel)      # def cancel(api, job_id) -> Flow[Document]

    Client().jobs.cancel("job_...")               # -> Job[Blocking]
    await AsyncClient().jobs.cancel("job_...")    # -> Job[Awaiting]

The descriptors' overloads tell type checkers the same; parameters and documentation are the flow's own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from limbeck.api import Api, Document
from limbeck.drivers import Awaiting, Blocking
from limbeck.flow import Emit, Flow

if TYPE_CHECKING:
    from limbeck.jobs import Job

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D", bound=Blocking | Awaiting)


class Resource(Generic[D]):
    """A group of operations; what every operation is given first is `leading`."""

    def __init__(self, api: Api, driver: D) -> None:
        self.api = api
        self.driver: D = driver

    @property
    def leading(self) -> tuple[Any, ...]:
        """First arguments of every flow of this resource."""
        return (self.api,)

    def job(self, document: Document) -> Job[D]:
        """The handle of a job; resources whose operations return jobs say how it is made."""
        raise NotImplementedError(type(self).__name__)


class _Described:
    def __init__(self, flow: Callable[..., Flow[Any]]) -> None:
        self.flow = flow
        self.__doc__ = flow.__doc__
        self.__wrapped__ = flow

    def method(self, instance: Resource[Any], carry_out: Callable[[Flow[Any]], Any]) -> Any:
        @functools.wraps(self.flow)
        def call(*args: Any, **kwargs: Any) -> Any:
            return carry_out(self.flow(*instance.leading, *args, **kwargs))

        signature = inspect.signature(self.flow)
        own = list(signature.parameters.values())[len(instance.leading) :]
        call.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        return call


class Operation(_Described, Generic[P, T]):
    """A method that returns what its flow returns."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Resource[Blocking], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: Resource[Awaiting], owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, instance: Resource[Any] | None, owner: type) -> Any:
        return self if instance is None else self.method(instance, instance.driver.run)


class Stream(_Described, Generic[P, T]):
    """A method that returns an iterator over what its flow emits."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Resource[Blocking], owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, instance: Resource[Awaiting], owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, instance: Resource[Any] | None, owner: type) -> Any:
        return self if instance is None else self.method(instance, instance.driver.iterate)


class JobOperation(_Described, Generic[P]):
    """A method whose flow returns a job's document; the caller gets a Job."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Resource[Blocking], owner: type) -> Callable[P, Job[Blocking]]: ...
    @overload
    def __get__(self, instance: Resource[Awaiting], owner: type) -> Callable[P, Awaitable[Job[Awaiting]]]: ...
    def __get__(self, instance: Resource[Any] | None, owner: type) -> Any:
        if instance is None:
            return self
        return self.method(instance, lambda flow: instance.driver.run(_returning_job(instance, flow)))


class JobStream(_Described, Generic[P]):
    """A method whose flow emits jobs' documents; the caller gets an iterator of Jobs."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Resource[Blocking], owner: type) -> Callable[P, Iterator[Job[Blocking]]]: ...
    @overload
    def __get__(
        self, instance: Resource[Awaiting], owner: type
    ) -> Callable[P, AsyncIterator[Job[Awaiting]]]: ...
    def __get__(self, instance: Resource[Any] | None, owner: type) -> Any:
        if instance is None:
            return self
        return self.method(instance, lambda flow: instance.driver.iterate(_emitting_jobs(instance, flow)))


def _returning_job(instance: Resource[Any], flow: Flow[Document]) -> Flow[Job[Any]]:
    document = yield from flow
    return instance.job(document)


def _emitting_jobs(instance: Resource[Any], flow: Flow[None]) -> Flow[None]:
    outcome: Any = None
    try:
        effect = next(flow)
        while True:
            if isinstance(effect, Emit):
                effect = Emit(instance.job(effect.item))
            try:
                outcome = yield effect
            except Exception as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(outcome)
    except StopIteration:
        return


def operation(flow: Callable[Concatenate[Api, P], Flow[T]]) -> Operation[P, T]:
    """A method of a resource."""
    return Operation(flow)


def stream(flow: Callable[Concatenate[Api, P], Flow[None]], _item: type[T]) -> Stream[P, T]:
    """A method of a resource that iterates over items of that type."""
    return Stream(flow)


def job_operation(flow: Callable[Concatenate[Api, P], Flow[Document]]) -> JobOperation[P]:
    """A method of a resource that returns a job."""
    return JobOperation(flow)


def job_stream(flow: Callable[Concatenate[Api, P], Flow[None]]) -> JobStream[P]:
    """A method of a resource that iterates over jobs."""
    return JobStream(flow)
