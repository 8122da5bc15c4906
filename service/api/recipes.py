"""The library: all stored recipes."""

from __future__ import annotations

from fastapi import APIRouter

from service import resources
from service.dependencies import RecipeDep, StoreDep
from service.paging import DEFAULT_LIMIT, After, Limit
from service.problems import Code, documented
from service.store import recipes

router = APIRouter(prefix="/v1", tags=["library"])


class RecipeList(resources.ListOf[resources.StoredRecipe]):
    """A page of recipes, newest first."""


@router.get("/recipes")
def list_recipes(store: StoreDep, limit: Limit = DEFAULT_LIMIT, after: After = None) -> RecipeList:
    """Stored recipes, newest first, without their documents."""
    with store.session() as session:
        page = recipes.list_page(session, after=after, limit=limit)
    shown = [resources.StoredRecipe.of(row, with_document=False) for row in page.rows]
    return RecipeList.of(shown, has_more=page.has_more, cursor=shown[-1].id if shown else None)


@router.get("/recipes/{recipe_id}", responses=documented(Code.RECIPE_NOT_FOUND))
def get_recipe(recipe: RecipeDep) -> resources.StoredRecipe:
    """One recipe, with its document."""
    return resources.StoredRecipe.of(recipe, with_document=True)
