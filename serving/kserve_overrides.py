"""KServe's REST endpoints and data plane, where they do otherwise than a client and an operator need."""

import logging
import warnings

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

from serving.documents import BadRequest
from serving.predictor import PredictorTimeout, PredictorUnavailable

UTF8_MARK = b"\xef\xbb\xbf"

log = logging.getLogger("kserve.transformer")  # below KServe's own logger, whose format and level it takes


class JsonDataPlane(DataPlane):
    """KServe's data plane, but a body is JSON whatever its Content-Type says, and an unreadable body is a 400.

    KServe itself hands a body with another Content-Type to the model as bytes (`curl -d` sends
    application/x-www-form-urlencoded), and answers 500 where its parser trips over a malformed tensor.
    """

    def decode(self, body, headers, protocol_version="v1", model_name=None):
        try:
            if isinstance(body, bytes) and INFERENCE_CONTENT_LENGTH_HEADER not in headers and "ce-id" not in headers:
                body = body.removeprefix(UTF8_MARK)
                if protocol_version == "v2":
                    body = InferenceRequest.model_validate_json(body)
                else:
                    return self.decode_cloudevent(orjson.loads(body))
            if isinstance(body, InferenceRequest):
                # Names come back in the answer, which half a surrogate pair ("\\ud800" in JSON) would break.
                "".join([body.id or "", *(tensor.name for tensor in body.inputs + (body.outputs or []))]).encode()
            return super().decode(body, headers, protocol_version, model_name)
        except Exception as error:
            raise BadRequest(f"The request cannot be read: {error}") from error

    async def ready(self) -> bool:
        for model in self.model_registry.get_models():
            await self.model_ready(model)
        return True

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = False) -> bool:
        """Whether the model should get requests; a request that is there asks without the predictor's health.

        Raises:
            PredictorUnavailable: it should not, because of its predictor.
            NoSuchModel: it is another server's.
        """
        if not self.model_registry.get_model(model_name):
            raise NoSuchModel(model_name)
        ready = await super().model_ready(model_name, True)
        if not disable_predictor_health_check:
            self.model_registry.get_model(model_name).check_ready()
        return ready


class NoSuchModel(ModelNotFound):
    """A class of its own, because KServe sets its handler of ModelNotFound after ours."""


class FixedRepository(ModelRepositoryExtension):
    """One model for the life of the process: KServe's repository API would let any client unload it."""

    async def load(self, model_name: str):
        raise BadRequest("This server serves one model, which can be neither loaded nor unloaded.")

    unload = load


def add_error_handlers(app: FastAPI):
    """Answer every error as {"error": "..."}, and log it in a line: KServe would log a traceback for each."""

    def answer(request, status: int, message: str, headers: dict | None = None) -> JSONResponse:
        log.warning("%s %s: %d %s", request.method, request.url.path, status, message)
        return JSONResponse({"error": message}, status, headers)

    async def malformed_v2(request, error):
        return answer(request, 400, "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()))

    async def http_error(request, error):
        return answer(request, error.status_code, error.detail, error.headers)

    async def bad_request(request, error):
        return answer(request, 400, error.reason)

    async def no_such_model(request, error):
        return answer(request, 404, error.reason)

    async def predictor_unavailable(request, error):
        return answer(request, 503, error.reason)

    async def predictor_timeout(request, error):
        return answer(request, 504, error.details)

    app.add_exception_handler(RequestValidationError, malformed_v2)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(BadRequest, bad_request)
    app.add_exception_handler(NoSuchModel, no_such_model)
    app.add_exception_handler(PredictorUnavailable, predictor_unavailable)
    app.add_exception_handler(PredictorTimeout, predictor_timeout)


def refuse_other_methods(app: FastAPI):
    """Answer 405 where KServe takes GET ...:predict for a question about a model of the name "...:predict"."""

    async def not_allowed(model_name: str, verb: str):
        raise HTTPException(405, "Method Not Allowed", {"Allow": "POST"})

    methods = ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]
    app.add_api_route("/v1/models/{model_name}:{verb}", not_allowed, methods=methods, include_in_schema=False)


def silence_deprecations():
    warnings.simplefilter("ignore", FastAPIDeprecationWarning)  # KServe's ORJSONResponse, twice a request
