"""The files of a job: the student, the teacher, the recipe, logs."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse

from service import resources
from service.dependencies import ArtifactDep, JobDep, ServicesDep, StoreDep
from service.files import PathOutsideRootError
from service.paging import DEFAULT_LIMIT, After, Limit, part_of
from service.problems import Code, Problem, documented
from service.ranges import RangeNotSatisfiableError, asked_range
from service.store import artifacts, tables

router = APIRouter(prefix="/v1", tags=["results"])
_NOT_PLAIN = re.compile(r"[^ A-Za-z0-9_.()+-]")
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file. `ETag` is its SHA-256; ranges are supported.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {"description": "The range that was asked for."},
    304: {"description": "Not changed since the `If-None-Match` that was sent."},
    **documented(Code.JOB_NOT_FOUND, Code.ARTIFACT_NOT_FOUND, Code.ARTIFACT_GONE, Code.RANGE_NOT_SATISFIABLE),
}


class ArtifactList(resources.ListOf[resources.Artifact]):
    """A page of a job's files."""


@router.get("/jobs/{job_id}/artifacts", responses=documented(Code.JOB_NOT_FOUND))
def list_artifacts(
    job: JobDep, store: StoreDep, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> ArtifactList:
    """The job's files, with size and checksum."""
    with store.session() as session:
        rows = artifacts.list_for_job(session, job_id=job.id)
    shown, has_more = part_of(rows, key=lambda row: row.id, after=after, limit=limit)
    cursor = shown[-1].id if shown else None
    return ArtifactList.of([resources.Artifact.of(row) for row in shown], has_more=has_more, cursor=cursor)


@router.get("/jobs/{job_id}/artifacts/{artifact_id}", response_class=Response, responses=CONTENT)
def download_artifact(
    request: Request,
    artifact: ArtifactDep,
    services: ServicesDep,
    range_header: Annotated[str | None, Header(alias="Range", description="`bytes=first-last`.")] = None,
    if_none_match: Annotated[str | None, Header()] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """The file's content."""
    size = _size(artifact, services)
    headers = _headers(artifact)
    if if_none_match and headers["ETag"] in if_none_match.replace("W/", ""):
        return Response(status_code=304, headers=headers)
    try:
        part = asked_range(range_header if if_range in (None, headers["ETag"]) else None, size=size)
    except RangeNotSatisfiableError:
        raise Problem(
            Code.RANGE_NOT_SATISFIABLE,
            f"The file has {size} bytes.",
            headers={"Content-Range": f"bytes */{size}"},
        ) from None
    start, end = (part.start, part.end) if part else (0, size)
    headers["Content-Length"] = str(end - start)
    if part:
        headers["Content-Range"] = part.content_range
    status = 206 if part else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    content = services.artifact_root.open_range(artifact.path, start=start, end=end)
    return StreamingResponse(content, status_code=status, headers=headers)


router.add_api_route(
    "/jobs/{job_id}/artifacts/{artifact_id}", download_artifact, methods=["HEAD"], include_in_schema=False
)


def _size(artifact: tables.Artifact, services: ServicesDep) -> int:
    try:
        size = services.artifact_root.size(artifact.path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PathOutsideRootError):
        size = -1
    if size != artifact.bytes:
        raise Problem(
            Code.ARTIFACT_GONE,
            f"The file {artifact.name!r} is gone, or is not as it was written.",
        )
    return size


def _headers(artifact: tables.Artifact) -> dict[str, str]:
    plain_name = _NOT_PLAIN.sub("_", artifact.name)
    full_name = quote(artifact.name, safe="")
    return {
        "ETag": f'"{artifact.sha256}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"attachment; filename=\"{plain_name}\"; filename*=UTF-8''{full_name}",
        "Cache-Control": "private, no-cache",
    }
