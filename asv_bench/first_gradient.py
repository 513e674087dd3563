"""Seconds from the start of a process to the first gradient of the model that the demo fits.

Prints one number.  The argument is the time (``time.time()``) at which the parent started this.
"""

import os
import sys
import time
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.append(str(Path(__file__).resolve().parent.parent))

import numpy as np

import tapejit as tj
from tapejit.demo import model

#: Runge–Kutta steps a year, as the demo takes by default.
STEPS = 50


def main() -> None:
    """Record, load or compile what is needed, and call once."""
    pelts = model.load_pelts()
    objective = model.of_logarithms(model.negative_log_likelihood(pelts, STEPS))
    value, gradient = tj.value_and_grad(objective)(model.start(pelts))
    taken = time.time() - float(sys.argv[1])
    if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
        raise SystemExit(f"not finite: {value} {gradient}")
    print(taken)


if __name__ == "__main__":
    main()
