import types

import pytest

from iblm_jax.training.scale import hardware


def device(kind):
  return types.SimpleNamespace(device_kind=kind)


@pytest.mark.parametrize(
    'kind, peak',
    [
        ('TPU v4', 275e12),
        ('TPU v5 lite', 197e12),
        ('TPU v5e', 197e12),
        ('TPU v5', 459e12),  # what jax calls v5p
        ('TPU v5p', 459e12),
        ('TPU v6 lite', 918e12),
        ('TPU v6e', 918e12),
        ('NVIDIA A100-SXM4-40GB', 312e12),
        ('NVIDIA H100 80GB HBM3', 989e12),
        ('NVIDIA H200', 989e12),
    ],
)
def test_peaks(kind, peak):
  assert hardware.peak_flops(device(kind)) == peak


@pytest.mark.parametrize(
    'kind',
    [
        'cpu',
        '',
        'TPU',
        'TPU v3',
        'TPU v4 lite',
        'TPU v55',
        'TPU7x',
        # Names that begin like a known one, of slower devices.
        'NVIDIA H100 PCIe',
        'NVIDIA H100 80GB HBM3 MIG 1g.10gb',
        'NVIDIA H200 NVL',
        'NVIDIA A100 80GB PCIe',
    ],
)
def test_other_kinds_are_unknown(kind):
  assert hardware.chip(device(kind)) is None
  assert hardware.peak_flops(device(kind)) is None


def test_kinds_that_share_a_beginning():
  v5e, v5p, v6e = (
      hardware.chip(device(kind))
      for kind in ('TPU v5 lite', 'TPU v5', 'TPU v6 lite')
  )
  assert [chip.memory for chip in (v5e, v5p, v6e)] == [16e9, 95e9, 32e9]
  assert [chip.memory_bandwidth for chip in (v5e, v5p, v6e)] == [
      819e9, 2765e9, 1640e9,
  ]
  # Gigabits a second of the pages, in bytes.
  assert [8 * chip.link_bandwidth for chip in (v5e, v5p, v6e)] == [
      1600e9, 4800e9, 3584e9,
  ]
  small, large = (
      hardware.chip(device(f'NVIDIA A100-SXM4-{size}GB')) for size in (40, 80)
  )
  assert (small.memory, large.memory) == (40e9, 80e9)


@pytest.mark.parametrize('chip', hardware.CHIPS.values(), ids=hardware.CHIPS)
def test_units(chip):
  """FLOP/s, bytes and bytes/s: no figure is off by a power of 1000."""
  assert 1e14 < chip.flops < 1e16
  assert 1e10 < chip.memory < 1e12
  assert 5e11 < chip.memory_bandwidth < 1e13
  assert 1e11 < chip.link_bandwidth < chip.memory_bandwidth
