"""Costs of a network: FLOPs, bytes saved by autograd, bytes alive at once.

Counted on real tensors, or on torch's meta device, where operations compute only shapes, so that a network of any
size is counted in seconds. A multiplication and an addition are two FLOPs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Forward = Callable[[], Tensor]


def _attention(query: Any, key: Any, value: Any, *others: Any, **named: Any) -> int:
    """Two products, of the shapes (row, head, token, channel) of what the kernel is given."""
    rows, heads, tokens, width = query
    return int(2 * rows * heads * tokens * key[2] * (width + value[3]))


def _attention_backward(out: Any, query: Any, key: Any, value: Any, *others: Any, **named: Any) -> int:
    """Five products: the scores once more, and the gradients of scores, query, key and value."""
    rows, heads, tokens, width = query
    return int(2 * rows * heads * tokens * key[2] * (3 * width + 2 * value[3]))


ON_CPU = {  # a CPU's own fused kernels, which torch's counter does not know; by the shapes of what they are given
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class FusedAttention(TorchFunctionMode):
    """Count attention on the meta device as the fused kernels compute it.

    On the meta device torch uses the unfused formula, which stores a score for every pair of tokens; the kernels of
    CPUs and GPUs store queries, keys, values, the output and one number per query.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        if func is not torch.nn.functional.scaled_dot_product_attention or not named["query"].is_meta:
            return func(*args, **kwargs)
        return torch.ops.aten._scaled_dot_product_flash_attention(named["query"], named["key"], named["value"])[0]


@contextmanager
def fused_when_computed_again() -> Iterator[None]:
    """`FusedAttention` for blocks that are recomputed in a backward pass, which modes do not reach."""
    usual = torch.nn.functional.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not query.is_meta:
            return usual(query, key, value, *args, **kwargs)
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]

    torch.nn.functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = usual


def forward_flops(forward: Forward) -> int:
    """FLOPs of ``forward`` without gradients."""
    with FusedAttention(), torch.no_grad(), FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        forward()
    return int(counter.get_total_flops())


def training_flops(forward: Forward) -> int:
    """FLOPs of ``forward`` and of going back from its output to the parameters that require gradients."""
    with fused_when_computed_again(), FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        out = forward()
        out.backward(torch.empty_like(out))
    return int(counter.get_total_flops())


def saved_bytes(forward: Forward, parameters: Iterable[Parameter]) -> int:
    """Bytes that autograd keeps between ``forward`` and its backward pass: what limits a micro-batch.

    A storage counts once, however many saved tensors are views of it; the parameters' own storages do not count,
    because they are there anyway.
    """
    with FusedAttention(), _saving({_key(p) for p in parameters}) as kept:
        out = forward()
    del out  # the graph lives until here, so that what it saved could not be freed before
    return _total(kept)


def working_bytes(forward: Forward, parameters: Iterable[Parameter]) -> int:
    """The most bytes of intermediate results that are alive at once in ``forward`` without gradients."""
    return forward_costs(forward, parameters)[1]


def forward_costs(forward: Forward, parameters: Iterable[Parameter]) -> tuple[int, int]:
    """`forward_flops` and `working_bytes` of one pass."""
    with ExitStack() as stack:
        stack.enter_context(FusedAttention())
        stack.enter_context(torch.no_grad())
        counter = stack.enter_context(FlopCounterMode(display=False, custom_mapping=ON_CPU))
        alive = stack.enter_context(_LiveBytes({_key(p) for p in parameters}))
        forward()
    return int(counter.get_total_flops()), int(alive.most)


def training_costs(forward: Forward, parameters: Iterable[Parameter]) -> tuple[int, int]:
    """`training_flops` and `saved_bytes` of one pass there and back."""
    with fused_when_computed_again(), FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        with _saving({_key(p) for p in parameters}) as kept:
            out = forward()
        saved = _total(kept)
        out.backward(torch.empty_like(out))
    return int(counter.get_total_flops()), saved


def training_bytes(forward: Forward, parameters: Iterable[Parameter]) -> int:
    """The most bytes of intermediate results that are alive at once in ``forward`` and its backward pass.

    It includes the intermediate results of recomputed blocks, which `saved_bytes` does not.
    """
    with ExitStack() as stack:
        stack.enter_context(fused_when_computed_again())
        alive = stack.enter_context(_LiveBytes({_key(p) for p in parameters}))
        out = forward()
        out.backward(torch.empty_like(out))
    return int(alive.most)


@contextmanager
def _saving(known: set[int]) -> Iterator[dict[int, Tensor]]:
    """What autograd saves meanwhile, each storage once, without the known ones.

    The tensors are held too, so that no storage is freed and its key used again.
    """
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _key(tensor) not in known:
            kept.setdefault(_key(tensor), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _total(kept: dict[int, Tensor]) -> int:
    return sum(int(tensor.untyped_storage().nbytes()) for tensor in kept.values())


class _LiveBytes(TorchDispatchMode):
    """Tracks the storages of operations, from their creation until they are freed."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.most = 0, 0
        self._known = known  # storages that do not count
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _key(tensor) not in self._known and _key(tensor) not in self._sizes:
                self._born(tensor)
        return out

    def _born(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._sizes[_key(tensor)] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, _key(tensor))

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
