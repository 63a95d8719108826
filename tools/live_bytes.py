"""Counts the bytes of tensors that are alive at once, on the meta device: what a card would hold, without a card.

Weights made before the counting begins do not count. Attention counts as torch's kernels for cards have it, which never
hold its scores; what libraries such as cuDNN take for themselves is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While active, `now` is the bytes of what was made in it and is still there, `peak` the most there ever were."""

    def __init__(self, leave: Iterable[Tensor] = ()) -> None:
        """`leave` are tensors that do not count: weights that lie elsewhere."""
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._left = [tensor.untyped_storage() for tensor in leave]
        self._known.update(self._left)
        self._attention = _FlashAttention()

    def __enter__(self) -> LiveBytes:
        self._attention.__enter__()
        return super().__enter__()

    def __exit__(self, *problem: Any) -> None:  # noqa: ANN401 - as in a context manager
        super().__exit__(*problem)
        self._attention.__exit__(*problem)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.device.type == "meta":
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


class _FlashAttention(TorchFunctionMode):
    """Attention as a kernel without scores has it: its result alone is new."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))
