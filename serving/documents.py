"""Read and validate the documents of a request as KServe has parsed it."""

from typing import Any

from kserve import InferInput, InferRequest
from kserve.errors import InvalidInput
from kserve.protocol.grpc.grpc_predict_v2_pb2 import InferParameter

from model.request_texts import BadTexts, read_instances, read_tensor


class BadRequest(InvalidInput):
    """The request is invalid; the message says where and why: 400, INVALID_ARGUMENT in gRPC.

    Args:
        reason: for the client.
        logged: for the log, if the reason contains anything that the client sent.
    """

    def __init__(self, reason: str, logged: str | None = None) -> None:
        super().__init__(reason)
        self.logged = logged or reason


def read_documents(payload: dict[str, Any] | InferRequest, max_documents: int) -> list[str]:
    """Read the documents of a v1 request ({"instances": [...]}) or a v2 request (one BYTES tensor).

    Raises:
        BadRequest: documents are missing, not text, empty, or too many.
    """
    try:
        if isinstance(payload, InferRequest):
            return read_request(payload, max_documents)
        return read_instances(payload, max_documents)
    except BadTexts as error:
        raise BadRequest(error.reason, error.logged) from error


def read_top(request: dict[str, Any] | InferRequest) -> int:
    """How many of the nearest clusters a request asks for: "top" of a v1 request, a parameter of a v2 request; else 0.

    Raises:
        BadRequest: it is not a whole number above 0.
    """
    if isinstance(request, InferRequest):
        top = (request.parameters or {}).get("top")
        if isinstance(top, InferParameter):
            top = getattr(top, top.WhichOneof("parameter_choice") or "", None)
    else:
        top = request.get("top")
    if top is None:
        return 0
    if type(top) is not int or top < 1:
        expected = "expected a whole number above 0, such as 3."
        raise BadRequest(f'"top" is {top!r}: {expected}', f'"top" is something else: {expected}')
    return top


def read_request(request: InferRequest, max_documents: int) -> list[str]:
    if len(request.inputs) != 1:
        raise BadTexts(f"Expected one input tensor with the texts, got {len(request.inputs)}.")
    tensor = request.inputs[0]
    content_type = (tensor.parameters or {}).get("content_type")
    content_type = getattr(content_type, "string_param", content_type)  # as gRPC has it
    return read_tensor(tensor.datatype, tensor.shape, content_type, lambda: elements_of(tensor), max_documents)


def elements_of(tensor: InferInput) -> list[Any]:
    return tensor.as_numpy().ravel().tolist() if tensor.data in (None, []) else tensor.data
