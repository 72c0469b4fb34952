"""Result as users hold it: what a run says, and how it shows itself in a notebook and as a report."""

from __future__ import annotations

from html import escape
from pathlib import Path

from gemvane.sim.result import Result as Figures
from gemvane.sim.units import show


class Result(Figures):
    """What a run says (see sim.result.Result); a notebook shows it as a table."""

    def report(self, path: str | Path) -> Path:
        """Write the HTML report of this result; where it went. ValueError where the extra `report` is missing."""
        from gemvane.report import page, run

        page.check_installed()
        return page.write(run.page(self), path)

    def _repr_html_(self) -> str:
        low, high = self.confidence.band
        rows = [("time to first token", None if self.ttft_s is None else show(self.ttft_s, "s"), self._bound("prefill")),
                ("time per output token", None if self.tpot_s is None else show(self.tpot_s, "s"), self._bound("decode")),
                ("throughput", f"{self.throughput_tok_s:,.4g} tokens/s", ""), ("energy", f"{self.energy_per_token_j:.3g} J/token", ""),
                ("average power", show(self.average_power_w, "W"), ""),
                ("real time expected", f"{low:.2f} to {high:.2f} x", self.confidence.label)]
        cells = "".join(f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(figure)}</td><td>{escape(remark)}</td></tr>"
                        for name, figure, remark in rows if figure is not None)
        notes = "".join(f"<li>{escape(text)}</li>" for text in self.warnings)
        return (f"<table><caption style='text-align:left'>{escape(self.run.spec.name)} on {escape(self.run.hardware.name)}</caption>"
                f"{cells}</table>{f'<ul>{notes}</ul>' if notes else ''}")

    def _bound(self, phase: str) -> str:
        """"memory 78 %": what binds most of a phase."""
        if phase not in self.run.phases:
            return ""
        name, share = next(iter(self.bounds(phase).items()))
        return f"{name} {100 * share:.0f} %"
