"""Read the texts of a request in KServe's protocol v1 or v2, for the service and for recorded requests."""

import base64
import binascii
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

UTF8_MARK = b"\xef\xbb\xbf"
JSON_KINDS = {
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
    list: "a list",
    dict: "an object",
}
CLOUD_EVENT = {"specversion", "id", "source", "type", "data"}  # an event in structured mode, whose data is the request
EXPECTED_V1 = 'The v1 protocol expects {"instances": ["a text", ...]}.'


class BadTexts(ValueError):
    """The request has no valid texts; the message says where and why.

    Args:
        reason: for the client.
        logged: for the log, if the reason contains anything that the client sent.
    """

    def __init__(self, reason: str, logged: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.logged = reason, logged or reason


def read_instances(payload: Any, max_documents: int | None = None) -> list[str]:
    """Read the texts of a v1 request: {"instances": [...]}. Raises BadTexts."""
    if isinstance(payload, dict) and isinstance(payload.get("instances"), list):
        return check_texts(payload["instances"], "instances", max_documents)
    if isinstance(payload, dict) and "inputs" in payload and "instances" not in payload:
        raise BadTexts("This is a v2 request: send it to /v2/models/NAME/infer. " + EXPECTED_V1)
    raise BadTexts(f'{EXPECTED_V1} A list named "instances" is missing.')


def read_tensor(
    datatype: str,
    shape: Sequence[int],
    content_type: str | None,
    read_elements: Callable[[], list[Any]],
    max_documents: int | None = None,
) -> list[str]:
    """Read the texts of a v2 request's only tensor, BYTES of shape [documents] or [documents, 1].

    Args:
        content_type: the tensor's parameter of this name, a convention of MLServer.
        read_elements: returns the elements; whatever it raises means that the tensor cannot be read.

    Raises:
        BadTexts: another type, shape or length, or no texts.
    """
    if datatype != "BYTES":
        raise BadTexts(
            f"The input tensor is {datatype}: expected BYTES, one text per element.",
            "The datatype of the input tensor is not BYTES.",
        )
    try:
        elements = read_elements()
    except Exception as error:  # struct.error, ValueError: whatever a broken tensor provokes
        raise BadTexts(f"The input tensor cannot be read: {error}.", "The input tensor cannot be read.") from error
    elements = decode_content(content_type, elements)
    if list(shape) not in ([len(elements)], [len(elements), 1]):
        raise BadTexts(f"The input tensor has shape {list(shape)}: expected [{len(elements)}].")
    return check_texts(elements, "inputs[0].data", max_documents)


def check_texts(instances: list[Any], name: str, max_documents: int | None) -> list[str]:
    if not instances:
        raise BadTexts(f'"{name}" is empty: expected at least one text.')
    if max_documents is not None and len(instances) > max_documents:
        raise BadTexts(f'"{name}" has {len(instances)} texts, and {max_documents} are allowed in one request.')
    texts = []
    for n, instance in enumerate(instances):
        try:
            texts.append(read_text(instance))
        except ValueError as error:
            raise BadTexts(f"{name}[{n}] {error}") from error
    return texts


def read_text(instance: Any) -> str:
    """Read a text, or a list with one text.

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


def decode_content(content_type: str | None, elements: list[Any]) -> list[Any]:
    """Decode texts by the tensor's content type.

    Raises:
        BadTexts: the content type is not one of texts, or the elements do not match it.
    """
    if content_type in (None, "str"):
        return elements
    if content_type != "base64":
        raise BadTexts(
            f'The input tensor has the content_type {content_type!r}: expected "str" or "base64".',
            'The content_type of the input tensor is neither "str" nor "base64".',
        )
    decoded = []
    for n, element in enumerate(elements):
        try:
            decoded.append(base64.b64decode(element, validate=True))
        except (TypeError, ValueError, binascii.Error) as error:
            raise BadTexts(f"inputs[0].data[{n}] is not base64, as its content_type says: {error}.") from error
    return decoded


# -------------------------------------------------------------------------------------------- without KServe's parsers


def texts_of_body(body: bytes, json_length: int | None = None) -> list[str]:
    """Read the texts of a whole body, v1 or v2, which the service would have parsed with KServe's classes.

    Args:
        body: uncompressed, in UTF-8.
        json_length: length of the JSON part of a v2 request, whose binary tensor follows it.

    Raises:
        BadTexts: it is not a request with texts.
    """
    try:
        payload = json.loads(body[:json_length].removeprefix(UTF8_MARK))
    except (ValueError, RecursionError) as error:
        raise BadTexts(f"The request cannot be read: {error}", "The request cannot be read.") from error
    if isinstance(payload, dict) and payload.keys() >= CLOUD_EVENT:
        payload = payload["data"]
    if not isinstance(payload, dict) or "instances" in payload or not isinstance(payload.get("inputs"), list):
        return read_instances(payload)
    if len(payload["inputs"]) != 1 or not isinstance(payload["inputs"][0], dict):
        raise BadTexts(f"Expected one input tensor with the texts, got {len(payload['inputs'])}.")
    tensor = payload["inputs"][0]
    parameters, shape = tensor.get("parameters"), tensor.get("shape")
    content_type = parameters.get("content_type") if isinstance(parameters, dict) else None

    def read_elements() -> list[Any]:
        return tensor["data"] if "data" in tensor else binary_elements(body[json_length:] if json_length else b"")

    return read_tensor(
        str(tensor.get("datatype")), shape if isinstance(shape, list) else [], content_type, read_elements
    )


def binary_elements(data: bytes) -> list[bytes]:
    """The elements of a binary BYTES tensor: each after its length, 4 bytes, little-endian.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
    """
    elements, start = [], 0
    while start < len(data):
        (length,) = struct.unpack_from("<I", data, start)
        start += 4
        elements.append(data[start : start + length])
        if len(elements[-1]) < length:
            raise ValueError("it ends within an element")
        start += length
    return elements
