"""Certifies a bigram model that was fitted by counting, on made-up words."""
import numpy as np
from scipy.special import log_softmax
from iblm_jax.certification import certify
rng = np.random.default_rng(0)
chain = rng.dirichlet(np.full(8, 0.3), size=8)
words = np.zeros((6000, 12), int)  # eleven letters after a first one
for t in range(1, 12):
  words[:, t] = [rng.choice(8, p=chain[letter]) for letter in words[:, t - 1]]
pairs = 8 * words[:, :-1] + words[:, 1:]  # a word is eleven pairs of letters
w = np.log(0.1 + np.bincount(pairs[:5000].ravel(), minlength=64))
def nll_bits(w, documents):
  return list(-log_softmax(w.reshape(8, 8), 1).ravel()[documents] / np.log(2))
made = certify(nll_bits, w, pairs[:5000], vocab_size=8, heldout=pairs[5000:])
print(*made.lines(), sep='\n')
