"""`virnucpro devices`: what of this machine a model can run on."""

from __future__ import annotations

import json
from collections.abc import Iterator

from consumer.cli.options import AsJson, Model, model_settings


def devices(model: Model = None, as_json: AsJson = False) -> None:
    """List the devices and precisions that can be used, by which attention back-end, and why not.

    The weights are not loaded. What is marked as default is taken if nothing is asked for; the first device is.

    Example: `virnucpro devices --model bundles/virnucpro-500`
    """
    from consumer.cli.output.alignment import aligned
    from consumer.escaping import escaped
    from virnucpro_core.bundle.bundle import find_bundle, read_manifest
    from virnucpro_core.models.device_list import Use, no_gpu, uses

    manifest, _ = read_manifest(find_bundle(model or model_settings().model))
    found, missing = list(uses(manifest)), no_gpu()
    if as_json:
        listed = [use.as_dict() for use in found]
        print(json.dumps({"model": manifest.id, "devices": listed, "no_gpu": missing}, indent=2))
        return

    def rows() -> Iterator[tuple[str, ...]]:
        yield "device", "precision", "ESM-2 by", "DNABERT-S by"
        for use in found:
            yield use.device, use.precision, use.esm2 or "-", use.dnabert_s or "-"

    def remarks() -> Iterator[str]:
        yield ""
        for use in found:
            yield use.why_not or ("default" if use.is_default else "")

    def reasons(use: Use) -> Iterator[str]:
        for name, why in use.refusals.items():
            yield f"  {use.device} {use.precision}, not used: {name}: {why}"

    lines = [f"model {manifest.id}", *dict.fromkeys(f"{use.device}: {use.product}" for use in found)]
    lines += [f"no GPU: {missing}"] if missing else []
    table = [
        f"{row}  {remark}".rstrip() for row, remark in zip(aligned(list(rows())), remarks(), strict=True)
    ]
    lines += ["", *table, "", *(line for use in found for line in reasons(use))]
    print("\n".join(map(escaped, lines)))
