"""The Triton kernels of a gated layer: select, gather, convolve; and some for what lies between.

An image has its own winners, hence its own weights. A convolution that looks them up reads them
again for every tile of pixels, number by number. So three kernels share the work:

1. `select_kernel`: saliency -> predictor -> the winners and their gates, one program per image;
2. `gather_kernel`: the weights between an image's inputs and its winners, once, into rows of
   their own whose length is a multiple of 16 bytes;
3. `convolve_kernel`: an implicit matrix product that reads whole rows, 16 bytes at a time, and
   ends with bias, gate, ReLU and the sums that the next layer's `select_kernel` begins with.

Maps lie in channels_last memory, rows of all channels of a pixel. In capitals: what is known when
a kernel is compiled.
"""
# ruff: noqa: N803, N806

import triton
import triton.language as tl


@triton.jit
def to_tf32(x):
    """float32 rounded to the nearest number of 10 bits after the point, ties away from 0.

    A tensor core reads these bits alone and would cut the others off, which is a bias towards 0.
    """
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -8192).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["parts", "scale", "k_in", "width", "k"])
def select_kernel(
    sums,  # [N, parts, width]: sums of |x| over parts of the pixels
    channels,  # [N, k_in] int64: which inputs they are of; not read unless HAS_CHANNELS
    predictor,  # [C_in, C_out]
    bias,  # [C_out]
    g_out,  # [N, C_out]
    winners,  # [N, k] int64, ascending; not written if DENSE
    pi,  # [N, k]; if DENSE [N, C_out], 0 where a channel loses
    parts,
    scale,  # 1 / pixels
    k_in,
    width,
    c_out,
    k,
    HAS_CHANNELS: tl.constexpr,
    DENSE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One image: ``g = relu(predictor(mean |x|))``, its ``k`` largest, and their places in order.

    A channel's rank is the number of channels that come before it: those of larger magnitude, and
    among equals those of lower index.
    """
    n = tl.program_id(0).to(tl.int64)
    o = tl.arange(0, BLOCK_C)
    real = o < c_out
    total = tl.zeros((BLOCK_I, BLOCK_C), dtype=tl.float32)
    for start in range(0, k_in, BLOCK_I):
        i = start + tl.arange(0, BLOCK_I)
        s = tl.zeros((BLOCK_T, BLOCK_I), dtype=tl.float32)
        for part in range(0, parts, BLOCK_T):
            t = part + tl.arange(0, BLOCK_T)
            at = sums + (n * parts + t)[:, None] * width + i[None, :]
            s += tl.load(at, mask=(t < parts)[:, None] & (i < k_in)[None, :], other=0.0)
        s = tl.sum(s, axis=0) * scale
        if HAS_CHANNELS:
            source = tl.load(channels + n * k_in + i, mask=i < k_in, other=0).to(tl.int32)
        else:
            source = i
        at = predictor + source[:, None] * c_out + o[None, :]
        total += tl.load(at, mask=(i < k_in)[:, None] & real[None, :], other=0.0) * s[:, None]
    g = tl.load(bias + o, mask=real, other=0.0) + tl.sum(total, axis=0)
    g = tl.where(g < 0.0, 0.0, g)  # and NaN stays NaN, which comes first, as in `rank_channels`
    tl.store(g_out + n * c_out + o, g, mask=real)
    tl.debug_barrier()  # every thread reads what the others have written
    key = g.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # magnitudes in the order of their bits
    before = tl.zeros((BLOCK_P, BLOCK_C), dtype=tl.int32)
    for start in range(0, c_out, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        other = tl.load(g_out + n * c_out + p, mask=p < c_out, other=0.0)
        other = other.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        other = tl.where(p < c_out, other, -1)
        larger = other[:, None] > key[None, :]
        equal = (other[:, None] == key[None, :]) & (p[:, None] < o[None, :])
        before += (larger | equal).to(tl.int32)
    wins = (tl.sum(before, axis=0) < k) & real
    if DENSE:
        tl.store(pi + n * c_out + o, tl.where(wins, g, 0.0), mask=real)
    else:
        place = tl.cumsum(wins.to(tl.int32), axis=0) - 1
        tl.store(winners + n * k + place, o.to(tl.int64), mask=wins)
        tl.store(pi + n * k + place, g, mask=wins)


@triton.jit(
    do_not_specialize=[
        *("first", "total_rows", "total_columns", "n_rows", "n_columns", "height", "length")
    ]
)
def gather_kernel(
    weight,  # [rows, TAPS, columns] or, unless BY_ROWS, [TAPS, rows, columns]
    rows,  # [N, n_rows] int64: the rows that an image takes; not read unless HAS_ROWS
    columns,  # [N, n_columns] int64, likewise
    out,  # [images, height, TAPS, length] or, unless BY_ROWS, [images, TAPS, height, length]
    first,  # the first image
    total_rows,
    total_columns,
    n_rows,
    n_columns,
    height,  # rows of `out` and their length; what is beyond n_rows and n_columns becomes 0
    length,
    TAPS: tl.constexpr,
    BY_ROWS: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_COLUMNS: tl.constexpr,
    ROUND: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Some rows of an image's own weights, one at a time.

    Neighbouring lanes read neighbouring columns of one row, which lie in a few cache lines.
    """
    tap = tl.program_id(1)
    own = tl.program_id(2).to(tl.int64)
    n = own + first
    c = tl.arange(0, BLOCK_C)
    column = c
    if HAS_COLUMNS:
        column = tl.load(columns + n * n_columns + c, mask=c < n_columns, other=0).to(tl.int32)
    out += own * height * TAPS * length
    for step in tl.static_range(BLOCK_R):
        r = tl.program_id(0) * BLOCK_R + step
        row = r
        if HAS_ROWS:
            row = tl.load(rows + n * n_rows + r, mask=r < n_rows, other=0).to(tl.int32)
        source = row * TAPS + tap if BY_ROWS else tap * total_rows + row
        target = r * TAPS + tap if BY_ROWS else tap * height + r
        inside = (c < n_columns) & (r < n_rows)
        w = tl.load(weight + source * total_columns + column, mask=inside, other=0.0)
        if ROUND:
            w = to_tf32(w)
        tl.store(out + target * length + c, w, mask=(c < length) & (r < height))


@triton.jit(
    do_not_specialize=[
        *("first", "pixels", "columns", "height", "width"),
        *("x_units", "y_units", "k_out", "total_outputs"),
    ]
)
def convolve_kernel(
    x,  # [N, height, width, x_units * UNIT]
    weight,  # rows of TAPS * k_in numbers, or unless K_MAJOR TAPS * k_in rows of outputs
    winners,  # [N, k_out] int64; not read unless HAS_WINNERS
    bias,  # [C_out]
    pi,  # [N, k_out]; not read unless GATED
    y,  # [N, pixels, y_units * UNIT_Y]
    sums,  # [N, tiles of pixels, k_out]: of |y|
    first,  # the first image that has weights here
    pixels,  # H' * W'
    columns,  # W'
    height,
    width,
    x_units,
    y_units,
    k_out,
    total_outputs,  # C_out
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    UNIT: tl.constexpr,  # 8, or less where a row of x is shorter
    UNIT_Y: tl.constexpr,
    OWN: tl.constexpr,  # whether an image has weights of its own, or its winners' rows of all
    HAS_WINNERS: tl.constexpr,
    GATED: tl.constexpr,
    RELU: tl.constexpr,
    K_MAJOR: tl.constexpr,
    FLAT: tl.constexpr,  # steps go over all pairs (tap, input), and not over the inputs of each tap
    EVEN: tl.constexpr,  # whether BLOCK_K divides k_in
    ROUND_X: tl.constexpr,
    ROUND_Y: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of one image's ``y = relu(pi * (W x + bias))``.

    Rows of the product are output pixels, columns winners; the sum goes over taps and inputs.
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    k_in = x_units * UNIT
    y_row = y_units * UNIT_Y
    w_row = y_row if OWN else total_outputs
    tiles_n = tl.cdiv(k_out, BLOCK_N)
    tiles_m = tl.cdiv(pixels, BLOCK_M)
    own = tl.program_id(0) // (tiles_m * tiles_n)  # tiles of an image are next to one another
    tile = tl.program_id(0) % (tiles_m * tiles_n)
    tile_m = tile // tiles_n
    n = (own + first).to(tl.int64)  # a batch may have more than 2 ** 31 values
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tile % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = j
    if HAS_WINNERS:
        channel = tl.load(winners + n * k_out + j, mask=j < k_out, other=0).to(tl.int32)
    x += n * height * width * k_in
    if OWN:
        row = j
        if K_MAJOR:
            weight += own.to(tl.int64) * k_out * TAPS * k_in
        else:
            weight += own.to(tl.int64) * TAPS * k_in * w_row
    else:
        row = channel
    top = m // columns * stride_h - padding_h  # of the window that a pixel is computed from
    left = m % columns * stride_w - padding_w
    steps = tl.cdiv(TAPS * k_in, BLOCK_K) if FLAT else TAPS * tl.cdiv(k_in, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(steps):
        if FLAT:
            line = step * BLOCK_K + tl.arange(0, BLOCK_K)
            tap = line // k_in
            i = line % k_in
            valid = tap < TAPS
            h = top[:, None] + (tap // KERNEL_W * dilation_h)[None, :]
            v = left[:, None] + (tap % KERNEL_W * dilation_w)[None, :]
            inside = (h >= 0) & (h < height) & (v >= 0) & (v < width) & (m < pixels)[:, None]
            at = x + ((h * width + v) * k_in + i[None, :])
            a = tl.load(at, mask=inside & valid[None, :], other=0.0)
        else:  # taps in the inner loop: most of what a tap reads, the last one has just read
            t = step % TAPS
            i = step // TAPS * BLOCK_K + tl.arange(0, BLOCK_K)
            line = t * k_in + i
            valid = i < k_in
            h = top + t // KERNEL_W * dilation_h
            v = left + t % KERNEL_W * dilation_w
            inside = (h >= 0) & (h < height) & (v >= 0) & (v < width) & (m < pixels)
            at = x + (((h * width + v) * k_in)[:, None] + i[None, :])
            inside = inside[:, None] if EVEN else inside[:, None] & valid[None, :]
            a = tl.load(at, mask=inside, other=0.0)
        if ROUND_X:
            a = to_tf32(a)
        if K_MAJOR:
            at = weight + ((row * (TAPS * k_in))[:, None] + line[None, :])
            here = (j < k_out)[:, None] if EVEN else (j < k_out)[:, None] & valid[None, :]
            b = tl.load(at, mask=here, other=0.0)
            total = tl.dot(a, tl.trans(b), total, input_precision=PRECISION)
        else:
            at = weight + ((line * w_row)[:, None] + row[None, :])
            here = j < w_row if OWN else j < k_out
            b = tl.load(at, mask=valid[:, None] & here[None, :], other=0.0)
            total = tl.dot(a, b, total, input_precision=PRECISION)
    total += tl.load(bias + channel, mask=j < k_out, other=0.0)[None, :]
    if GATED:
        total *= tl.load(pi + n * k_out + j, mask=j < k_out, other=0.0)[None, :]
    if RELU:
        total = tl.where(total < 0.0, 0.0, total)  # and NaN stays NaN
    if ROUND_Y:
        total = to_tf32(total)
    stored = total.to(y.dtype.element_ty)
    size = tl.where((m < pixels)[:, None], tl.abs(stored.to(tl.float32)), 0.0)
    tl.store(sums + (n * tiles_m + tile_m) * k_out + j, tl.sum(size, axis=0), mask=j < k_out)
    at = y + n * pixels * y_row + ((m * y_row)[:, None] + j[None, :])
    tl.store(at, stored, mask=(m < pixels)[:, None] & (j < y_row)[None, :])


@triton.jit(do_not_specialize=["pixels"])
def mask_kernel(
    y,  # [N, pixels, channels], of which the numbers lie as the strides say; written in place
    bias,  # [channels]; not read unless SHIFTED
    pi,  # [N, channels], 0 where a channel loses; not read unless GATED
    sums,  # [N, tiles of pixels, channels]: of |y|
    pixels,
    channels,
    y_image,
    y_pixel,
    y_channel,
    MASK: tl.constexpr,  # else y is only summed up
    SHIFTED: tl.constexpr,
    GATED: tl.constexpr,
    RELU: tl.constexpr,
    ROUND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """What ends a dense convolution: ``y = relu(pi * (y + bias))``, and the sums, in one pass."""
    n = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (m < pixels)[:, None] & (c < channels)[None, :]
    at = y + n * y_image + ((m * y_pixel)[:, None] + (c * y_channel)[None, :])
    total = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    if MASK:
        if SHIFTED:
            total += tl.load(bias + c, mask=c < channels, other=0.0)[None, :]
        if GATED:
            total *= tl.load(pi + n * channels + c, mask=c < channels, other=0.0)[None, :]
        if RELU:
            total = tl.where(total < 0.0, 0.0, total)  # and NaN stays NaN
        if ROUND:
            total = to_tf32(total)
        stored = total.to(y.dtype.element_ty)
        tl.store(at, stored, mask=inside)
        total = stored.to(tl.float32)
    size = tl.where(inside, tl.abs(total), 0.0)
    at = sums + (n * tl.num_programs(0) + tl.program_id(0)) * channels + c
    tl.store(at, tl.sum(size, axis=0), mask=c < channels)


@triton.jit(do_not_specialize=["pixels", "x_row", "addend_row", "k"])
def spread_kernel(
    x,  # [N, pixels, x_row]
    channels,  # [N, k] int64, in any order; not read unless HAS_CHANNELS
    addend,  # [N, pixels, addend_row]; not read unless ADD
    y,  # [N, pixels, total]
    sums,  # [N, tiles of pixels, total]: of |y|; not written unless ADD
    pixels,
    x_row,
    addend_row,
    k,
    total,
    HAS_CHANNELS: tl.constexpr,
    ADD: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    REPEAT: tl.constexpr,
):
    """Compact maps among zeros, or added to others. Each channel looks for its place in the list,
    then reads there."""
    n = tl.program_id(1).to(tl.int64)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < total
    place = tl.where(real, c, -1)
    if HAS_CHANNELS:
        place = tl.full((BLOCK_C,), -1, dtype=tl.int32)
        for start in range(0, k, BLOCK_K):
            p = start + tl.arange(0, BLOCK_K)
            channel = tl.load(channels + n * k + p, mask=p < k, other=-1).to(tl.int32)
            found = tl.where(channel[:, None] == c[None, :], p[:, None], -1)
            place = tl.maximum(place, tl.max(found, axis=0))
    size = tl.zeros((BLOCK_M, BLOCK_C), dtype=tl.float32)
    for step in range(REPEAT):
        m = (tl.program_id(0) * REPEAT + step) * BLOCK_M + tl.arange(0, BLOCK_M)
        here = (m < pixels)[:, None] & (place >= 0)[None, :]
        at = x + n * pixels * x_row + ((m * x_row)[:, None] + place[None, :])
        values = tl.load(at, mask=here, other=0.0)
        here = (m < pixels)[:, None] & real[None, :]
        if ADD:
            at = addend + n * pixels * addend_row + ((m * addend_row)[:, None] + c[None, :])
            values = values.to(tl.float32) + tl.load(at, mask=here, other=0.0).to(tl.float32)
            if RELU:
                values = tl.where(values < 0.0, 0.0, values)  # and NaN stays NaN
            values = values.to(y.dtype.element_ty)
            size += tl.abs(values.to(tl.float32))
        at = y + n * pixels * total + ((m * total)[:, None] + c[None, :])
        tl.store(at, values, mask=here)
    if ADD:
        at = sums + (n * tl.num_programs(0) + tl.program_id(0)) * total + c
        tl.store(at, tl.sum(size, axis=0), mask=real)


@triton.jit(do_not_specialize=["pixels", "columns", "height", "width", "k"])
def pool_kernel(
    x,  # [N, height, width, x_row]
    y,  # [N, pixels, y_row]
    sums,  # [N, tiles of pixels, k]: of |y|
    pixels,  # H' * W'
    columns,  # W'
    height,
    width,
    x_row,
    y_row,
    k,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The largest value of each window; what pads a row stays 0, and NaN is larger than all."""
    n = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    top = m // columns * stride_h - padding_h
    left = m % columns * stride_w - padding_w
    largest = tl.full((BLOCK_M, BLOCK_C), float("-inf"), dtype=tl.float32)
    x += n * height * width * x_row
    for tap in tl.static_range(KERNEL_H * KERNEL_W):
        h, v = top + tap // KERNEL_W, left + tap % KERNEL_W
        inside = (h >= 0) & (h < height) & (v >= 0) & (v < width) & (m < pixels)
        at = x + (((h * width + v) * x_row)[:, None] + c[None, :])
        value = tl.load(at, mask=inside[:, None] & (c < k)[None, :], other=float("-inf"))
        largest = tl.maximum(largest, value.to(tl.float32), propagate_nan=tl.PropagateNan.ALL)
    real = (m < pixels)[:, None] & (c < k)[None, :]
    largest = tl.where(real, largest, 0.0)
    at = y + n * pixels * y_row + ((m * y_row)[:, None] + c[None, :])
    tl.store(at, largest.to(y.dtype.element_ty), mask=(m < pixels)[:, None] & (c < y_row)[None, :])
    at = sums + (n * tl.num_programs(0) + tl.program_id(0)) * k + c
    tl.store(at, tl.sum(tl.abs(largest), axis=0), mask=c < k)
