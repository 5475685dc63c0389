"""KServe's model server with a listen address, which drains requests before shutdown."""

import asyncio
import contextlib
import functools
import logging
import select
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import kserve
import uvicorn
import uvloop
from kserve.errors import InvalidInput, ModelNotFound
from kserve.logging import trace_logger
from kserve.predictor_config import PredictorConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer

from serving.addresses import listen, resolve
from serving.documents import BadRequest
from serving.http_protocol import HttpProtocol
from serving.kserve_overrides import NO_VERSIONS, FixedRepository, JsonDataPlane, replace_error_handlers
from serving.predictor_client import PredictorTimeout, PredictorUnavailable

LAME_DUCK = 1.0  # seconds for which a server that is shutting down accepts requests, until all clients know
GRACE = 30  # seconds for the remaining answers

log = logging.getLogger("kserve.transformer")


class Server(kserve.ModelServer):
    """KServe's model server with a listen address, which drains requests before shutdown.

    KServe's own listens on all interfaces. On SIGTERM it closes connections with unread requests, and unloads the
    model while gRPC requests still use it.

    Args:
        host: address to listen on.
        grpc_port: None: no gRPC.
        grpc_options: options of the gRPC server, such as message limits.
    """

    def __init__(
        self,
        predictor_config: PredictorConfig,
        host: str,
        http_port: int,
        grpc_port: int | None,
        grpc_options: dict[str, Any],
    ) -> None:
        super().__init__(http_port, predictor_config=predictor_config, enable_grpc=False, grace_period=GRACE)
        self.dataplane = JsonDataPlane(self.registered_models)
        self.model_repository_extension = FixedRepository(self.registered_models)
        self.host, self.grpc_port, self.grpc_options = host, grpc_port, grpc_options

    def register_signal_handler(self) -> None:
        pass  # done in _serve, where the event loop runs

    async def _serve(self) -> None:
        (model,) = self.registered_models.get_models().values()
        rest_server = self._rest_server._server
        sockets = [listen(address) for address in resolve(self.host, self.http_port)]
        rest_server.serve = functools.partial(rest_server.serve, sockets=sockets)
        rest_server.config.http, rest_server.config.ws = HttpProtocol, "none"
        rest_server.capture_signals = contextlib.nullcontext  # uvicorn would shut down REST on its own
        replace_error_handlers(self._rest_server)
        if not (trace_logger.isEnabledFor(logging.INFO) or self.access_log_format):
            self._rest_server._add_middlewares = lambda app: None  # they measure what nothing logs
        shutdown = shutdown_event(rest_server)
        grpc_server = self.bind_grpc(self.grpc_port) if self.grpc_port else None
        rest = asyncio.create_task(super()._serve())
        while not rest_server.started:  # or uvicorn logs the reason and exits
            await asyncio.sleep(0.01)
        if grpc_server:
            await grpc_server.start()
        log.info("Listening on %s, gRPC port %s", self.host, self.grpc_port or "closed")
        watching = asyncio.create_task(model.watch())
        await shutdown.wait()
        log.info("Shutting down after answering all requests that have arrived")
        await asyncio.sleep(LAME_DUCK)
        close, rest_server.shutdown = rest_server.shutdown, lambda sockets=None: close_when_read(rest_server, close)
        rest_server.should_exit = True
        await asyncio.gather(rest, *([grpc_server.stop(GRACE)] if grpc_server else []))
        watching.cancel()
        await model.close()

    def bind_grpc(self, port: int) -> grpc.aio.Server:
        server = grpc.aio.server(
            ThreadPoolExecutor(self.max_threads),
            interceptors=(OneLineInterceptor(),),
            # Otherwise two servers could share the port.
            options=[("grpc.so_reuseport", 0), *self.grpc_options.items()],
        )
        add_GRPCInferenceServiceServicer_to_server(Servicer(self.dataplane, self.model_repository_extension), server)
        for address in resolve(self.host, port):
            try:
                server.add_insecure_port(str(address))
            except RuntimeError:
                sys.exit(f"transformer.py: cannot listen on {address}: choose another --host or --grpc_port")
        return server


def shutdown_event(rest_server: uvicorn.Server) -> asyncio.Event:
    """An event that SIGINT, SIGTERM and SIGQUIT set; a second signal makes the REST server drop its connections."""
    shutdown = asyncio.Event()

    def handle() -> None:
        rest_server.force_exit = shutdown.is_set()
        shutdown.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        asyncio.get_running_loop().add_signal_handler(number, handle)
    return shutdown


async def close_when_read(rest_server: uvicorn.Server, close: Callable[[], Awaitable[None]]) -> None:
    """Shut a REST server down after it has read all requests that have arrived."""
    deadline = time.monotonic() + GRACE
    while has_unread(rest_server) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    await close()


def has_unread(rest_server: uvicorn.Server) -> bool:
    """Whether a connection waits to be accepted, or an idle one has unread data."""
    arrivals = select.poll()
    for listener in rest_server.servers:
        for socket in listener.sockets:
            arrivals.register(socket.fileno(), select.POLLIN)
    for connection in rest_server.server_state.connections:
        cycle, transport = connection.cycle, connection.transport  # type: ignore[union-attr]  # it is of HTTP
        if (cycle is None or cycle.response_complete) and not transport.is_closing():
            arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(arrivals.poll(0))


class Servicer(InferenceServicer):
    """KServe's gRPC endpoints, but readiness is False rather than an error, and model versions are refused."""

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Any) -> pb.ServerReadyResponse:
        try:
            return await super().ServerReady(request, context)
        except PredictorUnavailable:
            return pb.ServerReadyResponse(ready=False)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Any) -> pb.ModelReadyResponse:
        refuse_version(request.version)
        try:
            return await super().ModelReady(request, context)
        except PredictorUnavailable:
            return pb.ModelReadyResponse(ready=False)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Any) -> pb.ModelMetadataResponse:
        refuse_version(request.version)
        return await super().ModelMetadata(request, context)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        refuse_version(request.model_version)
        return await super().ModelInfer(request, context)


def refuse_version(version: str) -> None:
    if version:
        raise NotImplementedError  # as KServe does over REST


class OneLineInterceptor(ExceptionToStatusInterceptor):
    """Logs errors of clients and of the predictor in one line; KServe would log a traceback."""

    async def handle_exception(self, error: Any, request_or_iterator: Any, context: Any, method_name: str) -> None:
        if isinstance(error, InvalidInput):
            logged = error.logged if isinstance(error, BadRequest) else "invalid request"
            status, reason = grpc.StatusCode.INVALID_ARGUMENT, error.reason
        elif isinstance(error, ModelNotFound):
            status, reason = grpc.StatusCode.NOT_FOUND, error.reason
            logged = reason
        elif isinstance(error, NotImplementedError):
            status, reason = grpc.StatusCode.UNIMPLEMENTED, NO_VERSIONS
            logged = reason
        elif isinstance(error, PredictorUnavailable):
            status, reason = grpc.StatusCode.UNAVAILABLE, error.reason
            logged = reason
        elif isinstance(error, PredictorTimeout):
            status, reason = grpc.StatusCode.DEADLINE_EXCEEDED, error.details
            logged = reason
        else:
            await super().handle_exception(error, request_or_iterator, context, method_name)
            return
        log.warning("gRPC %s: %s %s", method_name, status.name, logged)
        await context.abort(status, reason)


def use_uvloop() -> None:
    # KServe's --help promises uvloop, but its servers run on the loop of the current policy.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())  # KServe configures it before it runs another
