"""Lists public figures of known chips, which bound how fast a step can be."""

import dataclasses

import jax

# Installs what JAX needs for a platform.
_EXTRAS = {'gpu': 'cuda12', 'tpu': 'tpu'}


@dataclasses.dataclass(frozen=True)
class Chip:
  """What the maker says of a chip.

  Attributes:
    flops: peak of dense bf16 matrix products, FLOP/s.
    memory: bytes.
    memory_bandwidth: bytes/s.
    link_bandwidth: bytes/s that a chip can receive from its neighbours, over
      all links (one direction).
  """

  flops: float
  memory: float
  memory_bandwidth: float
  link_bandwidth: float


# TPU: the pages of each version below docs.cloud.google.com/tpu/docs (v4, v5e,
# v5p, v6e), where "ICI bandwidth 1,600 Gbps" of v5e is 200 GB/s; for v6e they
# give 3,200 and 3,584 Gbps, and a bound takes the larger. NVIDIA: the data
# sheets of the SXM variants, without sparsity; NVLink's total is halved.
_V4 = Chip(275e12, 32e9, 1228e9, 300e9)
_V5E = Chip(197e12, 16e9, 819e9, 200e9)
_V5P = Chip(459e12, 95e9, 2765e9, 600e9)
_V6E = Chip(918e12, 32e9, 1640e9, 448e9)

# By jax's `device_kind` in lower case, whole: 'TPU v4 lite', 'NVIDIA H200 NVL',
# 'NVIDIA H100 PCIe' and the slices of a MIG are other devices.
CHIPS = {
    'tpu v4': _V4,
    'tpu v5 lite': _V5E,
    'tpu v5e': _V5E,
    'tpu v5': _V5P,
    'tpu v5p': _V5P,
    'tpu v6 lite': _V6E,
    'tpu v6e': _V6E,
    'nvidia a100-sxm4-40gb': Chip(312e12, 40e9, 1555e9, 300e9),
    'nvidia a100-sxm4-80gb': Chip(312e12, 80e9, 2039e9, 300e9),
    'nvidia h100 80gb hbm3': Chip(989e12, 80e9, 3350e9, 450e9),
    'nvidia h200': Chip(989e12, 141e9, 4800e9, 450e9),
}


def chip(device: jax.Device) -> Chip | None:
  """Looks up a device; None where its kind is not in the table."""
  return CHIPS.get(device.device_kind.lower())


def peak_flops(device: jax.Device) -> float | None:
  """Looks up the peak bf16 FLOP/s of a device; None where it is not known."""
  figures = chip(device)
  return figures.flops if figures else None


def check_platform(wanted: str | None) -> None:
  """Makes sure that JAX computes where it was meant to.

  Args:
    wanted: 'gpu', 'tpu' or 'cpu'; None or empty for whatever there is.

  Raises:
    ValueError: The devices that JAX obtained are others.
  """
  devices = jax.devices()
  found = devices[0].platform
  if wanted and found != wanted:
    extra = _EXTRAS.get(wanted)
    hint = f': install the extra {extra!r}' if extra else ''
    raise ValueError(
        f'IBLM_PLATFORM is {wanted!r}, but JAX found {len(devices)} device(s)'
        f' of the platform {found!r}{hint}, or look at JAX_PLATFORMS.'
    )
