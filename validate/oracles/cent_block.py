"""One transformer block on GDDR6-AiM channels, mapped as CENT maps it (Gu et al., ASPLOS'25; the mapping read from Yufeng98/CENT 8c79786).

All channels of a block do the same at the same time, so one of them is followed, command by command, with the part's rules. A linear layer
lies with its outputs over all banks, its inputs along the rows. Keys lie token over token in the banks, several heads in a row; values
lie transposed, a head a channel. RMSNorm, rotary embedding, the scaling of scores and the gate of the FFN are element-wise products in the
banks, whose operands the device's controller writes and reads 32 B at a time, one access a clock for all its channels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gemvane.sim.dram.pimpart import PimPart, clocks
from gemvane.sim.dram.pimstream import Block, line
from gemvane.sim.dram.steady import Steady, Total
from gemvane.sim.kernels.pimissue import IF_CLOSED, IF_OPEN, IF_OTHER

BANKS, GROUPS = 16, 4
ROW, BURST = 1024, 16
"""Elements of a row of a bank, and of one access."""
CHANNELS = 32
"""Of a device."""
ACCUMULATORS = 32
"""Dot products that a bank keeps before they are read; half of them where an activation function follows."""
HEAD_DIM = 128
VOCABULARY = 32000
HOST_ROW = 1
READ_BACK = 1
"""Clocks that a result read takes longer than the data bus: the controller sends nothing until it is back (aim_simulator 0f28a07)."""


class Llama(NamedTuple):
    """Sizes of a Llama 2 model."""

    hidden: int
    ffn: int
    heads: int
    heads_kv: int
    layers: int


class Place(NamedTuple):
    """Where a block lies: on some channels of a device beside as many other blocks, or on all channels of several devices."""

    channels: int
    devices: int = 1
    """Devices that share the linear layers and the keys; each computes the rest for itself."""

    @property
    def banks(self) -> int:
        """Of the block in one device."""
        return self.channels * BANKS

    @property
    def blocks(self) -> int:
        """Blocks that a device works on at the same time, step by step."""
        return CHANNELS // self.channels


class Channel:
    """Commands of one channel as they are added; what the controller alone spends is counted beside them."""

    def __init__(self, part: PimPart) -> None:
        part.of_style("aim")
        self.part = part
        self.waits = 0
        """Clocks in which the controller serves other channels or waits for a read."""
        self._registers = False
        self._numbers: dict[tuple[object, ...], int] = {}
        self._blocks: list[Block] = []
        self._order: list[int] = []

    def _add(self, registers: bool, *lines: tuple[str, int, int, int, int]) -> None:
        """Lines of (command, times, bank, row, condition); a change between register and bank commands takes a TMOD."""
        lines = (*((("TMOD", 1, 0, -1, 0),) if registers != self._registers else ()), *lines)
        self._registers = registers
        if lines not in self._numbers:
            self._numbers[lines] = len(self._blocks)
            rows = [line(self.part, command, bank, row, when=when) for command, times, bank, row, when in lines for _ in range(times)]
            self._blocks.append(Block(np.array(rows, np.int64), np.array([0, 0, 0, 0, 0, -1, -1])))
        self._order.append(self._numbers[lines])

    def registers(self, command: str, times: int = 1) -> None:
        """The global buffer, biases or results over the data pins."""
        self._add(True, (command, times, 0, -1, 0))
        self.waits += READ_BACK * times if command.startswith("RD") else 0

    def banks(self, command: str, times: int = 1, *, opened: bool = False) -> None:
        """All banks at once, on a row that is open already or on another one."""
        opening = () if opened else (("PREab", 1, 0, -1, IF_OPEN), ("ACT16", 1, 0, 0, IF_CLOSED))
        self._add(False, *opening, (command, times, 0, -1, 0))

    def copy(self, steps: int) -> None:
        """From a bank of every group through the global buffer to a row of its neighbour."""
        for bank in range(2, BANKS, GROUPS):
            self._add(False, ("COPY_BKGB", steps, bank, -1, 0), ("PREpb", 1, bank - 1, HOST_ROW, IF_OTHER),
                      ("ACT", 1, bank - 1, HOST_ROW, IF_CLOSED), ("COPY_GBBK", steps, bank - 1, -1, 0))

    def controller(self, accesses: int, command: str = "WR") -> None:
        """Accesses dealt out over the device's channels: one a clock, of which this channel's last one is followed."""
        opening = () if command == "RD" else (("PREpb", 1, 0, HOST_ROW, IF_OTHER), ("ACT", 1, 0, HOST_ROW, IF_CLOSED))
        self._add(False, *opening, (command, 1, 0, -1, 0))
        self.waits += max(0, accesses - clocks(self.part, "nRP + nRCDWR"))

    def append_key(self, rows: int, blocks: int) -> None:
        """One token's keys into rows of one bank: 64 accesses a row, block after block."""
        writes = ROW // BURST
        for _ in range(rows):
            self._add(False, ("PREpb", 1, 0, -1, IF_OPEN), ("ACT", 1, 0, HOST_ROW, IF_CLOSED), ("WR", writes, 0, -1, 0))
        self.waits += max(0, (blocks - 1) * rows * writes - rows * writes)

    def append_values(self, rows: int) -> None:
        """One token's values into rows of all banks, each opened, written and closed."""
        self.waits += rows * clocks(self.part, "nRCDWR + nCWL + nBL + nWR + nRP")

    def issued(self) -> Total:
        """The commands of this channel, without what the controller alone spends."""
        return Steady(self.part, self._blocks).run(np.array(self._order, np.int64))

    def ticks(self) -> int:
        """Clocks of all that was added; the part is to have no refresh, which would come where a row must stay open."""
        return self.issued().end + 1 + self.waits


def linear(channel: Channel, inputs: int, outputs: int, banks: int, *, activation: bool = False) -> None:
    """A matrix times a vector: a piece of the vector goes to the buffer and past the rows of all outputs of a bank, a set at a time."""
    columns = _up(outputs, banks)
    sets = _up(columns, ACCUMULATORS // 2 if activation else ACCUMULATORS)
    each = _up(columns, sets)
    pieces = _pieces(inputs)
    for at, piece in enumerate(pieces):
        channel.registers("WR_GB", _up(piece, BURST))
        for number in range(sets):
            here = each if number < sets - 1 else columns - each * (sets - 1)
            channel.registers("WR_BIAS", here)
            for _ in range(here):
                channel.banks("MACAB", _up(piece, BURST))
            if activation and at == len(pieces) - 1:
                _activate(channel, here)
            channel.registers("RD_MAC", here)


def _activate(channel: Channel, results: int) -> None:
    """The activation function of every result, from a table in a row of the banks, one result after the other."""
    for number in range(results):
        channel.banks("AF", opened=number > 0)
        channel.registers("RD_AF")


def norm(channel: Channel, model: Llama, place: Place) -> None:
    """RMSNorm: the sum of squares against the neighbour bank, then twice an element-wise product."""
    half, quarter = _up(model.hidden, place.banks // 2), _up(model.hidden, place.banks // GROUPS)
    for _ in range(2):
        channel.controller(place.blocks * _up(half, BURST) * _up(model.hidden, half))
    channel.registers("WR_BIAS")
    channel.banks("MACAB", _up(half, BURST))
    channel.registers("RD_MAC")
    _scaled(channel, model.hidden, quarter, place, operands=2)


def _scaled(channel: Channel, elements: int, quarter: int, place: Place, *, operands: int, again: bool = False) -> None:
    """Operands written, multiplied, copied to the neighbours, multiplied again (with a new operand) and read."""
    accesses, steps = place.blocks * _up(quarter, BURST) * _up(elements, quarter), _up(quarter, BURST)
    for _ in range(operands):
        channel.controller(accesses)
    channel.banks("EWMUL", steps)
    channel.copy(steps)
    if again:
        channel.controller(accesses)
    channel.banks("EWMUL", steps)
    channel.controller(accesses, "RD")


def rotary(channel: Channel, model: Llama, place: Place) -> None:
    """Queries and keys times sine and cosine."""
    quarter, group = _up(model.hidden, place.banks // GROUPS), model.heads // model.heads_kv
    used = place.blocks * _up(model.hidden, quarter)
    accesses = [used * _up(2 * quarter, BURST), used * _up(2 * (quarter // group), BURST)]
    for count in accesses:
        channel.controller(count)
    channel.banks("EWMUL", model.hidden // BURST)
    channel.banks("EWMUL", model.hidden // group // BURST)
    for count in accesses:
        channel.controller(count)


def scores(channel: Channel, model: Llama, place: Place, tokens: int) -> None:
    """Queries times keys: one token's keys of eight heads in a row, which the queries of a group go past one set after the other."""
    rows, turns = _up(HEAD_DIM * model.heads_kv, ROW), _up(tokens, place.banks * place.devices)
    for _ in range(rows * turns):
        for number in range(model.heads // model.heads_kv):
            channel.registers("WR_GB", ROW // BURST)
            for head in range(ROW // HEAD_DIM):
                channel.registers("WR_BIAS")
                channel.banks("MACAB", HEAD_DIM // BURST, opened=number + head > 0)
                channel.registers("RD_MAC")


def softmax(channel: Channel, model: Llama, place: Place, tokens: int) -> None:
    """Scores scaled, then their exponentials: each time two operands in and a product out; the rest is the accelerator's."""
    pieces = _pieces(tokens)
    accesses = place.blocks * model.heads * sum(_up(piece, BURST) for piece in pieces)
    for _ in range(2):
        channel.controller(accesses)
        channel.controller(accesses)
        for piece in pieces * _up(model.heads, place.channels * GROUPS):
            channel.banks("EWMUL", _up(piece, BURST))
        channel.controller(accesses, "RD")


def values(channel: Channel, model: Llama, place: Place, tokens: int) -> None:
    """Probabilities times values, head by head: 16 dimensions at a time."""
    for _ in range(_up(model.heads_kv, place.channels) * (model.heads // model.heads_kv)):
        for piece in _pieces(tokens):
            channel.registers("WR_GB", _up(piece, BURST))
            for _ in range(HEAD_DIM // BANKS):
                channel.registers("WR_BIAS")
                channel.banks("MACAB", _up(piece, BURST))
                channel.registers("RD_MAC")


def block_ticks(part: PimPart, model: Llama, place: Place, tokens: int) -> int:
    """Clocks of one block for one token that sees `tokens` tokens, itself included; without refresh."""
    channel = Channel(part)
    hidden, kv, shared = model.hidden, HEAD_DIM * model.heads_kv, place.banks * place.devices
    norm(channel, model, place)
    for outputs in (hidden, kv, kv):
        linear(channel, hidden, outputs, shared)
    rotary(channel, model, place)
    channel.append_key(kv // ROW, place.blocks)
    channel.append_values(_up(model.heads_kv, place.channels) * HEAD_DIM // BANKS)
    scores(channel, model, place, tokens)
    softmax(channel, model, place, tokens)
    values(channel, model, place, tokens)
    linear(channel, hidden, hidden, shared)
    norm(channel, model, place)
    linear(channel, hidden, model.ffn, shared, activation=True)
    linear(channel, hidden, model.ffn, shared)
    _scaled(channel, model.ffn, _up(model.ffn, place.banks // GROUPS), place, operands=2, again=True)
    linear(channel, model.ffn, hidden, shared)
    return channel.ticks()


def embedding_ticks(part: PimPart, model: Llama, place: Place) -> int:
    """Clocks of the embedding (a one-hot vector times the table), the last norm and the head; without refresh."""
    channel = Channel(part)
    shared = place.banks * place.devices
    linear(channel, VOCABULARY, model.hidden, shared)
    channel.registers("WR_BIAS")
    channel.banks("MACAB", _up(_up(model.hidden, place.banks // 2), BURST))
    channel.registers("RD_MAC")
    _scaled(channel, model.hidden, _up(model.hidden, place.banks // GROUPS), place, operands=1)
    linear(channel, model.hidden, VOCABULARY, shared)
    return channel.ticks()


def _pieces(elements: int) -> list[int]:
    """A vector cut into rows of a bank."""
    return [min(ROW, elements - first) for first in range(0, elements, ROW)]


def _up(a: int, b: int) -> int:
    return -(-a // b)
