"""Chakra execution traces (github.com/mlcommons/chakra, schema/protobuf/et_def.proto), which ASTRA-sim reads: one node an operator.

Messages are written by hand, field by field, each after its length as a varint (chakra's src/third_party/utils/protolib.py), so that
no protobuf library is needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .ops import CODE, DTYPES, KIND_WORK, WORK, Int64s
from .trace import Trace

VERSION = "0.0.4"
COMP_NODE, COMM_SEND_NODE, COMM_COLL_NODE = 4, 5, 7
"""Values of the enumeration NodeType."""
COLLECTIVES = {"allreduce": 0, "allgather": 2, "alltoall": 6, "reducescatter": 7}
"""Values of the enumeration CollectiveCommType."""
VARINT, BYTES = 0, 2
"""Wire types of protobuf."""


def write(path: str | Path, trace: Trace, start_ps: Int64s | None = None, duration_ps: Int64s | None = None) -> None:
    """Write the operators of one device as an .et file (under a temporary name, then renamed).

    Attributes are those that ASTRA-sim's workload layer reads: num_ops (2 x macs + vector operations) and tensor_size (bytes moved) of
    work, comm_type and comm_size of collectives. Times are whole microseconds, rounded down and up; 0 without a simulation.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    zero = np.zeros(trace.size, np.int64)
    start_us = (zero if start_ps is None else start_ps) // 1_000_000
    duration_us = -(-(zero if duration_ps is None else duration_ps) // 1_000_000)
    nodes = (_framed(_node(trace, i, int(start_us[i]), int(duration_us[i]))) for i in range(trace.size))
    try:
        temporary.write_bytes(_framed(_text(1, VERSION)) + b"".join(nodes))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _node(trace: Trace, i: int, start_us: int, duration_us: int) -> bytes:
    rows = trace.rows
    collective = KIND_WORK[rows.kind[i]] == WORK.index("collective")
    sends = rows.kind[i] == CODE["send"]
    kind = COMM_SEND_NODE if sends else COMM_COLL_NODE if collective else COMP_NODE
    deps = b"".join(map(_varint, trace.preds_idx[trace.preds_ptr[i] : trace.preds_ptr[i + 1]].tolist()))
    parts = [_number(1, i), _text(2, trace.names[rows.name[i]]), _number(3, kind), _field(5, deps) if deps else b"",
             _number(6, start_us), _number(7, duration_us), _field(9, _text(3, DTYPES[rows.act_dtype[i]]))]
    attributes = [_attribute("is_cpu_op", 27, 0), _attribute("layer", 9, int(rows.layer[i]))]
    if collective:
        name = next(name for name, code in CODE.items() if code == rows.kind[i])
        attributes += [_attribute("comm_size", 9, int(rows.link_bytes[i]))]
        attributes += [] if sends else [_attribute("comm_type", 9, COLLECTIVES[name])]
    else:
        attributes += [_attribute("num_ops", 9, int(2 * rows.macs[i] + rows.vector_ops[i])),
                       _attribute("tensor_size", 9, int(rows.memory_bytes[i]))]
    return b"".join(parts) + b"".join(_field(10, attribute) for attribute in attributes)


def _attribute(name: str, number: int, value: int) -> bytes:
    """AttributeProto: its name, and one value in the field of its type (9 int64, 27 bool)."""
    return _text(1, name) + _varint(number << 3 | VARINT) + _varint(value & (1 << 64) - 1)


def _framed(message: bytes) -> bytes:
    return _varint(len(message)) + message


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _framed(content)


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _number(number: int, value: int) -> bytes:
    """A varint field; 0 is not written, as in proto3."""
    return _varint(number << 3 | VARINT) + _varint(value) if value else b""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
