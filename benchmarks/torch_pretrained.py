"""What `pretrained.py` compares with: `transformers`, `peft` and PyTorch."""

import pathlib
from typing import Any

import numpy as np
import peft
import torch
import torch_gpt2
import transformers

VERSIONS = (
    f'PyTorch {torch.__version__}, transformers {transformers.__version__},'
    f' peft {peft.__version__}'
)


def use_threads(number: int) -> None:
  """Lets PyTorch work with as many threads as there are cores."""
  torch.set_num_threads(number)


def product(size: int):
  """A square matrix product, the peak of PyTorch."""
  a = torch.ones(size, size)
  return lambda: a @ a


def read(folder: pathlib.Path) -> Any:
  """The model of a folder, in float32."""
  return transformers.AutoModelForCausalLM.from_pretrained(
      folder, dtype=torch.float32
  ).eval()


def forward(model: Any, tokens_BxL: np.ndarray):
  """Logits of all tokens."""
  tokens = torch.as_tensor(tokens_BxL, dtype=torch.long)

  @torch.inference_mode()
  def run():
    return model(tokens, use_cache=False).logits

  return run


def decode(model: Any, prompt_BxT: np.ndarray, num_tokens: int):
  """Greedy continuations with the cache, as `generate` makes them."""
  prompt = torch.as_tensor(prompt_BxT, dtype=torch.long)
  # A chat model would stop at its end of text.
  model.generation_config.eos_token_id = None
  options = dict(
      attention_mask=torch.ones_like(prompt),
      do_sample=False,
      max_new_tokens=num_tokens,
      pad_token_id=0,
  )

  @torch.inference_mode()
  def run():
    return model.generate(prompt, **options)[:, prompt.shape[1] :]

  return run


class LoraStep:
  """A training step of adapters on a model that stays as it is."""

  def __init__(
      self,
      folder: pathlib.Path,
      tokens_BxL: np.ndarray,
      *,
      rank: int,
      alpha: float,
      targets: tuple[str, ...],
  ):
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(targets),
        task_type='CAUSAL_LM',
    )
    self._model = peft.get_peft_model(read(folder), config).train()
    self._tokens = torch.as_tensor(tokens_BxL, dtype=torch.long)
    self._params = [p for p in self._model.parameters() if p.requires_grad]
    self.num_parameters = sum(p.numel() for p in self._params)
    self._optimizer = torch.optim.AdamW(
        self._params, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )

  def __call__(self):
    """Takes a step; returns the loss before it."""
    loss = self._model(
        input_ids=self._tokens, labels=self._tokens, use_cache=False
    ).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self._params, 1.0)
    self._optimizer.step()
    self._optimizer.zero_grad(set_to_none=True)
    return loss.item()


def trainers(spec: dict, batch: int) -> dict[str, torch_gpt2.Trainer]:
  """Training steps of a small GPT from nothing, compiled and not."""
  return {
      name: torch_gpt2.Trainer(spec, batch, compile_model=compiled)
      for name, compiled in (('compiled', True), ('eager', False))
  }
