"""Energy counters, clocks and temperature of the device that is measured, from whatever may be read here."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Protocol

RAPL = Path("/sys/class/powercap")
SMI_FIELDS = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "power.limit", "driver_version", "clocks.max.sm",
              "clocks.max.mem")
SMI_PERIOD_S = 0.2


class Meter(Protocol):
    """Reads one device. `name` says how."""

    name: str

    def joules(self) -> float:
        """A counter that only grows."""

    def state(self) -> dict[str, float]:
        """Clocks in MHz and temperature in Celsius, now; empty where they cannot be read."""


class Rapl:
    """The package counters of an x86 CPU (running average power limit): the sockets, all that runs on them, without DRAM."""

    name = "RAPL packages"

    def __init__(self, zones: list[Path]) -> None:
        self._files = [zone / "energy_uj" for zone in zones]
        self._range = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self._last = [int(file.read_text()) for file in self._files]
        self._total_uj = 0

    def joules(self) -> float:
        """Since the start; a counter that wrapped is taken to have done so once."""
        now = [int(file.read_text()) for file in self._files]
        self._total_uj += sum((new - old) % (top + 1) for new, old, top in zip(now, self._last, self._range, strict=True))
        self._last = now
        return self._total_uj / 1e6

    def state(self) -> dict[str, float]:
        return {}


class Nvml:
    """The energy counter of an NVIDIA GPU (nvmlDeviceGetTotalEnergyConsumption, millijoules), through pynvml."""

    name = "NVML energy counter"

    def __init__(self, uuid: str) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml, self._handle = pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid)
        self.joules()

    def joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def state(self) -> dict[str, float]:
        nvml, handle = self._nvml, self._handle
        return {"sm_clock_mhz": float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
                "memory_clock_mhz": float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
                "temperature_c": float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))}


class Smi:
    """Power that nvidia-smi reports, asked again and again and added up: an average over about a second, not a counter."""

    name = "nvidia-smi power, integrated"

    def __init__(self, uuid: str) -> None:
        self._uuid, self._total, self._then = uuid, 0.0, time.perf_counter()
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._watts = float(smi(self._uuid)["power.draw"])
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        """Ask until there is no answer any more; the next reading of the counter starts again, or says why not."""
        try:
            while True:
                watts = float(smi(self._uuid)["power.draw"])
                self._add(watts)
                time.sleep(SMI_PERIOD_S)
        except (OSError, ValueError, subprocess.SubprocessError):
            return

    def _add(self, watts: float) -> float:
        with self._lock:
            now = time.perf_counter()
            self._total += self._watts * (now - self._then)
            self._then, self._watts = now, watts
            return self._total

    def joules(self) -> float:
        if not self._thread.is_alive():
            self._start()
        return self._add(self._watts)

    def state(self) -> dict[str, float]:
        told = smi(self._uuid)
        fields = {"sm_clock_mhz": "clocks.sm", "memory_clock_mhz": "clocks.mem", "temperature_c": "temperature.gpu"}
        return {name: float(told[field]) for name, field in fields.items() if told[field].replace(".", "").isdecimal()}


def smi(uuid: str) -> dict[str, str]:
    """What nvidia-smi says of a GPU, by field; raises OSError or ValueError where it cannot be asked."""
    done = subprocess.run(["nvidia-smi", "-i", uuid, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"],
                          capture_output=True, text=True, check=False, timeout=20)
    cells = [cell.strip() for cell in done.stdout.strip().split(",")]
    if done.returncode or len(cells) != len(SMI_FIELDS):
        raise ValueError(f"nvidia-smi: {done.stderr.strip() or done.stdout.strip()}")
    return dict(zip(SMI_FIELDS, cells, strict=True))


def cpu_meter(folder: Path = RAPL) -> Meter | None:
    """The package counters, where they may be read."""
    zones = sorted(zone for zone in folder.glob("intel-rapl:*") if zone.name.count(":") == 1) if folder.is_dir() else []
    try:
        return Rapl(zones) if zones else None
    except (OSError, ValueError):
        return None


def gpu_meter(uuid: str) -> Meter | None:
    """The counter of an NVIDIA GPU; else its power as nvidia-smi reports it; else nothing."""
    for make in (Nvml, Smi):
        try:
            return make(uuid)
        except Exception:      # pynvml has an exception class of its own for every way to fail
            continue
    return None


def told(uuid: str) -> dict[str, Any]:
    """Driver, power limit and highest clocks of a GPU for its record; empty without nvidia-smi."""
    try:
        fields = smi(uuid)
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return {"driver": fields["driver_version"], "power_limit_w": fields["power.limit"],
            "max_sm_clock_mhz": fields["clocks.max.sm"], "max_memory_clock_mhz": fields["clocks.max.mem"]}
