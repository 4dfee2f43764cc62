"""The eight networks of Bit Fusion's evaluation: layer shapes and the widths that each layer runs in.

Shapes and widths are those that the authors publish with their simulator (GitHub hsharma35/bitfusion, benchmarks;
AlexNet and ResNet-18 twice as wide, after WRPN). A residual block of theirs is a 1×1 and a 3×3 convolution. Pooling,
additions and activations cost nothing there, and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A convolution with square kernel and output, or a matrix product (kernel and output of 1)."""

    kernel: int
    output: int
    stride: int
    inputs: int
    outputs: int
    input_bits: int
    weight_bits: int
    im2col: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.kernel**2 * self.output**2 * self.inputs * self.outputs


def _conv(
    kernel: int, output: int, inputs: int, outputs: int, bits: tuple[int, int], *, stride: int = 1, first: bool = False
) -> Shape:
    """``bits``: of inputs, of weights. The first convolution of a network is lowered by im2col."""
    return Shape(kernel, output, stride, inputs, outputs, *bits, im2col=first)


def _product(inputs: int, outputs: int, bits: tuple[int, int]) -> Shape:
    return Shape(1, 1, 1, inputs, outputs, *bits)


def _alexnet() -> tuple[Shape, ...]:
    """Every convolution stands twice: AlexNet's two halves, of which the third reads both."""
    halves = (
        _conv(11, 55, 3, 96, (8, 8), stride=4, first=True),
        _conv(5, 27, 96, 256, (4, 4)),
        _conv(3, 13, 512, 384, (4, 4)),
        _conv(3, 13, 384, 384, (4, 4)),
        _conv(3, 13, 384, 256, (4, 4)),
    )
    dense = (_product(18432, 8192, (4, 4)), _product(8192, 8192, (4, 4)), _product(8192, 1000, (8, 8)))
    return (*halves, *halves, *dense)


def _quantised(
    channels: tuple[int, int, int], flat: int, first: tuple[int, int], bits: tuple[int, int]
) -> tuple[Shape, ...]:
    """Three pairs of convolutions with pooling behind each, then three matrix products (SVHN, CIFAR-10)."""
    one, two, three = channels
    return (
        _conv(3, 32, 3, one, first, first=True), _conv(3, 32, one, one, bits),
        _conv(3, 16, one, two, bits), _conv(3, 16, two, two, bits),
        _conv(3, 8, two, three, bits), _conv(3, 8, three, three, bits),
        _product(flat, 1024, bits), _product(1024, 1024, bits), _product(1024, 10, bits),
    )


def _resnet() -> tuple[Shape, ...]:
    layers = [_conv(7, 112, 3, 128, (8, 8), stride=2, first=True)]
    channels = 128
    for output, width in ((56, 128), (28, 256), (14, 512), (7, 1024)):
        for _ in range(2):
            stride = 2 if channels != width else 1
            layers += [_conv(1, output, channels, width, (4, 4), stride=stride), _conv(3, output, width, width, (4, 4))]
            channels = width
    return tuple(layers)


def _vgg() -> tuple[Shape, ...]:
    half = (
        _conv(3, 32, 3, 128, (2, 2), first=True), _conv(3, 16, 128, 256, (2, 2)), _conv(3, 8, 256, 512, (2, 2)),
    )
    return (*half, *half, _product(8192, 1024, (2, 2)))


NETWORKS: dict[str, tuple[Shape, ...]] = {
    "AlexNet": _alexnet(),
    "SVHN": _quantised((64, 128, 256), 4096, (8, 1), (1, 1)),
    "CIFAR10": _quantised((128, 256, 512), 8192, (8, 8), (2, 2)),
    "LeNet-5": (
        _conv(5, 32, 1, 32, (2, 2), first=True), _conv(5, 16, 32, 64, (2, 2)),
        _product(4096, 512, (2, 2)), _product(512, 10, (2, 2)),
    ),
    "VGG-7": _vgg(),
    "RESNET-18": _resnet(),
    "RNN": (_product(4096, 4096, (4, 4)),),
    "LSTM": (_product(3600, 3600, (4, 4)),),
}
