"""Random programs of nested loops and branches: staged against Python's own loops and branches."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tapejit as tj

SCHEDULES = [
    None, None, tj.Revolve(1), tj.Revolve(3), tj.Uniform(2), tj.Online(2), tj.Memory("200 kB"),
    tj.Revolve(2, every=2), tj.TwoLevel(1, 1),
]  # fmt: skip
INNER = ("loop", "while", "branch")


def _write(c, x, i, j, a):
    c = c * 1.0
    c[i] = np.tanh(c[j]) * a + x[i]
    return c


def _add_in_place(c, x, i, j, a):
    c = c.copy()
    part = c[i:]
    part += 0.3 * x[i:]
    c[j] *= a
    return c


def _solve(c, x, i, j, a):
    return np.linalg.solve(np.eye(len(x)) * 3.0 + 0.3 * np.tanh(np.outer(x, c)), c + x)


#: By name: (carry, closed-over array, two indices, a number) -> carry.
STEPS = {
    "sine": lambda c, x, i, j, a: np.sin(c + a * x),
    "product": lambda c, x, i, j, a: c * np.cos(x * a),
    "matrix": lambda c, x, i, j, a: np.tanh(np.outer(c, x) @ c),
    "write": _write,
    "add in place": _add_in_place,
    "element": lambda c, x, i, j, a: c + np.exp(-c[i] * c[i]) * x,
    "roll": lambda c, x, i, j, a: np.roll(c, i) * a,
    "sum": lambda c, x, i, j, a: c * 0.5 + np.sum(c) * x * 0.1,
    "where": lambda c, x, i, j, a: np.where(c > a, c * x, np.sin(c)),
    "quotient": lambda c, x, i, j, a: c / (1.0 + c * c),
    "join": lambda c, x, i, j, a: np.concatenate([c[j:], c[:j]]),
    "solve": _solve,
}


class Program:
    """A random program of vectors of ``n`` elements; ``run(x, staged)`` is a number."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.n = int(self.rng.integers(1, 7))
        self.steps = [self._loop(0), *self._steps(0)]
        self.x, self.direction = self.rng.normal(size=(2, self.n))

    def _steps(self, depth):
        names = [*STEPS, *INNER] if depth < 2 else [*STEPS]
        return [self._step(str(self.rng.choice(names)), depth) for _ in range(self._pick(1, 5))]

    def _pick(self, low, high):
        return int(self.rng.integers(low, high))

    def _step(self, name, depth):
        if name in STEPS:
            numbers = (self._pick(0, self.n), self._pick(0, self.n), float(self.rng.normal()))
            return lambda c, x, staged: STEPS[name](c, x, *numbers)
        return {"loop": self._loop, "while": self._while, "branch": self._branch}[name](depth)

    def _loop(self, depth):
        inner, xs = self._steps(depth + 1), self.rng.normal(size=(self._pick(0, 5), self.n))
        reverse, schedule = bool(self._pick(0, 2)), SCHEDULES[self._pick(0, len(SCHEDULES))]
        if depth and isinstance(schedule, tj.TwoLevel):
            schedule = None

        def loop(c, x, staged):
            def step(s, w):
                new = _run(inner, s, w + x * 0.1, staged)
                return new, new[0] * s

            if staged:
                c, ys = tj.scan(step, c, xs, reverse=reverse, checkpoint=schedule)
                return c + 0.1 * np.sum(ys, axis=0)
            ys = [c * 0.0]
            for w in xs[::-1] if reverse else xs:
                c, y = step(c, w)
                ys.append(y)
            return c + 0.1 * sum(ys)

        return loop

    def _while(self, depth):
        inner, most = self._steps(depth + 1), float(self._pick(0, 5))
        schedule = [None, tj.Online(2), tj.Online(1, every=2)][self._pick(0, 3)]

        def loop(c, x, staged):
            def step(state):
                return _run(inner, state[0], x, staged), state[1] + 1.0

            def goes_on(state):
                return (state[1] < most) & (np.sum(state[0] * state[0]) < 1e4)

            state = (c, 0.0)
            if staged:
                return tj.while_loop(goes_on, step, state, checkpoint=schedule)[0]
            while goes_on(state):
                state = step(state)
            return state[0]

        return loop

    def _branch(self, depth):
        chosen, other, bound = self._steps(depth + 1), self._steps(depth + 1), self.rng.normal()

        def branch(c, x, staged):
            pair = (
                lambda: _run(chosen, c, x, staged),
                lambda: _run(other, 0.9 * c, x, staged),
            )
            if staged:
                return tj.cond(np.sum(c) > bound, *pair)
            return pair[0]() if np.sum(c) > bound else pair[1]()

        return branch

    def run(self, x, staged):
        """The program's value."""
        return np.sum(np.sin(_run(self.steps, x * 1.0, x, staged)) * x)


def _run(steps, c, x, staged):
    for step in steps:
        c = step(c, x, staged)
    return c


@pytest.mark.parametrize("seed", range(40))
def test_staged_programs_are_the_unrolled_ones(seed):
    program = Program(seed)
    x, v = program.x, program.direction
    staged, plain = (lambda x: program.run(x, True)), (lambda x: program.run(x, False))
    close = {"rtol": 1e-7, "atol": 1e-9}
    assert_allclose(tj.jit(staged)(x), tj.jit(plain)(x), **close)
    gradient, expected = tj.grad(staged), tj.grad(plain)
    first = gradient(x)
    assert_allclose(first, expected(x), **close)
    assert_allclose(gradient(0.97 * x + 0.01), expected(0.97 * x + 0.01), **close)
    assert (gradient(x) == first).all()
    assert_allclose(tj.jvp(staged, (x,), (v,))[1], first @ v, **close)
    if seed % 4 == 0:
        assert_allclose(tj.hvp(staged)(x, v), tj.hvp(plain)(x, v), rtol=1e-5, atol=1e-7)
    if seed % 8 == 0:
        with tj.testing.plain_python():
            assert_allclose(tj.grad(staged)(x), first, **close)
