"""What recurrent mixers compute with, over one block of tokens at a time: short convolutions and states that decay.

All take what the block before left and return what the next one needs. `Reach` says which tokens are of one document,
so that documents that lie side by side never meet, and a token that only fills the block changes nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from models.blocks import INVERTED_WHOLE
from models.past import Reach


def causal_convolution(
    x: jax.Array, tail: jax.Array, weight: jax.Array, bias: jax.Array | None, reach: Reach
) -> tuple[jax.Array, jax.Array]:
    """(depthwise convolution of every token and the `width` - 1 before it, the inputs that the next block needs).

    x `[rows, size, *channels]`; tail `[rows, width - 1, *channels]`: the inputs before x, zeros before a document;
    weight `[width, *channels]`, its last entry for the token itself; bias `[*channels]`. Sums and result are float32.
    """
    width, size = weight.shape[0], x.shape[1]
    whole = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
    taps = weight.astype(jnp.float32)
    scaled = jnp.multiply if size == 1 else _scaled
    y = scaled(x.astype(jnp.float32), taps[-1])
    for lag in range(1, width):
        seen, earlier = _lagged(reach, lag), whole[:, width - 1 - lag :][:, :size]
        y = y + scaled(_where(seen, earlier.astype(jnp.float32), 0), taps[width - 1 - lag])
    if bias is not None:
        y = y + bias.astype(jnp.float32)
    return y, _newest(whole, reach).astype(tail.dtype)


def token_before(x: jax.Array, tail: jax.Array, reach: Reach) -> tuple[jax.Array, jax.Array]:
    """(x of the token before each, the tail that the next block needs): zeros where a document begins. x
    `[rows, size, *channels]`, as the first result is; tail `[rows, 1, *channels]`."""
    whole = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
    return _where(_lagged(reach, 1), whole[:, :-1], 0), _newest(whole, reach).astype(tail.dtype)


def _newest(whole: jax.Array, reach: Reach) -> jax.Array:
    """The last inputs that exist of `whole` `[rows, tail + size, *channels]`, as many as a tail has, zeros where they
    are of another document than the block's last token."""
    length = whole.shape[1] - reach.after.shape[1]
    last = reach.tokens[:, None] + jnp.arange(length)
    of_tail = jnp.broadcast_to(reach.kept[:, None], (len(reach.kept), length))
    stays = jnp.take_along_axis(jnp.concatenate([of_tail, reach.after], axis=1), last, axis=1)
    newest = jnp.take_along_axis(whole, last.reshape(*last.shape, *(1,) * (whole.ndim - 2)), axis=1)
    return _where(stays, newest, 0)


@jax.custom_vjp
def _scaled(x: jax.Array, tap: jax.Array) -> jax.Array:
    """x `[rows, size, *channels]` times tap `[*channels]`. The gradient of the tap sums over tokens what is written out
    first: with all that leads to it in one loop it took a quarter of a layer's time (benchmarks/NOTES.md)."""
    return x * tap


def _scaled_backward(given: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, tap = given
    return slope * tap, jax.lax.optimization_barrier(slope * x).sum((0, 1))


_scaled.defvjp(lambda x, tap: (x * tap, (x, tap)), _scaled_backward)


def gated_linear(
    state: jax.Array,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    reach: Reach,
    scores: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One block of S_t = e^g_t S_{t-1} + k_t v_t^T, y_t = S_t^T q_t: (y `[rows, size, heads, value]` float32, S).

    state `[rows, heads, key, value]`, v `[rows, size, heads, value]` and log_decay g <= 0 `[rows, size, heads]` are
    float32; q, k `[rows, size, groups, key]` each serve heads / groups adjacent heads. Products between tokens of the
    block are of q's dtype and accumulate in float32; what meets the state is float32. scores: q.k of every pair of
    tokens `[rows, groups, size, size]` float32, where they cost less than the sum over `key`.

    With G = cumsum g the block is computed at once (Dao & Gu 2024, section 6): y = e^G (q S) + ((q k^T) * M) v with
    M_ij = e^(G_i - G_j), and S = e^(G_last) S + (e^(G_last - G) k)^T v. Decays are masked before exp: those between
    documents would be infinite, and their gradients NaN.
    """
    (rows, size, groups, _), (heads, value) = q.shape, v.shape[2:]
    shared = groups, heads // groups  # heads as [groups, heads of each]
    s, v = state.reshape(rows, *shared, -1, value), v.reshape(rows, size, *shared, value)
    total = jnp.cumsum(_where(reach.valid, log_decay, 0), axis=1)  # [rows, size, heads]
    exact = {"preferred_element_type": jnp.float32}
    q_state, k_state = q.astype(jnp.float32), k.astype(jnp.float32)
    kept = _decay(reach.kept, total[:, -1]).reshape(rows, *shared, 1, 1)
    enters = _decay(reach.after, total[:, -1:] - total).reshape(rows, size, *shared, 1)
    after = kept * s + jnp.einsum("rjgk,rjghv->rghkv", k_state, enters * v, **exact)
    if size == 1:  # the token reads the state that it has entered
        y = jnp.einsum("rigk,rghkv->righv", q_state, after, **exact)
        return y.reshape(rows, size, heads, value), after.reshape(state.shape)
    found = _decay(reach.before, total).reshape(rows, size, *shared, 1)
    y = found * jnp.einsum("rigk,rghkv->righv", q_state, s, **exact)
    by_head = total.swapaxes(1, 2)  # [rows, heads, size]
    between = _decay(reach.within[:, None], by_head[..., :, None] - by_head[..., None, :])
    if scores is None:
        scores = jnp.einsum("rigk,rjgk->rgij", q, k, **exact)
    scores = scores[:, :, None] * between.reshape(rows, *shared, size, size)
    y = y + jnp.einsum("rghij,rjghv->righv", scores.astype(q.dtype), v.astype(q.dtype), **exact)
    return y.reshape(rows, size, heads, value), after.reshape(state.shape)


def gated_delta(
    state: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, beta: jax.Array, log_decay: jax.Array, reach: Reach
) -> tuple[jax.Array, jax.Array]:
    """One block of S = diag(e^g_t) S_{t-1}, S_t = S + beta_t k_t (v_t - S^T k_t)^T, y_t = S_t^T q_t: (y, S_t).

    state `[rows, heads, key, value]`, v `[rows, size, heads, value]`, q, k `[rows, size, heads, key]`, beta
    `[rows, size, heads]` and log_decay g <= 0 `[rows, size, heads, key or 1]` are float32, as y is.

    With G = cumsum g, (a, b)_ij = sum_k a_ik b_jk e^(G_ik - G_jk) for j <= i and T = (I + beta (k, k) below the
    diagonal)^-1, the block writes V' = T beta (v - (e^G k) S) in place of v, and is then gated linear:
    y = (e^G q) S + (q, k) V', S = e^(G_last) S + (e^(G_last - G) k)^T V' (Yang et al. 2024a, b). T is multiplied once:
    the blocks follow one another anyhow, so that T beta v and T beta e^G k by themselves would only cost more.
    """
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # [rows, heads, size, ...]
    total = jnp.cumsum(_where(reach.valid, log_decay, 0), axis=1)
    after = _decay(reach.kept, total[:, -1])[..., None] * state
    entering = k * _decay(reach.after, total[:, -1:] - total).swapaxes(1, 2)
    beta = beta.swapaxes(1, 2)[..., None]
    if q.shape[2] == 1:
        after = after + entering.swapaxes(2, 3) @ (beta * (v - k @ after))
        return (q @ after).swapaxes(1, 2), after
    found = _decay(reach.before, total).swapaxes(1, 2)
    total = total.swapaxes(1, 2)
    of_keys, of_queries = _decayed_pairs((k, q), k, total, reach.within)
    v = unit_lower_inverse(beta * of_keys) @ (beta * (v - (found * k) @ state))
    y = (found * q) @ state + of_queries @ v
    return y.swapaxes(1, 2), after + entering.swapaxes(2, 3) @ v


def corrected(
    state: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, found: jax.Array, moved: jax.Array,
    log_decay: jax.Array, reach: Reach,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """One block of S_t = diag(e^g_t) S_{t-1} - m_t (f_t^T S_{t-1}) + k_t v_t^T, y_t = S_t^T q_t: (y, S_t).

    state `[rows, heads, key, value]`, v `[rows, size, heads, value]` and q, k, found f, moved m, log_decay g <= 0
    `[rows, size, heads, key]` are float32, as y is. `gated_delta` is f = e^g k, m = beta k with k beta for k; here what
    is read, what is written for it and what enters are three directions.

    With G = cumsum g, (a, b)_ij = sum_k a_ik b_jk e^(G_ik - G_jk) and f' = e^-g f, which reads the state after it has
    decayed as f does before, the block reads Z = -(I + (f', m))^-1 ((e^G f') S + (f', k) v) with pairs j < i, and then
    y = (e^G q) S + (q, k) v + (q, m) Z with pairs j <= i, S = e^(G_last) S + (e^(G_last - G) k)^T v + (e^(G_last - G)
    m)^T Z (Peng et al. 2025).
    """
    found = found * jnp.exp(-log_decay)
    q, k, v, found, moved = (x.swapaxes(1, 2) for x in (q, k, v, found, moved))  # [rows, heads, size, ...]
    total = jnp.cumsum(_where(reach.valid, log_decay, 0), axis=1)
    after = _decay(reach.kept, total[:, -1])[..., None] * state
    enters = _decay(reach.after, total[:, -1:] - total).swapaxes(1, 2)
    if q.shape[2] == 1:
        after = after + (enters * k).swapaxes(2, 3) @ v - (enters * moved).swapaxes(2, 3) @ (found @ after)
        return (q @ after).swapaxes(1, 2), after
    kept = _decay(reach.before, total).swapaxes(1, 2)
    total = total.swapaxes(1, 2)
    read_k, of_k = _decayed_pairs((found, q), k, total, reach.within)
    read_moved, of_moved = _decayed_pairs((found, q), moved, total, reach.within)
    z = -unit_lower_inverse(read_moved) @ ((kept * found) @ state + jnp.tril(read_k, -1) @ v)
    y = (kept * q) @ state + of_k @ v + of_moved @ z
    return y.swapaxes(1, 2), after + (enters * k).swapaxes(2, 3) @ v + (enters * moved).swapaxes(2, 3) @ z


def gated_sum(state: jax.Array, share: jax.Array, enters: jax.Array, reach: Reach) -> tuple[jax.Array, jax.Array]:
    """One block of h_t = share_t h_{t-1} + enters_t, feature by feature: (h of every token, the h that goes out).

    state `[rows, *width]`, enters `[rows, size, *width]` and share, which broadcasts against it, are float32. Computed
    as a tree of log2 size levels.
    """
    share = _where(reach.valid, _where(_lagged(reach, 1), share, 0), 1)
    enters = _where(reach.valid, enters, 0)
    enters = enters.at[:, 0].add(share[:, 0] * state)

    def join(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return a[0] * b[0], b[0] * a[1] + b[1]

    h = jax.lax.associative_scan(join, (share, enters), axis=1)[1]
    return h, h[:, -1]


def _decayed_pairs(
    several: tuple[jax.Array, ...], b: jax.Array, total: jax.Array, within: jax.Array
) -> list[jax.Array]:
    """sum_k a_ik b_jk e^(G_ik - G_jk) where `within` `[rows, size, size]`, else 0: `[rows, heads, size, size]`, for
    each a of `several`.

    a, b `[rows, heads, size, key]`, total G `[rows, heads, size, key or 1]`. Decays of every channel go into both
    factors, from the middle of the block on: they must not add up to e^88 on either side of it.
    """
    if total.shape[-1] == 1:
        decays = jnp.exp(jnp.where(within[:, None], total - total.swapaxes(2, 3), -jnp.inf))
        return [(a @ b.swapaxes(2, 3)) * decays for a in several]
    total = total - total[:, :, total.shape[2] // 2][:, :, None]
    grown, b = jnp.exp(total), (b * jnp.exp(-total)).swapaxes(2, 3)
    return [jnp.where(within[:, None], (a * grown) @ b, 0) for a in several]


@jax.custom_vjp
def unit_lower_inverse(below: jax.Array) -> jax.Array:
    """(I + what `below` holds below its diagonal)^-1, matrices `[..., size, size]` float32, exact zeros above.

    Joins of blocks into twice as large ones, [[A, 0], [C, B]]^-1 = [[A^-1, 0], [-B^-1 C A^-1, B^-1]]: sums of as few
    terms as forward substitution has, where powers of `below` would cancel. Of up to INVERTED_WHOLE rows all blocks of
    a level are one matrix, X - X C X, since products of fewer rows cost their calls alone; above, products of the
    blocks. The gradient is that of an inverse, -X^T g X^T: the levels' own would be many small scatters.
    """
    size = below.shape[-1]
    whole, lead = 1 << (size - 1).bit_length(), below.shape[:-2]
    half = min(INVERTED_WHOLE, whole)
    below = jnp.pad(below, [(0, 0)] * len(lead) + [(0, whole - size)] * 2)
    blocks = [below[..., i : i + half, i : i + half] for i in range(0, whole, half)]
    inverse = _small_inverse(jnp.stack(blocks, axis=-3))
    while half < whole:
        starts = range(0, whole, 2 * half)
        corner = jnp.stack([below[..., i + half : i + 2 * half, i : i + half] for i in starts], axis=-3)
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        corner = -_product(_product(second, corner), first)
        upper = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        inverse = jnp.concatenate([upper, jnp.concatenate([corner, second], axis=-1)], axis=-2)
        half *= 2
    return inverse[..., 0, :size, :size]


def _inverse_forward(below: jax.Array) -> tuple[jax.Array, jax.Array]:
    inverse = unit_lower_inverse(below)
    return inverse, inverse


def _inverse_backward(inverse: jax.Array, slope: jax.Array) -> tuple[jax.Array]:
    transposed = inverse.swapaxes(-1, -2)
    return (-jnp.tril(_product(_product(transposed, slope), transposed), -1),)


unit_lower_inverse.defvjp(_inverse_forward, _inverse_backward)


def _small_inverse(below: jax.Array) -> jax.Array:
    """As `unit_lower_inverse`, `[..., size, size]` of a power of two, by masks in place of blocks."""
    at, half = np.arange(below.shape[-1]), 1
    inverse = jnp.broadcast_to(jnp.eye(len(at), dtype=below.dtype), below.shape)
    while half < len(at):
        joined = (at[:, None] // half % 2 == 1) & (at[:, None] // half - 1 == at // half)
        corners = jnp.where(joined, below, 0)
        inverse = inverse - (corners if half == 1 else _product(_product(inverse, corners), inverse))
        half *= 2
    return inverse


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _lagged(reach: Reach, lag: int) -> jax.Array:
    """Whether the input `lag` tokens before each token is of its document, `[rows, size]` bool."""
    if lag >= reach.before.shape[1]:
        return reach.before
    inside = jnp.diagonal(reach.within, offset=-lag, axis1=1, axis2=2)
    return jnp.concatenate([reach.before[:, :lag], inside], axis=1)


def _decay(mask: jax.Array, exponent: jax.Array) -> jax.Array:
    """exp(exponent) where `mask`, whose dims are the first of the exponent's, else 0."""
    return jnp.exp(_where(mask, exponent, -jnp.inf))


def _where(mask: jax.Array, x: jax.Array, other: float) -> jax.Array:
    """x where `mask`, whose dims are the first of x's, else `other`."""
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim)), x, jnp.asarray(other, x.dtype))
