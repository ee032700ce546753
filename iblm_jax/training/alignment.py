"""When a run compares the gradients of its losses, and what it reports."""

import dataclasses
from typing import Any

import jax

from iblm_jax import fields
from iblm_jax.information import alignment
from iblm_jax.objectives import iblm
from iblm_jax.training import gradients


@dataclasses.dataclass(frozen=True)
class AlignmentConfig:
  """Which steps measure the alignment of the gradients of both losses.

  A step that measures pulls back each loss by itself: at most one backward pass
  more. Other steps are compiled without it.

  Attributes:
    every: steps between measurements, from the first on; 0 for none.
    matrices: report every parameter of every layer too, not only layers.
    halves: measure the even and the odd rows of the batch apart, too: two
      independent batches at the same parameters, which say how much of the
      alignment is the batch's noise. The entropy of such a step is the mean
      over both halves; nothing is computed twice.
    norm_control: compare with the gradient of the log of the layers' Frobenius
      norm, too; one more backward pass.

  Raises:
    ValueError: for a value outside its range, naming field and value.
  """

  every: int = fields.field(0, low=0)
  matrices: bool = False
  halves: bool = False
  norm_control: bool = False

  def __post_init__(self):
    fields.check(self)

  def measures(self, step: int) -> bool:
    """Whether update `step`, counted from 1, measures.

    >>> [step for step in range(1, 12) if AlignmentConfig(5).measures(step)]
    [1, 6, 11]
    """
    return bool(self.every) and (step - 1) % self.every == 0


def metrics(
    grads: iblm.Losses, cfg: AlignmentConfig
) -> dict[str, jax.Array]:
  """Cosines and norms of the gradients of cross-entropy (g) and entropy (h).

  Args:
    grads: `Losses` of gradient trees; with `cfg.halves` every leaf has a
      leading axis of 2.
    cfg: what to report.

  Returns:
    float32 scalars: `alignment/cosine` with `/layer_00` (and `/layer_00/PATH`),
    `alignment/norm_main` and `alignment/norm_aux` with `/layer_00`; layers are
    those whose entropy it is: of the encoder, where a model has one. And
      `alignment/norm_control/cosine_main`, `.../cosine_aux`: of the gradient of
        the log of the norm with g and with h;
      `alignment/halves/cosine_aa` and `_bb` (g and h of one half), `_ab` and
        `_ba` (g of one half, h of the other), by layer too, and
        `alignment/halves/cosine_main` and `cosine_aux` (one loss, both halves).
  """
  grads = iblm.Losses(*map(_layers_first, grads))
  whole = gradients.whole(grads) if cfg.halves else grads
  both = alignment.layer_alignment(whole.main, whole.aux)
  assert both.layers is not None  # a decoder's blocks are stacked
  found = alignment.cosine_metrics(both, matrices=cfg.matrices)
  for name, total, layers_N in (
      ('norm_main', both.total.norm_g, both.layers.norm_g),
      ('norm_aux', both.total.norm_h, both.layers.norm_h),
  ):
    found[f'alignment/{name}'] = total
    found |= {
        f'alignment/{name}/layer_{layer:02d}': layers_N[layer]
        for layer in range(layers_N.shape[0])
    }
  if cfg.norm_control:
    for name, loss in (('main', whole.main), ('aux', whole.aux)):
      found[f'alignment/norm_control/cosine_{name}'] = alignment.tree_cosine(
          loss, whole.norm
      )
  if cfg.halves:
    a, b = (jax.tree.map(lambda x, i=i: x[i], grads) for i in (0, 1))
    for name, g, h in (
        ('aa', a.main, a.aux), ('bb', b.main, b.aux),
        ('ab', a.main, b.aux), ('ba', b.main, a.aux),
    ):
      found |= alignment.cosine_metrics(
          alignment.layer_alignment(g, h),
          prefix=f'alignment/halves/cosine_{name}',
          matrices=False,
      )
    for name, g, h in (('main', a.main, b.main), ('aux', a.aux, b.aux)):
      found[f'alignment/halves/cosine_{name}'] = alignment.tree_cosine(g, h)
  return found


def _layers_first(tree: Any) -> Any:
  """The blocks that were measured at the top, as a decoder has them."""
  if tree is None or 'blocks' in tree:
    return tree
  name = 'encoder' if 'encoder' in tree else 'decoder'
  rest = dict(tree[name])
  return {**tree, 'blocks': rest.pop('blocks'), name: rest}
