"""ESM-2 over packed proteins: fair-esm's model and numbers, without padding.

`ESM2WithFlashAttention` wraps fair-esm's `ESM2` and adds `forward_packed`, which computes the same
representations for proteins laid end to end. The standard path, fair-esm's own forward on padded sub-batches,
stays at hand as `v1_compatible`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import esm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro_core.models.attention import (
    Attention,
    Backend,
    BackendUnavailable,
    Choice,
    compute_dtype,
    packed_choice,
)
from virnucpro_core.models.graphs import CudaRecorder, ForwardGraphs, StaticBatch, sizes_of
from virnucpro_core.models.inputs import packed_inputs
from virnucpro_core.models.kernels.choice import LONGEST_FUSED, TRITON, Case, Kernels, choose_kernels
from virnucpro_core.models.kernels.fp8 import Fp8Linear
from virnucpro_core.models.kernels.rotary_attention import RotaryAttention
from virnucpro_core.models.layout import PackedLayout
from virnucpro_core.models.projections import MergedProjections, give_up_weight
from virnucpro_core.models.rotary import RotaryTables
from virnucpro_core.options import AUTO

_KEPT_IN_TRAINING = 1 - 0.15 * 0.8
"""ESM-2 was trained with masked tokens zeroed; without masks the embeddings are scaled down to match."""

_QUANTISABLE = {"qkv", "fc1", "fc2"}

Product = Callable[..., Tensor]
"""[rows, in] -> [rows, out]; an `Fp8Linear` takes rows in fp8 and their scales."""


class Products(NamedTuple):
    """What computes the matrix products of one layer.

    `qkv` gives the query, key and value of all heads beside each other, [rows, 3 dim]; `out` is of the attended
    values; `fc1` and `fc2` are of the feed-forward.
    """

    qkv: Product
    out: Product
    fc1: Product
    fc2: Product


def esm2_layer(
    x: Tensor, module: Any, products: Products, attend: Attention, cos: Tensor, sin: Tensor
) -> Tensor:
    """One pre-norm transformer layer of ESM-2, over packed rows or, with an `attend` that unfolds them, padded ones.

    Args:
        x: the residual stream, fp32 [rows, dim].
        module: fair-esm's layer, for its two norms and its number of heads.
        products: the layer's matrix products.
        attend: [rows, heads, head size] of q, k and v -> [rows, heads, head size].
        cos, sin: [rows, 1, 1, head size / 2] of each row's position, in the type in which `products` compute.

    Returns:
        the residual stream after the layer, fp32 [rows, dim].
    """
    rows, dim = x.shape
    normed = layer_norm(x, module.self_attn_layer_norm).to(cos.dtype)
    # [rows, 3, heads, head size]: q, k, v
    qkv = products.qkv(normed).view(rows, 3, module.self_attn.num_heads, -1)
    # q and k, each half of a head: [rows, 2, heads, head size / 2]
    first, second = qkv[:, :2].chunk(2, dim=-1)
    # q and k, rotated: [rows, 2, heads, head size]
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    # [rows, heads, head size]
    attended = attend(rotated[:, 0], rotated[:, 1], qkv[:, 2])
    x = x + products.out(attended.reshape(rows, dim))
    # [rows, dim] -> [rows, 4 dim] -> [rows, dim]
    normed = layer_norm(x, module.final_layer_norm).to(cos.dtype)
    return x + products.fc2(F.gelu(products.fc1(normed)))


def token_dropout(x: Tensor, hidden: Tensor, share: Tensor) -> Tensor:
    """ESM-2's token dropout, which acts at inference too.

    Args:
        x: token embeddings, fp32 [..., dim].
        hidden: bool [...], the tokens whose embedding is zeroed: `<mask>`, and padding where there is any.
        share: fp32 [..., 1], the share of masked tokens in each token's protein.

    Returns:
        fp32 [..., dim], scaled so that a protein has the size that it had in ESM-2's training.
    """
    return x.masked_fill(hidden[..., None], 0.0) * _KEPT_IN_TRAINING / (1 - share)


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    """A LayerNorm of fp32 values in fp32, whatever the type of its weights."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)


class ESM2WithFlashAttention(nn.Module):
    """fair-esm's ESM-2 with a packed forward.

    Args:
        model: the model to wrap, of any size. Its weights are used, not copied. Its rotary `inv_freq` must be
            fp32 and stays so: `.half()` and `.to(dtype)` of the wrapper leave it alone.
        backend: "auto", or the name of the only attention back-end that may serve.
        v1_attention: True or False decides for every call whether the standard path is taken; None leaves it
            to the call's `v1_compatible`.
        fp8: the products of the packed path that are in fp8, of "qkv", "fc1" and "fc2", from quantised copies of the
            model's weights. Then the packed path computes no gradients. The standard path keeps fair-esm's own.
        kernels: "auto" (Triton's where they can serve), "triton" or "torch", for the packed path without
            gradients.

    Raises:
        ValueError: the model's `inv_freq` was cast, or differs between layers; another name in `fp8`.
    """

    def __init__(
        self,
        model: esm.ESM2,
        backend: str = AUTO,
        v1_attention: bool | None = None,
        fp8: Collection[str] = (),
        kernels: str = AUTO,
    ) -> None:
        if unknown := set(fp8) - _QUANTISABLE:
            raise ValueError(f"no product in fp8 but {', '.join(sorted(_QUANTISABLE))}: {sorted(unknown)}")
        super().__init__()
        self.model = model
        self.backend_name = backend
        self.v1_attention = v1_attention
        self.kernels_name = kernels
        self.num_layers: int = model.num_layers
        self.dim: int = model.embed_dim
        self.heads: int = model.attention_heads
        self._choices: dict[tuple[torch.device, torch.dtype], Choice | None] = {}
        self._kernels: dict[tuple[torch.device, torch.dtype], Kernels] = {}
        self._rotary = RotaryTables([layer.self_attn.rot_emb for layer in model.layers])
        self._fp8 = frozenset(fp8)
        self._projections = MergedProjections((layer.self_attn for layer in model.layers), "qkv" in fp8)
        self._products = self._make_products()
        self._graphs: ForwardGraphs | None = None
        self._has_standard_path = True

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
            self._choices[key] = packed_choice(self.backend_name, device, dtype, self.dim // self.heads)
        return self._choices[key]

    def kernels(self, device: torch.device, dtype: torch.dtype) -> Kernels:
        """The kernels of the packed path for this device and precision.

        Raises:
            ValueError: unknown name.
            KernelsUnavailable: they were asked for by name and cannot serve.
        """
        key = (device, dtype)
        if key not in self._kernels:
            head_dim = self.dim // self.heads
            chosen = choose_kernels(self.kernels_name, Case(device, dtype, self.dim, head_dim))
            if chosen.fused_attention and self.backend_name != AUTO:
                reason = f"the attention back-end {self.backend_name} is asked for by name"
                refusals = chosen.refusals | {"rotary_attention": reason}
                chosen = replace(chosen, fused_attention=False, refusals=refusals)
            self._kernels[key] = chosen
        return self._kernels[key]

    def forward(self, tokens: Tensor, repr_layers: Sequence[int] = ()) -> dict[str, Any]:
        """fair-esm's own forward on padded `tokens` [batch, length], int64; its own result.

        Raises:
            BackendUnavailable: its weights were released.
        """
        if not self._has_standard_path:
            raise BackendUnavailable(
                "the standard path's weights were released: only the packed path is left"
            )
        with self._rotary.lent_to_fair_esm(tokens.shape[1], self._compute_dtype()):
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
            RuntimeError: products are in fp8, and gradients are on.
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

    def on_path(self, v1: bool) -> ESM2WithFlashAttention:
        """This model on the standard path (True) or the packed one, whatever a call says; shares everything."""
        twin = copy.copy(self)
        twin.v1_attention = v1
        return twin

    def graphs_refusal(self) -> str | None:
        """Why no forward can be recorded, or None if some can."""
        kernels = self.kernels(self.device, self._compute_dtype())
        if kernels.name != TRITON:
            return "needs Triton's kernels"
        return None if kernels.fused_attention else "needs the kernel rotary_attention"

    def record_graphs(self) -> tuple[int, ...]:
        """Record the packed forward of small and of full batches as CUDA graphs, which then serve those that fit.

        Returns:
            the numbers of rows that were recorded, rising; () if `graphs_refusal` says why not.
        """
        if self.graphs_refusal() is not None:
            return ()
        kernels = self.kernels(self.device, self._compute_dtype())
        from virnucpro_core.models.kernels.rotary_attention_triton import QUERIES

        with torch.inference_mode(False), torch.no_grad():
            cos, sin = self._rotary.by_position(LONGEST_FUSED)
        self._graphs = None
        # The graphs keep this forward. If it kept this object, which keeps the graphs, the memory of both would stay
        # taken until the garbage collector comes by.
        twin = copy.copy(self)

        def forward(batch: StaticBatch) -> Tensor:
            attend = kernels.attention_in_tiles(batch.bounds, batch.tiles, cos, sin)
            x = twin._embed(batch.ids, batch.bounds, batch.segment_ids.long())
            last = twin.num_layers
            return twin._layers_by_kernels(x, attend, (last,), kernels)[last]

        self._graphs = ForwardGraphs(
            sizes_of(self.dim),
            LONGEST_FUSED,
            lambda rows: StaticBatch(rows, self.device, QUERIES),
            CudaRecorder(forward, self.device),
        )
        return self._graphs.sizes

    def release_standard_path(self) -> None:
        """Free the weights of which quantised copies compute. Only the packed path can be taken afterwards, and the
        model stays where it is."""
        if not self._fp8:
            return
        self._has_standard_path = False
        if "qkv" in self._fp8:
            self._projections.release()
        for layer in self.model.layers:
            for name in self._fp8 & {"fc1", "fc2"}:
                give_up_weight(getattr(layer, name))

    def takes_v1_path(self, v1_compatible: bool = False) -> bool:
        """Whether the standard path is asked for."""
        return v1_compatible if self.v1_attention is None else self.v1_attention

    def _forward_packed(
        self, ids: Tensor, layout: PackedLayout, layers: Sequence[int], backend: Backend
    ) -> dict[str, dict[int, Tensor]]:
        """The packed path. ids [rows].

        The residual stream and its norms are in fp32 whatever the model's type: rounding it to 16 bits twice a
        layer would be the largest error of the whole forward. Matrix products and attention are in that type.
        """
        dtype = self._compute_dtype()
        kernels = self.kernels(self.device, dtype)
        if self._fp8 and torch.is_grad_enabled():
            raise RuntimeError("products in fp8 have no gradients: call within torch.inference_mode()")
        if (kernels.name == TRITON or self._fp8) and not torch.is_grad_enabled():
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                return self._forward_by_kernels(ids, layout, layers, backend, kernels)
        attend = backend.bind(layout, dtype)
        cos, sin = self._rotary.packed(layout, dtype)
        x = self._embed(ids, layout.cu_seqlens, layout.segment_ids)
        kept = {0: x} if 0 in layers else {}
        for number, module in enumerate(self.model.layers, start=1):
            x = esm2_layer(x, module, self._layer_products(number - 1), attend, cos, sin)
            if number in layers:
                kept[number] = x
        if self.num_layers in layers:
            kept[self.num_layers] = layer_norm(x, self.model.emb_layer_norm_after)
        weight_dtype = self.model.embed_tokens.weight.dtype
        return {"representations": {layer: kept[layer][: layout.total].to(weight_dtype) for layer in layers}}

    def _forward_by_kernels(
        self, ids: Tensor, layout: PackedLayout, layers: Sequence[int], backend: Backend, kernels: Kernels
    ) -> dict[str, dict[int, Tensor]]:
        """The packed path without gradients, by a graph if the batch fits one."""
        dtype, weight_dtype = self._compute_dtype(), self.model.embed_tokens.weight.dtype
        if self._graphs is not None and layers == (self.num_layers,) and dtype == weight_dtype:
            rows = self._graphs(ids, layout)
            if rows is not None:
                return {"representations": {self.num_layers: rows}}
        attend = kernels.attention(layout, dtype, *self._rotary.by_position(layout.max_seqlen), backend)
        x = self._embed(ids, layout.cu_seqlens, layout.segment_ids)
        kept = self._layers_by_kernels(x, attend, layers, kernels)
        return {"representations": {layer: kept[layer][: layout.total].to(weight_dtype) for layer in layers}}

    def _layers_by_kernels(
        self, x: Tensor, attend: RotaryAttention, layers: Sequence[int], kernels: Kernels
    ) -> dict[int, Tensor]:
        """As `esm2_layer` for every layer, but a sub-layer's addition to the stream and the norm after it are one step.

        Args:
            x: float32 [rows, dim], the embeddings; becomes the residual stream, and is changed in place.
            attend: the attention of the batch.
            layers: which representations are kept.
            kernels: what computes.
        """
        dtype = self._compute_dtype()
        final = self.model.emb_layer_norm_after
        kept = {0: x.clone()} if 0 in layers else {}
        added: Tensor | None = None  # what the sub-layer before adds to the stream
        for number, layer in enumerate(self.model.layers, start=1):
            products = self._layer_products(number - 1)
            qkv = _of_normed(products.qkv, kernels, x, added, layer.self_attn_layer_norm, dtype)
            if number - 1 in layers and number > 1:
                kept[number - 1] = x.clone()
            attended = attend(qkv.view(len(x), 3, self.heads, -1))  # [rows, dim]
            added = products.out(attended)
            hidden = _of_normed(
                products.fc1, kernels, x, added, layer.final_layer_norm, dtype
            )  # [rows, 4 dim]
            added = _of_gelu(products.fc2, kernels, hidden)
        weight_dtype = self.model.embed_tokens.weight.dtype
        out = kernels.add_norm(x, added, final.weight, final.bias, final.eps, weight_dtype)
        return kept | {self.num_layers: out}

    def _forward_packed_fallback(
        self, ids: Tensor, layout: PackedLayout, layers: Sequence[int]
    ) -> dict[str, dict[int, Tensor]]:
        """The standard path: fair-esm's own forward on sub-batches padded with the alphabet's padding index.

        Proteins of like length go together, `PADDED_TOKENS` at a time, padded to the length of their
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

    def _embed(self, ids: Tensor, bounds: Tensor, segment_ids: Tensor) -> Tensor:
        """Token embeddings, fp32 [rows, dim], after token dropout, in segments as `PackedLayout` describes them."""
        x: Tensor = self.model.embed_scale * self.model.embed_tokens(ids).float()
        if not self.model.token_dropout:
            return x
        masked = ids == self.model.mask_idx
        # Sums of ones are exact in any order, so adding them up in parallel changes no bit.
        counts = torch.zeros(len(bounds) - 1, device=ids.device)
        counts = counts.index_add(0, segment_ids, masked.to(counts.dtype))
        share = (counts / bounds.diff())[segment_ids, None]
        return token_dropout(x, masked, share)

    def _layer_products(self, index: int) -> Products:
        """Of layer `index`, from 0."""
        return Products(self._projections.of_layer(index), *self._products[index])

    def _make_products(self) -> list[tuple[Product, Product, Product]]:
        """Each layer's `out`, `fc1` and `fc2`."""
        return [
            (
                layer.self_attn.out_proj,
                Fp8Linear.of(layer.fc1) if "fc1" in self._fp8 else layer.fc1,
                Fp8Linear.of(layer.fc2) if "fc2" in self._fp8 else layer.fc2,
            )
            for layer in self.model.layers
        ]

    def _compute_dtype(self) -> torch.dtype:
        return compute_dtype(self.model.embed_tokens.weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ESM2WithFlashAttention:
        """Move or cast the model, but leave `inv_freq` in fp32, and merge the projections again.

        Graphs that were recorded are given up.
        """
        if not self._has_standard_path:
            raise RuntimeError("a model without its standard path's weights can be neither moved nor cast")
        self._graphs = None
        kept = self._rotary.frequencies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._rotary.restore(kept)
        self._projections.merge()
        self._products = self._make_products()
        return self


def _of_normed(
    product: Product, kernels: Kernels, x: Tensor, y: Tensor | None, norm: Any, dtype: torch.dtype
) -> Tensor:
    """x += y, in place; the product of x's LayerNorm, which is in `dtype`, or in fp8 if the product takes that."""
    if isinstance(product, Fp8Linear):
        return product(*kernels.add_norm_quantise(x, y, norm.weight, norm.bias, norm.eps))
    return product(kernels.add_norm(x, y, norm.weight, norm.bias, norm.eps, dtype))


def _of_gelu(product: Product, kernels: Kernels, x: Tensor) -> Tensor:
    """The product of gelu(x), in x's own type, or in fp8 if the product takes that; x may be changed."""
    if isinstance(product, Fp8Linear):
        return product(*kernels.gelu_quantise(x))
    return product(kernels.gelu(x))
