"""Indexing of traced arrays: reading, writing in place, traced integers and masks."""

import numpy as np
import pytest

import tapejit as tj
import tapejit.numpy as tnp

RNG = np.random.default_rng(5)
V = RNG.uniform(0.2, 2.0, 6)
M = RNG.uniform(0.2, 2.0, (4, 5))
C = RNG.uniform(0.2, 2.0, (2, 3, 4))
MASK = np.array([True, False, True, True])

READ = {
    "element": (lambda x: x[2] * 2, V),
    "negative": (lambda x: x[-1, -2] * 2, M),
    "numpy_int": (lambda x: x[np.int64(1), 2] * 2, M),
    "slice": (lambda x: x[1:5:2] * 2, V),
    "reversed": (lambda x: x[::-1, 3:0:-2] * 2, M),
    "ellipsis": (lambda x: x[..., 1] * 2, C),
    "ellipsis_scalar": (lambda x: x[..., 1] * 2, V),
    "newaxis": (lambda x: x[:, None] * x[None], V),
    "row": (lambda x: x[1] * 2, M),
    "empty_tuple": (lambda x: x[()] * 2, V),
    "empty_list": (lambda x: x[[]] * 2, V),
    "integers": (lambda x: x[[3, 0, 0, -1]], V),
    "integer_matrix": (lambda x: x[np.array([[0, 1], [2, -1]])], V),
    "rows": (lambda x: x[[2, 0]], M),
    "columns": (lambda x: x[:, [4, 1, 1]], M),
    "pairs": (lambda x: x[[0, 1, 3], [4, 2, 2]], M),
    "ix": (lambda x: x[np.ix_([0, 2], [1, 3, 4])], M),
    "mixed_slice": (lambda x: x[1:, [0, 2]], M),
    "mixed_int": (lambda x: x[0, :, [1, 3]], C),
    "adjacent": (lambda x: x[:, [0, 2], [1, 3]], C),
    "separated": (lambda x: x[[0, 1], :, [1, 3]], C),
    "with_newaxis": (lambda x: x[[0, 1], None, 1:], M),
    "new_between": (lambda x: x[[0, 1], None, [1, 2]], M),
    "ellipsis_integers": (lambda x: x[..., [1, 0]], C),
    "mask": (lambda x: x[MASK], M),
    "mask_2d": (lambda x: x[np.arange(20).reshape(4, 5) % 3 == 0], M),
    "mask_and_int": (lambda x: x[MASK, 1], M),
    "mask_and_slice": (lambda x: x[MASK, ::2], M),
    "true": (lambda x: x[True], V),
    "of_view": (lambda x: x.T[1:, ::-1][[0, 2], 1:], M),
    "of_view_element": (lambda x: x.T[np.array(1), np.array(2)] * 2, M),
    "traced": (lambda x: x[np.argmax(x)] * 2, V),
    "traced_negative": (lambda x: x[np.argmax(x) - 6] * 2, V),
    "traced_row": (lambda x: x[np.argmax(x[:, 0])], M),
    "traced_column": (lambda x: x[1:, np.argmax(x[0])], M),
    "traced_both": (lambda x: x[np.argmin(x[:, 0]), np.argmax(x[0])], M),
    "traced_mixed": (lambda x: x[np.argsort(x[:, 0]), [0, 1, 2, 3]], M),
    "traced_array": (lambda x: x[np.argsort(x)], V),
    "traced_view": (lambda x: x.T[np.argsort(x[0])], M),
    "traced_adjacent": (lambda x: x[:, np.argmax(x[0, :, 0]), [1, 3]], C),
    "traced_separated": (lambda x: x[np.argmax(x[:, 0, 0]), :, [1, 3]], C),
    "object_index": (lambda x: x[[np.argmax(x), np.argmin(x)]], V),
    "iteration": (lambda x: sum(row[0] * row[1] for row in x), M),
    "unpacking": (lambda x: (lambda a, b, c, d: a @ b + c @ d)(*x), M),
    "item": (lambda x: x.item(3) * x[0].item(), V),
    "tolist": (lambda x: sum(sum(row) for row in x.tolist()), M),
}


def written(body):
    """A function that changes its argument in place and returns it."""

    def function(x):
        x = x.copy()
        out = body(x)
        return x if out is None else out

    return function


def exec_body(source):
    def body(x):
        scope = {"x": x, "np": np, "MASK": MASK}
        exec(source, scope)
        return scope.get("result")

    return body


WRITE = {
    "element": ("x[1] = x[0] * 2", V),
    "constant": ("x[1] = 3.0", V),
    "negative": ("x[-1, 2] = x[0, 0]", M),
    "itself": ("x[1] = x[1]", V),
    "slice": ("x[1:3] = x[3:5] * 2", V),
    "row": ("x[0] = x[1] + 1", M),
    "column": ("x[:, 1] = x[:, 0]", M),
    "broadcast": ("x[1:] = x[0]", M),
    "broadcast_scalar": ("x[1:3] = x[0, 0]", M),
    "leading_ones": ("x[0] = x[None, 1]", M),
    "overlap": ("x[1:] = x[:-1]", V),
    "overlap_reversed": ("x[:] = x[::-1]", V),
    "swap": ("x[0], x[1] = x[1], x[0]", V),
    "swap_rows_by_copy": ("t = x[0].copy(); x[0] = x[1]; x[1] = t", M),
    "add_element": ("x[2] += x[1]", V),
    "add_slice": ("x[1:4] += x[0]", V),
    "multiply_all": ("x *= x", V),
    "view_shares": ("row = x[1]; row += 1; row[0] = x[0, 0]", M),
    "transposed_view": ("x.T[1] = x[:, 0] * 2", M),
    "reshaped_view": ("x.reshape(-1)[3] = 7.0", M),
    "integers": ("x[[0, 2]] = x[[1, 3]] * 2", V),
    "duplicates": ("x[[0, 0, 1]] = x[[3, 4, 5]]", V),
    "integers_add": ("x[[0, 2]] += 1.5", V),
    "pairs": ("x[[0, 1], [2, 3]] = x[2, :2]", M),
    "integer_rows": ("x[[0, 2]] = x[1]", M),
    "mixed": ("x[:, [0, 2]] = x[:, [1, 3]]", M),
    "mask": ("x[MASK] = 0.5", M),
    "mask_values": ("x[MASK] = x[:3] * 2", M),
    "mask_add": ("x[MASK, 0] += x[0, 0]", M),
    "traced_mask": ("x[x > 1] = 0.0", M),
    "traced_mask_scalar": ("x[x > 1] = x[0, 0] * 2", M),
    "traced_row_mask": ("x[x[:, 0] > 1] = x[0]", M),
    "traced": ("x[np.argmax(x)] = 0.5", V),
    "traced_add": ("x[np.argmax(x)] += x[0] * 2", V),
    "traced_row": ("x[np.argmax(x[:, 0])] = x[0] * 3", M),
    "traced_array": ("x[np.argsort(x)] = x ** 2", V),
    "traced_pair": ("x[np.argmax(x[:, 0]), 1] = x[1, 1] * 2", M),
    "of_array_element": ("x[np.array(1)] = x[0] * 3", V),
    "ellipsis": ("x[...] = x * 2", M),
    "ellipsis_element": ("x[1, ...] = 2.0; x[..., 0] = x[..., 1]", M),
    "fill": ("x[1:].fill(2.0)", M),
    "sort": ("x.sort()", M),
    "sort_axis": ("x.sort(axis=0)", M),
    "add_at": ("np.add.at(x, [0, 0, 2], x[3:6])", V),
    "add_at_traced": ("np.add.at(x, np.argsort(x), x * 2)", V),
    "add_at_constant": ("np.add.at(x, [1, 1, 1], 0.5)", V),
    "subtract_at": ("np.subtract.at(x, [0, 0], x[:2])", V),
    "out": ("np.exp(x, out=x)", V),
    "out_slice": ("np.add(x[1:], x[:-1], out=x[1:])", V),
    "out_constants": ("np.add(1.0, np.ones(6), out=x)", V),
    "copyto": ("np.copyto(x, x[::-1] * 2, where=x > 1)", V),
    "putmask": ("np.putmask(x, x > 1, x * 3)", V),
    "place": ("np.place(x, MASK[:, None] & np.ones(5, bool), [1.0, 2.0])", M),
    "put": ("np.put(x, [0, 7], [1.0, 2.0])", M),
    "fill_diagonal": ("np.fill_diagonal(x[:, :4], x[0, 1])", M),
    "put_along_axis": ("np.put_along_axis(x, np.argsort(x, axis=1)[:, :1], 0.0, axis=1)", M),
    "into_integers": ("k = np.argsort(x); k[0] = 2; k[1:3] = 1; result = k", V),
    "truncates": ("k = np.zeros_like(x, dtype=int); k[:] = x * 3; k[0] = x[1] * 5; result = k", V),
    "to_bool": ("k = x > 1; k[0] = x[0] * 0; k[1:3] = True; result = k", V),
    "put_clip": ("np.put(x, [-3, 9], [1.0, 2.0], mode='clip')", V),
    "put_wrap": ("x.put([-3, 9], x[0] * 2, mode='wrap')", V),
    "put_traced": ("np.put(x, np.argmax(x), 0.5)", M),
    "putmask_repeated": ("np.putmask(x, x > 1, [1.0, 2.0])", V),
    "fill_diagonal_values": ("np.fill_diagonal(x[:, :4], x[0, :4] * 2)", M),
    "put_along_flat": ("np.put_along_axis(x, np.array([1, 2]), x[0, 0], axis=None)", M),
    "nan_to_num_in_place": ("x[0] = np.nan; np.nan_to_num(x, copy=False)", V),
    "multiply_at": ("np.multiply.at(x, [0, 2], x[3])", V),
    "negative_at": ("np.negative.at(x, [0, 2])", V),
    "subtract_at_constant": ("np.subtract.at(x, [0, 0], 1.5)", V),
    "exp_out_where": ("np.exp(x, out=x, where=x > 1)", V),
    "modf_out": ("y = np.zeros_like(x); np.modf(x * 3, out=(y, x)); result = x + 2 * y", V),
    "object_values": ("x[:2] = np.array([x[1], x[0]])", V),
    "list_values": ("x[:2] = [x[1], 3.0]", V),
    "one_element_array": ("x[0] = x[1:2]", V) if np.__version__ < "2.4" else ("x[:1] = x[1:2]", V),
    "true": ("x[True] = 2.0", V),
    "masked_scalar_index": ("x[np.array(1), np.array(2)] = x[0, 0] * 2", M),
    "empty": ("x[[]] = 2.0; x[3:3] = 1.0", V),
    "inplace_shift": ("x[1:] += x[:-1]", V),
    "inplace_whole": ("y = x; y += 1; y *= y; x[0] = 2.0; y -= x[1]", V),
    "inplace_logic": ("k = x > 1; k &= x < 2; k |= x > 3; k ^= x > 4; result = k", V),
    "inplace_reversed": ("y = x[::-1]; y += np.arange(6.0)", V),
    "whole_then_views": ("row = x[1]; x[...] = x * 2; row += 1; x += 1; result = x + row", M),
    "stale_whole": ("a = x[1]; x += 1; b = x[1]; x[1] = 0.0; result = a + 10 * b + x", V),
    # scalars read before a write keep their value
    "stale_element": ("a = x[0]; x[0] = 5.0; result = a * x[0]", V),
    "stale_region": ("a = x[1]; x[:3] = x[3:]; b = x[1]; x[1] = 2.0; result = a * b + x[1]", V),
    "stale_view": ("a = x[1, 2]; x.T[2] = 0.0; result = a * 3 + x[1, 2]", M),
    "stale_indexed": ("a = x[2]; x[[2, 0]] = 4.0; result = a * x[2]", V),
    "stale_traced": ("a, b = x[2], x[3]; x[np.argmax(x)] = 4.0; result = a * x[2] + b", V),
    "stale_traced_twice": (
        "a = x[2]; x[np.argmax(x)] = 4.0; b = x[2]; x[np.argmin(x)] = 9.0; x[2] = 1.0; "
        "result = a * 100 + b * 10 + x[2]", V,
    ),
    "stale_stacked": ("a = [x[i] for i in range(4)]; x[:] = 0.0; result = np.stack(a) * 2", V),
}  # fmt: skip


def other_point(x):
    return x[::-1].copy() + 0.1


def check(function, x):
    compiled = tj.jit(function)
    for point in (x, other_point(x)):
        before = point.copy()
        got, want = compiled(point), function(point)
        assert np.array_equal(point, before), "the caller's array was changed"
        assert np.shape(got) == np.shape(want)
        assert np.asarray(got).dtype == np.asarray(want).dtype
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("name", READ)
def test_reading(name):
    check(*READ[name])


@pytest.mark.parametrize("name", READ)
def test_reading_derivative(name):
    function, x = READ[name]
    tj.testing.check_grads(function, (x,), step=1e-5)


@pytest.mark.parametrize("name", WRITE)
def test_writing(name):
    source, x = WRITE[name]
    check(written(exec_body(source)), x)


@pytest.mark.parametrize("name", WRITE)
def test_writing_derivative(name):
    source, x = WRITE[name]
    function = written(exec_body(source))
    if np.asarray(function(x)).dtype.kind == "f":
        tj.testing.check_grads(function, (x,), step=1e-5)


def test_a_write_into_an_argument_changes_a_private_version():
    def f(x):
        before = x[0] * 1.0
        first = x[1]
        x[1] = x[0] * 2
        x[2:] = 0.0
        return before + first + x.sum()

    x = V.copy()
    compiled = tj.jit(f)
    want = f(V.copy())
    assert compiled(x) == pytest.approx(want)
    assert np.array_equal(x, V)
    tj.testing.check_grads(lambda x: f(x if tj.api.is_traced(x) else x.copy()), (V,), step=1e-5)


def test_a_captured_constant_array_is_read_with_a_traced_index():
    table = np.arange(10.0) ** 2
    f = tj.jit(lambda x: np.take(table, np.argmax(x)) * x[0])
    assert f(V) == table[np.argmax(V)] * V[0]
    assert f(V[::-1]) == table[np.argmax(V[::-1])] * V[-1]


def test_a_traced_index_is_dynamic():
    f = tj.jit(lambda x: x[np.argmax(x)] * 2)
    for k in range(6):
        x = np.zeros(6)
        x[k] = 1.0
        assert f(x) == 2.0
    tape = tj.trace(lambda x: x[np.argmax(x)] * 2, V)
    assert "guard" not in str(tape).lower()


def test_a_traced_index_is_checked_at_replay():
    f = tj.jit(lambda x: x[np.sum(x > 1)])
    assert f(np.array([0.0, 2.0, 0.0])) == 2.0
    with pytest.raises(IndexError):
        f(np.array([2.0, 2.0, 2.0]))
    assert f(np.array([0.0, 2.0, 0.5])) == 2.0


def recording(function, *args):
    return tj.jit(function)(*args)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda x: x[x > 1], tj.TracedShapeError, "np.where"),
        (lambda x: x[x[0] > 1], tj.TracedShapeError, "np.where"),
        (lambda x: np.where(x > 1), tj.TracedShapeError, "np.where"),
        (lambda x: np.nonzero(x), tj.TracedShapeError, "np.where"),
        (lambda x: x[9], IndexError, "out of bounds"),
        (lambda x: x[[0, 9]], IndexError, "out of bounds"),
        (lambda x: x[0.5], IndexError, "integer"),
        (lambda x: x[x[0]], IndexError, "astype"),
        (lambda x: x[np.ones(4, bool)], IndexError, "boolean index"),
        (lambda x: x[0, 0], IndexError, "too many indices"),
    ],
)
def test_bad_reading(function, error, words):
    with pytest.raises(error, match=words):
        recording(function, V)


def assign(index, value):
    def function(x):
        x[index] = value(x)
        return x

    return function


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (assign(slice(0, 2), lambda x: x[:3]), ValueError, "broadcast"),
        (assign(0, lambda x: x), ValueError, "sequence"),
        (assign([0, 1], lambda x: x), ValueError, "broadcast"),
        (assign(7, lambda x: 1.0), IndexError, "out of bounds"),
        (lambda x: x.__setitem__(x > 1, x[:2]), tj.TracedShapeError, "np.where"),
        (lambda x: np.broadcast_to(x, (2, 6)).__setitem__(0, 1.0), ValueError, "read-only"),
        (lambda x: x.__iadd__(x[:2]), ValueError, "broadcast"),
        (lambda x: np.argsort(x).__iadd__(x), tj.TraceError, "cast"),
        (lambda x: np.place(x, x > 1, [1.0]), tj.TracedShapeError, "np.putmask"),
        (lambda x: x.reshape(2, 3).__setitem__((x[:3] > 1, 0), 1.0), tj.TracedShapeError, "mask"),
    ],
)
def test_bad_writing(function, error, words):
    with pytest.raises(error, match=words):
        recording(function, V)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        ((0, 0), lambda x: x[0]),
        (0, lambda x: x[0]),
        (0, lambda x: x),
        (slice(None), lambda x: x),
        (slice(None), lambda x: x[0] * 2),
        (([0, 1], 1), lambda x: x[:2]),
    ],
)
def test_writing_into_a_plain_array_names_the_remedy(index, value):
    def f(x):
        out = np.zeros((3, 6))
        out[index] = value(x)
        return out

    with pytest.raises(
        TypeError, match=r"np\.zeros_like\(x\)[^\n]*tapejit\.numpy\.zeros"
    ) as caught:
        recording(f, V)
    assert "test_indexing.py" in str(caught.value)


@pytest.mark.parametrize(
    "write",
    [
        lambda out, x: np.add(x, 1.0, out=out),
        lambda out, x: out.__iadd__(x),
        lambda out, x: np.copyto(out, x),
        lambda out, x: np.add.at(out, [0, 1], x[:2]),
        lambda out, x: np.sum(x, axis=0, out=out[0]),
    ],
)
def test_other_writes_into_a_plain_array_name_the_remedy(write):
    with pytest.raises(tj.TraceError, match=r"tapejit\.numpy\.zeros"):
        recording(lambda x: write(np.zeros(6), x), V)


def test_traced_zeros_take_traced_values():
    def f(x):
        out = tnp.zeros(6)
        for i in range(6):
            out[i] = x[i] ** 2 + (out[i - 1] if i else 0.0)
        return out

    np.testing.assert_allclose(tj.jit(f)(V), np.cumsum(V**2))
    np.testing.assert_allclose(f(V), np.cumsum(V**2))
    assert type(tnp.zeros(3)) is np.ndarray
    tj.testing.check_grads(f, (V,), step=1e-5)


def test_nested_lists_of_traced_values_become_arrays():
    def f(x):
        a = tnp.array([[x[0], x[1], 1.0], [x[2], 2.0, x[3]]])
        return a @ x[:3] + np.array([x[0], x[1]], dtype=object) * 2

    def plain(x):
        return np.array([[x[0], x[1], 1.0], [x[2], 2.0, x[3]]]) @ x[:3] + x[:2] * 2

    np.testing.assert_allclose(tj.jit(f)(V), plain(V))


def test_filling_in_a_loop_records_one_write_an_element():
    def f(x):
        out = np.zeros_like(x)
        for i in range(len(x)):
            out[i] = 2.0 * x[i]
        return out

    short, long = (len(tj.trace(f, np.ones(n))) for n in (100, 1000))
    assert long < 11 * short


#: Writes to several traced positions at once: second derivatives are refused with an error.
ONCE = {"traced_row", "traced_array", "put_along_axis"}


@pytest.mark.deep
@pytest.mark.parametrize("name", [*READ, *(f"write {name}" for name in WRITE if name not in ONCE)])
def test_second_derivatives(name):
    """In-place writes and gathers inside of a derivative that is itself recorded."""
    if name in READ:
        function, x = READ[name]
    else:
        source, x = WRITE[name.removeprefix("write ")]
        function = written(exec_body(source))
    if np.asarray(function(x)).dtype.kind == "f":
        tj.testing.check_grads(function, (x,), order=2, step=3e-4, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("base", [lambda x: x * 1.0, np.copy, np.sin])
@pytest.mark.parametrize(
    "write",
    [
        lambda a: a.__setitem__(slice(0, 2), a[1]),
        lambda a: a.__setitem__(slice(0, 2), a[0]),
        lambda a: a.__setitem__(slice(0, 4, 2), a[2]),
        lambda a: a.__setitem__([0, 1], a[1]),
        lambda a: a.__setitem__(np.array([True, True, False, False]), a[1]),
        lambda a: a.__setitem__(slice(None), a[1]),
        lambda a: a[0:2].__setitem__(slice(None), a[1]),
        lambda a: a.reshape(2, 2).__setitem__((slice(None), slice(0, 1)), a[0]),
        lambda a: np.copyto(a[0:2], a[1]),
        lambda a: a[0:2].fill(a[1]),
    ],
)
def test_elements_written_over_a_part_that_they_stand_in(base, write):
    """Ghost cells, for one: ``u[:2] = u[1]``."""
    weights, x = np.arange(1.0, 5.0), np.array([0.5, 1.5, -1.0, 2.0])

    def f(x):
        a = base(x)
        write(a)
        return np.sum(a * a * weights)

    expected = [(f(x + h) - f(x - h)) / 2e-5 for h in 1e-5 * np.eye(4)]
    np.testing.assert_allclose(tj.grad(f)(x), expected, atol=1e-8)
    steps = 1e-5 * np.eye(4)
    curvature = [(tj.grad(f)(x + h) - tj.grad(f)(x - h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(tj.hessian(f)(x), curvature, atol=1e-8)
    leaf = tj.tensor(x, requires_grad=True)
    f(leaf).backward()
    np.testing.assert_allclose(leaf.grad.numpy(), expected, atol=1e-8)
