"""Train a neural network on scikit-learn's handwritten digits, in plain NumPy.

Parameters are a dictionary of arrays, and the gradient comes back as a dictionary of the same keys.
The minibatch is an argument like any other: all batches have one shape, so one recording serves
them all.  Adam (Kingma and Ba 2015) is written out.
"""

import itertools
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tapejit as tj

SIZES = (64, 128, 10)
BATCH = 64


def initial_parameters(rng):
    """Return weights scaled to keep the size of the activations (Glorot and Bengio 2010)."""
    parameters = {}
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(SIZES)):
        scale = np.sqrt(2 / (n_in + n_out))
        parameters[f"weights {layer}"] = scale * rng.normal(size=(n_in, n_out))
        parameters[f"bias {layer}"] = np.zeros(n_out)
    return parameters


def scores(parameters, images):
    hidden = np.tanh(images @ parameters["weights 0"] + parameters["bias 0"])
    return hidden @ parameters["weights 1"] + parameters["bias 1"]


def cross_entropy(parameters, images, targets):
    """Mean of -log softmax at the right digit; ``targets`` are one-hot."""
    z = scores(parameters, images)
    z = z - np.max(z, axis=1, keepdims=True)
    log_normaliser = np.log(np.sum(np.exp(z), axis=1))
    return np.mean(log_normaliser - np.sum(z * targets, axis=1))


def adam_step(parameters, gradient, state, step, rate=2e-3):
    """Update ``parameters`` in place."""
    for name, g in gradient.items():
        mean, square = state[name]
        mean += 0.1 * (g - mean)
        square += 0.001 * (g * g - square)
        unbiased = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        parameters[name] -= rate * mean / (1 - 0.9**step) / unbiased


def train(images, targets, epochs, rng):
    parameters = initial_parameters(rng)
    state = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in parameters.items()}
    value_and_grad = tj.value_and_grad(cross_entropy)
    step = 0
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(images))
        losses = []
        # The last, shorter batch is left out: it would be a second recording.
        for first in range(0, len(images) - BATCH + 1, BATCH):
            batch = order[first : first + BATCH]
            value, gradient = value_and_grad(parameters, images[batch], targets[batch])
            step += 1
            adam_step(parameters, gradient, state, step)
            losses.append(value)
        if epoch % 10 == 0:
            print(f"epoch {epoch:3d}: training loss {np.mean(losses):.4f}")
    return parameters, step


def main(epochs=40):
    images, digits = load_digits(return_X_y=True)
    images = images / 16.0
    split = train_test_split(images, digits, test_size=0.25, random_state=0, stratify=digits)
    train_images, test_images, train_digits, test_digits = split
    print(f"{len(train_images)} training images, network {' - '.join(map(str, SIZES))} with tanh")
    began = time.perf_counter()
    rng = np.random.default_rng(0)
    parameters, steps = train(train_images, np.eye(10)[train_digits], epochs, rng)
    seconds = time.perf_counter() - began
    guesses = np.argmax(scores(parameters, test_images), axis=1)
    print(f"{steps} steps in {seconds:.1f} s")
    print(f"accuracy on {len(test_images)} unseen images: {np.mean(guesses == test_digits):.1%}")


if __name__ == "__main__":
    main()
