"""Results in other words: vLLM's metric names, one line."""

from __future__ import annotations

from typing import Any

from .units import show


def vllm(*, requests: int, prompt_tokens: int, generation_tokens: int, ttft_s: float | None, tpot_s: float | None, latency_s: float
         ) -> dict[str, float]:
    """The metrics of vLLM's /metrics endpoint (docs.vllm.ai, Production Metrics) that a static batch defines, by vLLM's names.

    Counters are totals of the run. Of a histogram the value stands that every request has, for all enter and leave together: seconds
    from its start, without a queue. What did not run (None) is left out.
    """
    decode_s = None if tpot_s is None else latency_s - (ttft_s or 0.0)
    found = {
        "vllm:num_requests_running": requests,
        "vllm:prompt_tokens_total": prompt_tokens,
        "vllm:generation_tokens_total": generation_tokens,
        "vllm:time_to_first_token_seconds": ttft_s,
        "vllm:request_time_per_output_token_seconds": tpot_s,
        "vllm:inter_token_latency_seconds": tpot_s,
        "vllm:request_prefill_time_seconds": ttft_s,
        "vllm:request_decode_time_seconds": decode_s,
        "vllm:request_inference_time_seconds": latency_s,
        "vllm:e2e_request_latency_seconds": latency_s,
    }
    return {name: value for name, value in found.items() if value is not None}


def told(result: Any) -> dict[str, str]:
    """What a `Result` says of itself in a few words; figures with their units."""
    times = {"TTFT": result.ttft_s, "TPOT": result.tpot_s, "latency": result.latency_s}
    low, high = result.confidence.band
    return {"model": result.run.spec.name, "hardware": result.run.hardware.name,
            **{name: show(value, "s") for name, value in times.items() if value is not None},
            "throughput": f"{result.throughput_tok_s:,.0f} tokens/s", "energy": f"{show(result.energy_per_token_j, 'J')}/token",
            **{f"{phase} bound by": next(iter(result.bounds(phase))) for phase in result.run.phases},
            "real time": f"{low:.2f} to {high:.2f} x these ({result.confidence.label})"}
