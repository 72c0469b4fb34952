"""Results in other tools' words: vLLM's metric names, a notebook's HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape


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


def html(title: str, rows: Mapping[str, str]) -> str:
    """A small table: what notebooks show of a result."""
    lines = "".join(f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(text)}</td></tr>"
                    for name, text in rows.items())
    return f"<table><caption>{escape(title)}</caption>{lines}</table>"
