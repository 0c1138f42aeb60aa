"""The command ``python -m meanflow.checkpoints convert SRC DST``, which converts a model into another format."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from meanflow.checkpoints.convert import WRITERS, convert
from meanflow.checkpoints.description import PARTS
from meanflow.display.errors import one_line_errors
from meanflow.pipeline import Pipeline

EXAMPLES = """\
examples:
  convert dmf_xl_2_256.pt dmf_xl_2_256                      official file -> folder for meanflow.load
  convert iMF-B-2-full.zip imf_b_2.pth --to imf-torch       JAX release -> official PyTorch names
  convert hf://he-vision-group/iMF/iMF-B-2.zip imf_b_2      file on the Hugging Face hub -> folder
  convert runs/NAME/checkpoints/last.ckpt dmf.pt --to dmf   training run of this project -> official names
  convert small.pt small --state num_heads=4 --state dmf_depth=3
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    main = argparse.ArgumentParser(prog="python -m meanflow.checkpoints", description="Trained models as files.")
    commands = main.add_subparsers(dest="command", required=True)
    sub = commands.add_parser(
        "convert",
        help="write a model in another format",
        description="Write a model in another format. Weights keep their values. No code in a file is executed. DST "
        "appears when it is complete.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument(
        "source", metavar="SRC", help="a model that meanflow.load opens: .ckpt, folder, .pt, .pth, .zip, hf://"
    )
    sub.add_argument("target", metavar="DST", type=Path, help="file or folder to write; must not exist")
    sub.add_argument(
        "--to", choices=sorted(WRITERS), help="format; by default dmf for .pt, imf-torch for .pth, else folder"
    )
    sub.add_argument("--raw", action="store_true", help="take the trained weights, not the averaged weights")
    sub.add_argument(
        "--without-v-heads", action="store_true", help="leave out the v head, which only training needs (imf-torch)"
    )
    sub.add_argument(
        "--state",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="setting that SRC lacks, such as num_heads=16, dmf_depth=20, input_size=64 or normalization=imf (can be "
        "given several times)",
    )
    return main


def main(arguments: list[str] | None = None) -> None:
    """Run one command. Bad input ends in a message of one line and exit status 1."""
    options = parser().parse_args(arguments)
    with one_line_errors():
        try:
            print(f"reading {options.source}", flush=True)
            pipeline = convert(
                options.source,
                options.target,
                options.to,
                ema=not options.raw,
                v_heads=not options.without_v_heads,
                **stated(options.state),
            )
        except ImportError as error:
            raise ValueError(str(error)) from error
        print(summary(pipeline))
        print(f"wrote {options.target}")


def stated(pairs: list[str]) -> dict[str, Any]:
    """Return the settings in ``KEY=VALUE`` pairs. Values are YAML.

    Raises:
        ValueError: If a pair has no key or no ``=``, or a value is not YAML.
    """
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ValueError(f"--state must be KEY=VALUE, got {pair!r}")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--state {key} must have a YAML value, got {value!r}") from None
    return values


def summary(pipeline: Pipeline) -> str:
    """Return a few lines that list all settings of a model: settings of the file, defaults, and stated settings."""
    config = pipeline.config
    network = dict(config["network"])
    name = network.pop("name")
    count = sum(parameter.numel() for parameter in pipeline.network.parameters())
    lines = [f"  {name}, {count:,} parameters: " + ", ".join(f"{key}={value}" for key, value in network.items())]
    values = {**config, "normalization": pipeline.normalization}
    return "\n".join([*lines, *(f"  {key}: {values[key]}" for key in PARTS)])


if __name__ == "__main__":
    main(sys.argv[1:])
