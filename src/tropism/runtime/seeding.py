"""Random numbers from counters: the same (seed, sequence, position) gives the same number, whatever the batch order.

Nothing here has a state that must be saved: a replayed step asks for the same counters and gets the same bits, in numpy
and in torch alike. The hash is SplitMix64's finaliser (Steele, Lea, Flood: "Fast splittable pseudorandom number
generators", OOPSLA 2014), applied once per counter word.

Left out: normal deviates and other distributions (transform ``uniform``), and anything cryptographic.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def derive(seed: int, *names: str | int) -> int:
    """A seed for a named part of the work: 63 bits of SHA-256 over ``seed`` and ``names``, in [0, 2**63).

    63 bits, so that it fits SQLite's integers, int64 tensors and ``torch.Generator.manual_seed``. ``derive(s, "a", 1)``
    and ``derive(s, "a", "1")`` differ, and so do ``("ab",)`` and ``("a", "b")``.
    """
    key = repr((int(seed), *(int(n) if isinstance(n, int) else str(n) for n in names)))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


@overload
def uniform(seed: int, sequence_ids: torch.Tensor, positions: torch.Tensor | int) -> torch.Tensor: ...
@overload
def uniform(seed: int, sequence_ids: NDArray[Any] | int, positions: NDArray[Any] | int) -> NDArray[np.float64]: ...
def uniform(seed: int, sequence_ids: Any, positions: Any) -> Any:
    """Numbers in the open interval (0, 1), a pure function of (seed, sequence id, position).

    ``sequence_ids`` and ``positions`` are integers in [-2**63, 2**63), of shapes that broadcast ([N] and [N], or [N, 1]
    and [L]). Returns float64 of the broadcast shape, 52 random bits each: a tensor on the same device if
    ``sequence_ids`` is a tensor, else an array. Both give identical bits.
    """
    if type(sequence_ids).__module__.partition(".")[0] == "torch":
        return _uniform_torch(seed, sequence_ids, positions)
    bits = _hash(_hash(np.uint64(_mix_int(seed)), sequence_ids), positions)
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of ``range(n)`` (int64 ``[n]``) for one epoch: the order of data without a cursor's generator."""
    bits = _hash(np.uint64(_mix_int(derive(seed, "permutation", epoch))), np.arange(n, dtype=np.int64))
    return np.argsort(bits, kind="stable")


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A fresh CPU ``torch.Generator`` seeded with ``derive(seed, *names)``, for initialisers that want one."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def _mix_int(value: int) -> int:
    """SplitMix64's finaliser on one Python integer (mod 2**64)."""
    z = (value + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def _hash(key: Any, word: ArrayLike) -> NDArray[np.uint64]:
    """finalise(key XOR finalise(word)): both mixed first, so that neighbouring counters share no pattern."""
    return _mix(np.asarray(key, dtype=np.uint64) ^ _mix(np.asarray(word).astype(np.int64).view(np.uint64)))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # wrapping is the arithmetic meant here; numpy warns of it on scalars only
        z = values + np.uint64(_GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
        return z ^ (z >> np.uint64(31))


def _uniform_torch(seed: int, sequence_ids: torch.Tensor, positions: torch.Tensor | int) -> torch.Tensor:
    import torch

    device = sequence_ids.device
    key = torch.tensor(_signed(_mix_int(seed)), dtype=torch.int64, device=device)
    words = sequence_ids.to(torch.int64), torch.as_tensor(positions, dtype=torch.int64, device=device)
    bits = _mix_torch(_mix_torch(key ^ _mix_torch(words[0])) ^ _mix_torch(words[1]))
    return (_shift(bits, 12).to(torch.float64) + 0.5) * 2.0**-52


def _mix_torch(values: torch.Tensor) -> torch.Tensor:
    """``_mix`` in int64, whose products wrap as uint64's do; torch has no full uint64 arithmetic."""
    z = values + _signed(_GOLDEN)
    z = (z ^ _shift(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(_MIX_2)
    return z ^ _shift(z, 31)


def _shift(values: torch.Tensor, by: int) -> torch.Tensor:
    """Logical right shift: int64's is arithmetic, so the copied sign bits are cleared."""
    return (values >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
