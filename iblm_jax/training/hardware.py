"""Peak arithmetic rates of known chips."""

import jax

# Dense bf16 matrix products, FLOP/s, from the makers' public data sheets:
# cloud.google.com/tpu/docs (v4, v5e, v5p, v6e) and nvidia.com data sheets
# (without sparsity). Keys are jax's `device_kind`, in lower case, by prefix.
PEAK_FLOPS = {
    'tpu v4': 275e12,
    'tpu v5 lite': 197e12,
    'tpu v5e': 197e12,
    'tpu v5p': 459e12,
    'tpu v5': 459e12,
    'tpu v6 lite': 918e12,
    'tpu v6e': 918e12,
    'nvidia a100': 312e12,
    'nvidia h100': 989e12,
    'nvidia h200': 989e12,
}


def peak_flops(device: jax.Device) -> float | None:
  """Peak bf16 FLOP/s of a device; None where the kind is not in the table."""
  kind = device.device_kind.lower()
  for prefix, peak in PEAK_FLOPS.items():
    if kind.startswith(prefix):
      return peak
  return None
