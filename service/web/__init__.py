"""The pages: readable without JavaScript, live with it. `router` is all that the application needs."""

from service.web.pages import router

__all__ = ["router"]
