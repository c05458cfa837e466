"""The scoring of a model as an ONNX graph, for services that do not speak Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from funnelrec.common.errors import CapabilityError, FunnelrecError
from funnelrec.common.optional import require
from funnelrec.models.base import Recommender
from funnelrec.serving.vectors import EmbeddingModel, check_embeddings

ONNX_FILE = "scoring.onnx"
OPSET = 17
# Old enough for every runtime that knows the operator set.
_IR_VERSION = 8
# One protobuf message may not be larger.
_LARGEST = 2**31 - 2**20
_CHECKED_USERS = 256
_TOLERANCE = 1e-5


class GraphRecord(BaseModel):
    """What the graph computes and how near it comes to the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    opset: int
    inputs: tuple[str, ...] = Field(description="users: int64, shape (n,), dense numbers.")
    outputs: tuple[str, ...] = Field(description="scores: float32, shape (n, n_items).")
    users_checked: int
    largest_difference: float = Field(
        description="From the model's scores, over those users and all items, as a share of the "
        "largest score."
    )


def check_onnx(model: type[Recommender[Any]]) -> None:
    """Refuse a model without a scoring graph, or an installation that cannot write one.

    Raises
    ------
    CapabilityError, MissingExtraError
        Before any work.
    """
    check_embeddings(model, "scoring graph")
    require("onnx", "onnx")
    require("onnxruntime", "onnx")


def write_onnx(path: str | Path, model: Recommender[Any]) -> GraphRecord:
    """Write the graph users -> scores, run it, and return how it compares with the model.

    The graph gathers rows of the user table and multiplies by the item table; both are in the
    file. Exclusions and cutting to k are left to the caller.

    Parameters
    ----------
    path
        File to write.
    model
        Fitted; its score is a product of embeddings.

    Raises
    ------
    CapabilityError
        If both tables take 2 GiB or more, which an ONNX file cannot hold.
    FunnelrecError
        If the graph does not give the model's scores.
    """
    onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
    users, items = (
        table.detach().cpu().float().contiguous().numpy()
        for table in cast(EmbeddingModel, model).embeddings()
    )
    if users.nbytes + items.nbytes >= _LARGEST:
        raise CapabilityError(
            f"an ONNX file holds less than 2 GiB, and these embeddings take "
            f"{(users.nbytes + items.nbytes) / 2**30:.1f} GiB; export without onnx."
        )
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["user_table", "users"], ["rows"], axis=0),
            helper.make_node("MatMul", ["rows", "item_table"], ["scores"]),
        ],
        f"funnelrec-{model.name}",
        [helper.make_tensor_value_info("users", onnx.TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", len(items)])],
        [
            onnx.numpy_helper.from_array(users, "user_table"),
            onnx.numpy_helper.from_array(np.ascontiguousarray(items.T), "item_table"),
        ],
    )
    made = helper.make_model(
        graph,
        producer_name="funnelrec",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(made)
    Path(path).write_bytes(made.SerializeToString())
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    numbers = np.unique(np.linspace(0, len(users) - 1, _CHECKED_USERS).astype(np.int64))
    (found,) = session.run(["scores"], {"users": numbers})
    wanted = model.score(numbers).cpu()
    largest = float(wanted.abs().max())
    difference = float((torch.from_numpy(found) - wanted).abs().max()) / max(largest, 1e-30)
    if not difference <= _TOLERANCE:
        raise FunnelrecError(
            f"the ONNX graph of {model.name} differs from the model by {difference:.2g} of the "
            "largest score; do not use it, and report this."
        )
    return GraphRecord(
        opset=OPSET,
        inputs=("users",),
        outputs=("scores",),
        users_checked=len(numbers),
        largest_difference=difference,
    )
