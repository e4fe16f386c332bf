"""As much of PyTorch as perf/torch_peer.py calls, without arithmetic: shapes and types are checked, and on its "cuda" each product takes 10 microseconds."""
import contextlib
import os
import types

__version__ = "9.9.stub"
float32, bfloat16, float16 = "float32", "bfloat16", "float16"
os.write(1, b"what a library below prints\n")
_now, _capturing, _threads = [0], [], []


class Tensor:
    def __init__(self, shape, device, dtype):
        self.shape, self.device, self.dtype = tuple(shape), device, dtype

    def to(self, dtype):
        return Tensor(self.shape, self.device, dtype)

    def transpose(self, a, b):
        shape = list(self.shape)
        shape[a], shape[b] = shape[b], shape[a]
        return Tensor(shape, self.device, self.dtype)

    def t(self):
        return self.transpose(0, 1)


def randn(*shape, device):
    return Tensor(shape, device, float32)


def empty(*shape, device, dtype):
    return Tensor(shape, device, dtype)


def device(name):
    return types.SimpleNamespace(type=name.split(":")[0])


def _work(*tensors):
    if len({(t.device, t.dtype) for t in tensors}) != 1:
        raise RuntimeError("operands of several devices or types")
    if _capturing:
        _capturing[-1].calls += 1
    else:
        _now[0] += 10


def matmul(x, w, out):
    if x.shape[1] != w.shape[0] or out.shape != (x.shape[0], w.shape[1]):
        raise RuntimeError(f"shapes {x.shape} {w.shape} {out.shape}")
    if x.shape[1] == 48:
        raise RuntimeError("out of memory\nand more")
    _work(x, w, out)


def _attention(q, k, v, scale):
    if q.shape[:2] != k.shape[:2] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3] or not scale > 0:
        raise RuntimeError(f"shapes {q.shape} {k.shape} {v.shape}")
    _work(q, k, v)


nn = types.SimpleNamespace(functional=types.SimpleNamespace(scaled_dot_product_attention=_attention))
set_num_threads = _threads.append
no_grad = contextlib.nullcontext


class _Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream):
        self.at = _now[0]

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return (end.at - self.at) / 1e3


class _Graph:
    calls = 0

    def replay(self):
        _now[0] += 10 * self.calls


@contextlib.contextmanager
def _capture(graph, stream):
    _capturing.append(graph)
    yield
    _capturing.pop()


cuda = types.SimpleNamespace(
    Stream=object, Event=_Event, CUDAGraph=_Graph, graph=_capture, stream=contextlib.nullcontext, set_device=lambda d: None, synchronize=lambda: None
)
