"""`make bench` writes docs/benchmarks.md: qtool beside onnxruntime's own quantizer and NNCF, on the same models.

    python -m bench [--only MODEL]... [--section NAME] [--rounds N] [--peer NAME]... [--output FILE]

Every figure in that file comes from here. Timings are medians of interleaved runs, as ratios.
"""

import argparse
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.accuracy import accuracy
from bench.attention import attention
from bench.blockwise import blockwise
from bench.cost import calibration_section, quantize_section
from bench.detectors import detectors
from bench.document import replaced, signed
from bench.environments import OPTIONAL
from bench.finetuning import finetuning
from bench.language import language
from bench.learned_rounding import learned_rounding
from bench.machine import machine
from bench.other_makers import other_makers
from bench.packaged import packaged, packaged_folder
from bench.pipelines import pipelines
from bench.process import REPOSITORY, demand
from bench.recurrent import recurrent
from bench.refined import refined
from bench.sensitivity_cost import sensitivity_cost
from bench.side_by_side import side_by_side
from bench.tuning import tuning
from bench.zoo_models import vision_models, zoo_folder

PAIRS = 3


def main() -> None:
    """Run everything and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="one model of the zoo; may be repeated")
    parser.add_argument("--section", help="write this section of the file again, and leave the others")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "benchmarks.md")
    parser.add_argument("--rounds", type=int, default=3, help="of the section Side by side")
    parser.add_argument("--peer", action="append", default=[], choices=OPTIONAL, help="one more tool Side by side")
    options = parser.parse_args()
    zoo = zoo_folder()
    if zoo is None:
        sys.exit("no models: set QTOOL_ZOO, an environment variable, to the zoo's folder (bench/zoo_models.py)")
    models = [m for m in vision_models(zoo) if not options.only or m.name in options.only]
    with tempfile.TemporaryDirectory(prefix="qtool-bench-") as name:
        folder = Path(name)
        sections: dict[str, Callable[[], str]] = {
            "Side by side": lambda: side_by_side(zoo, folder, options.only, options.rounds, options.peer),
            "Accuracy and speed": lambda: accuracy(models, folder),
            "Language": lambda: language(zoo, folder),
            "Pipelines": lambda: pipelines(folder),
            "Block-wise weights": lambda: blockwise(zoo, folder),
            "Attention": lambda: attention(folder),
            "Recurrent": lambda: recurrent(zoo, folder),
            "Detectors and segmenters": lambda: detectors(folder, packaged_folder()),
            "Models of packages": lambda: packaged(packaged_folder(), folder, options.only),
            "Refined weights": lambda: refined(models, folder),
            "Tuning": lambda: tuning(models, folder),
            "Fine-tuning": lambda: finetuning(zoo, folder, options.only),
            "Learned rounding": lambda: learned_rounding(models, folder),
            "Other makers": lambda: other_makers(vision_models(zoo), folder),
            "Cost of sensitivity analysis": lambda: _sensitivity(zoo),
            "Cost of calibration": lambda: calibration_section(folder, PAIRS),
            "Cost of quantize": lambda: quantize_section(folder, PAIRS),
            "Start": _start,
        }
        head = HEAD.format(machine=machine(), command=_command(sys.argv[1:]))
        if options.section is None:
            text = "\n".join([head, *(write() for write in sections.values())])
        elif options.section in sections:
            before = options.output.read_text(encoding="utf-8") if options.output.exists() else head
            text = replaced(before, signed(sections[options.section](), machine(), before), list(sections))
        else:
            sys.exit(f"no section {options.section!r}; there are {', '.join(sections)}")
    options.output.write_text(text, encoding="utf-8")


HEAD = """# Benchmarks

Written by `{command}` on {machine}.
Nothing here is typed by hand. Timings are medians of interleaved runs and are given as ratios.
"""


def _command(words: list[str]) -> str:
    return f"python -m bench {shlex.join(words)}" if words else "make bench"


def _sensitivity(zoo: Path) -> str:
    model = next(m for m in vision_models(zoo) if m.name == "mobilenetv2")
    text = "MobileNetV2, 32 pictures, beside the naive way (one session and one full pass a layer), interleaved:"
    return "\n".join(["## Cost of sensitivity analysis", "", text, "", sensitivity_cost(model, 32, PAIRS), ""])


def _start() -> str:
    seconds = statistics.median(demand([sys.executable, "-m", "qtool", "--help"]).wall for _ in range(5))
    return f"## Start\n\n`qtool --help`, whole process: {1000 * seconds:.0f} ms.\n"


if __name__ == "__main__":
    main()
