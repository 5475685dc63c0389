"""KServe's model server, where it does otherwise than a client and an operator need."""

import asyncio
import logging
import warnings

import orjson
import uvloop
from fastapi.exceptions import FastAPIDeprecationWarning, RequestValidationError
from fastapi.responses import JSONResponse
from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from starlette.exceptions import HTTPException

from serving.documents import BadRequest
from serving.predictor import PredictorTimeout, PredictorUnavailable

log = logging.getLogger("kserve.transformer")  # below KServe's own logger, whose format and level it takes


class JsonDataPlane(DataPlane):
    """KServe's data plane, but a body is JSON whatever its Content-Type says, and an unreadable body is a 400.

    KServe itself hands a body with another Content-Type to the model as bytes (`curl -d` sends
    application/x-www-form-urlencoded), and answers 500 where its parser trips over a malformed tensor.
    """

    def decode(self, body, headers, protocol_version="v1", model_name=None):
        try:
            if isinstance(body, bytes) and INFERENCE_CONTENT_LENGTH_HEADER not in headers and "ce-id" not in headers:
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


class FixedRepository(ModelRepositoryExtension):
    """One model for the life of the process: KServe's repository API would let any client unload it."""

    async def load(self, model_name: str):
        raise BadRequest("This server serves one model, which can be neither loaded nor unloaded.")

    unload = load


class BodyLimit:
    """ASGI middleware: a body over the limit is a 400, and is not read into memory."""

    def __init__(self, app, limit: int):
        self.app, self.limit = app, limit

    def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            length = dict(scope["headers"]).get(b"content-length")
            if length is None or int(length) > self.limit:
                receive = self.limited(receive)
        return self.app(scope, receive, send)

    def limited(self, receive):
        received = 0

        async def limited_receive():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise HTTPException(400, f"The request is larger than {self.limit} bytes: send fewer texts at a time.")
            return message

        return limited_receive


def add_error_handlers(app):
    """Answer every error as {"error": "..."}, and log it in a line: KServe would log a traceback for each."""

    def answer(request, status: int, message: str) -> JSONResponse:
        log.warning("%s %s: %d %s", request.method, request.url.path, status, message)
        return JSONResponse({"error": message}, status)

    async def malformed_v2(request, error):
        return answer(request, 400, "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()))

    async def http_error(request, error):
        return answer(request, error.status_code, error.detail)

    async def bad_request(request, error):
        return answer(request, 400, error.reason)

    async def predictor_unavailable(request, error):
        return answer(request, 503, error.reason)

    async def predictor_timeout(request, error):
        return answer(request, 504, error.details)

    app.add_exception_handler(RequestValidationError, malformed_v2)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(BadRequest, bad_request)
    app.add_exception_handler(PredictorUnavailable, predictor_unavailable)
    app.add_exception_handler(PredictorTimeout, predictor_timeout)


def silence_deprecations():
    warnings.simplefilter("ignore", FastAPIDeprecationWarning)  # KServe's ORJSONResponse, twice a request


def use_uvloop():
    # KServe's --help promises uvloop, but its servers run on whatever loop the current policy makes.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())  # KServe asks for one before it runs another
