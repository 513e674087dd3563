"""Logistic regression on scikit-learn's breast cancer data, against scikit-learn's own fit.

Both minimise the same function: the log loss plus half the squared weights (the intercept is not
penalised).  One is a line of NumPy with tapejit's gradient and Hessian products under SciPy's
Newton-CG, the other is `sklearn.linear_model.LogisticRegression`.  The weights agree.
"""

import time

import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

import tapejit as tj

FEATURES, BENIGN = load_breast_cancer(return_X_y=True)
FEATURES = (FEATURES - FEATURES.mean(axis=0)) / FEATURES.std(axis=0)
SIGN = 2.0 * BENIGN - 1.0


def loss(parameters):
    weights, intercept = parameters[:-1], parameters[-1]
    margins = SIGN * (FEATURES @ weights + intercept)
    return np.sum(np.logaddexp(0.0, -margins)) + 0.5 * np.sum(weights**2)


def fit_tapejit():
    start = np.zeros(FEATURES.shape[1] + 1)
    options = {"xtol": 1e-12}
    return minimize(
        tj.value_and_grad(loss),
        start,
        jac=True,
        hessp=tj.hvp(loss),
        method="Newton-CG",
        options=options,
    )


def fit_sklearn():
    # C multiplies the log loss; 1 makes the two objectives equal.
    return LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12).fit(FEATURES, BENIGN)


def main():
    began = time.perf_counter()
    ours = fit_tapejit()
    between = time.perf_counter()
    theirs = fit_sklearn()
    seconds = between - began, time.perf_counter() - between

    reference = np.append(theirs.coef_[0], theirs.intercept_)
    accuracy = np.mean((FEATURES @ ours.x[:-1] + ours.x[-1] > 0) == BENIGN)
    print(f"{len(FEATURES)} tumours, {FEATURES.shape[1]} features")
    print(
        f"tapejit + Newton-CG: loss {loss(ours.x):.10f}, {1e3 * seconds[0]:.0f} ms with recording"
    )
    print(f"scikit-learn:        loss {loss(reference):.10f}, {1e3 * seconds[1]:.0f} ms")
    print(f"largest difference of a weight: {np.abs(ours.x - reference).max():.1e}")
    print(f"accuracy on the training data: {accuracy:.1%}")


if __name__ == "__main__":
    main()
