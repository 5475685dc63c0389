"""KServe's model server, but one that listens where it is told to and answers what had arrived before it ends."""

import asyncio
import contextlib
import logging
import select
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import kserve
import uvicorn
import uvloop
from kserve.errors import InvalidInput, ModelNotFound
from kserve.predictor_config import PredictorConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor, LoggingInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer

from serving.kserve_overrides import FixedRepository, JsonDataPlane
from serving.predictor import PredictorTimeout, PredictorUnavailable

LAST_REQUESTS = 1.0  # seconds in which a server that is to end is still open, as not everybody knows yet
GRACE = 30  # seconds for the answers
ALL_INTERFACES = "0.0.0.0"

log = logging.getLogger("kserve.transformer")


class Server(kserve.ModelServer):
    """KServe's model server, but one that listens where it is told to and answers what had arrived before it ends.

    KServe's own listens on all interfaces. On SIGTERM it closes connections with requests in them that it has not
    read yet, and takes the model away from those of gRPC that it has.

    Args:
        host: address to listen on.
        http_port, grpc_port: the latter None: no gRPC.
        grpc_options: of gRPC's server, such as the limits of its messages.
    """

    def __init__(
        self,
        predictor_config: PredictorConfig,
        host: str,
        http_port: int,
        grpc_port: int | None,
        grpc_options: dict,
    ):
        super().__init__(http_port, predictor_config=predictor_config, enable_grpc=False, grace_period=GRACE)
        self.dataplane = JsonDataPlane(self.registered_models)
        self.model_repository_extension = FixedRepository(self.registered_models)
        self.host, self.grpc_port, self.grpc_options = host, grpc_port, grpc_options

    def register_signal_handler(self):
        pass  # needs the loop, which is not running yet

    async def _serve(self):
        (model,) = self.registered_models.get_models().values()
        rest_server = self._rest_server._server
        rest_server.config.host = self.host
        rest_server.capture_signals = contextlib.nullcontext  # uvicorn would end REST by itself
        ending = asyncio.Event()

        def end():
            rest_server.force_exit = ending.is_set()  # told a second time
            ending.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            asyncio.get_running_loop().add_signal_handler(number, end)

        grpc_server = self.bind_grpc() if self.grpc_port else None
        rest = asyncio.create_task(super()._serve())
        while not rest_server.started:  # or uvicorn says why not and ends the process
            await asyncio.sleep(0.01)
        if grpc_server:
            await grpc_server.start()
        watching = asyncio.create_task(model.watch())
        await ending.wait()
        log.info("Ending as soon as what has arrived is answered")
        await asyncio.sleep(LAST_REQUESTS)
        close, rest_server.shutdown = rest_server.shutdown, lambda sockets=None: close_when_read(rest_server, close)
        rest_server.should_exit = True
        await asyncio.gather(rest, *([grpc_server.stop(GRACE)] if grpc_server else []))
        watching.cancel()
        await model.close()

    def bind_grpc(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            ThreadPoolExecutor(self.max_threads),
            interceptors=(LoggingInterceptor(), OneLineInterceptor()),
            # A port that another server has is an error, not a port for both.
            options=[("grpc.so_reuseport", 0), *self.grpc_options.items()],
        )
        add_GRPCInferenceServiceServicer_to_server(Servicer(self.dataplane, self.model_repository_extension), server)
        host = "[::]" if self.host == ALL_INTERFACES else self.host  # as KServe names them to gRPC
        try:
            server.add_insecure_port(f"{host}:{self.grpc_port}")
        except RuntimeError:
            sys.exit(f"transformer.py: port {self.grpc_port} of {host} cannot be had: choose another with --grpc_port")
        return server


async def close_when_read(rest_server: uvicorn.Server, close: Callable):
    """Let a REST server end, but not while there is a request that it has not read: its client would get no answer."""
    deadline = time.monotonic() + GRACE
    while has_unread(rest_server) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    await close()


def has_unread(rest_server: uvicorn.Server) -> bool:
    """Whether a connection waits to be accepted, or one that is idle has something that waits to be read."""
    arrivals = select.poll()
    for listener in rest_server.servers:
        for socket in listener.sockets:
            arrivals.register(socket.fileno(), select.POLLIN)
    for connection in rest_server.server_state.connections:
        idle = connection.cycle is None or connection.cycle.response_complete
        if idle and not connection.transport.is_closing():
            arrivals.register(connection.transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(arrivals.poll(0))


class Servicer(InferenceServicer):
    """KServe's gRPC endpoints; those that ask whether it is ready get a no rather than an error."""

    async def ServerReady(self, request, context):
        try:
            return await super().ServerReady(request, context)
        except PredictorUnavailable:
            return pb.ServerReadyResponse(ready=False)

    async def ModelReady(self, request, context):
        try:
            return await super().ModelReady(request, context)
        except PredictorUnavailable:
            return pb.ModelReadyResponse(ready=False)


class OneLineInterceptor(ExceptionToStatusInterceptor):
    """Errors of clients and of the predictor, logged in a line: KServe would log a traceback for each."""

    async def handle_exception(self, error, request_or_iterator, context, method_name):
        statuses = {
            InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
            ModelNotFound: grpc.StatusCode.NOT_FOUND,
            PredictorUnavailable: grpc.StatusCode.UNAVAILABLE,
            PredictorTimeout: grpc.StatusCode.DEADLINE_EXCEEDED,
        }
        for kind, status in statuses.items():
            if isinstance(error, kind):
                message = error.details if kind is PredictorTimeout else error.reason
                log.warning("gRPC %s: %s %s", method_name, status.name, message)
                await context.abort(status, message)
        await super().handle_exception(error, request_or_iterator, context, method_name)


def use_uvloop():
    # KServe's --help promises uvloop, but its servers run on whatever loop the current policy makes.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())  # KServe asks for one before it runs another
