"""Training's attention in a compiled graph against the masked one, on padded rows.

python -m pytest tests/gpu/test_training_attention.py
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.model.network import flex, masked_attention
from virnucpro_core.models.attention import Attention
from virnucpro_core.models.dnabert_s import alibi_slopes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # from torch's compiler
]

FRAMES, TOKENS, HEADS, SIZE = 7, 40, 6, 32


def results(attend: Attention, qkv: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """What it gives for the tokens that are there, and the gradient of a sum over them; float64."""
    q, k, v = (part.detach().clone().requires_grad_() for part in qkv)
    out = attend(q, k, v)[present.flatten()]
    weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view_as(out)
    (out * weights).sum().backward()
    gradients = torch.stack([part.grad for part in (q, k, v) if part.grad is not None])
    return out.detach().double(), gradients[:, present.flatten()].double()


@pytest.mark.parametrize("with_slopes", [False, True], ids=["rotary", "alibi"])
def test_it_equals_the_masked_one_and_padding_has_no_part_in_it(with_slopes: bool) -> None:
    torch.manual_seed(1)
    cuda = torch.device("cuda")
    lengths = torch.tensor([TOKENS, 1, 3, 39, 17, TOKENS, 8], device=cuda)
    present = torch.arange(TOKENS, device=cuda) < lengths[:, None]
    slopes = torch.tensor(alibi_slopes(HEADS), device=cuda) if with_slopes else None
    qkv = torch.randn(3, FRAMES * TOKENS, HEADS, SIZE, device=cuda)
    half = qkv.bfloat16()
    exact = results(masked_attention(present, slopes), half.float(), present)
    masked = results(masked_attention(present, slopes), half, present)
    compiled = torch.compile(lambda q, k, v: flex(present, slopes)(q, k, v), dynamic=False)
    for got, reference, truth in zip(results(compiled, half, present), masked, exact, strict=True):
        assert (got - truth).norm() <= 1.5 * (reference - truth).norm()
    other = half.clone()
    other[:, ~present.flatten()] = 7.0
    assert torch.equal(results(compiled, half, present)[0], results(compiled, other, present)[0])
