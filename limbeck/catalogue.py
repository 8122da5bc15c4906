"""What an installation can do, and the recipes it remembers: `client.methods`, `client.recipes`, ..."""

from __future__ import annotations

from urllib.parse import quote

from limbeck.api import Api, Document
from limbeck.documents import RecipeDocument
from limbeck.flow import Flow
from limbeck.operation import D, Resource, operation, stream


def _methods(api: Api, /, **filters: str) -> Flow[None]:
    """Transforms, distances, logit losses, augmentations, strategies and more; `kind="distance"` narrows."""
    return api.stream_pages("/methods", filters)


def _models(api: Api, /, **filters: str) -> Flow[None]:
    """Models that can be teachers and students; `q="resnet"` narrows."""
    return api.stream_pages("/models", filters)


def _datasets(api: Api, /, **filters: str) -> Flow[None]:
    """Data sets by name, with classes, channels and size; `q="cifar"` narrows."""
    return api.stream_pages("/datasets", filters)


def _workers(api: Api, /, **filters: str) -> Flow[None]:
    """Live workers and the devices they have; `state="all"` shows those that are gone, too."""
    return api.stream_pages("/workers", filters)


def _recipes(api: Api, /) -> Flow[None]:
    """Stored recipes, newest first, without their documents."""
    return api.stream_pages("/recipes")


def _recipe(api: Api, /, recipe_id: str) -> Flow[RecipeDocument]:
    """One recipe's document. Raises NotFound."""
    answer = yield from api.get(f"/recipes/{quote(recipe_id, safe='')}")
    return RecipeDocument(answer["document"])


class Methods(Resource[D]):
    """`client.methods`."""

    list = stream(_methods, Document)


class Models(Resource[D]):
    """`client.models`."""

    list = stream(_models, Document)


class Datasets(Resource[D]):
    """`client.datasets`."""

    list = stream(_datasets, Document)


class Workers(Resource[D]):
    """`client.workers`."""

    list = stream(_workers, Document)


class Recipes(Resource[D]):
    """`client.recipes`."""

    list = stream(_recipes, Document)
    get = operation(_recipe)
