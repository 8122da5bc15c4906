"""Request bodies: read raw, so that they are parsed strictly and can be fingerprinted."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from service.problems import Code, Problem


async def read_body(request: Request) -> bytes:
    """The body, whose size the middleware bounds. Raises Problem 415 for a body that is not JSON.

    The check also keeps pages of other sites out: browsers send them JSON only after asking first.
    """
    body = await request.body()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and kind != "application/json" and not kind.endswith("+json"):
        found = f"not `{kind[:100]}`" if kind else "which is missing"
        raise Problem(
            Code.UNSUPPORTED_MEDIA_TYPE, f"Send the header `Content-Type: application/json`, {found}."
        )
    return body


Body = Annotated[bytes, Depends(read_body)]
