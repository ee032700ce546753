"""Tables of the experiment on conflicting tasks, for its page."""

from typing import Any

from iblm_jax.experiments._harness import results
from iblm_jax.experiments.conflict import settings as settings_lib

_LOSSES = {'mlp': 'L1', 'transformer': 'CE'}


def make(settings: settings_lib.Settings) -> dict[str, Any]:
  """Which methods and metrics the page shows.

  'main' has means, 'relative' percents of the baseline, 'compression' and
  'phases' entropies and phases.
  """
  loss = _LOSSES[settings.model]
  before = list(settings.pretrained_rows().values())
  methods = list(settings.methods)
  neurons = (
      [['specialised', 'specialised neurons', 3],
       ['silent', 'silent neurons', 3],
       ['cosine_shift', 'cosine to the true shift', 3]]
      if settings.model == 'mlp' else []
  )
  tables = {
      'main': results.table(before + methods, [
          ['loss_trained', f'{loss}, trained group', 4],
          ['loss_other', f'{loss}, other group', 4],
          ['separation', 'separation ratio', 3],
          *neurons,
      ]),
      'relative': results.table(
          [name for name in methods if name != settings_lib.BASELINE],
          [
              ['forgetting', 'forgetting, %', 1],
              ['loss_trained', f'{loss}, trained group, %', 1],
              ['separation', 'separation ratio, %', 1],
          ],
          paired=True,
          relative=True,
      ),
      'compression': results.table(before + methods, [
          ['trained/entropy/order_2', 'S2, trained', 3],
          ['trained/entropy_centered/order_2', 'S2 centred, trained', 3],
          ['other/entropy/order_2', 'S2, other', 3],
          ['other/entropy_centered/order_2', 'S2 centred, other', 3],
          ['entropy/order_1', 'S1', 3],
          ['entropy_centered/order_1', 'S1 centred', 3],
          ['entropy/order_inf', 'S∞', 3],
          ['entropy_centered/order_inf', 'S∞ centred', 3],
          ['mean_share', 'share of the mean', 3],
          ['rms', 'root mean square', 3],
      ]),
  }
  gated = [
      name for name, method in settings.methods.items()
      if method.objective.method == 'gapt'
  ]
  if gated:
    tables['phases'] = results.table(gated, [
        ['share_compression', 'share of steps compressing', 3],
        ['num_switches', 'switches', 1],
        ['mean_memorisation_length', 'memorising, updates', 1],
        ['mean_compression_length', 'compressing, updates', 1],
    ])
  return tables
