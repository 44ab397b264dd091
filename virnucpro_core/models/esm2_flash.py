"""ESM-2 over packed proteins: fair-esm's model and numbers, without padding.

`ESM2WithFlashAttention` wraps fair-esm's `ESM2` and adds `forward_packed`, which computes the same
representations for proteins laid end to end. The standard path, fair-esm's own forward on padded sub-batches,
stays at hand as `v1_compatible`.

The query, key and value projections are one matrix per layer. The wrapped model's three projections become
views of it, so there is no second copy. They stay the parameters: an optimizer's in-place step, or
`load_state_dict`, changes the merged matrix with them. Where gradients are wanted the three are concatenated
anew instead, so that each gets its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import esm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro_core.models.attention import (
    AUTO,
    Attention,
    Backend,
    BackendUnavailable,
    Choice,
    choose_backend,
    compute_dtype,
)
from virnucpro_core.models.layout import WIDTH_STEP, PackedLayout, packed_inputs

_KEPT_IN_TRAINING = 1 - 0.15 * 0.8
"""ESM-2 was trained with masked tokens zeroed; without masks the embeddings are scaled down to match."""


class ESM2WithFlashAttention(nn.Module):
    """fair-esm's ESM-2 with a packed forward.

    Args:
        model: the model to wrap, of any size. Its weights are used, not copied. Its rotary `inv_freq` must be
            fp32 and stays so: `.half()` and `.to(dtype)` of the wrapper leave it alone.
        backend: "auto", or the name of the only attention back-end that may serve.
        v1_attention: True or False decides for every call whether the standard path is taken; None leaves it
            to the call's `v1_compatible`.

    Raises:
        ValueError: the model's `inv_freq` was cast, or differs between layers.
    """

    def __init__(self, model: esm.ESM2, backend: str = AUTO, v1_attention: bool | None = None) -> None:
        super().__init__()
        self.model = model
        self.backend_name = backend
        self.v1_attention = v1_attention
        self.num_layers: int = model.num_layers
        self.dim: int = model.embed_dim
        self.heads: int = model.attention_heads
        self._choices: dict[tuple[torch.device, torch.dtype], Choice | None] = {}
        self._merged: list[tuple[Tensor, Tensor]] = []
        for buffer in self._inverse_frequencies():
            if buffer.dtype != torch.float32:
                raise ValueError(
                    f"the model's inv_freq was cast to {buffer.dtype}: wrap the model before casting it"
                )
            if not torch.equal(buffer, self._inverse_frequencies()[0]):
                raise ValueError("the model's layers differ in inv_freq")
        self._merge_projections()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.embed_tokens.weight.device
        return device

    def choice(self, device: torch.device, dtype: torch.dtype) -> Choice | None:
        """The attention back-end for this device and precision; None if only the standard path can serve.

        Raises:
            BackendUnavailable: the one that was asked for by name cannot serve.
        """
        key = (device, dtype)
        if key not in self._choices:
            self._choices[key] = self._choose(device, dtype)
        return self._choices[key]

    def _choose(self, device: torch.device, dtype: torch.dtype) -> Choice | None:
        try:
            return choose_backend(self.backend_name, device, dtype, self.dim // self.heads, alibi=False)
        except BackendUnavailable:
            if self.backend_name != AUTO:
                raise
            return None

    def forward(self, tokens: Tensor, repr_layers: Sequence[int] = ()) -> dict[str, Any]:
        """fair-esm's own forward on padded `tokens` [batch, length], int64; its own result."""
        with self._fair_esm_rotary_tables(tokens.shape[1]):
            result: dict[str, Any] = self.model(tokens, repr_layers=repr_layers)
        return result

    def forward_packed(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor | PackedLayout,
        max_seqlen: int,
        repr_layers: Sequence[int] | None = None,
        v1_compatible: bool = False,
    ) -> dict[str, dict[int, Tensor]]:
        """Representations of proteins laid end to end.

        Args:
            input_ids: int32 or int64 [tokens], each protein as `<cls>` residues `<eos>`. Ids on the host are
                checked; ids already on the device cannot be without waiting for it.
            cu_seqlens: int32 [proteins + 1] on the host: 0, l1, l1 + l2, ..., tokens; or the `PackedLayout`
                built from it, on the model's device.
            max_seqlen: tokens of the longest protein, or more.
            repr_layers: as fair-esm counts them: 0 the embeddings, i the output of layer i, num_layers after
                the final norm (the default).
            v1_compatible: take the standard path, unless `v1_attention` decides otherwise.

        Returns:
            {"representations": {layer: [tokens, dim]}}. A protein's rows do not depend on the others.

        Raises:
            ValueError: an argument is not as described; the message says which.
            BackendUnavailable: the attention back-end that was asked for by name cannot serve.
        """
        layers = (self.num_layers,) if repr_layers is None else tuple(repr_layers)
        for layer in layers:
            if not 0 <= layer <= self.num_layers:
                raise ValueError(f"repr_layers: there is no layer {layer}, only 0 to {self.num_layers}")
        ids, layout = packed_inputs(
            input_ids, cu_seqlens, max_seqlen, self.model.alphabet_size, self.model.padding_idx, self.device
        )
        choice = (
            None if self.takes_v1_path(v1_compatible) else self.choice(self.device, self._compute_dtype())
        )
        if choice is None:
            return self._forward_packed_fallback(ids, layout, layers)
        return self._forward_packed(ids, layout, layers, choice.backend)

    def takes_v1_path(self, v1_compatible: bool = False) -> bool:
        """Is the standard path asked for?"""
        return v1_compatible if self.v1_attention is None else self.v1_attention

    def _forward_packed(
        self, ids: Tensor, layout: PackedLayout, layers: Sequence[int], backend: Backend
    ) -> dict[str, dict[int, Tensor]]:
        """The packed path. ids [rows]."""
        dtype = self._compute_dtype()
        attend = backend.bind(layout, dtype)
        cos, sin = self._packed_rotary_tables(layout, dtype)
        x = self._embed(ids, layout)
        kept = {0: x} if 0 in layers else {}
        for number, layer in enumerate(self.model.layers, start=1):
            x = self._layer(x, layer, number - 1, attend, cos, sin)
            if number in layers:
                kept[number] = x
        if self.num_layers in layers:
            kept[self.num_layers] = self.model.emb_layer_norm_after(x)
        return {"representations": {layer: kept[layer][: layout.total] for layer in layers}}

    def _forward_packed_fallback(
        self, ids: Tensor, layout: PackedLayout, layers: Sequence[int]
    ) -> dict[str, dict[int, Tensor]]:
        """The standard path: fair-esm's own forward on sub-batches padded with the alphabet's padding index.

        Proteins of like length go together, `PADDED_TOKENS` at a time, padded to the length of their own
        bucket: a long protein costs the others nothing, and their numbers do not depend on it. Its forward
        waits for the device once per sub-batch.
        """
        plan = layout.padded_tokens
        outputs: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for bucket in plan.buckets:
            tokens = ids[bucket.gather].masked_fill(~bucket.valid, self.model.padding_idx)
            representations = self.forward(tokens, layers)["representations"]
            for layer, parts in outputs.items():
                parts.append(representations[layer])
        return {"representations": {layer: plan.repack(parts) for layer, parts in outputs.items()}}

    def _embed(self, ids: Tensor, layout: PackedLayout) -> Tensor:
        """Token embeddings [rows, dim] with ESM-2's token dropout, which acts at inference too."""
        x: Tensor = self.model.embed_scale * self.model.embed_tokens(ids)
        if not self.model.token_dropout:
            return x
        masked = ids == self.model.mask_idx
        # Sums of ones are exact in any order, so adding them up in parallel changes no bit.
        counts = torch.zeros(len(layout.cu_seqlens) - 1, device=ids.device)
        counts = counts.index_add(0, layout.segment_ids, masked.to(counts.dtype))
        share = (counts / layout.cu_seqlens.diff())[layout.segment_ids, None]
        return x.masked_fill(masked[:, None], 0.0) * _KEPT_IN_TRAINING / (1 - share).to(x.dtype)

    def _layer(
        self, x: Tensor, layer: nn.Module, index: int, attend: Attention, cos: Tensor, sin: Tensor
    ) -> Tensor:
        """One pre-norm transformer layer, [rows, dim] -> [rows, dim]."""
        weight, bias = self._projections(index)
        qkv = F.linear(layer.self_attn_layer_norm(x), weight, bias).view(len(x), 3, self.heads, -1)
        first, second = qkv[:, :2].chunk(2, dim=-1)
        rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        attended = attend(rotated[:, 0], rotated[:, 1], qkv[:, 2])
        x = x + layer.self_attn.out_proj(attended.reshape(len(x), self.dim))
        out: Tensor = x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))
        return out

    def _packed_rotary_tables(self, layout: PackedLayout, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin [rows, 1, 1, head size / 2] of each row's position, for all layers of a forward."""
        angles = self._angles(-(-layout.max_seqlen // WIDTH_STEP) * WIDTH_STEP)
        places = layout.positions
        cos, sin = (table.to(dtype).index_select(0, places) for table in (angles.cos(), angles.sin()))
        return cos[:, None, None], sin[:, None, None]

    @contextmanager
    def _fair_esm_rotary_tables(self, length: int) -> Iterator[None]:
        """Give fair-esm's layers their tables for this length, computed in fp32 and cast to the model's type.

        Left to themselves they would compute them in the model's type, far off in 16 bits, and keep them
        when it changes.
        """
        angles = self._angles(length)
        emb = torch.cat((angles, angles), dim=-1)
        dtype = self._compute_dtype()
        cos, sin = emb.cos().to(dtype)[None], emb.sin().to(dtype)[None]
        rotary = [layer.self_attn.rot_emb for layer in self.model.layers]
        for module in rotary:
            module._seq_len_cached, module._cos_cached, module._sin_cached = length, cos, sin
        try:
            yield
        finally:
            for module in rotary:
                module._seq_len_cached = module._cos_cached = module._sin_cached = None

    def _angles(self, length: int) -> Tensor:
        """float32 [length, head size / 2]: position times inverse frequency, computed as fair-esm does."""
        inverse = self._inverse_frequencies()[0]
        if inverse.dtype != torch.float32:
            raise ValueError(
                f"the wrapped model's inv_freq was cast to {inverse.dtype}; cast the wrapper instead"
            )
        with torch.autocast(inverse.device.type, enabled=False):
            return torch.einsum(
                "i,j->ij", torch.arange(length, device=inverse.device).type_as(inverse), inverse
            )

    def _inverse_frequencies(self) -> list[Tensor]:
        return [layer.self_attn.rot_emb.inv_freq for layer in self.model.layers]

    def _compute_dtype(self) -> torch.dtype:
        return compute_dtype(self.model.embed_tokens.weight)

    def _projections(self, index: int) -> tuple[Tensor, Tensor]:
        """The merged projection of a layer: weight [3 dim, dim] and bias [3 dim], in the order q, k, v."""
        parts = self._parts(index)
        if torch.is_grad_enabled() and any(part.weight.requires_grad for part in parts):
            return torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        weight, bias = self._merged[index]
        step = self.dim * weight.element_size()
        for number, part in enumerate(parts):
            # Somebody may have replaced a parameter's memory; a stale matrix would give wrong numbers silently.
            if (
                part.weight.data_ptr() != weight.data_ptr() + number * self.dim * step
                or part.bias.data_ptr() != bias.data_ptr() + number * step
            ):
                self._merged[index] = self._merge(index)
                break
        return self._merged[index]

    def _parts(self, index: int) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        attention = self.model.layers[index].self_attn
        return attention.q_proj, attention.k_proj, attention.v_proj

    def _merge_projections(self) -> None:
        self._merged = [self._merge(index) for index in range(self.num_layers)]

    def _merge(self, index: int) -> tuple[Tensor, Tensor]:
        parts = self._parts(index)
        with torch.inference_mode(False), torch.no_grad():
            weight = torch.cat([part.weight.detach() for part in parts])
            bias = torch.cat([part.bias.detach() for part in parts])
            for part, its_weight, its_bias in zip(parts, weight.chunk(3), bias.chunk(3), strict=True):
                part.weight.data, part.bias.data = its_weight, its_bias
        return weight, bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ESM2WithFlashAttention:
        """Move or cast the model, but leave `inv_freq` in fp32, and merge the projections again."""
        kept = self._inverse_frequencies()
        super()._apply(fn, recurse)
        for layer, buffer in zip(self.model.layers, kept, strict=True):
            rotary = layer.self_attn.rot_emb
            rotary.inv_freq = buffer.to(rotary.inv_freq.device)
        self._merge_projections()
        return self
