"""Overrides of KServe's REST endpoints and data plane."""

import contextlib
import logging
import re
import warnings
from collections.abc import Awaitable, Sequence
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import quote

import orjson
from fastapi import FastAPI
from fastapi.exceptions import FastAPIDeprecationWarning, RequestValidationError
from fastapi.responses import JSONResponse
from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER
from kserve.errors import ModelNotFound
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from model.request_texts import CLOUD_EVENT, UTF8_MARK
from serving.bodies import BadBody
from serving.documents import BadRequest
from serving.predictor_client import PredictorTimeout, PredictorUnavailable

VERB = re.compile("^/v1/models/[^/:]*:([^/]*)$")
NO_VERSIONS = "This server has one version of the model: leave the version out."

log = logging.getLogger("kserve.transformer")  # inherits format and level from KServe's logger


class JsonDataPlane(DataPlane):
    """KServe's data plane, but a body is JSON whatever its Content-Type, and an unreadable body is a 400.

    KServe passes a body with another Content-Type to the model as bytes (`curl -d` sends
    application/x-www-form-urlencoded), and returns 500 if its parser fails on a malformed tensor.
    """

    def decode(
        self, body: Any, headers: dict[str, str], protocol_version: str = "v1", model_name: str | None = None
    ) -> tuple[Any, dict[str, Any]]:
        try:
            if isinstance(body, bytes) and INFERENCE_CONTENT_LENGTH_HEADER not in headers and "ce-id" not in headers:
                body = body.removeprefix(UTF8_MARK)
                if protocol_version == "v1":
                    return self.decode_cloudevent(orjson.loads(body))
                body = InferenceRequest.model_validate_json(body)
            if isinstance(body, InferenceRequest):
                # Names are repeated in the answer, which half a surrogate pair ("\\ud800" in JSON) would break.
                "".join([body.id or "", *(tensor.name for tensor in body.inputs + (body.outputs or []))]).encode()
            return super().decode(body, headers, protocol_version, model_name)
        except ValidationError as error:
            raise malformed_v2(error.errors(include_input=False), is_v1(body)) from error
        except Exception as error:
            raise BadRequest(f"The request cannot be read: {error}", "The request cannot be read.") from error

    def decode_cloudevent(self, body: Any) -> tuple[Any, dict[str, Any]]:
        if isinstance(body, dict) and body.keys() >= CLOUD_EVENT:
            body = {"time": None, **body}  # optional in CloudEvents 1.0, but KServe requires it
        return super().decode_cloudevent(body)

    async def ready(self) -> bool:
        for model in self.model_registry.get_models():
            await self.model_ready(model)
        return True

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """Whether the model should get requests.

        Args:
            disable_predictor_health_check: set by KServe when it handles a request.

        Raises:
            PredictorUnavailable: the predictor is not ready.
            ModelNotFound: this server has no model of this name.
        """
        if not self.model_registry.get_model(model_name):
            raise ModelNotFound(model_name)
        ready = await super().model_ready(model_name, True)
        if not disable_predictor_health_check:
            self.model_registry.get_model(model_name).check_ready()
        return ready


def malformed_v2(errors: Sequence[Any], is_v1: bool) -> BadRequest:
    """The error for a malformed v2 request, from pydantic's errors."""
    if is_v1:
        return BadRequest(
            'This is a v1 request: send it to /v1/models/NAME:predict. The v2 protocol expects {"inputs": [...]}.'
        )
    described = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in errors[:3])
    types = ", ".join(sorted({error["type"] for error in errors}))  # pydantic's names, such as list_type
    return BadRequest(f"The request is not of the v2 protocol: {described}", f"Malformed v2 request ({types})")


def is_v1(body: Any) -> bool:
    """Whether a body, in JSON or decoded, is a v1 request."""
    if isinstance(body, bytes):
        with contextlib.suppress(ValueError):
            body = orjson.loads(body)
    return isinstance(body, dict) and "instances" in body and "inputs" not in body


class FixedRepository(ModelRepositoryExtension):
    """Refuses the repository API, with which any client could unload the model."""

    async def load(self, model_name: str) -> NoReturn:
        raise BadRequest("This server has one model, which cannot be loaded or unloaded.")

    unload = load


def answer(request: Request, status: int, reason: str, logged: str | None = None, headers: Any = None) -> JSONResponse:
    """An error response, and its line in the log.

    Args:
        logged: instead of the reason, if that quotes what the client sent.
    """
    log.warning("%s %s: %d %s", request.method, quote(request.url.path, "/:"), status, logged or reason)
    return JSONResponse({"error": reason}, status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Return every error as {"error": "..."} and log it in one line; KServe would log a traceback."""

    async def bad_request(request: Request, error: Any) -> JSONResponse:
        return answer(request, 400, error.reason, error.logged)

    async def malformed(request: Request, error: Any) -> JSONResponse:
        # FastAPI tries the body as InferenceRequest and as bytes, and reports both.
        errors = [item for item in error.errors() if item["loc"][1:2] != ("bytes",)]
        for item in errors:
            item["loc"] = [part for part in item["loc"] if part not in ("body", "InferenceRequest")]
        return await bad_request(request, malformed_v2(errors, is_v1(error.body)))

    async def http_error(request: Request, error: Any) -> JSONResponse:
        if error.status_code in (404, 405):
            return wrong_address(request, error.status_code)
        logged = HTTPStatus(error.status_code).phrase if isinstance(error, BadBody) else error.detail
        return answer(request, error.status_code, error.detail, logged, error.headers)

    async def no_such_model(request: Request, error: Any) -> JSONResponse:
        if request.method == "GET" and VERB.search(request.url.path):  # KServe takes the verb for a part of the name
            return wrong_address(request, 405)
        return answer(request, 404, error.reason)

    async def predictor_unavailable(request: Request, error: Any) -> JSONResponse:
        return answer(request, 503, error.reason)

    async def predictor_timeout(request: Request, error: Any) -> JSONResponse:
        return answer(request, 504, error.details)

    async def no_versions(request: Request, error: Any) -> JSONResponse:
        return answer(request, 501, NO_VERSIONS)

    async def disconnected(request: Request, error: Any) -> Response:
        return Response()  # nobody receives it

    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(BadRequest, bad_request)
    app.add_exception_handler(ModelNotFound, no_such_model)
    app.add_exception_handler(PredictorUnavailable, predictor_unavailable)
    app.add_exception_handler(PredictorTimeout, predictor_timeout)
    app.add_exception_handler(NotImplementedError, no_versions)
    app.add_exception_handler(ClientDisconnect, disconnected)


def wrong_address(request: Request, status: int) -> JSONResponse:
    """The response to a path without a route, 404, or without one for the method, 405."""
    verb = VERB.search(request.url.path)
    if verb and verb[1] not in ("predict", "explain"):
        reason = f"There is no :{verb[1]}; use :predict or :explain."
        return answer(request, 404, reason, "neither :predict nor :explain")
    headers = {"Allow": ", ".join(allowed_methods(request))} if status == 405 else None
    return answer(request, status, HTTPStatus(status).phrase, headers=headers)


def replace_error_handlers(rest_server: RESTServer) -> None:
    """Add our error handlers after KServe's, of which some are for the same exceptions."""
    add_kserves = rest_server._add_exception_handlers

    def add_both(app: FastAPI) -> None:
        add_kserves(app)
        add_error_handlers(app)

    rest_server._add_exception_handlers = add_both


def allowed_methods(request: Request) -> list[str]:
    """The methods of all routes of the request's path; with GET there is HEAD."""
    if VERB.search(request.url.path):
        return ["POST"]  # KServe's GET route takes the verb for a part of the model's name
    scopes = {method: {**request.scope, "method": method} for method in ("GET", "POST")}
    routes = request.app.routes
    methods = [m for m in scopes if any(route.matches(scopes[m])[0] == Match.FULL for route in routes)]
    return [*methods, *(["HEAD"] if "GET" in methods else [])]


class HeadAsGet:
    """ASGI middleware that answers HEAD like GET; uvicorn leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        return self.app(scope, receive, send)


def silence_deprecations() -> None:
    warnings.simplefilter("ignore", FastAPIDeprecationWarning)  # of KServe's ORJSONResponse, twice per request
