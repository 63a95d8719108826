"""Read the tensors that a torch pickle describes, without importing or calling anything that it names.

A pickle is a program for a small stack machine. This is that machine without the dangerous half: a name
is one of `_KNOWN`, or is replaced by an inert `StandIn`, or is refused; calls reach only the functions of
this file, and object state is thrown away. So the worst that a hostile file can get is a refusal. Tensors
come out as `StoredTensor`: where the numbers are, not the numbers.
"""

import math
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

# Bytes per element, by torch's own names.
ITEM_SIZE = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "bool": 1, "complex64": 8, "complex128": 16,
}  # fmt: skip

_STORAGE_DTYPE = {
    "torch.DoubleStorage": "float64", "torch.FloatStorage": "float32", "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16", "torch.LongStorage": "int64", "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16", "torch.CharStorage": "int8", "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool", "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": "uint8",
}  # fmt: skip

# Objects that training programs leave beside the weights. None is imported: a StandIn takes its place.
_BYSTANDER_PACKAGES = (
    "pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "transformers.", "diffusers.", "accelerate.",
    "deepspeed.", "easydict.", "yacs.", "addict.", "ml_collections.", "torchmetrics.",
    "pathlib.", "datetime.", "collections.", "numpy.dtypes.", "numpy.random.", "torch.optim.",
)  # fmt: skip
_BYSTANDERS = {
    "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "torch.Size", "torch.device",
    "torch.Tensor", "torch.nn.parameter.Parameter", "torch.torch_version.TorchVersion",
    "torch.serialization._get_layout",
    "argparse.Namespace", "types.SimpleNamespace", "_codecs.encode", "typing.Any", "uuid.UUID", "decimal.Decimal",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__")
      for name in ("dict", "list", "set", "frozenset", "tuple", "int", "float", "str", "bool", "object",
                   "bytearray", "bytes", "complex", "slice", "range", "xrange", "long")),
}  # fmt: skip


MOST_INSTRUCTIONS = 500_000
"""In the pickles of one file: a tensor takes about 30, and SD1 with optimizer and moving averages has 150,000."""


class ForeignName(Exception):  # noqa: N818 - its message is the name
    """The pickle names something that no weights need; nothing was run. The message is that name."""


class BadPickle(Exception):  # noqa: N818
    """The pickle is cut short or makes no sense."""


@dataclass(frozen=True)
class Storage:
    """One run of numbers in the file, by its key there. `count` elements of type `dtype`."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A strided view of a storage; `offset` and `stride` count elements, as torch does."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: Storage


class StandIn:
    """Takes the place of a class or object that is not weights, and does nothing."""

    def __call__(self, *_: object) -> "StandIn":
        """Calling it makes another one, whatever the arguments."""
        return StandIn()


def check_sizes(*groups: object) -> None:
    """Raise ValueError unless each group is a short tuple of whole numbers that torch can count with."""
    for group in groups:
        if not isinstance(group, tuple) or len(group) > 16:
            raise ValueError("a shape is not a short tuple")
        if not all(type(n) is int and 0 <= n < 1 << 48 for n in group):
            raise ValueError("a size is not a number that torch can count with")


def _tensor(storage: object, offset: object, shape: object, stride: object, *rest: object) -> StoredTensor:
    """torch._utils._rebuild_tensor_v2; v3 (float8 and other newer types) has the dtype as argument seven."""
    check_sizes((offset,), shape, stride)
    if not isinstance(storage, Storage):
        raise BadPickle("a tensor without a storage")
    dtype = rest[2] if len(rest) > 2 and isinstance(rest[2], str) else storage.dtype
    item, held = ITEM_SIZE[dtype], storage.count * ITEM_SIZE[storage.dtype]
    tensor = StoredTensor(dtype, shape, stride, offset, storage)  # type: ignore[arg-type] - checked above
    count = math.prod(tensor.shape)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True))
    # The first test refuses a view that repeats few numbers without end, a small file that fills memory.
    if count * item > held or (count and (last + 1) * item > held):
        raise BadPickle("a tensor is larger than its storage")
    return tensor


def _parameter(data: object, *_: object) -> object:
    return data


def _from_type(function: object, _type: object, args: object, *_: object) -> object:
    """torch._tensor._rebuild_from_type_v2: a tensor with attributes, by the function that would make it without."""
    return function(*args)  # type: ignore[operator,misc] - only this file's functions can be called


def _ordered_dict(*_: object) -> dict[str, object]:
    return {}


_KNOWN: dict[str, str | Callable[..., object]] = {
    **_STORAGE_DTYPE,
    **{f"torch.{name}": name for name in ITEM_SIZE},
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "collections.OrderedDict": _ordered_dict,
    "torch.nn.modules.container.ParameterDict": _ordered_dict,
}


def _lookup(name: str) -> object:
    if name in _KNOWN:
        return _KNOWN[name]
    if name in _BYSTANDERS or name.startswith(_BYSTANDER_PACKAGES):
        return StandIn()
    raise ForeignName(name)


def _storage(reference: object) -> Storage:
    """The tuple that torch writes for a storage: ('storage', type, key, device, count[, view])."""
    match reference:
        case ("storage", str(dtype), str(key), str(), int(count), *view) if view in ([], [None]):
            check_sizes((count,))
            if dtype in ITEM_SIZE:
                return Storage(key, dtype, count)
    raise BadPickle("a storage is described wrongly")


def _fill(target: object, pairs: list[object]) -> None:
    # Only names matter here, and text as the only key type keeps hashing safe from nested tuples.
    if isinstance(target, dict):
        target.update((k, v) for k, v in zip(pairs[::2], pairs[1::2], strict=True) if isinstance(k, str))


def _build(target: object, state: object) -> None:
    """Leave out the state of an object, but for what a ParameterDict holds: old embeddings have their vectors there."""
    held = state.get("_parameters") if isinstance(state, dict) else None
    if isinstance(target, dict) and isinstance(held, dict):
        target.update(held)


def unpickled(stream: BinaryIO) -> Iterator[object]:
    """Run the pickles of `stream` one by one, leaving the stream just after each that it yields.

    They are dicts (text keys only), lists, tuples, numbers, text, bytes, `StoredTensor`s and `StandIn`s.
    Raises ForeignName for any other name, BadPickle for a pickle that is cut short or broken, and for more than
    `MOST_INSTRUCTIONS` in all.
    """
    instructions = iter(range(MOST_INSTRUCTIONS))
    while True:
        try:
            value = _run(stream, instructions)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
            raise BadPickle("its list of tensors is cut short or damaged") from error
        yield value


def _run(stream: BinaryIO, instructions: Iterator[int]) -> object:
    stack: list[object] = []
    marks: list[int] = []
    memo: dict[int, object] = {}

    def since_mark() -> list[object]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for (opcode, arg, _), _ in zip(pickletools.genops(stream), instructions):  # noqa: B905 - the shorter one ends it
        match opcode.name:
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]  # type: ignore[index] - genops gives an int here
            case "PUT":
                if not 0 <= int(arg) < 1 << 32:  # type: ignore[arg-type] - larger ones can be made to hash alike
                    raise BadPickle("it counts beyond what it holds")
                memo[int(arg)] = stack[-1]  # type: ignore[arg-type]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[arg])  # type: ignore[index]
            case (
                "BININT1" | "BININT2" | "BININT" | "LONG1" | "BINFLOAT"
                | "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING"
                | "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8" | "BYTEARRAY8" | "BINUNICODE8" | "LONG4"
            ):  # fmt: skip
                stack.append(arg)
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "EMPTY_TUPLE":
                stack.append(())
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "NEWFALSE" | "NEWTRUE":
                stack.append(opcode.name == "NEWTRUE")
            case "NONE":
                stack.append(None)
            case "REDUCE" | "NEWOBJ":
                args = stack.pop()
                stack[-1] = stack[-1](*args)  # type: ignore[operator] - only this file's functions can be called
            case "SETITEMS":
                pairs = since_mark()
                _fill(stack[-1], pairs)
            case "SETITEM":
                pairs = stack[-2:]
                del stack[-2:]
                _fill(stack[-1], pairs)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "APPENDS" | "APPEND":
                items = since_mark() if opcode.name == "APPENDS" else [stack.pop()]
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            case "EMPTY_SET":
                stack.append(StandIn())
            case "FROZENSET":
                since_mark()
                stack.append(StandIn())
            case "NEWOBJ_EX":
                del stack[-2:]
                stack[-1] = StandIn()
            case "POP":
                stack.pop()
            case "POP_MARK":
                since_mark()
            case "ADDITEMS":
                since_mark()
            case "BUILD":
                _build(stack[-2], stack.pop())
            case "GLOBAL":
                stack.append(_lookup(str(arg).replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, name = stack[-2:]
                stack[-2:] = [_lookup(f"{module}.{name}")]
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case other:
                raise BadPickle(f"it uses the pickle instruction {other}, which weights do not need")
    raise BadPickle(f"its list of tensors has more than {MOST_INSTRUCTIONS:,} instructions")
