"""What one channel more or less costs: single layers at every width, in every runtime that is installed.

    python benchmarks/channel_widths.py                # measures what benchmarks/results/channel_widths.json lacks
    python benchmarks/channel_widths.py --figure       # draws docs/figures/channel_widths.svg from it
    python benchmarks/channel_widths.py --facts        # says for each layer and runtime which multiples pay

One image, one thread, processor time; each time is the shortest of ``--repeats`` visits to a width, and each visit the
shortest of some passes (see ``LayerTable``), so that other work on the machine falls out. A layer alone brings its own
change of layout where a runtime has a layout of its own; inside a network neighbours share it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from secateur.measure.layer_table import LayerShape, LayerTable
from secateur.measure.machine import processor
from secateur.measure.runtimes import installed
from width_figure import figure

FILE = Path(__file__).parent / "results" / "channel_widths.json"
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "channel_widths.svg"
# kernel, side of the image, width of the end that stays when the other varies, widest
LAYERS = {
    "3x3 at 56x56": (3, 56, 64, 96),
    "3x3 at 14x14": (3, 14, 128, 160),
    "1x1 at 14x14": (1, 14, 128, 160),
    "depthwise 3x3 at 28x28": (3, 28, 0, 160),
    "linear": (0, 0, 512, 160),
}
WAYS = ("both", "outputs", "inputs")
RUNTIMES = ("eager", "channels_last", "onnxruntime", "openvino")
MULTIPLES = (2, 4, 8, 16, 32)
Times = Mapping[int, float]


def shape(layer: str, way: str, width: int) -> LayerShape:
    """Return the layer with this width at both ends, or at one of them while the other is wide."""
    kernel, side, wide, _ = LAYERS[layer]
    inputs, outputs = (wide if way == "outputs" else width), (wide if way == "inputs" else width)
    if layer == "linear":
        return LayerShape("Linear", (outputs, inputs), (1, inputs), True)
    groups = width if layer.startswith("depthwise") else 1
    pairs = {"stride": 1, "padding": kernel // 2, "dilation": 1}
    settings = (*((name, (value, value)) for name, value in pairs.items()), ("groups", groups))
    weight = (outputs, inputs // groups, kernel, kernel)
    return LayerShape("Conv2d", weight, (1, inputs, side, side), True, settings)


def measure(layer: str, way: str, runtime: str, repeats: int) -> dict[int, float]:
    """Return the milliseconds at every width; the visits to one width lie far apart."""
    widths = range(1, LAYERS[layer][3] + 1)
    times = dict.fromkeys(widths, float("inf"))
    for _ in range(repeats):
        table = LayerTable(runtime, 1)  # a fresh one: nothing is remembered
        for width in widths:
            times[width] = min(times[width], table.milliseconds(shape(layer, way, width)))
    return {width: round(time, 5) for width, time in times.items()}


def run(file: Path, runtimes: list[str], layers: list[str], repeats: int) -> None:
    """Measure what is not in the file yet."""
    versions = {runtime: LayerTable(runtime, 1).about()["version"] for runtime in runtimes}
    content: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {"milliseconds": {}}
    content |= {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": versions | content.get("versions", {}),
    }
    for runtime in runtimes:
        for layer in layers:
            for way in WAYS[:1] if layer.startswith("depthwise") else WAYS:
                name = f"{layer} | {way} | {runtime}"
                if name not in content["milliseconds"]:
                    content["milliseconds"][name] = list(measure(layer, way, runtime, repeats).values())
                    print(fact(name, read(content, name)), flush=True)
                    file.write_text(text(content), "utf-8")


def text(content: dict[str, Any]) -> str:
    """Return the JSON with one line for each curve."""
    curves = ",\n".join(f"  {json.dumps(name)}: {json.dumps(times)}" for name, times in content["milliseconds"].items())
    head = json.dumps({key: value for key, value in content.items() if key != "milliseconds"}, indent=1)
    return head[:-2] + ',\n "milliseconds": {\n' + curves + "\n }\n}\n"


def read(content: dict[str, Any], name: str) -> dict[int, float]:
    return dict(enumerate(content["milliseconds"][name], 1))


def price(times: Times, multiple: int) -> float:
    """Return how many times longer a width takes that is no multiple than the next multiple above it, the median.

    More than 1: the wider layer is the faster one.
    Widths below half of the multiple are left out, where hardly anybody would round up.
    """
    ratios = [
        times[width] / times[above]
        for width in times
        if width % multiple and width > multiple / 2 and (above := width + -width % multiple) in times
    ]
    return statistics.median(ratios)


def fact(name: str, times: Times) -> str:
    prices = "  ".join(f"{multiple}: {price(times, multiple):.2f}" for multiple in MULTIPLES)
    some = "  ".join(f"{width}: {times[width]:.3f}" for width in (32, 33, 36, 40, 47, 48, 63, 64))
    return f"{name:55} times the next multiple above, of {prices}; ms at {some}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=[r for r in RUNTIMES if r in installed()])
    parser.add_argument("--layers", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--facts", action="store_true", help="print what the file says")
    parser.add_argument("--figure", action="store_true", help="draw what the file says")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.figure:
        FIGURE.parent.mkdir(parents=True, exist_ok=True)
        FIGURE.write_text(figure(json.loads(arguments.out.read_text("utf-8"))["milliseconds"]), "utf-8")
    elif arguments.facts:
        content = json.loads(arguments.out.read_text("utf-8"))
        for name in content["milliseconds"]:
            print(fact(name, read(content, name)))
    else:
        run(arguments.out, arguments.runtimes, arguments.layers, arguments.repeats)


if __name__ == "__main__":
    main()
