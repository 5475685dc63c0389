"""Sample texts, and requests over gRPC and curl."""

import subprocess

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from support.services import NAME

TEXT = "Creates a snapshot of the database cluster and copies it to another region."
UNKNOWN = "qzxv wvutz 12 34"


def infer_over_grpc(service, raw_input_contents=(), compression=None, parameters=None, **tensor):
    request = pb.ModelInferRequest(model_name=NAME, raw_input_contents=raw_input_contents)
    request.inputs.add(**({"name": "input-0", "datatype": "BYTES", "shape": [1]} | tensor))
    for name, value in (parameters or {}).items():
        request.parameters[name].CopyFrom(value)
    with grpc.insecure_channel(f"localhost:{service.grpc_port}") as channel:
        return GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60, compression=compression)


def curl(*options, stdin=None) -> bytes:
    return subprocess.run(
        ["curl", "--silent", "--show-error", *options], input=stdin, capture_output=True, check=True
    ).stdout
