"""Hand-written array kernels: strided copies and sums, gathers, scans, reductions, chains.

Same ABI as the generated kernels (``kernel(context, instruction) -> status``), same rules: they
run compiled and as plain Python.  The strided pair :func:`nd_copy` and :func:`nd_add` serves
every copy, broadcast, sum, concatenation and in-place write, and their transposes.
"""

import numpy as np
from numba.extending import register_jitable

from .blas import matmul
from .layout import (
    BLAS,
    CONTEXT_WORDS,
    COUNTERS,
    DONE,
    FAILED,
    FORWARD,
    FORWARD_STOP,
    GUARD_EQUAL,
    GUARD_FAILED,
    INDEX_ERROR,
    KERNELS,
    RECOMPUTING,
    TILE,
    TILE_BASE,
    TILE_SIZE,
    UNTILED,
)
from .memory import call_kernel, f64, i32, i64, operand, tile

REGISTER = 512  # bit of a space word: addressed linearly from the tile's first element

# --- strided copies and sums --------------------------------------------------------------------


@register_jitable
def copy_run(dst, dst_step, src, src_step, n):
    """``dst[k] = src[k]`` for two strided runs."""
    if dst_step == 1 and src_step == 1:
        d, s = f64(dst, n), f64(src, n)
        for k in range(n):
            d[k] = s[k]
    elif src_step == 0 and dst_step == 1:
        d = f64(dst, n)
        value = f64(src, 1)[0]
        for k in range(n):
            d[k] = value
    else:
        for k in range(n):
            f64(dst + 8 * k * dst_step, 1)[0] = f64(src + 8 * k * src_step, 1)[0]


@register_jitable
def sum_run(src, n):
    """Sum of a contiguous run, in eight partial sums."""
    s = f64(src, n)
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = 0.0
    whole = n - n % 8
    for k in range(0, whole, 8):
        a0 += s[k]
        a1 += s[k + 1]
        a2 += s[k + 2]
        a3 += s[k + 3]
        a4 += s[k + 4]
        a5 += s[k + 5]
        a6 += s[k + 6]
        a7 += s[k + 7]
    total = ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7))
    for k in range(whole, n):
        total += s[k]
    return total


@register_jitable
def add_run(dst, dst_step, src, src_step, n):
    """``dst[k] += src[k]`` for two strided runs; a step of zero sums into one element."""
    if dst_step == 1 and src_step == 1:
        d, s = f64(dst, n), f64(src, n)
        for k in range(n):
            d[k] += s[k]
    elif dst_step == 0 and src_step == 1:
        f64(dst, 1)[0] += sum_run(src, n)
    elif dst_step == 1 and src_step == 0:
        d = f64(dst, n)
        value = f64(src, 1)[0]
        for k in range(n):
            d[k] += value
    else:
        for k in range(n):
            f64(dst + 8 * k * dst_step, 1)[0] += f64(src + 8 * k * src_step, 1)[0]


@register_jitable
def strided(ctx, ins, add):
    """Walk two strided views of one shape, the tile's share of it, run by run.

    Words: count, dimensions, target, source, shape, strides of the target, of the source.
    """
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, UNTILED)
    base = c[TILE_BASE]
    n = tile(c, p[0])
    nd = np.int64(p[1])
    inner = np.int64(p[5 + nd])
    dst_step, src_step = np.int64(p[5 + 2 * nd]), np.int64(p[5 + 3 * nd])
    dst_linear, src_linear = p[2] & REGISTER, p[4] & REGISTER
    dst = c[p[2] & 255] + 8 * np.int64(p[3])
    src = c[p[4] & 255] + 8 * np.int64(p[5])
    row = base // inner
    at = base - row * inner
    dst_row = np.int64(0)
    src_row = np.int64(0)
    for d in range(nd - 2, -1, -1):
        upper = row // p[6 + d]
        index = row - upper * p[6 + d]
        c[COUNTERS + d] = index
        dst_row += index * p[6 + nd + d]
        src_row += index * p[6 + 2 * nd + d]
        row = upper
    done = np.int64(0)
    while done < n:
        run = min(inner - at, n - done)
        to, to_step = dst + 8 * (dst_row + at * dst_step), dst_step
        if dst_linear:
            to, to_step = dst + 8 * done, np.int64(1)
        source, source_step = src + 8 * (src_row + at * src_step), src_step
        if src_linear:
            source, source_step = src + 8 * done, np.int64(1)
        if add:
            add_run(to, to_step, source, source_step, run)
        else:
            copy_run(to, to_step, source, source_step, run)
        done += run
        at = np.int64(0)
        d = nd - 2
        while d >= 0:
            c[COUNTERS + d] += 1
            dst_row += p[6 + nd + d]
            src_row += p[6 + 2 * nd + d]
            if c[COUNTERS + d] < p[6 + d]:
                break
            c[COUNTERS + d] = 0
            dst_row -= np.int64(p[6 + d]) * p[6 + nd + d]
            src_row -= np.int64(p[6 + d]) * p[6 + 2 * nd + d]
            d -= 1
    return DONE


def nd_copy(ctx, ins):
    """Target view = source view."""
    return strided(ctx, ins, False)


def nd_add(ctx, ins):
    """Target view += source view; repeated target elements (strides of 0) sum."""
    return strided(ctx, ins, True)


def fill(ctx, ins):
    """Words: count, target, source scalar: a run of one value (registers, short arrays)."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 5)
    n = tile(c, p[0])
    d = f64(operand(c, p, 1), n)
    value = f64(operand(c, p, 3), 1)[0]
    for k in range(n):
        d[k] = value
    return DONE


def copy(ctx, ins):
    """Words: count, target, source: contiguous."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 5)
    n = tile(c, p[0])
    d, s = f64(operand(c, p, 1), n), f64(operand(c, p, 3), n)
    for k in range(n):
        d[k] = s[k]
    return DONE


def accumulate(ctx, ins):
    """Words: count, target, source: contiguous ``target += source``."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 5)
    n = tile(c, p[0])
    d, s = f64(operand(c, p, 1), n), f64(operand(c, p, 3), n)
    for k in range(n):
        d[k] += s[k]
    return DONE


def total(ctx, ins):
    """Words: count, target scalar, source: ``target += sum(source)``."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 5)
    n = tile(c, p[0])
    f64(operand(c, p, 1), 1)[0] += sum_run(operand(c, p, 3), n)
    return DONE


def total_assign(ctx, ins):
    """Words: count, target scalar, source: ``target = sum(source)``."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 5)
    f64(operand(c, p, 1), 1)[0] = sum_run(operand(c, p, 3), np.int64(p[0]))
    return DONE


def chain(ctx, ins):
    """Run instructions tile by tile.

    Words: count, end of the instructions, direction (1: first tile first, -1: last tile first),
    instructions.
    """
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, UNTILED)
    kernels = i64(c[KERNELS], UNTILED)
    count, stop, direction = np.int64(p[0]), np.int64(p[1]), np.int64(p[2])
    tiles = (count + TILE - 1) // TILE
    c[TILE_SIZE] = TILE
    status = np.int64(DONE)
    for t in range(tiles):
        c[TILE_BASE] = TILE * (t if direction > 0 else tiles - 1 - t)
        at = np.int64(3)
        while at < stop:
            status |= call_kernel(kernels[p[at + 2]], ctx, ins + 4 * at + 12)
            at += p[at + 1]
    c[TILE_BASE] = 0
    c[TILE_SIZE] = UNTILED
    return status


def scalar_code(ctx, ins):
    """Run scalar forward code in the midst of a reverse sweep.  Words: count, code."""
    c = i64(ctx, CONTEXT_WORDS)
    code, stop = c[FORWARD], c[FORWARD_STOP]
    c[FORWARD] = ins + 4
    c[FORWARD_STOP] = i32(ins, 1)[0]
    status = call_kernel(i64(c[KERNELS], 1)[0], ctx, 0)
    c[FORWARD] = code
    c[FORWARD_STOP] = stop
    return status


def recompute(ctx, ins):
    """Run a stretch of the forward code in the midst of a reverse sweep.  Words: from, to.

    Its guards held when it ran first, or were forced.  Where a loop pauses, the context keeps
    the place to go on from.
    """
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 2)
    code, stop = i32(c[FORWARD], c[FORWARD_STOP]), c[FORWARD_STOP]
    at = np.int64(p[0])
    if c[RECOMPUTING]:
        at = c[RECOMPUTING] - 1
    c[RECOMPUTING] = 0
    c[FORWARD_STOP] = p[1]
    kernel = i64(c[KERNELS], 1)[0]
    status = call_kernel(kernel, ctx, at)
    while status == GUARD_FAILED:
        at = c[FAILED]
        status = call_kernel(kernel, ctx, at + (3 if code[at] == GUARD_EQUAL else 2))
    c[FORWARD_STOP] = stop
    if status != DONE:
        c[RECOMPUTING] = c[FAILED] + 1
    return status


# --- gathers and scatters -----------------------------------------------------------------------
# Words: count, base view (space, offset), indices, values, length of the base (0: unchecked).


def gather(ctx, ins):
    """values[k] = base[index[k]], with a bounds check where the indices are traced."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 8)
    n = np.int64(p[0])
    base, index, out = operand(c, p, 1), f64(operand(c, p, 3), n), f64(operand(c, p, 5), n)
    b = f64(base, UNTILED)
    for k in range(n):
        out[k] = b[np.int64(index[k])]
    return DONE


def gather_add(ctx, ins):
    """values[k] += base[index[k]]."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 8)
    n = np.int64(p[0])
    base, index, out = operand(c, p, 1), f64(operand(c, p, 3), n), f64(operand(c, p, 5), n)
    b = f64(base, UNTILED)
    for k in range(n):
        out[k] += b[np.int64(index[k])]
    return DONE


def scatter(ctx, ins):
    """base[index[k]] = values[k]; the last of equal indices stays."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 8)
    n = np.int64(p[0])
    base, index, source = operand(c, p, 1), f64(operand(c, p, 3), n), f64(operand(c, p, 5), n)
    b = f64(base, UNTILED)
    for k in range(n):
        b[np.int64(index[k])] = source[k]
    return DONE


def scatter_add(ctx, ins):
    """base[index[k]] += values[k]; equal indices sum."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 8)
    n = np.int64(p[0])
    base, index, source = operand(c, p, 1), f64(operand(c, p, 3), n), f64(operand(c, p, 5), n)
    b = f64(base, UNTILED)
    for k in range(n):
        b[np.int64(index[k])] += source[k]
    return DONE


def normalise_index(ctx, ins):
    """Words: count, target, source, length: indices counted from the start, or an error."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 6)
    n = np.int64(p[0])
    d, s = f64(operand(c, p, 1), n), f64(operand(c, p, 3), n)
    length = np.float64(p[5])
    for k in range(n):
        value = s[k]
        if not (-length <= value < length):
            return INDEX_ERROR
        d[k] = value + length if value < 0.0 else value
    return DONE


# --- reductions and scans along rows --------------------------------------------------------------
# Words: rows, length, result, source; the source is contiguous (rows, length).


@register_jitable
def _rows(ctx, ins):
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 6)
    return np.int64(p[0]), np.int64(p[1]), operand(c, p, 2), operand(c, p, 4)


@register_jitable
def _extreme(ctx, ins, sign):
    rows, n, out, source = _rows(ctx, ins)
    o = f64(out, rows)
    for i in range(rows):
        s = f64(source + 8 * i * n, n)
        best = s[0]
        for k in range(1, n):
            value = s[k]
            if sign * value > sign * best or value != value:
                best = value
        o[i] = best
    return DONE


def row_max(ctx, ins):
    """Largest of each row; NaN if any is."""
    return _extreme(ctx, ins, 1.0)


def row_min(ctx, ins):
    """Smallest of each row; NaN if any is."""
    return _extreme(ctx, ins, -1.0)


@register_jitable
def _position(ctx, ins, sign):
    rows, n, out, source = _rows(ctx, ins)
    o = f64(out, rows)
    for i in range(rows):
        s = f64(source + 8 * i * n, n)
        at = 0
        for k in range(1, n):
            if s[at] != s[at]:
                break
            if sign * s[k] > sign * s[at] or s[k] != s[k]:
                at = k
        o[i] = at
    return DONE


def row_argmax(ctx, ins):
    """Position of the first largest (or first NaN) of each row."""
    return _position(ctx, ins, 1.0)


def row_argmin(ctx, ins):
    """Position of the first smallest (or first NaN) of each row."""
    return _position(ctx, ins, -1.0)


def row_prod(ctx, ins):
    """Product of each row."""
    rows, n, out, source = _rows(ctx, ins)
    o = f64(out, rows)
    for i in range(rows):
        s = f64(source + 8 * i * n, n)
        product = 1.0
        for k in range(n):
            product *= s[k]
        o[i] = product
    return DONE


def row_prod_others(ctx, ins):
    """For each element the product of the others of its row: exact at zeros."""
    rows, n, out, source = _rows(ctx, ins)
    for i in range(rows):
        s, o = f64(source + 8 * i * n, n), f64(out + 8 * i * n, n)
        before = 1.0
        for k in range(n):
            o[k] = before
            before *= s[k]
        after = 1.0
        for k in range(n - 1, -1, -1):
            o[k] *= after
            after *= s[k]
    return DONE


def row_cumsum(ctx, ins):
    """Running sum of each row."""
    rows, n, out, source = _rows(ctx, ins)
    for i in range(rows):
        s, o = f64(source + 8 * i * n, n), f64(out + 8 * i * n, n)
        running = 0.0
        for k in range(n):
            running += s[k]
            o[k] = running
    return DONE


def row_cumprod(ctx, ins):
    """Running product of each row."""
    rows, n, out, source = _rows(ctx, ins)
    for i in range(rows):
        s, o = f64(source + 8 * i * n, n), f64(out + 8 * i * n, n)
        running = 1.0
        for k in range(n):
            running *= s[k]
            o[k] = running
    return DONE


@register_jitable
def _precedes(a, b):
    """NumPy's sort order: NaN last."""
    return a < b or (b != b and a == a)


def row_argsort(ctx, ins):
    """Stable merge sort of each row's positions.  Extra words: scratch of ``length``."""
    c = i64(ctx, CONTEXT_WORDS)
    rows, n, out, source = _rows(ctx, ins)
    scratch = f64(operand(c, i32(ins, 8), 6), n)
    for i in range(rows):
        s, o = f64(source + 8 * i * n, n), f64(out + 8 * i * n, n)
        for k in range(n):
            o[k] = k
        width = 1
        while width < n:
            for left in range(0, n, 2 * width):
                middle, right = min(left + width, n), min(left + 2 * width, n)
                a, b = left, middle
                for k in range(left, right):
                    take_a = a < middle
                    if take_a and b < right:
                        take_a = not _precedes(s[np.int64(o[b])], s[np.int64(o[a])])
                    if take_a:
                        scratch[k] = o[a]
                        a += 1
                    else:
                        scratch[k] = o[b]
                        b += 1
            for k in range(n):
                o[k] = scratch[k]
            width *= 2
    return DONE


# --- linear algebra -------------------------------------------------------------------------------


def batched_matmul(ctx, ins):
    """Products of stacks of matrices.

    Words: accumulate, batch dimensions, m, k, n, then for a, b and the result: view, row stride,
    column stride; then the batch shape and the batch strides of each.
    """
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, UNTILED)
    add, nd = np.int64(p[0]), np.int64(p[1])
    m, k, n = np.int64(p[2]), np.int64(p[3]), np.int64(p[4])
    a, b, o = operand(c, p, 5), operand(c, p, 9), operand(c, p, 13)
    batch = 1
    for d in range(nd):
        batch *= np.int64(p[17 + d])
        c[COUNTERS + d] = 0
    for _ in range(batch):
        matmul(
            c[BLAS], m, k, n, a, np.int64(p[7]), np.int64(p[8]), b, np.int64(p[11]),
            np.int64(p[12]), o, np.int64(p[15]), np.int64(p[16]), add,
        )  # fmt: skip
        d = nd - 1
        while d >= 0:
            c[COUNTERS + d] += 1
            size = np.int64(p[17 + d])
            sa, sb = np.int64(p[17 + nd + d]), np.int64(p[17 + 2 * nd + d])
            so = np.int64(p[17 + 3 * nd + d])
            a, b, o = a + 8 * sa, b + 8 * sb, o + 8 * so
            if c[COUNTERS + d] < size:
                break
            c[COUNTERS + d] = 0
            a, b, o = a - 8 * sa * size, b - 8 * sb * size, o - 8 * so * size
            d -= 1
    return DONE


def keep_last(ctx, ins):
    """Words: count, values, indices, scratch: values[k] = 0 unless k is the last of its index."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, 8)
    n = np.int64(p[0])
    values, index = f64(operand(c, p, 1), n), f64(operand(c, p, 3), n)
    last = f64(operand(c, p, 5), UNTILED)
    for k in range(n):
        last[np.int64(index[k])] = k
    for k in range(n):
        if last[np.int64(index[k])] != k:
            values[k] = 0.0
    return DONE
