"""NumPy's functions on traced values: recorded values, replay elsewhere, derivatives."""

import numpy as np
import pytest
from scipy import special

import tapejit as tj
import tapejit.numpy as tnp
import tapejit.scipy.special as tsp
from tapejit.recording.record import record_function

RNG = np.random.default_rng(7)
V = RNG.uniform(0.2, 2.0, 6)
U = RNG.uniform(0.2, 2.0, 4)
M = RNG.uniform(0.2, 2.0, (3, 4))
N = RNG.uniform(0.2, 2.0, (4, 5))
C = RNG.uniform(0.2, 2.0, (2, 3, 4))
S = RNG.uniform(0.2, 2.0, (3, 3)) + 3 * np.eye(3)
S4 = RNG.uniform(0.2, 2.0, (4, 4)) + 3 * np.eye(4)
B = RNG.uniform(0.2, 2.0, (2, 3, 3)) + 3 * np.eye(3)
X = np.float64(0.7)


def moved(args):
    """The same structure at another point: the order of the elements changes."""
    rng = np.random.default_rng(11)
    return [np.asarray(a + 0.3 * rng.uniform(-0.6, 1.0, np.shape(a)))[()] for a in args]


def flatten(tree):
    return (
        [leaf for part in tree for leaf in flatten(part)]
        if isinstance(tree, (tuple, list))
        else [tree]
    )


def recorded(function, args):
    """What the recording itself computes, with NumPy's shapes and dtypes."""
    seen = []

    def keep(*tracers):
        result = function(*tracers)
        seen.append([getattr(leaf, "value", leaf) for leaf in flatten(result)])
        return result

    record_function(keep, args, "f")
    return seen[0]


REDUCTIONS = {
    "sum": (lambda x: np.sum(x), M),
    "sum_axis": (lambda x: np.sum(x, axis=0), M),
    "sum_method": (lambda x: x.sum(1, keepdims=True), M),
    "sum_axes": (lambda x: np.sum(x, axis=(0, -1), keepdims=True), C),
    "sum_all_keep": (lambda x: np.sum(x, keepdims=True), C),
    "sum_none": (lambda x: np.sum(x, axis=()), C),
    "sum_where": (lambda x: np.sum(x, axis=1, where=x > 1, initial=2.0), M),
    "sum_bool": (lambda x: np.sum(x > 1, axis=0), M),
    "sum_view": (lambda x: np.sum(x.T[1:, ::-1], axis=1), M),
    "sum_scalar": (lambda x: np.sum(x[0]), V),
    "mean": (lambda x: np.mean(x), M),
    "mean_axis": (lambda x: x.mean(axis=1), M),
    "mean_where": (lambda x: np.mean(x, axis=0, where=x > 0.1), M),
    "mean_bool": (lambda x: np.mean(x > 1), M),
    "prod": (lambda x: np.prod(x, axis=1), M),
    "prod_all": (lambda x: np.prod(x, where=x > 1.0), M),
    "max": (lambda x: np.max(x), M),
    "max_axis": (lambda x: x.max(axis=0, keepdims=True), M),
    "max_axes": (lambda x: np.max(x, axis=(0, 2)), C),
    "max_initial": (lambda x: np.max(x, axis=0, initial=1.0, where=x > 0.5), M),
    "amin": (lambda x: np.amin(x, axis=1), C),
    "var": (lambda x: np.var(x, axis=1, ddof=1), M),
    "var_where": (lambda x: np.var(x, where=x > 0.1), M),
    "std": (lambda x: x.std(keepdims=True), M),
    "any": (lambda x: np.any(x > 1.9, axis=0), M),
    "all": (lambda x: (x > 0.1).all(), M),
    "argmax": (lambda x: np.argmax(x), M),
    "argmin": (lambda x: x.argmin(axis=0), M),
    "argmax_keep": (lambda x: np.argmax(x, axis=1, keepdims=True), M),
    "ptp": (lambda x: np.ptp(x, axis=0), M),
    "average": (lambda x: np.average(x, axis=0, weights=x[:, 0]), M),
    "average_returned": (lambda x: np.average(x, weights=x, returned=True), M),
    "median": (lambda x: np.median(x), V),
    "median_axis": (lambda x: np.median(x, axis=1, keepdims=True), C),
    "quantile": (lambda x: np.quantile(x, [0.1, 0.5, 0.9], axis=1), M),
    "percentile": (lambda x: np.percentile(x, 30), M),
    "count_nonzero": (lambda x: np.count_nonzero(x > 1, axis=0), M),
    "nansum": (lambda x: np.nansum(np.where(x > 1, np.nan, x), axis=0), M),
    "nanmean": (lambda x: np.nanmean(np.where(x > 1, np.nan, x)), M),
    "nanmax": (lambda x: np.nanmax(np.where(x > 1, np.nan, x)), M),
    "nanmin": (lambda x: np.nanmin(np.where(x > 1, np.nan, x)), M),
    "nanvar": (lambda x: np.nanvar(np.where(x > 1, np.nan, x)), M),
    "nanstd": (lambda x: np.nanstd(np.where(x > 1, np.nan, x)), M),
    "nanprod": (lambda x: np.nanprod(np.where(x > 1, np.nan, x)), M),
    "cumsum": (lambda x: np.cumsum(x), M),
    "cumsum_axis": (lambda x: x.cumsum(axis=0), M),
    "cumprod": (lambda x: np.cumprod(x, axis=1), M),
    "nancumsum": (lambda x: np.nancumsum(np.where(x > 1, np.nan, x)), V),
    "cumulative_sum": (lambda x: np.cumulative_sum(x, axis=0, include_initial=True), M),
    "sort": (lambda x: np.sort(x, axis=0), M),
    "sort_flat": (lambda x: np.sort(x, axis=None), M),
    "argsort": (lambda x: np.argsort(x, axis=1), M),
    "searchsorted": (lambda x: np.searchsorted(np.array([0.5, 1.0, 1.5]), x), M),
    "digitize": (lambda x: np.digitize(x, np.array([0.5, 1.0, 1.5])), M),
    "bincount": (lambda x: np.bincount(np.array([0, 1, 1, 3, 0, 1]), weights=x), V),
    "diff": (lambda x: np.diff(x, n=2, axis=1), M),
    "diff_ends": (lambda x: np.diff(x, prepend=0.0, append=x[:, :1]), M),
    "ediff1d": (lambda x: np.ediff1d(x, to_begin=x[:2]), V),
    "trapezoid": (lambda x: np.trapezoid(x, dx=0.1), M),
    "trapezoid_x": (lambda x: np.trapezoid(x, x=np.arange(4.0) ** 2), M),
    "take_along_axis": (lambda x: np.take_along_axis(x, np.argsort(x, axis=1), axis=1), M),
    "logaddexp_reduce": (lambda x: np.logaddexp.reduce(x, axis=0), M),
    "maximum_accumulate": (lambda x: np.maximum.accumulate(x, axis=1), M),
    "add_reduce": (lambda x: np.add.reduce(x), M),
}
SHAPES = {
    "reshape": (lambda x: np.reshape(x, (4, -1)), M),
    "reshape_method": (lambda x: x.T.reshape(2, 6), M),
    "reshape_fortran": (lambda x: np.reshape(x, (2, 6), order="F"), M),
    "reshape_scalar": (lambda x: np.sum(x).reshape(1, 1), M),
    "ravel": (lambda x: x[:, 1:].ravel(), M),
    "flatten": (lambda x: x.flatten(), M),
    "transpose": (lambda x: x.transpose(2, 0, 1) * 2, C),
    "T": (lambda x: x.T * 2, C),
    "moveaxis": (lambda x: np.moveaxis(x, 0, -1) * 2, C),
    "swapaxes": (lambda x: x.swapaxes(0, 1) * 2, C),
    "rollaxis": (lambda x: np.rollaxis(x, 2) * 2, C),
    "expand_dims": (lambda x: np.expand_dims(x, (0, 2)), M),
    "expand_scalar": (lambda x: np.expand_dims(x[0], 0), V),
    "squeeze": (lambda x: np.squeeze(x[:, :1] * 2), M),
    "squeeze_scalar": (lambda x: np.squeeze(x[:1] * 2), V),
    "broadcast_to": (lambda x: np.broadcast_to(x, (2, 6)) * 2, V),
    "broadcast_arrays": (lambda x: np.broadcast_arrays(x, x[:, :1]), M),
    "atleast": (lambda x: (np.atleast_1d(x[0]), np.atleast_2d(x), np.atleast_3d(x)), V),
    "flip": (lambda x: np.flip(x) * 2, M),
    "flip_axis": (lambda x: np.flip(x, 1), M),
    "fliplr": (lambda x: np.fliplr(x), M),
    "flipud": (lambda x: np.flipud(x), M),
    "rot90": (lambda x: np.rot90(x), M),
    "roll": (lambda x: np.roll(x, 2), M),
    "roll_axes": (lambda x: np.roll(x, (1, -1), axis=(0, 1)), M),
    "tile": (lambda x: np.tile(x, (2, 1, 2)), M),
    "tile_scalar": (lambda x: np.tile(x[0], 3), V),
    "repeat": (lambda x: np.repeat(x, 2, axis=1), M),
    "repeat_flat": (lambda x: x.repeat(3), M),
    "repeat_counts": (lambda x: np.repeat(x, [1, 0, 2], axis=0), M),
    "resize": (lambda x: np.resize(x, (3, 5)), V),
    "pad": (lambda x: np.pad(x, ((1, 0), (2, 1)), constant_values=3.0), M),
    "pad_edge": (lambda x: np.pad(x, 2, mode="edge"), M),
    "pad_reflect": (lambda x: np.pad(x, 2, mode="reflect"), M),
    "pad_wrap": (lambda x: np.pad(x, (1, 2), mode="wrap"), V),
    "concatenate": (lambda x: np.concatenate([x, np.ones((1, 4)), x[1:]]), M),
    "concatenate_axis": (lambda x: np.concatenate([x, x[:, :2]], axis=-1), M),
    "concatenate_flat": (lambda x: np.concatenate([x, x[0]], axis=None), M),
    "stack": (lambda x: np.stack([x[0], x[1], np.zeros(4)], axis=1), M),
    "stack_scalars": (lambda x: np.stack([x[0], x[1] * 2, np.float64(3.0)]), V),
    "vstack": (lambda x: np.vstack([x, x[0]]), M),
    "hstack": (lambda x: np.hstack([x, x]), M),
    "hstack_rows": (lambda x: np.hstack([x, x[:2]]), V),
    "dstack": (lambda x: np.dstack([x, x]), M),
    "column_stack": (lambda x: np.column_stack([x, x * 2]), V),
    "block": (lambda x: np.block([[x, x * 2], [x * 3, np.ones((3, 4))]]), M),
    "append": (lambda x: np.append(x, 2.0), V),
    "insert": (lambda x: np.insert(x, 1, x[0]), V),
    "insert_row": (lambda x: np.insert(x, 1, x[0], axis=0), M),
    "delete": (lambda x: np.delete(x, [0, 2], axis=1), M),
    "split": (lambda x: np.split(x, 2, axis=1), M),
    "split_at": (lambda x: np.split(x, [1, 4]), V),
    "array_split": (lambda x: np.array_split(x, 4), V),
    "hsplit": (lambda x: np.hsplit(x, 2), M),
    "vsplit": (lambda x: np.vsplit(x, 3), M),
    "dsplit": (lambda x: np.dsplit(x, 2), C),
    "unstack": (lambda x: np.unstack(x, axis=1), M),
    "diag": (lambda x: np.diag(x, -1), V),
    "diag_of": (lambda x: np.diag(x, 1) * 2, M),
    "diagflat": (lambda x: np.diagflat(x), V),
    "diagonal": (lambda x: x.diagonal() * 2, M),
    "tril": (lambda x: np.tril(x, 1), M),
    "triu": (lambda x: np.triu(x), C),
    "trace": (lambda x: np.trace(x, offset=1), M),
    "meshgrid": (lambda x: np.meshgrid(x, x[:2]), V),
    "zeros_like": (lambda x: np.zeros_like(x) + x, M),
    "ones_like": (lambda x: np.ones_like(x, shape=(2,)) * x[0], V),
    "full_like": (lambda x: np.full_like(x, x[1]), V),
    "copy": (lambda x: np.copy(x), M),
    "apply_along_axis": (lambda x: np.apply_along_axis(lambda r: r / r.sum(), 0, x), M),
    "sliding_window_view": (
        lambda x: np.lib.stride_tricks.sliding_window_view(x, 3).sum(axis=1), V,
    ),
}  # fmt: skip
POINTWISE = {
    "where": (lambda x: np.where(x > 1, x, -x), M),
    "select": (lambda x: np.select([x > 1.5, x > 1], [x, x**2], 0.5), M),
    "piecewise": (lambda x: np.piecewise(x, [x > 1], [np.sin, np.cos]), M),
    "choose": (lambda x: np.choose(np.argsort(x) % 2, [x, x * 2]), V),
    "clip": (lambda x: np.clip(x, 0.5, 1.5), M),
    "clip_method": (lambda x: x.clip(min=1.0), M),
    "round": (lambda x: np.round(x, 1), M),
    "round_method": (lambda x: x.round(), M),
    "fix": (lambda x: np.fix(x * 3), M),
    "nan_to_num": (lambda x: np.nan_to_num(np.where(x > 1, np.nan, x)), M),
    "sinc": (lambda x: np.sinc(x - x[0]), V),
    "unwrap": (lambda x: np.unwrap(np.cumsum(x * 3)), V),
    "isclose": (lambda x: np.isclose(x, x[:1]), M),
    "allclose": (lambda x: np.allclose(x, x + 1e-9), M),
    "array_equal": (lambda x: np.array_equal(x, x * 1), M),
    "real": (lambda x: np.real(x) + np.imag(x), M),
    "power": (lambda x: x**3 + x**-1 + x**0.5 + x**2.5 + 2.0**x + np.power(x, 4), M),
    "int_power": (lambda x: np.argsort(x) ** 2 + 2 ** np.argsort(x), V),
    "float_power": (lambda x: np.float_power(x, 2), M),
    "mod": (lambda x: (x * 3) % 1.0 + np.fmod(x, 0.3), M),
    "divmod": (lambda x: divmod(x * 3, 0.7), M),
    "modf": (lambda x: np.modf(x * 3), M),
    "deg2rad": (lambda x: np.deg2rad(x) + np.degrees(x), M),
    "ldexp": (lambda x: np.ldexp(x, 3), M),
    "logic": (lambda x: ((x > 1) & (x < 1.5)) | ~(x > 0.3) ^ np.logical_not(x > 2), M),
    "minimum": (lambda x: np.minimum(x, 1.0) + np.fmax(x, x[::-1]), M),
    "multiply_outer": (lambda x: np.multiply.outer(x, x[:2]), V),
    "ufunc_where": (lambda x: np.log(x, out=np.zeros_like(x), where=x > 1), M),
    "angle": (lambda x: np.angle(x - 1), M),
    "heaviside": (lambda x: np.heaviside(x - 1, 0.5), M),
    "isin": (lambda x: np.isin(np.argsort(x), [1, 2]), V),
    "astype": (lambda x: (x * 3).astype(int), M),
    "astype_bool": (lambda x: (x > 1).astype(float) * x, M),
    "integers": (lambda x: np.argsort(x) // 2 + np.argsort(x) % 3, V),
    "erf": (lambda x: special.erf(x) + special.xlogy(x, x), M),
    "object": (lambda x: np.exp(np.array([x[0], x[1]])) * x[:2], V),
}
PRODUCTS = {
    "dot": (lambda x, y: np.dot(x, y), M, N),
    "dot_vectors": (lambda x, y: x.dot(y), V, V),
    "dot_stack": (lambda x, y: np.dot(x, y), C, N),
    "dot_high": (lambda x, y: np.dot(x, y), M, C.reshape(2, 4, 3)),
    "dot_scalar": (lambda x, y: np.dot(x, y), M, X),
    "matmul": (lambda x, y: x @ y, M, N),
    "matmul_constant": (lambda x, y: x @ N + M @ y, M, N),
    "matmul_vector": (lambda x, y: x @ y, M, U),
    "matmul_row": (lambda x, y: y @ x, N, U),
    "matmul_views": (lambda x, y: x.T @ y[:, ::-1].T, M, RNG.uniform(0.2, 2.0, (5, 3))),
    "matmul_batched": (lambda x, y: x @ y, C, N),
    "matmul_broadcast": (lambda x, y: np.matmul(x[:, None], y), C, RNG.uniform(size=(3, 4, 2))),
    "matmul_stack_vector": (lambda x, y: x @ y, C, U),
    "matmul_vector_stack": (lambda x, y: y @ x.swapaxes(1, 2), C, U),
    "vdot": (lambda x, y: np.vdot(x, y), M, M),
    "vecdot": (lambda x, y: np.vecdot(x, y), M, U),
    "inner": (lambda x, y: np.inner(x, y), M, U),
    "outer": (lambda x, y: np.outer(x, y), V, U),
    "tensordot": (lambda x, y: np.tensordot(x, y, axes=([0, 1], [1, 0])), C, C.swapaxes(0, 1)),
    "tensordot_1": (lambda x, y: np.tensordot(x, y, 1), C, N),
    "tensordot_0": (lambda x, y: np.tensordot(x, y, 0), V, U),
    "tensordot_all": (lambda x, y: np.tensordot(x, y, 2), M, M),
    "kron": (lambda x, y: np.kron(x, y), M, N),
    "kron_mixed": (lambda x, y: np.kron(x, y), U, M),
    "cross": (lambda x, y: np.cross(x, y), M.T, M.T[:1]),
    "einsum_matmul": (lambda x, y: np.einsum("ij,jk->ik", x, y), M, N),
    "einsum_implicit": (lambda x, y: np.einsum("ij,jk", x, y), M, N),
    "einsum_batch": (lambda x, y: np.einsum("bij,bkj->bik", x, y), C, C),
    "einsum_hadamard": (lambda x, y: np.einsum("ij,ij->ij", x, y), M, M),
    "einsum_outer": (lambda x, y: np.einsum("i,j->ji", x, y), V, U),
    "einsum_bilinear": (lambda x, y: np.einsum("i,ij,j->", y[:3], x, y), M, U),
    "einsum_three": (lambda x, y: np.einsum("ij,jk,ik->j", x, y, x @ y), M, N),
    "einsum_ellipsis": (lambda x, y: np.einsum("...ij,jk->...ik", x, y), C, N),
    "einsum_sum": (lambda x, y: np.einsum("ij,kl->jl", x, y), M, N),
    "einsum_batched_outer": (lambda x, y: np.einsum("bij,bk->bijk", x, y), C, M[:2]),
    "einsum_lists": (lambda x, y: np.einsum(x, [0, 1], y, [1, 2], [2, 0]), M, N),
    "convolve": (lambda x, y: np.convolve(x, y), V, U),
    "convolve_same": (lambda x, y: np.convolve(y, x, "same"), V, U),
    "convolve_valid": (lambda x, y: np.convolve(x, y, "valid"), V, U),
    "correlate": (lambda x, y: np.correlate(x, y), V, U),
    "correlate_same": (lambda x, y: np.correlate(y, x, "same"), V, U),
    "correlate_full": (lambda x, y: np.correlate(y, x, "full"), V, U),
    "multi_dot": (lambda x, y: np.linalg.multi_dot([x, y, y.T]), M, N),
    "interp": (lambda x, y: np.interp(x, np.arange(4) * 0.5, y), V, U),
    "interp_traced": (lambda x, y: np.interp(x, np.sort(y), y, left=0.0), V, U),
    "polyval": (lambda x, y: np.polyval(y, x), V, U),
    "take_traced": (lambda x, y: np.take(x, np.argsort(y)), V, U),
    "linspace": (lambda x, y: tnp.linspace(x[0], y[0], 5), V, U),
    "hypot": (lambda x, y: np.hypot(x, y[:, None]) + np.arctan2(x, 2.0), U, U),
}
CALCULUS = {
    "gradient": (lambda x: np.gradient(x), V),
    "gradient_axes": (lambda x: np.gradient(x, 0.1, 0.2), RNG.uniform(size=(4, 5))),
    "gradient_edges": (lambda x: np.gradient(x, 0.5, axis=1, edge_order=2), M),
    "gradient_points": (lambda x: np.gradient(x, np.arange(6.0) ** 2, edge_order=2), V),
    "vander": (lambda x: np.vander(x, 3), V),
    "cov": (lambda x: np.cov(x), M),
    "corrcoef": (lambda x: np.corrcoef(x), M),
    "einsum_trace": (lambda x: np.einsum("ii", x), S),
    "einsum_diagonal": (lambda x: np.einsum("ii->i", x) * 2, S),
    "einsum_transpose": (lambda x: np.einsum("ij->ji", x) * 2, M),
    "matrix_power": (lambda x: np.linalg.matrix_power(x, 5), S),
    "matrix_power_negative": (lambda x: np.linalg.matrix_power(x, -2), S),
}
LINALG = {
    "solve": (lambda a, b: np.linalg.solve(a, b), S, V[:3]),
    "solve_matrix": (lambda a, b: np.linalg.solve(a, b), S, M),
    "solve_batched": (lambda a, b: np.linalg.solve(a, b), B, M),
    "inv": (lambda a: np.linalg.inv(a), B),
    "det": (lambda a: np.linalg.det(a), S),
    "det_batched": (lambda a: np.linalg.det(a), B),
    "det_2": (lambda a: np.linalg.det(a), S[:2, :2]),
    "det_4": (lambda a: np.linalg.det(a), S4),
    "slogdet": (lambda a: tuple(np.linalg.slogdet(-a)), B),
    "cholesky": (lambda a: np.linalg.cholesky(a @ a.T), S),
    "cholesky_upper": (lambda a: np.linalg.cholesky(a @ a.T, upper=True), S),
    "norm": (lambda x: np.linalg.norm(x), M),
    "norm_vector": (lambda x: np.linalg.norm(x, ord=3), V),
    "norm_inf": (lambda x: np.linalg.norm(x, ord=np.inf, axis=1), M),
    "norm_zero": (lambda x: np.linalg.norm(x, ord=0), V),
    "norm_1": (lambda x: np.linalg.norm(x, 1), M),
    "norm_minus_inf": (lambda x: np.linalg.norm(x, -np.inf, keepdims=True), M),
    "norm_fro": (lambda x: np.linalg.norm(x, "fro", axis=(0, 2)), C),
    "norm_axis": (lambda x: np.linalg.norm(x, axis=0, keepdims=True), M),
    "vector_norm": (lambda x: np.linalg.vector_norm(x, ord=1), M),
    "trace": (lambda x: np.linalg.trace(x), B),
}
MORE = {
    "gradient_uneven": (lambda x: np.gradient(x, np.arange(6.0) ** 2), V),
    "interp_period": (lambda x: np.interp(x, [0.5, 1.5, 0.1], [3.0, 1.0, 2.0], period=1.7), V),
    "interp_right": (lambda x: np.interp(x, [0.5, 1.0], [3.0, 1.0], right=9.0), V),
    "interp_one": (lambda x: np.interp(x, [0.5], [3.0]), V),
    "polyval_none": (lambda x: np.polyval([], x), V),
    "cov_pair": (lambda x: np.cov(x[0], x[1], bias=True), M),
    "cov_columns": (lambda x: np.cov(x, rowvar=False), M),
    "corrcoef_pair": (lambda x: np.corrcoef(x[0]), M),
    "linspace_step": (lambda x: tnp.linspace(x[0], x[1], 4, retstep=True), V),
    "linspace_one": (lambda x: tnp.linspace(x[0], x[1], 1), V),
    "take_rows": (lambda x: np.take(x, [2, 0], axis=0), M),
    "take_clip": (lambda x: np.take(x, [-3, 9], mode="clip"), M),
    "take_wrap": (lambda x: np.take(x, [-3, 9], axis=1, mode="wrap"), M),
    "take_method": (lambda x: x.take(np.argmax(x)), V),
    "take_scalar": (lambda x: np.take(np.sum(x), [0, 0]), V),
    "compress": (lambda x: np.compress([True, False, True], x, axis=0), M),
    "extract": (lambda x: np.extract(np.arange(12) % 2, x), M),
    "isin_invert": (lambda x: np.isin(np.argsort(x), [1, 2], invert=True), V),
    "piecewise_default": (lambda x: np.piecewise(x, x > 1, [np.sin, 2.0]), V),
    "choose_clip": (lambda x: np.choose(np.argsort(x), [x, x * 2], mode="clip"), V),
    "choose_wrap": (lambda x: np.choose(np.argsort(x), [x, x * 2], mode="wrap"), V),
    "choose_method": (lambda x: (np.argsort(x) % 2).choose([x, 0.0]), V),
    "nan_to_num_integers": (lambda x: np.nan_to_num(np.argsort(x)), V),
    "nan_to_num_inf": (lambda x: np.nan_to_num(np.where(x > 1, np.inf, x), posinf=3.0), V),
    "round_integers": (lambda x: np.round(np.argsort(x) * 17, -1), V),
    "round_integers_0": (lambda x: np.round(np.argsort(x)), V),
    "round_tens": (lambda x: np.round(x * 17, -1), V),
    "unwrap_discont": (lambda x: np.unwrap(np.cumsum(x * 3), discont=4.0), V),
    "isposinf": (lambda x: np.isposinf(np.where(x > 1, np.inf, x)), V),
    "isneginf": (lambda x: np.isneginf(np.where(x > 1, -np.inf, x)), V),
    "isclose_nan": (lambda x: np.isclose(np.where(x > 1, np.nan, x), x, equal_nan=True), V),
    "array_equal_shapes": (lambda x: x * np.array_equal(x, x[1:]), V),
    "array_equal_nan": (lambda x: np.array_equal(x, x, equal_nan=True), V),
    "array_equiv": (lambda x: (np.array_equiv(x, x[None]), np.array_equiv(x, x[:2])), V),
    "dot_of_mask": (lambda x: (x > 1) @ (x < 1), V),
    "matvec": (lambda x: np.matvec(x, x[:, 0]) + np.vecmat(x[0], x), S),
    "inner_scalar": (lambda x: np.inner(x, x[0]) + np.inner(x, x), V),
    "outer_linalg": (lambda x: np.linalg.outer(x, x), V),
    "tensordot_axis": (lambda x: np.tensordot(x, x, axes=(1, 1)), M),
    "kron_scalar": (lambda x: np.kron(x[0], x[1]), V),
    "cross_axis": (lambda x: np.cross(x, x[::-1], axis=0), M),
    "multi_dot_vectors": (lambda x: np.linalg.multi_dot([x[0], x, x.T, x[1]]), S),
    "matrix_power_0": (lambda x: x * np.linalg.matrix_power(x, 0), S),
    "einsum_ones": (lambda x: np.einsum("ij,ij->i", x, x[:1]), M),
    "einsum_many": (lambda x: np.einsum("i,i,i,i->", x, x, x, x), V),
    "convolve_one": (lambda x: np.convolve(x, [2.0]), V),
    "correlate_short": (lambda x: np.correlate(x[:2], x, "full"), V),
    "bitwise_reduce": (lambda x: np.bitwise_or.reduce(x > 1), M),
    "reduce_options": (lambda x: np.add.reduce(x, axis=None, initial=2.0, where=x > 1), M),
    "reduce_dtype": (lambda x: np.add.reduce(x > 1, dtype=float), M),
    "accumulate": (lambda x: np.add.accumulate(x, axis=1), M),
    "ufunc_dtype": (lambda x: np.add(np.argsort(x), 1, dtype=float), V),
    "rfloordiv": (lambda x: 7 // x + 7 % x + (lambda q: q[0] * q[1])(np.divmod(7.0, x)), V),
    "average_plain": (lambda x: np.average(x, axis=1, keepdims=True), M),
    "average_axis_weights": (lambda x: np.average(x, axis=1, weights=np.arange(4.0)), M),
    "sum_dtype": (lambda x: np.sum(x > 1, dtype=float), M),
    "sum_true_scalar": (lambda x: np.sum(x[0] > 1), V),
    "mean_scalar": (lambda x: np.mean(x[0]) + np.max(x[1]) + np.prod(x[2]), V),
    "max_none": (lambda x: np.max(x, axis=()), M),
    "prod_initial": (lambda x: np.prod(x, initial=2.0, dtype=float), V),
    "any_where": (lambda x: np.any(x, axis=0, where=x > 1), M),
    "argmax_scalar": (lambda x: x * np.argmax(x[0]), V),
    "argmax_flat_keep": (lambda x: np.argmax(x, keepdims=True), M),
    "nanmax_integers": (lambda x: np.nanmax(np.argsort(x)), V),
    "cumsum_dtype": (lambda x: np.cumsum(x > 1, dtype=float), V),
    "cumsum_scalar": (lambda x: np.cumsum(x[0]), V),
    "cumulative_prod": (lambda x: np.cumulative_prod(x), V),
    "nancumprod": (lambda x: np.nancumprod(np.where(x > 1, np.nan, x)), V),
    "sort_scalar": (lambda x: np.sort(x[:1], axis=None), V),
    "argsort_flat": (lambda x: np.argsort(x, axis=None), M),
    "partition": (lambda x: np.partition(np.sort(x), 2)[2], V),
    "argpartition": (lambda x: np.sort(np.argpartition(x, 5)), V),
    "median_even": (lambda x: np.median(x[:5]), V),
    "median_scalar": (lambda x: np.median(x[0]), V),
    "median_of_integers": (lambda x: np.median(np.argsort(x), keepdims=True), V),
    "quantile_lower": (lambda x: np.quantile(x, 0.3, method="lower"), V),
    "quantile_higher": (lambda x: np.quantile(x, 0.3, method="higher"), V),
    "quantile_nearest": (lambda x: np.quantile(x, 0.3, method="nearest"), V),
    "quantile_midpoint": (lambda x: np.quantile(x, 0.3, method="midpoint", keepdims=True), V),
    "searchsorted_right": (lambda x: np.searchsorted([0.5, 1.0], x[0], side="right"), V),
    "searchsorted_sorter": (lambda x: np.searchsorted(x, 1.0, sorter=np.argsort(x)), V),
    "digitize_down": (lambda x: np.digitize(x, [1.5, 1.0, 0.5], right=True), V),
    "diff_bool": (lambda x: np.diff(x > 1), V),
    "ediff1d_end": (lambda x: np.ediff1d(x, to_end=0.0), V),
    "trapezoid_rows": (lambda x: np.trapezoid(x, x=x**2, axis=0), M),
    "take_along_flat": (lambda x: np.take_along_axis(x, np.array([3, 0]), axis=None), M),
    "take_along_constant": (lambda x: np.take_along_axis(M, np.argsort(x, 1), 1), M),
    "array_copy": (lambda x: tnp.array(x, dtype=float, ndmin=3) + tnp.array(x, copy=False), V),
    "ones_like_number": (lambda x: np.ones_like(x, shape=3) * x[:3], V),
    "full_like_row": (lambda x: np.full_like(x, x[0]), M),
    "full_like_integers": (lambda x: np.full_like(np.argsort(x), x[0] * 9), V),
    "transpose_scalar": (lambda x: np.transpose(x[0]).T, V),
    "reshape_copy": (lambda x: np.reshape(x, 6, copy=True), V),
    "reshape_to_scalar": (lambda x: x[:1].reshape(()), V),
    "concatenate_array": (lambda x: np.concatenate(x), C),
    "concatenate_dtype": (lambda x: np.concatenate([x > 1, x > 2], dtype=float), V),
    "stack_array": (lambda x: np.stack(x, axis=-1), C),
    "vstack_dtype": (lambda x: np.vstack([np.argsort(x)] * 2, dtype=float), V),
    "column_stack_2d": (lambda x: np.column_stack([x, x[:, 0]]), M),
    "insert_several": (lambda x: np.insert(x, [1, 3], x[:2]), V),
    "insert_flat": (lambda x: np.insert(x, 2, [1.0, 2.0]), M),
    "insert_columns": (lambda x: np.insert(x, 1, 5.0, axis=1), M),
    "delete_flat": (lambda x: np.delete(x, slice(1, 4)), M),
    "roll_nothing": (lambda x: np.roll(x, 0), V),
    "tile_once": (lambda x: np.tile(x, 1), V),
    "repeat_once": (lambda x: np.repeat(x, 1), V),
    "pad_dict": (lambda x: np.pad(x, {0: 1, -1: (1, 2)}), M),
    "pad_traced": (lambda x: np.pad(x[1:], 1, constant_values=0.5), V),
    "pad_nothing": (lambda x: np.pad(x, 0), V),
    "meshgrid_options": (lambda x: np.meshgrid(x, x, sparse=True, indexing="ij", copy=False), V),
    "astype_same": (lambda x: (x > 1).astype(bool) + np.argsort(x).astype(int), V),
    "astype_scalar": (lambda x: np.argmax(x).astype(float) * x[0] + (x[0] > 1).astype(int), V),
    "apply_along_scalar": (lambda x: np.apply_along_axis(np.sum, 1, x), M),
    "slogdet_plain": (lambda x: np.linalg.slogdet(x).logabsdet, S),
    "det_1": (lambda x: np.linalg.det(x[:1, :1]), S),
    "solve_constant": (lambda x: np.linalg.solve(S, x), V[:3]),
    "norm_power": (lambda x: np.linalg.norm(x, ord=2.5, axis=0), M),
    "norm_min": (lambda x: np.linalg.norm(x, ord=-np.inf), V),
    "matrix_norm": (lambda x: np.linalg.matrix_norm(x, ord=np.inf), B),
    "norm_keep": (lambda x: np.linalg.norm(x, keepdims=True), M),
    "linalg_diagonal": (lambda x: np.linalg.diagonal(x) * 2, B),
    "linalg_matmul": (lambda x: np.linalg.matmul(x, x), B),
}
CASES = {**REDUCTIONS, **SHAPES, **POINTWISE, **PRODUCTS, **CALCULUS, **MORE}
CASES |= {f"linalg_{name}": case for name, case in LINALG.items()}
#: Steps and jumps, where differences mean nothing.
NOT_DIFFERENTIATED = {"nansum", "nanmean", "nanmax", "nanmin", "nanvar", "nanstd", "nanprod", "mod"}


@pytest.fixture(params=sorted(CASES))
def case(request):
    function, *args = CASES[request.param]
    return request.param, function, args


def test_recorded_value_is_numpys(case):
    """Values, shapes and dtypes while recording are those of plain NumPy."""
    _, function, args = case
    expected = flatten(function(*args))
    got = recorded(function, args)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert np.shape(a) == np.shape(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_replay_elsewhere_is_numpys(case):
    """The compiled function at another point equals plain NumPy there, types included."""
    _, function, args = case
    compiled = tj.jit(function)
    compiled(*args)
    there = moved(args)
    for a, b in zip(flatten(compiled(*there)), flatten(function(*there)), strict=True):
        assert np.shape(a) == np.shape(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_derivatives(case):
    name, function, args = case
    results = flatten(function(*args))
    if name in NOT_DIFFERENTIATED or any(np.asarray(r).dtype.kind != "f" for r in results):
        return
    tj.testing.check_grads(function, args, order=1, step=1e-4)


# --- SciPy, methods, the namespace ----------------------------------------------------------------

SPECIAL = {
    "erf": lambda x: tsp.erf(x),
    "erfc": lambda x: tsp.erfc(x),
    "expit": lambda x: tsp.expit(x - 1),
    "log_expit": lambda x: tsp.log_expit(x - 1),
    "logit": lambda x: tsp.logit(x / 4),
    "ndtr": lambda x: tsp.ndtr(x),
    "log_ndtr": lambda x: tsp.log_ndtr(x - 2),
    "xlogy": lambda x: tsp.xlogy(x, x + 1),
    "xlog1py": lambda x: tsp.xlog1py(x, x),
    "entr": lambda x: tsp.entr(x),
    "rel_entr": lambda x: tsp.rel_entr(x, x**2),
    "kl_div": lambda x: tsp.kl_div(x, x**2),
    "log1p": lambda x: tsp.log1p(x),
    "logsumexp": lambda x: tsp.logsumexp(x, axis=1),
    "logsumexp_weighted": lambda x: tsp.logsumexp(x, axis=0, b=np.array([[1.0], [2.0], [0.5]])),
    "logsumexp_keep": lambda x: tsp.logsumexp(x, keepdims=True),
    "softmax": lambda x: tsp.softmax(x, axis=1),
    "log_softmax": lambda x: tsp.log_softmax(x, axis=0),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions(name):
    function = SPECIAL[name]
    (value,) = recorded(function, [M])
    np.testing.assert_allclose(value, function(M), rtol=1e-12)
    (there,) = moved([M])
    compiled = tj.jit(function)
    compiled(M)
    np.testing.assert_allclose(compiled(there), function(there), rtol=1e-12)
    tj.testing.check_grads(function, (M,), order=2, step=3e-4, atol=1e-5, rtol=1e-5)


def test_softplus():
    np.testing.assert_allclose(tj.jit(tsp.softplus)(V), tsp.softplus(V))
    assert tsp.gamma(5.0) == 24.0


def test_zeros_and_infinities_of_the_entropies():
    x = np.array([0.0, 1.0, -1.0, 0.0])
    y = np.array([2.0, 0.0, 1.0, 0.0])
    for name in ("xlogy", "rel_entr", "kl_div"):
        ours, theirs = getattr(tsp, name), getattr(special, name)
        np.testing.assert_array_equal(tj.jit(ours)(x, y), theirs(x, y))
    np.testing.assert_array_equal(tj.jit(tsp.entr)(x), special.entr(x))
    gradient = tj.grad(lambda x, y: np.sum(tsp.xlogy(x, y)))(np.zeros(2), np.zeros(2))
    assert np.isfinite(gradient).all()


def test_logsumexp_of_infinities():
    for x in ([-np.inf, -np.inf], [-np.inf, 0.0], [np.inf, 0.0], [1e3, 1e3]):
        x = np.array(x)
        assert tj.jit(tsp.logsumexp)(x) == special.logsumexp(x)
    gradient = tj.grad(tsp.logsumexp)(np.array([-np.inf, 0.0, 0.0]))
    np.testing.assert_array_equal(gradient, [0.0, 0.5, 0.5])


@pytest.mark.parametrize(
    "name",
    [
        "sum", "mean", "prod", "max", "min", "var", "std", "any", "all", "argmax", "argmin",
        "ravel",
        "flatten", "transpose", "squeeze", "round", "cumsum", "cumprod", "argsort", "copy",
        "diagonal", "trace", "conj", "nonzero",
    ],
)  # fmt: skip
def test_methods_exist_and_agree(name):
    if name == "nonzero":
        with pytest.raises(tj.TracedShapeError):
            recorded(lambda x: x.nonzero(), [M])
        return
    (value,) = recorded(lambda x: getattr(x, name)(), [M])
    np.testing.assert_allclose(value, getattr(M, name)())


def test_attributes():
    def f(x):
        assert (x.shape, x.ndim, x.size, len(x), x.dtype) == ((3, 4), 2, 12, 3, np.float64)
        assert (x.itemsize, x.nbytes, x.strides) == (8, 96, (32, 8))
        assert (np.shape(x), np.ndim(x), np.size(x), np.size(x, 1)) == ((3, 4), 2, 12, 4)
        assert np.result_type(x, 1) == np.float64
        assert np.isrealobj(x)
        assert not np.iscomplexobj(x)
        assert not hasattr(x, "no_such_name")
        assert not hasattr(x, "exp")
        assert "Traced" in repr(x)
        assert x.imag.value.sum() == 0
        return x.real.mT + x.flat[0]

    np.testing.assert_allclose(tj.jit(f)(M), M.T + M[0, 0])


def test_object_arrays_of_traced_values():
    def f(x):
        pair = np.array([x[0], x[1] * 2])
        total = np.sum(pair) + pair @ x[:2] + np.dot(pair, np.array([1.0, 2.0])) + pair.max()
        return np.sqrt(pair) + np.logical_not(pair) + total + np.log(pair) * np.linalg.norm(pair)

    def plain(x):
        pair = np.array([x[0], x[1] * 2])
        total = np.sum(pair) + pair @ x[:2] + np.dot(pair, np.array([1.0, 2.0])) + pair.max()
        return np.sqrt(pair) + total + np.log(pair) * np.linalg.norm(pair)

    np.testing.assert_allclose(tj.jit(f)(V), plain(V))
    tj.testing.check_grads(f, (V,))


CREATION = {
    "zeros": lambda np_, x: np_.zeros((2, 6)) + x,
    "ones": lambda np_, x: np_.ones(6, dtype=int) * x,
    "full": lambda np_, x: np_.full((2, 2), x[0]),
    "full_constant": lambda np_, x: np_.full(6, 2) * x,
    "full_row": lambda np_, x: np_.full((2, 6), x),
    "empty": lambda np_, x: np_.empty(6).shape[0] * x,
    "eye": lambda np_, x: np_.eye(6) @ x,
    "arange": lambda np_, x: np_.arange(6) * x,
    "arange_traced": lambda np_, x: np_.arange(np_.argmax(x) + 1) * x[0],
    "linspace": lambda np_, x: np_.linspace(x[0], x[1], 4, endpoint=False),
    "linspace_constant": lambda np_, x: np_.linspace(0, 1, 6) * x,
    "linspace_rows": lambda np_, x: np_.linspace(x, 2.0, 3, axis=1),
    "geomspace": lambda np_, x: np_.geomspace(x[0], x[1], 4),
    "logspace": lambda np_, x: np_.logspace(x[0], x[1], 4),
    "array": lambda np_, x: np_.array([[x[0], 1.0], [2, x[1]]]) * np_.array([1, 2]),
    "array_of_rows": lambda np_, x: np_.array([x, x * 2, np.ones(6)], ndmin=3),
    "asarray": lambda np_, x: np_.asarray(x, dtype=float) + np_.asarray([1.0]),
    "other": lambda np_, x: np_.stack([x, np_.float64(np_.pi) * x]),
    "sums": lambda np_, x: np_.sum([x[0], x[1]]) + np_.mean([x[0], x[1]]),
    "norm": lambda np_, x: np_.linalg.norm([x[0], x[1]]) + np_.linalg.det(np_.eye(2)),
    "where": lambda np_, x: np_.where(x > 1, 1, [0, 1, 2, 3, 4, 5]),
}


@pytest.mark.parametrize("name", CREATION)
def test_the_namespace(name):
    function = CREATION[name]
    want = function(np, V)
    for got in (tj.jit(lambda x: function(tnp, x))(V), function(tnp, V)):
        assert np.shape(got) == np.shape(want)
        assert np.asarray(got).dtype == np.asarray(want).dtype
        np.testing.assert_allclose(got, want)
    if np.asarray(want).dtype.kind == "f":
        tj.testing.check_grads(lambda x: function(tnp, x), (V,), step=1e-4)


def test_the_namespace_outside_of_a_recording_is_numpys():
    assert type(tnp.zeros(3)) is np.ndarray
    assert type(tnp.sum(np.ones(3))) is np.float64
    assert tnp.fft is np.fft
    assert tnp.linalg.eigvals is np.linalg.eigvals
    assert "einsum" in tnp.__all__
    with pytest.raises(AttributeError):
        _ = tnp.no_such_name


def test_singular_matrices_have_a_determinant_and_a_gradient():
    for n in (2, 3, 4):
        a = np.ones((n, n))
        assert tj.jit(np.linalg.det)(a) == np.linalg.det(a) == 0.0
    cofactors = tj.grad(np.linalg.det)(np.ones((2, 2)))
    np.testing.assert_array_equal(cofactors, [[1.0, -1.0], [-1.0, 1.0]])


def test_one_instruction_each():
    """The common operations do not compose."""
    for function in (
        lambda x: np.sum(x),
        lambda x: x @ np.ones(4),
        lambda x: np.max(x, axis=1),
        lambda x: np.concatenate([x, x]),
        lambda x: np.einsum("ij,kj->ik", x, x),
        lambda x: np.tensordot(x, x, 2),
        lambda x: x[[0, 2]],
        lambda x: np.tril(x),
        lambda x: np.tile(x[None], (3, 1, 1)),
    ):
        assert len(tj.trace(function, M)) == 1
    assert len(tj.trace(lambda x: x.T.reshape(4, 3)[1:, None].squeeze(1)[::-1], M)) == 0


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda x: np.fft.fft(x), tj.UnsupportedError, "numpy.fft.fft"),
        (lambda x: np.linalg.svd(x), tj.UnsupportedError, "svd"),
        (lambda x: np.spacing(x), tj.UnsupportedError, "spacing"),
        (lambda x: special.gamma(x), tj.UnsupportedError, "gamma"),
        (lambda x: np.unique(x), tj.TracedShapeError, "np.unique"),
        (lambda x: np.argsort(x) & 1, tj.UnsupportedError, "bitwise_and"),
        (lambda x: np.add.reduceat(x, [0, 1]), tj.UnsupportedError, "reduceat"),
        (lambda x: np.arctan2.reduce(x), tj.UnsupportedError, "arctan2.reduce"),
        (lambda x: np.exp(x, where=x > 1), tj.UnsupportedError, "np.where"),
        (lambda x: np.quantile(x, x[0, 0]), tj.UnsupportedError, "constant"),
        (lambda x: np.repeat(x, np.argsort(x[0])), tj.TracedShapeError, "np.repeat"),
        (lambda x: np.bincount(np.argsort(x[0])), tj.TracedShapeError, "bincount"),
        (lambda x: np.pad(x, 1, mode="mean"), tj.UnsupportedError, "mode='mean'"),
        (lambda x: np.linalg.norm(x, 2), tj.UnsupportedError, "singular"),
        (lambda x: np.linalg.inv(x), np.linalg.LinAlgError, "square"),
        (lambda x: x @ x, ValueError, "matmul"),
        (lambda x: x.reshape(5, 5), ValueError, "reshape"),
        (lambda x: np.sum(x, axis=2), np.exceptions.AxisError, "axis 2"),
        (lambda x: np.sum(x, axis=(0, 0)), ValueError, "duplicate"),
        (lambda x: np.max(x[:0]), ValueError, "zero-size"),
        (lambda x: np.max(x, where=x > 1), ValueError, "initial"),
        (lambda x: np.einsum("ij,jk", x), ValueError, "einsum"),
        (lambda x: np.einsum("ijk", x), ValueError, "einsum"),
        (lambda x: np.argsort(x) ** -1, ValueError, "negative integer powers"),
        (lambda x: x + np.array(["a"]), tj.TraceError, "dtype"),
        (lambda x: x + 1j, tj.TraceError, "complex"),
        (lambda x: x.astype(complex), tj.TraceError, "complex"),
        (lambda x: np.asarray(x), tj.TraceError, "tapejit.numpy"),
        (lambda x: tnp.arange(x[0, 0]), tj.UnsupportedError, "np.arange"),
        (lambda x: np.split(x, 3, axis=1), ValueError, "equal division"),
        (lambda x: np.cross(x, x), ValueError, "3 components"),
        (lambda x: np.choose(np.argsort(x[0]), [x, x]), ValueError, "invalid entry"),
        (lambda x: np.select([x > 1], [x, x]), ValueError, "same length"),
        (lambda x: np.gradient(x[:1]), ValueError, "too small"),
        (lambda x: np.gradient(x, 1.0, 2.0, 3.0), TypeError, "number of arguments"),
        (lambda x: np.cov(x, fweights=[1, 1, 1, 1]), tj.UnsupportedError, "weights"),
        (lambda x: np.linalg.norm(x, "nuc", axis=0), ValueError, "Invalid norm order"),
        (lambda x: np.linalg.norm(x[0], ord=x[0, 0]), tj.UnsupportedError, "static"),
        (lambda x: np.linalg.norm(x, 1, axis=(0, 0)), ValueError, "Duplicate"),
        (lambda x: np.linalg.norm(np.stack([x, x]), 1), ValueError, "Improper number"),
        (lambda x: np.convolve(x[0], x[0], "other"), ValueError, "mode"),
        (lambda x: np.convolve(x[0], x[0, :0]), ValueError, "empty"),
        (lambda x: np.tensordot(x, x, 1), ValueError, "mismatch"),
        (lambda x: np.quantile(x, 2.0), ValueError, "range"),
        (lambda x: np.quantile(x, 0.5, method="weibull"), tj.UnsupportedError, "linear"),
        (lambda x: np.percentile(x, x[0]), tj.UnsupportedError, "constant"),
        (lambda x: tsp.logsumexp(x, return_sign=True), tj.UnsupportedError, "return_sign"),
        (lambda x: np.compress(x[:, 0] > 1, x), tj.TracedShapeError, "np.where"),
        (lambda x: np.add(np.argsort(x), x, out=np.argsort(x)), TypeError, "cast"),
    ],
)
def test_errors(function, error, words):
    with pytest.raises(error, match=words) as caught:
        tj.jit(function)(M)
    if isinstance(caught.value, tj.TapejitError):
        assert "test_numpy_functions.py" in str(caught.value)


BAD_CALLS = {
    "sum over an axis twice": lambda x, a: np.sum(a, axis=(0, 0)),
    "sum over a missing axis": lambda x, a: np.sum(a, axis=3),
    "equal split of four in three": lambda x, a: np.split(x, 3),
    "norm of order 'bad'": lambda x, a: np.linalg.norm(x, "bad"),
    "norm over one axis twice": lambda x, a: np.linalg.norm(a, axis=(0, 0)),
    "norm over three axes": lambda x, a: np.linalg.norm(a.reshape(1, 2, 3), axis=(0, 1, 2)),
    "determinant of an oblong matrix": lambda x, a: np.linalg.det(a),
    "quantile beyond one": lambda x, a: np.quantile(x, 1.5),
    "select of unequal lists": lambda x, a: np.select([x > 0], [x, x]),
    "choose of a missing choice": lambda x, a: np.choose([0, 1, 5, 0], [x, x]),
    "tensordot of other lengths": lambda x, a: np.tensordot(x, a, axes=1),
    "einsum with a missing operand": lambda x, a: np.einsum("i,j->ij", x),
    "einsum of other dimensions": lambda x, a: np.einsum("ij->i", x),
    "convolution in no mode": lambda x, a: np.convolve(x, x, "bad"),
    "convolution with nothing": lambda x, a: np.convolve(x, x[:0]),
    "gradient of one element": lambda x, a: np.gradient(x[:1]),
    "gradient with too many spacings": lambda x, a: np.gradient(x, 1.0, 2.0),
    "index beyond the end": lambda x, a: x[7],
    "element set to an array": lambda x, a: x.copy().__setitem__(0, x),
    "reshape to another size": lambda x, a: x.reshape(3, 2),
    "shapes that do not broadcast": lambda x, a: x + a,
    "concatenation of other dimensions": lambda x, a: np.concatenate([x, a]),
    "stack of other shapes": lambda x, a: np.stack([x, x[:2]]),
    "matrix product of other lengths": lambda x, a: a @ x,
    "transpose by a wrong permutation": lambda x, a: np.transpose(a, (0, 0)),
    "squeeze of a longer axis": lambda x, a: np.squeeze(a, 0),
    "dot of other lengths": lambda x, a: np.dot(a, x),
    "roll along a missing axis": lambda x, a: np.roll(a, 1, axis=4),
    "repeat with a wrong count": lambda x, a: np.repeat(x, [1, 2]),
    "broadcast to fewer elements": lambda x, a: np.broadcast_to(x, (2,)),
    "moveaxis of a missing axis": lambda x, a: np.moveaxis(a, 5, 0),
    "maximum of nothing": lambda x, a: np.max(x[:0]),
    "take beyond the end": lambda x, a: np.take(x, [9]),
    "trapezoid along a missing axis": lambda x, a: np.trapezoid(x, axis=2),
    "interpolation of unequal lists": lambda x, a: np.interp(x, [0.0, 1.0], [1.0, 2.0, 3.0]),
    "interpolation with period zero": lambda x, a: np.interp(x, x, x, period=0.0),
    "interpolation of nothing": lambda x, a: np.interp(x, x[:0], x[:0]),
    "interpolation of a table": lambda x, a: np.interp(x, a, a),
    "triangle of a scalar": lambda x, a: np.tril(x[0]),
    "three-dimensional diagonal": lambda x, a: np.diag(a.reshape(1, 2, 3)),
    "cross product of four": lambda x, a: np.cross(x, x),
    "solving with an oblong matrix": lambda x, a: np.linalg.solve(a, x),
    "cumulative sum of a missing axis": lambda x, a: np.cumsum(a, axis=2),
    "mean of a missing axis": lambda x, a: np.mean(a, axis=-3),
    "assignment to a read-only window": lambda x, a: np.broadcast_to(x, (2, 4)).__setitem__(
        (0, 0), x[0]
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_errors_are_numpys(name):
    """What NumPy refuses is refused, with an exception of the same kind."""
    function = BAD_CALLS[name]
    x, a = np.array([0.5, 1.5, -0.7, 1.2]), np.arange(6.0).reshape(2, 3) + 0.5
    with pytest.raises(Exception) as refused, np.errstate(all="ignore"):
        function(x, a)
    with pytest.raises(refused.type):
        tj.jit(function)(x, a)


def test_empty_arrays():
    x = np.zeros((0, 3))
    for function in (np.sum, np.prod, lambda x: np.sum(x, axis=0), lambda x: x @ np.ones(3),
                     lambda x: np.concatenate([x, x]), np.any, np.all, lambda x: x.T + 1,
                     lambda x: np.cumsum(x, axis=0), lambda x: np.sort(x, axis=1),
                     lambda x: np.max(x, axis=1), lambda x: np.max(x, initial=2.0)):  # fmt: skip
        got, want = tj.jit(function)(x), function(x)
        assert np.shape(got) == np.shape(want)
        np.testing.assert_array_equal(got, want)


def test_nan_and_ties():
    x = np.array([1.0, np.nan, 3.0])
    for function in (np.max, np.sum, np.median, np.nanmax, np.argmax, lambda x: np.sort(x)):
        np.testing.assert_array_equal(tj.jit(function)(x), function(x))
    np.testing.assert_array_equal(tj.grad(np.max)(np.array([1.0, 2.0, 2.0])), [0.0, 0.5, 0.5])
    np.testing.assert_array_equal(
        tj.grad(lambda x: np.prod(x))(np.array([0.0, 2.0, 3.0])), [6.0, 0.0, 0.0]
    )
