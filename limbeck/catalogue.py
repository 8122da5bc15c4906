"""What an installation can do, and the recipes it remembers: `client.methods`, `client.recipes`, ..."""

from __future__ import annotations

from urllib.parse import quote

from limbeck.api import Api, Document
from limbeck.documents import RecipeDocument
from limbeck.flow import Flow
from limbeck.operation import D, Resource, operation, stream


def _methods(api: Api, /, **filters: str) -> Flow[None]:
    """Transforms, distances, logit losses, normalisations and strategies; `kind="distance"` narrows."""
    return api.stream_pages("/methods", filters)


def _models(api: Api, /, **filters: str) -> Flow[None]:
    """Models that can be teachers and students; `q="resnet"` narrows."""
    return api.stream_pages("/models", filters)


def _datasets(api: Api, /) -> Flow[None]:
    """Data sets by name, with classes, channels and size."""
    return api.stream_pages("/datasets")


def _workers(api: Api, /) -> Flow[None]:
    """Workers and the devices they have."""
    return api.stream_pages("/workers")


def _recipes(api: Api, /, **filters: str) -> Flow[None]:
    """Stored recipes, newest first; `teacher=`, `student=` and `data=` narrow."""
    return api.stream_pages("/recipes", filters)


def _recipe(api: Api, /, recipe_id: str) -> Flow[RecipeDocument]:
    """One recipe. Raises NotFound."""
    answer = yield from api.get(f"/recipes/{quote(recipe_id, safe='')}")
    return RecipeDocument(answer)


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
