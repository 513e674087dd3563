"""Command line: ``python -m tapejit demo``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

PICTURE_FORMATS = (".png", ".svg", ".pdf")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default the process's own.
    """
    arguments = _parser().parse_args(argv)
    return arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tapejit",
        description="Automatic differentiation of NumPy code: record once, replay compiled.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="fit a predator-prey model to real data with compiled gradients",
        description="Fit the Lotka–Volterra model to the Hudson's Bay Company's pelts of hares "
        "and lynxes, 1900–1920: print estimates, errors and timings, and draw the fit.",
    )
    demo.add_argument(
        "--output",
        type=_picture_path,
        default=Path("lynx_hare.png"),
        metavar="FILE",
        help="the picture to write: .png, .svg or .pdf (default: %(default)s)",
    )
    demo.add_argument("--no-plot", action="store_true", help="write no picture")
    demo.add_argument(
        "--steps",
        type=_positive,
        default=50,
        metavar="N",
        help="Runge–Kutta steps a year (default: %(default)s)",
    )
    demo.set_defaults(run=_demo)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    # Imported here, so that --help answers without loading a compiler.
    from tapejit.demo.run import run

    fit = run(None if arguments.no_plot else arguments.output, arguments.steps)
    return 0 if fit.converged else 1


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return number


def _picture_path(text: str) -> Path:
    # Checked before the fit: nobody wants to learn of a mistyped folder after the work is done.
    path = Path(text)
    if path.suffix.lower() not in PICTURE_FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png, .svg or .pdf")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
