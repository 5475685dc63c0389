"""The page at /ui, where people try texts: the files of serving/ui/, a description of the model, the training report."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import Receive, Scope, Send

from model.artefacts import METRIC_MEANINGS, Summary

FOLDER = Path(__file__).with_name("ui")
PAGE = "page.html"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    # Nothing inline, and nothing from other sites; markup can be assigned to no element.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
# The report is one file with inline scripts; its texts are escaped by its template.
REPORT_HEADERS = HEADERS | {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}


class PageRoute(BaseRoute):
    """The route of everything below /ui and, for requests that accept HTML, of /.

    It compares two strings where a route of Starlette would match a pattern, because KServe's routes come later.
    """

    def __init__(self, routes: list[Route]) -> None:
        self.router = Router(routes, redirect_slashes=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = scope["path"]
        if path.startswith("/ui") or (path == "/" and "text/html" in Headers(scope=scope).get("accept", "")):
            return Match.FULL, {}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.router(scope, receive, send)


def add_page(
    app: FastAPI, name: str, version: str, summary: Summary | None, report: Path, limits: dict[str, int]
) -> None:
    """Serve the page and redirect browsers to it from /.

    All its addresses are relative, so it works below any path prefix.

    Args:
        summary: the content of clusters.json.
        report: the path of the training report; it is served if it exists and describes the same training run.
        limits: the largest number of documents and of bytes in a request.
    """
    has_report = summary is not None and is_report_of(report, summary)
    content = {"model": name, "version": version, "limits": limits, "report": has_report, "summary": public(summary)}

    async def page(request: Request) -> Response:
        return RedirectResponse("ui", headers={"Vary": "Accept"})

    async def without_slash(request: Request) -> Response:
        return RedirectResponse("../ui")

    async def model(request: Request) -> Response:
        return JSONResponse(content, headers=HEADERS)

    files = [path for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA_TYPES and path.name != PAGE]
    routes = [Route("/", page), Route("/ui", serve(FOLDER / PAGE)), Route("/ui/", without_slash)]
    routes += [Route(f"/ui/{path.name}", serve(path)) for path in files]
    routes.append(Route("/ui/model.json", model))
    if has_report:
        routes.append(Route("/ui/report.html", serve(report, REPORT_HEADERS)))
    app.router.routes.append(PageRoute(routes))


def serve(path: Path, headers: dict[str, str] = HEADERS) -> Callable[[Request], Awaitable[Response]]:
    async def response(request: Request) -> Response:
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers=headers)

    return response


def public(summary: Summary | None) -> Summary | None:
    """The parts of a summary that the page shows: without centroids, which are most of it."""
    if summary is None:
        return None
    clusters = [{key: cluster[key] for key in cluster if key != "centroid"} for cluster in summary["clusters"]]
    parts = ("created", "dataset", "settings", "metrics", "versions", "baseline")
    return {**{part: summary[part] for part in parts}, "clusters": clusters, "metric_meanings": METRIC_MEANINGS}


def is_report_of(report: Path, summary: Summary) -> bool:
    """Whether a report exists and describes the same training run as a summary."""
    tag = f'<meta name="created" content="{summary["created"]}">'
    return report.is_file() and tag in report.read_text(encoding="utf-8", errors="replace")
