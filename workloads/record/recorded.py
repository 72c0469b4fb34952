"""What a recording gives: traces, and a spec of what they keep in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..kinds import KINDS
from ..lower import chained
from ..scenario import Scenario
from ..spec import MLA, Attention, Chain, Dense, Layer, ModelSpec, Step
from ..trace import Trace


@dataclass(frozen=True)
class Recording:
    """A model as it was recorded: a trace of each phase that ran. It stands where `lower` does in a simulation."""

    name: str
    parameters: int
    first: Trace | None
    """The prefill, or the one pass of a model with inputs of its own."""
    step: Trace | None
    """A decode step, with one token more in the cache than the prompt has."""

    @property
    def _any(self) -> Trace:
        trace = self.step or self.first
        assert trace is not None
        return trace

    @property
    def spec(self) -> ModelSpec:
        """What the model keeps in memory: its parameters as a number, and a layer for each of its caches and states."""
        trace = self._any
        bare = ModelSpec(name=self.name, family="recorded", hidden=0, layers=_layers(trace), vocab=0, norm="rmsnorm", head="none",
                         final_norm=False, encoder=self.step is None, source_tokens=int((trace.rows.kv_len * trace.rows.cross).max()))
        return replace(bare, extra_parameters=self.parameters - bare.parameters)

    def scenario(self, asked: Scenario) -> Scenario:
        """The scenario as it was recorded: with the batch and the length of the example inputs."""
        lengths = self._any.requests.prompt
        return asked.but(batch=int(lengths.size), prompt=int(lengths[0]))

    def prefill(self, spec: ModelSpec, scenario: Scenario, sub_batches: int = 1) -> Trace:
        """The recorded prefill."""
        if self.first is None:
            raise ValueError(f"{self.name} was recorded as a decode step. Use --phase decode.")
        return self.first

    def decode_step(self, spec: ModelSpec, scenario: Scenario, generated: int = 1, sub_batches: int = 1, partition: str = "dealt",
                    channels: int = 1) -> Trace:
        """The recorded decode step: one sub-batch, however many are asked for."""
        if self.step is None:
            raise ValueError(f"{self.name} has no decode phase. Use --phase prefill.")
        return self.step

    def trace(self, scenario: Scenario) -> Trace:
        """The operators of the scenario's phase; of both, the prefill and every decode step."""
        if scenario.phase == "decode" or self.first is None:
            return self.decode_step(self.spec, scenario)
        if scenario.phase == "prefill" or self.step is None:
            return self.first
        return chained(self.first, self.step, scenario.decode_steps)


def _layers(trace: Trace) -> tuple[Layer, ...]:
    """One for each row that attends or scans."""
    rows, appended = trace.rows, 0
    out: list[Attention | MLA | Chain] = []
    for i, kind in enumerate(KINDS[code] for code in rows.kind.tolist()):
        if kind.name == "kv_append":
            appended += int(rows.kv_width[i])
        elif kind.name in ("attention_prefill", "attention_decode"):
            out.append(_mixer(trace, i, appended))
            appended = 0
        elif kind.form in ("scan", "step", "channels"):
            out.append(Chain(label=kind.name, steps=(_state(trace, i),)))
    none = Chain(label="no attention", steps=(Step(name="none", kind="add"),))
    return tuple(Layer(mixer=mixer, ffn=Dense(width=0, gated=False, activation="relu")) for mixer in out or [none])


def _mixer(trace: Trace, row: int, appended: int) -> Attention | MLA:
    """Attention, whose cache has `appended` elements a token: where these are not its keys and values, a latent of them."""
    rows = trace.rows
    heads_q, heads_kv, head_dim, value_dim, width = (
        int(column[row]) for column in (rows.heads_q, rows.heads_kv, rows.head_dim, rows.value_dim, rows.kv_width))
    if appended and appended != width and not rows.cross[row]:
        return MLA(heads_q=heads_q, q_lora_rank=None, kv_lora_rank=appended, nope_dim=head_dim, rope_dim=0, value_dim=value_dim)
    return Attention(heads_q=heads_q, heads_kv=heads_kv, head_dim=head_dim, window=int(rows.window[row]) or None,
                     source="cross" if rows.cross[row] else "self")


def _state(trace: Trace, row: int) -> Step:
    """What a scan keeps from one token to the next."""
    rows = trace.rows
    key_dim = int(rows.head_dim[row])
    if KINDS[rows.kind[row]].form == "channels":
        return Step(name="state", kind="selective_scan", n=int(rows.n[row]), key_dim=key_dim)
    return Step(name="state", kind="scan", heads=int(rows.heads_q[row]), key_dim=key_dim, value_dim=int(rows.value_dim[row]))
