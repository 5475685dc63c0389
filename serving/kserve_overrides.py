"""Overrides of KServe's REST endpoints and data plane."""

import logging
import warnings
from typing import Any, NoReturn

import orjson
from fastapi import FastAPI
from fastapi.exceptions import FastAPIDeprecationWarning, RequestValidationError
from fastapi.responses import JSONResponse
from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER
from kserve.errors import ModelNotFound
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serving.documents import BadRequest
from serving.predictor_client import PredictorTimeout, PredictorUnavailable

UTF8_MARK = b"\xef\xbb\xbf"

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
                if protocol_version == "v2":
                    body = InferenceRequest.model_validate_json(body)
                else:
                    return self.decode_cloudevent(orjson.loads(body))
            if isinstance(body, InferenceRequest):
                # Names are repeated in the answer, which half a surrogate pair ("\\ud800" in JSON) would break.
                "".join([body.id or "", *(tensor.name for tensor in body.inputs + (body.outputs or []))]).encode()
            return super().decode(body, headers, protocol_version, model_name)
        except Exception as error:
            raise BadRequest(f"The request cannot be read: {error}") from error

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
            NoSuchModel: this server has no model of this name.
        """
        if not self.model_registry.get_model(model_name):
            raise NoSuchModel(model_name)
        ready = await super().model_ready(model_name, True)
        if not disable_predictor_health_check:
            self.model_registry.get_model(model_name).check_ready()
        return ready


class NoSuchModel(ModelNotFound):
    """A separate class because KServe replaces our handler of ModelNotFound."""


class FixedRepository(ModelRepositoryExtension):
    """Refuses the repository API, with which any client could unload the model."""

    async def load(self, model_name: str) -> NoReturn:
        raise BadRequest("This server has one model, which cannot be loaded or unloaded.")

    unload = load


def add_error_handlers(app: FastAPI) -> None:
    """Return every error as {"error": "..."} and log it in one line; KServe would log a traceback."""

    def answer(request: Request, status: int, message: str, headers: Any = None) -> JSONResponse:
        log.warning("%s %s: %d %s", request.method, request.url.path, status, message)
        return JSONResponse({"error": message}, status, headers)

    async def malformed_v2(request: Request, error: Any) -> JSONResponse:
        return answer(request, 400, "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()))

    async def http_error(request: Request, error: Any) -> JSONResponse:
        return answer(request, error.status_code, error.detail, error.headers)

    async def bad_request(request: Request, error: Any) -> JSONResponse:
        return answer(request, 400, error.reason)

    async def no_such_model(request: Request, error: Any) -> JSONResponse:
        return answer(request, 404, error.reason)

    async def predictor_unavailable(request: Request, error: Any) -> JSONResponse:
        return answer(request, 503, error.reason)

    async def predictor_timeout(request: Request, error: Any) -> JSONResponse:
        return answer(request, 504, error.details)

    app.add_exception_handler(RequestValidationError, malformed_v2)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(BadRequest, bad_request)
    app.add_exception_handler(NoSuchModel, no_such_model)
    app.add_exception_handler(PredictorUnavailable, predictor_unavailable)
    app.add_exception_handler(PredictorTimeout, predictor_timeout)


def refuse_other_methods(app: FastAPI) -> None:
    """Return 405 for GET ...:predict, which KServe treats as a readiness request for a model named "...:predict"."""

    async def not_allowed(model_name: str, verb: str) -> None:
        raise HTTPException(405, "Method Not Allowed", {"Allow": "POST"})

    methods = ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]
    app.add_api_route("/v1/models/{model_name}:{verb}", not_allowed, methods=methods, include_in_schema=False)


def silence_deprecations() -> None:
    warnings.simplefilter("ignore", FastAPIDeprecationWarning)  # of KServe's ORJSONResponse, twice per request
