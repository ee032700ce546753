"""Quantisation inside training, with gradients that pass straight through."""

import jax
import jax.numpy as jnp


def ste_quantize(w: jax.Array, codebook: jax.Array) -> jax.Array:
  """Rounds each weight to its nearest value, with gradients of both.

  The gradient with respect to `w` is the upstream gradient as it is; that with
  respect to a value is the sum over the weights that it replaces.

  Args:
    w: [d] floating; distances are compared in float32.
    codebook: [L] floating, L >= 2, in any order. To train the values that will
      be stored, round them first: `codebook.astype(float16).astype(float32)`.

  Returns:
    [d] in the dtype of `w`. Of equally near values the first is taken.

  Example:
    >>> import jax
    >>> w, codebook = jnp.array([0.1, 0.9, 0.8]), jnp.array([0.0, 1.0])
    >>> sums = lambda w, c: ste_quantize(w, c) @ jnp.arange(3.0)
    >>> dw, dcodebook = jax.jit(jax.grad(sums, (0, 1)))(w, codebook)
    >>> dw.tolist(), dcodebook.tolist()
    ([0.0, 1.0, 2.0], [0.0, 3.0])
  """
  if w.ndim != 1 or not jnp.issubdtype(w.dtype, jnp.floating):
    raise ValueError(
        f'w must be floating of shape [d], got {w.dtype} of shape {w.shape}.'
    )
  floating = jnp.issubdtype(codebook.dtype, jnp.floating)
  if codebook.ndim != 1 or codebook.size < 2 or not floating:
    raise ValueError(
        'codebook must be floating of shape [L], L >= 2, got'
        f' {codebook.dtype} of shape {codebook.shape}.'
    )
  return _quantize(w, codebook)


@jax.custom_vjp
def _quantize(w, codebook):
  return codebook[_symbols(w, codebook)].astype(w.dtype)


def _quantize_fwd(w, codebook):
  symbols = _symbols(w, codebook)
  return codebook[symbols].astype(w.dtype), (symbols, codebook)


def _quantize_bwd(saved, g):
  symbols, codebook = saved
  sums = jax.ops.segment_sum(
      g.astype(jnp.float32), symbols, num_segments=codebook.size
  )
  return g, sums.astype(codebook.dtype)


_quantize.defvjp(_quantize_fwd, _quantize_bwd)


def _symbols(w, codebook):
  """Nearest values' indices; XLA fuses the distances into the search."""
  w, codebook = w.astype(jnp.float32), codebook.astype(jnp.float32)
  return jnp.argmin(jnp.abs(w[:, None] - codebook[None, :]), axis=1)
