"""ONNX models of one custom operator, for the tests and the benchmark on a GPU."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from dsa_runtime.ops import library
from dsa_runtime.ops.schema import DOMAIN, VERSION, Operator

ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int32": TensorProto.INT32,
}


def operator_model(operator: Operator, kind: str, *, cast: bool, **attributes: Any) -> onnx.ModelProto:
    """The operator on tensors of type `kind`.

    cast   inputs and output are float32 and cast inside, because numpy knows no bfloat16
    """
    outside = "float32" if cast else kind
    values: dict[str, list[onnx.ValueInfoProto]] = {"inputs": [], "outputs": []}
    for role, tensors in (("inputs", operator.inputs), ("outputs", operator.outputs)):
        for tensor in tensors:
            element_type = ELEMENT_TYPES["int32" if tensor.dtype == "int32" else outside]
            values[role].append(helper.make_tensor_value_info(tensor.name, element_type, tensor.shape.split()))
    floats = {t.name for t in (*operator.inputs, *operator.outputs) if t.dtype == "float"} if cast else set()
    inner = {t.name: f"{t.name}_{kind}" if t.name in floats else t.name for t in (*operator.inputs, *operator.outputs)}
    before = [
        helper.make_node("Cast", [t.name], [inner[t.name]], to=ELEMENT_TYPES[kind])
        for t in operator.inputs
        if t.name in floats
    ]
    after = [
        helper.make_node("Cast", [inner[t.name]], [t.name], to=TensorProto.FLOAT)
        for t in operator.outputs
        if t.name in floats
    ]
    names = [inner[t.name] for t in operator.inputs], [inner[t.name] for t in operator.outputs]
    node = helper.make_node(operator.name, *names, domain=DOMAIN, **attributes)
    graph = helper.make_graph([*before, node, *after], operator.name, values["inputs"], values["outputs"])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def cuda_session(model: onnx.ModelProto, **provider_options: str) -> ort.InferenceSession:
    """A session that runs every node on the GPU or fails. Raises `LibraryMissing`."""
    options = ort.SessionOptions()
    options.register_custom_ops_library(library.find().path)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=[("CUDAExecutionProvider", provider_options)]
    )
