"""GPT-2 in plain PyTorch, and the time of its training step.

The yardstick of `gpu.py`, which starts this file in a process of its own, with
a Python that needs PyTorch and nothing else. It does what our step does:
float32 parameters, bf16 products (autocast) and residual stream, float32 norms
and loss, tied head, gradient clipped to norm 1, AdamW (fused) on float32
parameters; compiled by `torch.compile`.

  python benchmarks/torch_gpt2.py SPEC RESULT

SPEC is the JSON that `gpu.py` writes; RESULT is a file for its JSON result.
"""

import json
import pathlib
import sys
import time

import timing
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Block(nn.Module):
  """Pre-norm attention and MLP around a residual stream."""

  def __init__(self, width: int, num_heads: int, num_layers: int):
    super().__init__()
    self.num_heads = num_heads
    self.attention_norm = nn.LayerNorm(width, eps=1e-6)
    self.qkv = _linear(width, 3 * width)
    # 2 N of these add up in the residual stream.
    self.out = _linear(width, width, 1 / (2 * num_layers))
    self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
    self.up = _linear(width, 4 * width)
    self.down = _linear(4 * width, width, 1 / (2 * num_layers))

  def forward(self, x_BxLxD):
    """Maps [B, L, D] to [B, L, D]."""
    batch, length, width = x_BxLxD.shape
    split = (batch, length, 3, self.num_heads, width // self.num_heads)
    qkv = self.qkv(self.attention_norm(x_BxLxD)).view(split)
    q_BxHxLxK, k_BxHxLxK, v_BxHxLxK = qkv.permute(2, 0, 3, 1, 4).unbind()
    mixed_BxHxLxK = F.scaled_dot_product_attention(
        q_BxHxLxK, k_BxHxLxK, v_BxHxLxK, is_causal=True
    )
    mixed_BxLxD = mixed_BxHxLxK.transpose(1, 2).reshape(x_BxLxD.shape)
    x_BxLxD = x_BxLxD + self.out(mixed_BxLxD)
    h_BxLxF = self.up(self.mlp_norm(x_BxLxD))
    return x_BxLxD + self.down(F.gelu(h_BxLxF, approximate='tanh'))


class Gpt2(nn.Module):
  """GPT-2: learned positions, layer norm, GELU, biases, tied head."""

  def __init__(
      self,
      *,
      vocab_size: int,
      num_layers: int,
      width: int,
      num_heads: int,
      max_length: int,
      dtype: torch.dtype,
  ):
    super().__init__()
    self.dtype = dtype
    self.tokens = nn.Embedding(vocab_size, width)
    self.positions = nn.Embedding(max_length, width)
    for table in (self.tokens, self.positions):
      nn.init.normal_(table.weight, std=0.02)
    self.blocks = nn.ModuleList(
        Block(width, num_heads, num_layers) for _ in range(num_layers)
    )
    self.norm = nn.LayerNorm(width, eps=1e-6)

  def forward(self, tokens_BxL, targets_BxL):
    """Mean cross-entropy, nats per token."""
    positions_L = torch.arange(tokens_BxL.shape[1], device=tokens_BxL.device)
    x_BxLxD = self.tokens(tokens_BxL) + self.positions(positions_L)
    x_BxLxD = x_BxLxD.to(self.dtype)
    for block in self.blocks:
      x_BxLxD = block(x_BxLxD)
    logits_BxLxV = F.linear(self.norm(x_BxLxD), self.tokens.weight)
    return F.cross_entropy(
        logits_BxLxV.flatten(0, 1).float(), targets_BxL.flatten()
    )


class Trainer:
  """A training step that goes on from its own last state."""

  def __init__(self, spec: dict, batch: int, *, compile_model: bool):
    torch.manual_seed(0)
    self._device = 'cuda' if torch.cuda.is_available() else 'cpu'
    self._steps = spec['steps_per_call']
    self._dtype = getattr(torch, spec.get('dtype', 'bfloat16'))
    model = Gpt2(
        **spec['shape'], max_length=spec['length'], dtype=self._dtype
    ).to(self._device)
    self._params = list(model.parameters())
    self.num_parameters = sum(p.numel() for p in self._params)
    decayed = [
        p for name, p in model.named_parameters()
        if name.startswith('blocks') and p.ndim == 2
    ]
    kept = {id(p) for p in decayed}
    groups = [
        {'params': decayed, 'weight_decay': 0.1},
        {
            'params': [p for p in self._params if id(p) not in kept],
            'weight_decay': 0.0,
        },
    ]
    self._optimizer = torch.optim.AdamW(
        groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True
    )
    shape = (2, batch, spec['length'])
    tokens = torch.randint(spec['shape']['vocab_size'], shape)
    self._batch = tuple(tokens.to(self._device))
    self._model = model
    if compile_model:
      # Shapes never change within a trainer; a second one has its own.
      self._model = torch.compile(model, dynamic=False)

  def __call__(self):
    """The loss of the last of the steps of a call."""
    for _ in range(self._steps):
      with torch.autocast(
          self._device, dtype=torch.bfloat16,
          enabled=self._dtype is torch.bfloat16,
      ):
        loss = self._model(*self._batch)
      loss.backward()
      nn.utils.clip_grad_norm_(self._params, 1.0)
      self._optimizer.step()
      self._optimizer.zero_grad(set_to_none=True)
    return loss


def measure(spec: dict) -> dict:
  """Times the step at the largest batch size that fits."""
  on_gpu = torch.cuda.is_available()
  if not on_gpu and not spec['toy']:
    raise RuntimeError(f'PyTorch {torch.__version__} finds no GPU.')
  torch.set_float32_matmul_precision('high')

  def wait(loss):
    if on_gpu:
      torch.cuda.synchronize()
    return loss

  start = time.perf_counter()
  name, trainer, batch, note = _first_that_fits(spec, wait)
  warm_up = time.perf_counter() - start
  seconds = timing.interleaved({name: trainer}, spec['rounds'], wait=wait)
  loss = wait(trainer()).item()
  if not loss < float('inf'):
    raise FloatingPointError(f'the loss of PyTorch is {loss}.')
  return {
      'name': name,
      'version': torch.__version__,
      'batch': batch,
      'parameters': trainer.num_parameters,
      'compile_seconds': warm_up,
      'memory_bytes': torch.cuda.max_memory_allocated() if on_gpu else None,
      'loss': loss,
      'note': note,
      'seconds': [s / spec['steps_per_call'] for s in seconds[name]],
  }


def _first_that_fits(spec, wait):
  """Compiled if that works; the error is kept where it does not."""
  note = None
  for compile_model in (True, False):
    name = 'PyTorch, compiled' if compile_model else 'PyTorch, eager'
    for batch in spec['batches']:
      try:
        trainer = Trainer(spec, batch, compile_model=compile_model)
        wait(trainer())
        return name, trainer, batch, note
      except torch.OutOfMemoryError as error:
        note = f'batch {batch}: {_first_line(error)}'
      except Exception as error:
        if not compile_model:
          raise
        note = f'torch.compile: {_first_line(error)}'
        break
      trainer = None
      if torch.cuda.is_available():
        torch.cuda.empty_cache()
  raise RuntimeError(f'no batch of {spec["batches"]} fits: {note}')


def _linear(inputs: int, outputs: int, scale: float = 1.0) -> nn.Linear:
  """Variance scale / fan-in; no bias at the start."""
  linear = nn.Linear(inputs, outputs)
  nn.init.normal_(linear.weight, std=(scale / inputs) ** 0.5)
  nn.init.zeros_(linear.bias)
  return linear


def _first_line(error: BaseException) -> str:
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return f'{type(error).__name__}: {lines[0] if lines else ""}'


def main():
  spec, result = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])
  try:
    result.write_text(json.dumps(measure(spec)))
  except Exception as error:
    result.write_text(json.dumps({'error': _first_line(error)}))
    raise


if __name__ == '__main__':
  main()
