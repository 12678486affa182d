"""Which device a run takes: a kernel is tried on it, and the number type fits the card."""

import pytest
import torch

from lumbar.compute import device as devices
from lumbar.compute.device import choose_device
from lumbar.issues import InputError


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], error: Exception | None = None) -> None:
    def kernel(device: torch.device) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(devices, "_try_kernel", kernel)


def test_a_gpu_that_fails_on_its_first_kernel_gives_way_to_the_cpu_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore lines")
    pretend_gpu(monkeypatch, (6, 0), error)
    lines: list[str] = []
    assert choose_device(say=lines.append) == (torch.device("cpu"), None)
    assert len(lines) == 1
    assert "no kernel image" in lines[0]
    assert "\n" not in lines[0]
    with pytest.raises(InputError, match="'cuda' does not work here"):
        choose_device("cuda", say=lines.append)


@pytest.mark.parametrize(
    ("capability", "amp"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_autocast_fits_the_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], amp: torch.dtype) -> None:
    pretend_gpu(monkeypatch, capability)
    lines: list[str] = []
    assert choose_device(say=lines.append) == (torch.device("cuda"), amp)
    assert lines == []


def test_the_cpu_computes_in_float32_without_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines: list[str] = []
    assert choose_device(say=lines.append) == (torch.device("cpu"), None)
    assert choose_device("cpu", say=lines.append) == (torch.device("cpu"), None)
    assert lines == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_probe_kernel_runs_on_a_real_gpu() -> None:
    device, amp = choose_device(say=lambda line: pytest.fail(line))
    assert device.type == "cuda"
    assert amp in (torch.float16, torch.bfloat16)


def test_the_probe_kernel_computes() -> None:
    devices._try_kernel(torch.device("cpu"))  # a fault in the probe itself would send every GPU to the CPU
