"""Which tensors are probed together: one role (``attn_q``, ``ffn_down_exps``) in one band of depth."""

from collections.abc import Collection
from dataclasses import dataclass

from bitclass3_core.model import Model


@dataclass(frozen=True, slots=True)
class ProbeGroup:
    """Tensors of one role in one band of depth; those outside of blocks are groups of their own, of no band."""

    role: str
    band: int | None
    tensors: tuple[str, ...]

    @property
    def name(self) -> str:
        """``ffn_down, band 2``."""
        return self.role if self.band is None else f"{self.role}, band {self.band + 1}"


def probe_groups(model: Model, quantizable: Collection[str], n_bands: int) -> list[ProbeGroup]:
    """The groups in file order: each role's tensors cut by depth into bands of like size; every quantizable tensor is in one."""
    by_role: dict[str, list[str]] = {}
    for name in sorted(quantizable, key=lambda name: (model.tensors[name].block or 0, name)):
        by_role.setdefault(model.tensors[name].role, []).append(name)
    groups = []
    for role, names in sorted(by_role.items()):
        if model.tensors[names[0]].block is None:
            groups.append(ProbeGroup(role, None, tuple(names)))
            continue
        n = min(n_bands, len(names))
        cuts = [round(i * len(names) / n) for i in range(n + 1)]
        groups += [ProbeGroup(role, band, tuple(names[cuts[band] : cuts[band + 1]])) for band in range(n)]
    return groups
