"""Compiled attention against exact masked softmax and autograd, in every width of vector that this CPU has."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tropism.engine.kernels import build

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="no C compiler")

FLAGS = {"native": ("-march=native",), "plain": ()}
if platform.machine() == "x86_64":
    FLAGS["avx2"] = ("-march=x86-64-v3",)
TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}
# of the largest number: fp32 sums in another order · bf16 rounds the result, and out before the backward reads it
CLOSE = {torch.float32: 4e-6, torch.bfloat16: 8e-3}
LENGTHS = (1, 2, 17, 96, 300)


@pytest.fixture(scope="module", params=FLAGS)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The attention kernels built for one kind of CPU."""
    if request.param == "avx2" and not {"avx2", "fma", "bmi2"} <= set(Path("/proc/cpuinfo").read_text().split()):
        pytest.skip("this CPU has no AVX2")
    compiler, folder = build.find_compiler() or [], tmp_path_factory.mktemp(request.param)
    objects = []
    for name in ("attention", "decode_attention"):
        objects.append(str(folder / f"{name}.o"))
        flags = [*build.COMPILE, *FLAGS[request.param], "-fopenmp", "-Wall", "-Wextra", "-Werror"]
        source = str(build.SOURCES / f"{name}.c")
        subprocess.run([*compiler, *flags, "-c", source, "-o", objects[-1]], check=True, timeout=120)
    # linked as the builder does it: on torch's own threads where torch says which these are
    runtime = build.openmp_runtime()
    if runtime is not None:
        ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
    threads = [] if runtime is not None else ["-fopenmp"]
    library = folder / "attention.so"
    subprocess.run([*compiler, "-shared", *threads, *objects, "-o", str(library), "-lm"], check=True, timeout=120)
    return ctypes.CDLL(str(library))


def call(kernels: ctypes.CDLL, name: str, like: Tensor, arguments: Sequence[int | float | Tensor | None]) -> None:
    """Call a kernel: tensors as pointers, floats as float, ints as int64."""
    given = [
        ctypes.c_void_p(x.data_ptr() if isinstance(x, Tensor) else None)
        if x is None or isinstance(x, Tensor)
        else (ctypes.c_float if isinstance(x, float) else ctypes.c_int64)(x)
        for x in arguments
    ]
    assert getattr(kernels, f"tropism_{name}_{TYPES[like.dtype]}")(*given) == 0


class Case:
    """One packed problem: q, k, v of sequences of the given lengths, cut out of one projection as models do."""

    def __init__(
        self,
        dim: int = 32,
        heads: int = 4,
        kv_heads: int = 2,
        lengths: Sequence[int] = LENGTHS,
        window: int = 0,
        softcap: float = 0.0,
        dtype: torch.dtype = torch.float32,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.lengths, self.window, self.softcap, self.threads = lengths, window, softcap, threads
        self.starts = torch.tensor([0, *lengths]).cumsum(0)
        n = sum(lengths)
        together = torch.randn(n, heads + 2 * kv_heads, dim).to(dtype)
        self.q, self.k, self.v = together.split([heads, kv_heads, kv_heads], 1)
        self.dout = torch.randn(heads, n, dim).to(dtype).transpose(0, 1)
        self.scale = dim**-0.5

    def problem(self) -> list[int | float | Tensor | None]:
        sizes = [len(self.lengths), self.starts, self.q.shape[1], self.k.shape[1], self.q.shape[2]]
        views = [part for x in (self.q, self.k, self.v) for part in (x, x.stride(0), x.stride(1))]
        return [*sizes, self.scale, self.window, self.softcap, self.threads, *views]

    def forward(self, kernels: ctypes.CDLL) -> tuple[Tensor, Tensor]:
        # filled with what may not remain
        out = torch.full(self.q.shape, 777.0, dtype=self.q.dtype)
        lse = torch.full((self.q.shape[1], self.q.shape[0]), 777.0)
        call(kernels, "attention_forward", self.q, [*self.problem(), out, lse])
        return out, lse

    def backward(self, kernels: ctypes.CDLL, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, dv = (torch.full(x.shape, 777.0, dtype=x.dtype) for x in (self.q, self.k, self.v))
        dout = [self.dout, self.dout.stride(0), self.dout.stride(1)]
        call(kernels, "attention_backward", self.q, [*self.problem(), *dout, out, lse, dq, dk, dv])
        return dq, dk, dv

    def all(self, kernels: ctypes.CDLL) -> list[Tensor]:
        """out, lse, dq, dk, dv."""
        out, lse = self.forward(kernels)
        return [out, lse, *self.backward(kernels, out, lse)]

    def exact(self) -> list[Tensor]:
        """The same by a masked softmax in float64 and autograd."""
        q, k, v = (x.detach().double().requires_grad_() for x in (self.q, self.k, self.v))
        outs, sums = [], []
        for a, b in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            out, lse = exact_attention(q[a:b], k[a:b], v[a:b], self.scale, self.window, self.softcap)
            outs.append(out)
            sums.append(lse)
        out = torch.cat(outs)
        out.backward(self.dout.double())
        assert q.grad is not None
        assert k.grad is not None
        assert v.grad is not None
        return [out.detach(), torch.cat(sums, 1).detach(), q.grad, k.grad, v.grad]


def exact_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, window: int, softcap: float
) -> tuple[Tensor, Tensor]:
    """One sequence: q ``[T, H, D]``, k, v ``[S, KV, D]``, the queries being the last T positions of S."""
    group = q.shape[1] // k.shape[1]
    keys, values = (x.transpose(0, 1).repeat_interleave(group, 0) for x in (k, v))
    s = q.transpose(0, 1) @ keys.transpose(1, 2) * scale
    s = softcap * torch.tanh(s / softcap) if softcap else s
    i = torch.arange(k.shape[0])[-q.shape[0] :, None]
    j = torch.arange(k.shape[0])[None]
    hidden = (j > i) | ((i - j >= window) if window else False)
    s = s.masked_fill(hidden, -torch.inf)
    return (s.softmax(-1) @ values).transpose(0, 1), s.logsumexp(-1)


def distance(found: Tensor, exact: Tensor) -> float:
    """Largest difference relative to the largest number, if that is not 0."""
    return float((found.double() - exact).abs().max() / (exact.abs().max() or 1.0))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("dim", [8, 16, 20, 32, 64, 80, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (4, 2), (5, 1)])
def test_forward_and_backward_are_exact(
    kernels: ctypes.CDLL, dtype: torch.dtype, dim: int, heads: int, kv_heads: int
) -> None:
    case = Case(dim, heads, kv_heads, dtype=dtype)
    for name, found, exact in zip(("out", "lse", "dq", "dk", "dv"), case.all(kernels), case.exact(), strict=True):
        assert distance(found, exact) < (4e-6 if name == "lse" else CLOSE[dtype]), name


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("softcap", [0.0, 0.7, 30.0])
@pytest.mark.parametrize("window", [0, 1, 2, 5, 16, 31, 33, 100, 130, 299, 300, 1000])
def test_windows_and_soft_caps(kernels: ctypes.CDLL, window: int, softcap: float, dtype: torch.dtype) -> None:
    case = Case(window=window, softcap=softcap, dtype=dtype)
    for name, found, exact in zip(("out", "lse", "dq", "dk", "dv"), case.all(kernels), case.exact(), strict=True):
        assert distance(found, exact) < (4e-6 if name == "lse" else CLOSE[dtype]), name


def test_every_length_up_to_some_blocks(kernels: ctypes.CDLL) -> None:
    """No length is special: the ends of vectors, of rows of a product, of blocks of queries and of keys."""
    for window in (0, 40):
        case = Case(dim=16, heads=1, kv_heads=1, lengths=range(1, 141), window=window)
        for found, exact in zip(case.all(kernels), case.exact(), strict=True):
            assert distance(found, exact) < CLOSE[torch.float32]


def test_a_long_sequence(kernels: ctypes.CDLL) -> None:
    case = Case(dim=16, heads=2, kv_heads=1, lengths=(2100,))
    for found, exact in zip(case.all(kernels), case.exact(), strict=True):
        assert distance(found, exact) < CLOSE[torch.float32]


@pytest.mark.parametrize("size", [30.0, 1e-4])
def test_peaked_and_flat_scores(kernels: ctypes.CDLL, size: float) -> None:
    """Scores of thousands, where every row is one key, and of almost nothing, under a soft cap too."""
    for softcap in (0.0, 50.0):
        case = Case(lengths=(1, 40, 200), softcap=softcap)
        case.q, case.k = case.q * size, case.k * size
        (out, lse, *gradients), (exact_out, exact_lse, *exact_gradients) = case.all(kernels), case.exact()
        assert distance(lse, exact_lse) < 1e-6
        # a rounding of the score, relative to its size, is what fp32 has
        assert distance(out, exact_out) < max(4e-6, 2e-7 * float(exact_lse.abs().max()))
        for found, exact in zip(gradients, exact_gradients, strict=True):
            assert distance(found, exact) < max(4e-6, 1e-6 * float(exact_lse.abs().max()))


@pytest.mark.parametrize("dtype", TYPES)
def test_the_number_of_threads_changes_no_bit(kernels: ctypes.CDLL, dtype: torch.dtype) -> None:
    one = Case(dtype=dtype, threads=1).all(kernels)
    for threads in (2, 2, 3, 8):
        for a, b in zip(one, Case(dtype=dtype, threads=threads).all(kernels), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sentinel", [torch.nan, torch.inf, 1e9])
def test_a_sentinel_in_one_sequence_changes_nothing_in_another(
    kernels: ctypes.CDLL, sentinel: float, dtype: torch.dtype
) -> None:
    before = Case(dtype=dtype).all(kernels)
    touched = Case(dtype=dtype)
    rows = slice(3, 20)  # the third sequence
    for x in (touched.q, touched.k, touched.v, touched.dout):
        x[rows] = sentinel
    after = touched.all(kernels)
    after[1], before[1] = after[1].T, before[1].T
    others = torch.ones(sum(LENGTHS), dtype=torch.bool)
    others[rows] = False
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[others], b[others])
        assert not torch.equal(a[rows], b[rows])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["q", "k", "v", "dout"])
def test_what_is_not_finite_is_never_hidden(kernels: ctypes.CDLL, where: str, bad: float, dtype: torch.dtype) -> None:
    """One such number makes NaN of its sequence and key head, and of nothing else."""
    case = Case(lengths=(5, 50), dtype=dtype, dim=20)
    heads = slice(2, 4)  # those of key head 1
    getattr(case, where)[30, 1 if where in "kv" else 3, 19] = bad
    out, lse, dq, dk, dv = case.all(kernels)
    if where != "dout":
        assert out[5:, heads].isnan().all()
        assert lse[heads, 5:].isnan().all()
    assert dq[5:, heads].isnan().all()
    assert dk[5:, 1].isnan().all()
    assert dv[5:, 1].isnan().all()
    for x in (out, lse.T, dq):
        assert x[:5].isfinite().all()
        assert x[:, :2].isfinite().all()
    assert dk[:, 0].isfinite().all()


def test_scores_beyond_a_float_are_never_hidden(kernels: ctypes.CDLL) -> None:
    case = Case(lengths=(4, 4))
    case.q[5], case.k[5] = 1e20, 1e20
    out, lse, *gradients = case.all(kernels)
    assert not lse[:, 4:].isfinite().any()
    for x in (out, *gradients):
        assert x[4:].isnan().all()
        assert x[:4].isfinite().all()


def test_nothing_to_do(kernels: ctypes.CDLL) -> None:
    assert Case(lengths=()).forward(kernels)[0].shape == (0, 4, 32)
    empty = Case(lengths=(0, 3, 0))
    assert distance(empty.forward(kernels)[0], empty.exact()[0]) < CLOSE[torch.float32]


def decode(
    kernels: ctypes.CDLL,
    q: Tensor,
    cache: tuple[Tensor, Tensor],
    lengths: Tensor,
    first: Tensor | None = None,
    window: int = 0,
    softcap: float = 0.0,
    threads: int = 1,
    new: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    out = torch.full(q.shape, 777.0, dtype=q.dtype)
    k, v = cache
    added = [x for one in new or () for x in (one, one.stride(0), one.stride(1))] or [None, 0, 0] * 2
    sizes = [q.shape[0], q.shape[1], k.shape[1], q.shape[2], q.shape[2] ** -0.5, window, softcap, threads]
    views = [q, q.stride(0), q.stride(1), k, *k.stride()[:3], v, *v.stride()[:3]]
    call(kernels, "decode_attention", q, [*sizes, lengths, first, *views, *added, out])
    return out


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("dim", [8, 16, 20, 32, 33, 64, 80, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (4, 2), (5, 1)])
def test_decoding_is_exact(kernels: ctypes.CDLL, dtype: torch.dtype, dim: int, heads: int, kv_heads: int) -> None:
    """With every kind of window, rows that begin later in the cache, and NaN in all of the cache that is not theirs."""
    lengths, first = torch.tensor(LENGTHS), torch.tensor([0, 3, 5, 7, 20])
    torch.manual_seed(1)
    k, v = (torch.randn(5, kv_heads, 330, dim).to(dtype) for _ in range(2))
    q = torch.randn(5, heads + 1, dim).to(dtype)[:, 1:]
    for row, (length, begin) in enumerate(zip(lengths.tolist(), first.tolist(), strict=True)):
        for x in (k, v):
            x[row, :, :begin], x[row, :, begin + length :] = torch.nan, torch.nan
    for window, softcap in ((0, 0.0), (5, 0.0), (40, 2.0), (0, 2.0), (1, 0.0)):
        found = decode(kernels, q, (k, v), lengths, first, window, softcap)
        for row, (length, begin) in enumerate(zip(lengths.tolist(), first.tolist(), strict=True)):
            keys, values = (x[row, :, begin : begin + length].transpose(0, 1).double() for x in (k, v))
            exact, _ = exact_attention(q[row : row + 1].double(), keys, values, dim**-0.5, window, softcap)
            assert distance(found[row : row + 1], exact) < CLOSE[dtype]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (20, 5.0)])
def test_decoding_agrees_with_the_forward(
    kernels: ctypes.CDLL, dtype: torch.dtype, window: int, softcap: float
) -> None:
    case = Case(lengths=(60, 35), window=window, softcap=softcap, dtype=dtype)
    out, _ = case.forward(kernels)
    capacity = 64
    k, v = (torch.zeros(2, x.shape[1], capacity, x.shape[2], dtype=dtype) for x in (case.k, case.v))
    for row, (a, b) in enumerate(((0, 60), (60, 95))):
        k[row, :, : b - a], v[row, :, : b - a] = case.k[a:b].transpose(0, 1), case.v[a:b].transpose(0, 1)
    for position in range(35):
        q = case.q[[position, 60 + position]]
        found = decode(kernels, q, (k, v), torch.full((2,), position + 1), None, window, softcap)
        assert distance(found, out[[position, 60 + position]].double()) < CLOSE[dtype]


@pytest.mark.parametrize("dtype", TYPES)
def test_threads_and_other_rows_change_no_bit_of_decoding(kernels: ctypes.CDLL, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    k, v = (torch.randn(40, 4, 300, 32).to(dtype) for _ in range(2))
    q, lengths = torch.randn(40, 8, 32).to(dtype), torch.randint(1, 301, (40,))
    one = decode(kernels, q, (k, v), lengths)
    for threads in (2, 5):
        assert torch.equal(one, decode(kernels, q, (k, v), lengths, threads=threads))
    some = torch.tensor([7, 3, 31])
    assert torch.equal(one[some], decode(kernels, q[some], (k[some], v[some]), lengths[some]))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_decoding_never_hides_what_is_not_finite(
    kernels: ctypes.CDLL, where: str, bad: float, dtype: torch.dtype
) -> None:
    for softcap in (0.0, 5.0):
        torch.manual_seed(3)
        given = {name: torch.randn(2, 2, *size, 32).to(dtype) for name, size in (("q", ()), ("k", (9,)), ("v", (9,)))}
        given[where][(1, 1) if where == "q" else (1, 1, 4)] = bad
        found = decode(kernels, given["q"], (given["k"], given["v"]), torch.tensor([9, 9]), softcap=softcap)
        assert not found[1, 1].isfinite().any()
        assert found[0].isfinite().all()
        assert found[1, 0].isfinite().all()


def test_a_row_without_keys_gets_zeros(kernels: ctypes.CDLL) -> None:
    k = torch.full((2, 1, 4, 32), torch.nan)
    k[1] = 1.0
    found = decode(kernels, torch.ones(2, 2, 32), (k, k), torch.tensor([0, 4]))
    assert (found[0] == 0).all()
    torch.testing.assert_close(found[1], torch.ones(2, 32))


@pytest.mark.parametrize("dtype", TYPES)
def test_decoding_puts_the_new_token_into_the_cache(kernels: ctypes.CDLL, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lengths, first = torch.tensor([3, 1, 9]), torch.tensor([0, 4, 2])
    full = [torch.randn(3, 2, 12, 20).to(dtype) for _ in range(2)]
    q, ends = torch.randn(3, 4, 20).to(dtype), first + lengths - 1
    new = [x[torch.arange(3), :, ends] for x in full]
    holed = [x.clone() for x in full]
    for x in holed:
        x[torch.arange(3), :, ends] = torch.nan
    found = decode(kernels, q, (holed[0], holed[1]), lengths, first, new=(new[0], new[1]))
    assert torch.equal(found, decode(kernels, q, (full[0], full[1]), lengths, first))
    assert all(torch.equal(x, y) for x, y in zip(holed, full, strict=True))


def test_the_builder_has_these_functions() -> None:
    library = build.library()
    if library is None:
        pytest.skip(f"no compiled kernels: {build.why_not()}")
    for name in ("attention_forward", "attention_backward", "decode_attention"):
        for suffix in TYPES.values():
            assert getattr(library, f"tropism_{name}_{suffix}")
