"""Read and validate the documents of a request in KServe's protocol v1 or v2."""

import base64
import binascii
from typing import Any

from kserve import InferInput, InferRequest
from kserve.errors import InvalidInput

JSON_KINDS = {
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
    list: "a list",
    dict: "an object",
}

EXPECTED_V1 = 'The v1 protocol expects {"instances": ["a text", ...]}.'


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
    instances: list
    if isinstance(payload, InferRequest):
        instances, name = read_tensor(payload), "inputs[0].data"
    elif isinstance(payload, dict) and isinstance(payload.get("instances"), list):
        instances, name = payload["instances"], "instances"
    elif isinstance(payload, dict) and "inputs" in payload and "instances" not in payload:
        raise BadRequest("This is a v2 request: send it to /v2/models/NAME/infer. " + EXPECTED_V1)
    else:
        raise BadRequest(f'{EXPECTED_V1} A list named "instances" is missing.')
    if not instances:
        raise BadRequest(f'"{name}" is empty: expected at least one text.')
    if len(instances) > max_documents:
        raise BadRequest(f'"{name}" has {len(instances)} texts, and {max_documents} are allowed in one request.')
    documents = []
    for n, instance in enumerate(instances):
        try:
            documents.append(read_document(instance))
        except ValueError as error:
            raise BadRequest(f"{name}[{n}] {error}") from error
    return documents


def read_document(instance: Any) -> str:
    """Read a document: a text, or a list with one text.

    Raises:
        ValueError: it is something else, or empty; the message is a predicate such as "is null".
    """
    if isinstance(instance, list):
        if len(instance) != 1:
            raise ValueError(f"is a list of {len(instance)} items: expected a text, or a list with one text.")
        instance = instance[0]
    if isinstance(instance, bytes):
        try:
            instance = instance.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"is not UTF-8: {error}.") from error
    if not isinstance(instance, str):
        kind = JSON_KINDS.get(type(instance), type(instance).__name__)
        raise ValueError(f"is {kind}: expected a text, or a list with one text.")
    if not instance or instance.isspace():
        raise ValueError("has no text in it.")
    return instance


def read_tensor(request: InferRequest) -> list:
    """Read the elements of a v2 request's only tensor, BYTES of shape [documents] or [documents, 1].

    Raises:
        BadRequest: another number of tensors, or another type, shape or length.
    """
    if len(request.inputs) != 1:
        raise BadRequest(f"Expected one input tensor with the texts, got {len(request.inputs)}.")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise BadRequest(
            f"The input tensor is {tensor.datatype}: expected BYTES, one text per element.",
            "The datatype of the input tensor is not BYTES.",
        )
    try:
        elements = tensor.as_numpy().ravel().tolist() if tensor.data in (None, []) else tensor.data
    except Exception as error:  # struct.error, ValueError: whatever a broken tensor provokes
        raise BadRequest(f"The input tensor cannot be read: {error}.", "The input tensor cannot be read.") from error
    elements = decode_content(tensor, elements)
    if list(tensor.shape) not in ([len(elements)], [len(elements), 1]):
        raise BadRequest(f"The input tensor has shape {list(tensor.shape)}: expected [{len(elements)}].")
    return elements


def decode_content(tensor: InferInput, elements: list) -> list:
    """Decode texts by the tensor's parameters.content_type, a convention of MLServer.

    Raises:
        BadRequest: the content type is not one of texts, or the elements do not match it.
    """
    content_type = (tensor.parameters or {}).get("content_type")
    content_type = getattr(content_type, "string_param", content_type)  # as gRPC has it
    if content_type in (None, "str"):
        return elements
    if content_type != "base64":
        raise BadRequest(
            f'The input tensor has the content_type {content_type!r}: expected "str" or "base64".',
            'The content_type of the input tensor is neither "str" nor "base64".',
        )
    decoded = []
    for n, element in enumerate(elements):
        try:
            decoded.append(base64.b64decode(element, validate=True))
        except (TypeError, ValueError, binascii.Error) as error:
            raise BadRequest(f"inputs[0].data[{n}] is not base64, as its content_type says: {error}.") from error
    return decoded
