"""A small network of pictures, trained for a few steps with Q/DQ in it, by PyTorch itself or with Brevitas.

`python -m bench.peers.trained FLOAT SAMPLES OUTPUT --with pytorch`: SAMPLES are read, FLOAT and OUTPUT are written.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.peers.samples import Samples

FORM: dict[str, Any] = {"input_names": ["input"], "output_names": ["y"], "dynamo": False, "opset_version": 13}
STEPS, BATCH, CLASSES = 20, 8, 10
RATE, FINE_RATE = 0.01, 1e-6
"""Of learning, in float and with Q/DQ: the second trains the ranges, and next to nothing else."""


class Block(nn.Module):
    """Convolution, batch normalisation, Relu."""

    def __init__(self, channels: int, made: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, made, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(made)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run it."""
        result: torch.Tensor = self.relu(self.norm(self.convolution(x)))
        return result


class Network(nn.Module):
    """Three blocks with a residual branch, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = Block(3, 16), Block(16, 32), Block(32, 32)
        self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run it on pictures channels last."""
        x = self.second(self.first(x.permute(0, 3, 1, 2)))
        result: torch.Tensor = self.last(self.pool(x + self.third(x)).flatten(1))
        return result


def main() -> None:
    """Train in float, then with Q/DQ, and write both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("float", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--with", dest="tool", choices=["pytorch", "brevitas"], default="pytorch")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pictures = torch.cat([torch.from_numpy(next(iter(sample.values()))) for sample in Samples(options.samples)])
    network = Network()
    _train(network, pictures, RATE)
    _export(network.eval(), pictures, options.float)
    network.train()
    if options.tool == "pytorch":
        _with_pytorch(network, pictures, options.output)
    else:
        _with_brevitas(network, pictures, options.output)


def _train(network: Any, pictures: torch.Tensor, rate: float) -> None:
    """Towards classes that brightness gives: enough for statistics of batches and ranges."""
    classes = (pictures.mean((1, 2, 3)).argsort().argsort() * CLASSES) // len(pictures)
    descent = torch.optim.SGD(network.parameters(), lr=rate)
    for step in range(STEPS):
        chosen = torch.arange(step * BATCH, (step + 1) * BATCH) % len(pictures)
        loss = nn.functional.cross_entropy(network(pictures[chosen]), classes[chosen])
        descent.zero_grad()
        loss.backward()
        descent.step()


def _export(network: Any, pictures: torch.Tensor, output: Path) -> None:
    torch.onnx.export(network, (pictures[:1],), str(output), **FORM)


def _with_pytorch(network: nn.Module, pictures: torch.Tensor, output: Path) -> None:
    """uint8 activations with one scale, int8 weights with one a channel, as the CPU takes them."""
    from torch.ao import quantization
    from torch.ao.nn.intrinsic.qat import freeze_bn_stats
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    fake = quantization.FakeQuantize.with_args
    activation = fake(
        observer=quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8,
        qscheme=torch.per_tensor_affine, reduce_range=False,
    )  # fmt: skip
    weight = fake(
        observer=quantization.MovingAveragePerChannelMinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric, ch_axis=0,
    )  # fmt: skip
    mapping = quantization.QConfigMapping().set_global(quantization.QConfig(activation=activation, weight=weight))
    prepared = prepare_qat_fx(network, mapping, (pictures[:1],))
    prepared.apply(freeze_bn_stats)
    _train(prepared, pictures, FINE_RATE)
    prepared.eval().apply(quantization.disable_observer)
    _export(prepared, pictures, output)


def _with_brevitas(network: nn.Module, pictures: torch.Tensor, output: Path) -> None:
    """Its default layers, exported as QCDQ: QuantizeLinear, Clip, DequantizeLinear."""
    from brevitas.export import export_onnx_qcdq
    from brevitas.graph.quantize import preprocess_for_quantize, quantize

    prepared = quantize(preprocess_for_quantize(network.eval(), trace_model=True))
    prepared.train()
    _train(prepared, pictures, FINE_RATE)
    export_onnx_qcdq(prepared.eval(), args=pictures[:1], export_path=str(output), **FORM)


if __name__ == "__main__":
    main()
