"""Losses of documents are those of one document at a time, unbatched."""

import dataclasses

import jax
import numpy as np
import numpy_decoder
import pytest

from iblm_jax.certification import document_losses
from iblm_jax.data.sources import words as wordlist
from iblm_jax.models import decoder

CFG = decoder.DecoderConfig(
    vocab_size=27,
    num_layers=1,
    width=8,
    num_heads=1,
    zero_init_outputs=False,
    document_mask=False,
    scan_layers=False,
)
ALPHAS, TOP_K = (0.01, 0.5), (1, 3)


def load_words(tmp_path, seed=0):
  rng = np.random.default_rng(3)
  words = {
      ''.join(rng.choice(list('abcde'), rng.integers(1, 12)))
      for _ in range(300)
  }
  path = tmp_path / 'words.txt'
  path.write_text('\n'.join(sorted(words)) + '\n')
  return wordlist.load_words(
      wordlist.WordsConfig(str(path), num_train=120, length=16, seed=seed)
  )


def measure(params, source, indices, *, alphas=ALPHAS, top_k=TOP_K):
  return document_losses.measure(
      params, CFG, source, 'train', indices,
      alphas=alphas, top_k=top_k, max_tokens=48,
  )


def make_params():
  # Random, so that predictions differ from place to place.
  params = decoder.init(jax.random.key(0), CFG)
  leaves, treedef = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return treedef.unflatten(
      leaf + 0.5 * jax.random.normal(key, leaf.shape)
      for leaf, key in zip(leaves, keys, strict=True)
  )


def test_each_document_has_its_own_loss(tmp_path):
  """Against softmax and sorting in float64, in the order asked for."""
  params, source = make_params(), load_words(tmp_path)
  indices = [5, 0, 119, 5, *range(20, 60)]
  found = measure(params, source, indices)
  exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  tokens = 0
  seen = {}
  for column, index in enumerate(indices):
    batch = source.read(source.rows('train', [index]), 16)
    scored = batch['loss_mask'][0]
    target = batch['targets'][0][scored]
    logits_NxV, _ = numpy_decoder.forward(
        exact, batch['tokens'][0][scored], CFG
    )
    p_NxV = np.exp(logits_NxV)
    p_NxV /= p_NxV.sum(axis=1, keepdims=True)
    p_N = p_NxV[np.arange(target.size), target]
    for row, alpha in enumerate(ALPHAS):
      wanted = -np.log2((1 - alpha) * p_N + alpha / 27).mean()
      np.testing.assert_allclose(
          found.losses[row, column], wanted, rtol=1e-5
      )
    order_NxV = np.argsort(-p_NxV, axis=1)
    for row, k in enumerate(TOP_K):
      inside = (order_NxV[:, :k] == target[:, None]).any(axis=1)
      np.testing.assert_allclose(
          found.errors[row, column], 1 - inside.mean(), atol=1e-12
      )
    seen[index] = scored.sum()
  tokens = sum(seen.values())
  assert found.tokens == tokens  # asked for twice, scored once
  columns = [indices.index(index) for index in seen]
  np.testing.assert_allclose(
      found.token_losses,
      found.losses[:, columns] @ np.array([*seen.values()]) / tokens,
      rtol=1e-9,
  )


def test_samples_seeds_and_weights_share_what_is_compiled(
    tmp_path, monkeypatch
):
  params = make_params()
  shapes = set()
  score = document_losses._scores

  def recorded(params, batch, *, cfg):
    shapes.add((cfg, batch['tokens'].shape))
    return score(params, batch, cfg=cfg)

  monkeypatch.setattr(document_losses, '_scores', recorded)
  measure(params, load_words(tmp_path), np.arange(120))
  first = set(shapes)
  for seed in (1, 2):
    source = load_words(tmp_path, seed)
    for count in (1, 30, 77):
      measure(params, source, np.arange(count), alphas=(0.1,), top_k=())
  assert shapes == first


def test_ends_of_rows(monkeypatch):
  """Against a softmax in float64; each row alone, in batches of few shapes."""
  params = make_params()
  exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  rng = np.random.default_rng(0)
  rows = [rng.integers(27, size=n).tolist() for n in (2, 40, 7, 7, 3, 19, 2)]
  # What the model itself says next, so that some ends are the likeliest.
  following = lambda row: int(
      numpy_decoder.forward(exact, np.array(row), CFG)[0][-1].argmax()
  )
  rows += [row + [following(row)] for row in rows[:5]]
  counts = [1, 39, 3, 6, 2, 5, 1, 1, 1, 2, 1, 1]
  shapes = set()
  score = document_losses._scores

  def recorded(params, batch, *, cfg):
    shapes.add(batch['tokens'].shape)
    return score(params, batch, cfg=cfg)

  monkeypatch.setattr(document_losses, '_scores', recorded)
  found = document_losses.score_ends(params, CFG, rows, counts, max_tokens=70)
  for row, count, (value, is_greedy) in zip(rows, counts, found, strict=True):
    logits_LxV = numpy_decoder.forward(exact, np.array(row[:-1]), CFG)[0]
    top_L = logits_LxV.max(axis=1)
    norm_L = top_L + np.log(np.exp(logits_LxV - top_L[:, None]).sum(axis=1))
    picked_L = logits_LxV[np.arange(len(row) - 1), row[1:]] - norm_L
    np.testing.assert_allclose(value, picked_L[-count:].sum(), rtol=1e-5)
    best_L = logits_LxV.argmax(axis=1) == row[1:]
    assert is_greedy == best_L[-count:].all()
  assert {is_greedy for _, is_greedy in found} == {True, False}
  assert all(length % 16 == 0 for _, length in shapes) and len(shapes) < 4
  assert max(batch * length for batch, length in shapes) <= 70


def test_rows_as_long_as_the_model_reads():
  cfg = dataclasses.replace(CFG, positions='learned', max_length=20)
  params = decoder.init(jax.random.key(0), cfg)
  row = [n % 27 for n in range(21)]
  (value, _), = document_losses.score_ends(
      params, cfg, [row], [20], max_tokens=8
  )
  exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  logits_LxV = numpy_decoder.forward(exact, np.array(row[:-1]), cfg)[0]
  p_LxV = np.exp(logits_LxV)
  p_L = p_LxV[np.arange(20), row[1:]] / p_LxV.sum(axis=1)
  np.testing.assert_allclose(value, np.log(p_L).sum(), rtol=1e-5)


def test_whole_documents_are_mixed_with_the_uniform_and_with_a_base(tmp_path):
  """Against products of probabilities in float64."""
  params, source = make_params(), load_words(tmp_path)
  base = decoder.init(jax.random.key(0), CFG)
  indices, betas, shortest = [5, 0, 119, 5, 7], (0.2, 0.6), 6
  bits_N, count_N = document_losses.totals(
      base, CFG, source, 'train', indices, max_tokens=48
  )
  found = document_losses.measure(
      params, CFG, source, 'train', indices, alphas=(0.5,), top_k=(),
      max_tokens=48, betas=betas, shortest=shortest, reference_bits_N=bits_N,
  )
  assert found.losses.shape == (5, 5) and found.token_losses.shape == (1,)
  for column, index in enumerate(indices):
    batch = source.read(source.rows('train', [index]), 16)
    scored = batch['loss_mask'][0]
    tokens, target = (batch[n][0][scored] for n in ('tokens', 'targets'))
    products = []
    for tree in (params, base):
      exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
      logits_NxV, _ = numpy_decoder.forward(exact, tokens, CFG)
      p_NxV = np.exp(logits_NxV)
      p_NxV /= p_NxV.sum(axis=1, keepdims=True)
      products.append(p_NxV[np.arange(target.size), target].prod())
    p, q = products
    n = target.size
    assert count_N[column] == n
    assert bits_N[column] == pytest.approx(-np.log2(q), rel=1e-5)
    for row, beta in enumerate(betas):
      loss = -np.log2((1 - beta) * p + beta * 27.0**-n) / n
      excess = np.log2(q / ((1 - beta) * p + beta * q)) / n
      if n < shortest:
        loss = np.log2(27) - np.log2(beta) / shortest
        excess = -np.log2(beta) / shortest
      assert found.losses[1 + row, column] == pytest.approx(loss, rel=1e-5)
      assert found.losses[3 + row, column] == pytest.approx(excess, abs=1e-5)
  assert (count_N < shortest).any() and (count_N >= shortest).any()
