"""DNABERT-S over packed sequences: a BERT with ALiBi instead of position embeddings, and gated feed-forwards.

The modules are named as in the published checkpoint, so that its weights load without renaming.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro_core.bundle.manifest import DnabertSConfig
from virnucpro_core.models.attention import Attention, Choice, FlashAttn, choose_backend, compute_dtype
from virnucpro_core.models.graphs import CudaRecorder, ForwardGraphs, StaticBatch, sizes_of
from virnucpro_core.models.inputs import packed_inputs
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.options import AUTO

__all__ = ["DnabertS", "DnabertSConfig", "alibi_slopes"]

_NORM_EPS = 1e-12
_TOKEN_TYPES = 2  # only the first is ever used
_INIT_STD = 0.02
_LONGEST_RECORDED = 512
"""Tokens of the longest sequence that a graph serves: more than a chunk of 500 bases can have."""
_TILE = 64


def alibi_slopes(heads: int) -> list[float]:
    """ALiBi's slope of each head.

    A power of two gives 2^(-8/n), 2^(-16/n), ...; any other count takes those of the power of two below it,
    then every second one of the power of two above.
    """
    below = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (head + 1) / below) for head in range(below)]
    above = [2.0 ** (-4.0 * (head + 1) / below) for head in range(2 * below)]
    return slopes + above[0::2][: heads - below]


class _Embeddings(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab, config.dim)
        self.token_type_embeddings = nn.Embedding(_TOKEN_TYPES, config.dim)
        self.LayerNorm = nn.LayerNorm(config.dim, eps=_NORM_EPS)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.word_embeddings(ids) + self.token_type_embeddings.weight[0])
        return out


class _SelfAttention(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.Wqkv = nn.Linear(config.dim, 3 * config.dim)

    def forward(self, x: Tensor, attend: Attention) -> Tensor:
        q, k, v = self.Wqkv(x).view(len(x), 3, self.heads, -1).unbind(1)
        return attend(q, k, v).reshape(x.shape)


class _AttentionOutput(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.dim, config.dim)
        self.LayerNorm = nn.LayerNorm(config.dim, eps=_NORM_EPS)

    def forward(self, attended: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(attended) + x)
        return out


class _Attention(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _AttentionOutput(config)

    def forward(self, x: Tensor, attend: Attention) -> Tensor:
        out: Tensor = self.output(self.self(x, attend), x)
        return out


class _GatedFeedForward(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.dim, 2 * config.intermediate, bias=False)
        self.wo = nn.Linear(config.intermediate, config.dim)
        self.layernorm = nn.LayerNorm(config.dim, eps=_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        # Two products, not one cut in two: on strided halves a CPU's gelu gives some elements other bits,
        # depending on how the batch happens to be split among threads.
        gate, values = (F.linear(x, weight) for weight in self.gated_layers.weight.chunk(2))
        out: Tensor = self.layernorm(self.wo(F.gelu(gate) * values) + x)
        return out


class _Layer(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.mlp = _GatedFeedForward(config)

    def forward(self, x: Tensor, attend: Attention) -> Tensor:
        out: Tensor = self.mlp(self.attention(x, attend))
        return out


class _Encoder(nn.Module):
    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, attend: Attention) -> Tensor:
        for layer in self.layer:
            x = layer(x, attend)
        return x


class DnabertS(nn.Module):
    """DNABERT-S with a packed forward, newly initialised as BERT is.

    Args:
        config: the shape.
        backend: "auto", or the name of the only attention back-end that may serve.
    """

    def __init__(self, config: DnabertSConfig, backend: str = AUTO) -> None:
        super().__init__()
        self.config = config
        self.backend_name = backend
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self._choices: dict[tuple[torch.device, torch.dtype], Choice] = {}
        self._slopes: dict[torch.device, Tensor] = {}
        self._graphs: ForwardGraphs | None = None
        self.apply(_initialise)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.embeddings.word_embeddings.weight.device

    def choice(self, device: torch.device, dtype: torch.dtype) -> Choice:
        """The attention back-end for this device and precision.

        Raises:
            BackendUnavailable: none can serve, or not the one that was asked for by name.
        """
        key = (device, dtype)
        if key not in self._choices:
            head_dim = self.config.dim // self.config.heads
            self._choices[key] = choose_backend(self.backend_name, device, dtype, head_dim, alibi=True)
        return self._choices[key]

    def forward_packed(self, input_ids: Tensor, cu_seqlens: Tensor | PackedLayout, max_seqlen: int) -> Tensor:
        """Last hidden states of sequences laid end to end.

        Args:
            input_ids: int32 or int64 [tokens], special tokens included; checked if on the host.
            cu_seqlens: int32 [sequences + 1] on the host: 0, l1, l1 + l2, ..., tokens; or the `PackedLayout`
                built from it, on the model's device.
            max_seqlen: tokens of the longest sequence, or more.

        Returns:
            [tokens, dim]. A sequence's rows do not depend on the others.

        Raises:
            ValueError: an argument is not as described; the message says which.
            BackendUnavailable: no attention back-end can serve, or not the one asked for by name.
        """
        ids, layout = packed_inputs(input_ids, cu_seqlens, max_seqlen, self.config.vocab, 0, self.device)
        dtype = compute_dtype(self.embeddings.word_embeddings.weight)
        if self._graphs is not None and not torch.is_grad_enabled() and dtype == self._weight_dtype:
            rows = self._graphs(ids, layout)
            if rows is not None:
                return rows
        attend = self.choice(self.device, dtype).backend.bind(layout, dtype, self._slopes_on(self.device))
        out: Tensor = self.encoder(self.embeddings(ids), attend)
        return out[: layout.total]

    def graphs_refusal(self) -> str | None:
        """Why no forward can be recorded, or None if some can."""
        backend = self.choice(self.device, self._weight_dtype).backend
        # The others need lengths on the host.
        return None if isinstance(backend, FlashAttn) else f"needs the attention back-end {FlashAttn.name}"

    def record_graphs(self) -> tuple[int, ...]:
        """Record the packed forward of small and of full batches as CUDA graphs, which then serve those that fit.

        Returns:
            the numbers of rows that were recorded, rising; () if `graphs_refusal` says why not.
        """
        backend = self.choice(self.device, self._weight_dtype).backend
        if not isinstance(backend, FlashAttn):
            return ()
        slopes = self._slopes_on(self.device)
        # Not this object, which keeps the graphs, which keep this forward: the memory of all would stay taken until the
        # garbage collector comes by.
        encoder, embeddings = self.encoder, self.embeddings

        def forward(batch: StaticBatch) -> Tensor:
            attend = backend.bind_bounds(batch.bounds, _LONGEST_RECORDED, slopes)
            out: Tensor = encoder(embeddings(batch.ids), attend)
            return out

        self._graphs = ForwardGraphs(
            sizes_of(self.config.dim),
            _LONGEST_RECORDED,
            lambda rows: StaticBatch(rows, self.device, _TILE),
            CudaRecorder(forward, self.device),
        )
        return self._graphs.sizes

    @property
    def _weight_dtype(self) -> torch.dtype:
        return self.embeddings.word_embeddings.weight.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DnabertS:
        """Move or cast the model; graphs that were recorded are given up."""
        self._graphs = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _slopes_on(self, device: torch.device) -> Tensor:
        """float32 [heads]; no buffer, because a buffer would be rounded when the model is cast."""
        if device not in self._slopes:
            with torch.inference_mode(False):
                self._slopes[device] = torch.tensor(alibi_slopes(self.config.heads), device=device)
        return self._slopes[device]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=_INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
