"""PyTorch as a peer of perf compare: times the calls of a shape that perf asks for, as perf times its own.

A line of JSON on standard input, an answer on standard output:
  {"op": "flat_gemm", "device": "cuda:0", "dtype": "bf16", "copies": 3, "graph": true, "threads": 0, "m": .., "n": .., "k": ..}
  {"op": "decode_attention", .., "batch": .., "kv_heads": .., "rows": .., "head_dim": .., "v_head_dim": .., "kv_len": ..,
   "scale": .., "head_major": false}
      -> {"name": "PyTorch 2.5.1 matmul"} or {"refused": "a sentence"}; the shape before is given back
  {"op": "sample"} -> {"seconds": of one call}
Weights and caches are as many copies as perf asks for, so that a call finds its own cold. On a GPU by events, around replays of a
graph of whole rounds over the copies or around launches as they come from the host; on the CPU by the clock.
"""
import json
import math
import os
import sys
import time

LEAST_SECONDS = 200e-6  # an event is good for half a microsecond
MOST_IN_GRAPH = 4096
LEAST_REPLAYS = 2


def linear(torch, p, dtype):
    x = torch.randn(p["m"], p["k"], device=p["device"]).to(dtype)
    y = torch.empty(p["m"], p["n"], device=p["device"], dtype=dtype)
    ws = [torch.randn(p["n"], p["k"], device=p["device"]).to(dtype).t() for _ in range(p["copies"])]
    return "matmul", lambda copy: torch.matmul(x, ws[copy], out=y)


def attention(torch, p, dtype):
    """The query rows of a kv head as its queries: each key is read once, and none is masked."""

    def cache(dim):
        shape = (p["kv_heads"], p["kv_len"]) if p["head_major"] else (p["kv_len"], p["kv_heads"])
        at = torch.randn(p["batch"], *shape, dim, device=p["device"]).to(dtype)
        return at if p["head_major"] else at.transpose(1, 2)

    q = torch.randn(p["batch"], p["kv_heads"], p["rows"], p["head_dim"], device=p["device"]).to(dtype)
    kvs = [(cache(p["head_dim"]), cache(p["v_head_dim"])) for _ in range(p["copies"])]
    fused = torch.nn.functional.scaled_dot_product_attention
    return "scaled_dot_product_attention", lambda copy: fused(q, *kvs[copy], scale=p["scale"])


class Shape:
    """One shape: its calls, each on the next of the copies, and their time."""

    def __init__(self, torch, p):
        self.torch, self.copies, self.next = torch, p["copies"], 0
        self.cuda = torch.device(p["device"]).type == "cuda"
        if self.cuda:
            torch.cuda.set_device(torch.device(p["device"]))
            self.stream = torch.cuda.Stream()
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        elif p["threads"] > 0:
            torch.set_num_threads(p["threads"])
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[p["dtype"]]
        what, self.call = {"flat_gemm": linear, "decode_attention": attention}[p["op"]](torch, p, dtype)
        self.name = f"PyTorch {torch.__version__} {what}"
        if self.cuda:
            torch.cuda.synchronize()  # what was made on the default stream
        for copy in range(self.copies):
            self.on_stream(lambda: self.call(copy))
        self.last = self.between(self.one)
        self.graph, self.calls = None, 1
        if self.cuda and p["graph"]:
            rounds = max(1, min(self.times(self.copies) // LEAST_REPLAYS, MOST_IN_GRAPH // self.copies))
            self.graph, self.calls = torch.cuda.CUDAGraph(), rounds * self.copies
            with torch.cuda.graph(self.graph, stream=self.stream):
                for i in range(self.calls):
                    self.call(i % self.copies)

    def one(self):
        self.call(self.next)
        self.next = (self.next + 1) % self.copies

    def times(self, calls):
        return max(1, min(1000, math.ceil(LEAST_SECONDS / max(self.last * calls, 1e-9))))

    def on_stream(self, run):
        if not self.cuda:
            return run()
        with self.torch.cuda.stream(self.stream):
            return run()

    def between(self, run):
        if not self.cuda:
            start = time.perf_counter()
            run()
            return max(time.perf_counter() - start, 1e-9)
        start, end = self.events
        start.record(self.stream)
        self.on_stream(run)
        end.record(self.stream)
        end.synchronize()
        return max(start.elapsed_time(end) / 1e3, 1e-9)

    def sample(self):
        """Those of one reading follow others of the same kind, so that the device does not wait for the host at its start."""
        run = self.graph.replay if self.graph else self.one
        count = max(LEAST_REPLAYS if self.graph else 1, self.times(self.calls))

        def many():
            for _ in range(count):
                run()

        self.on_stream(run)
        self.last = self.between(many) / count / self.calls
        return self.last


def main():
    # Libraries below PyTorch print as well: theirs goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer):
        print(json.dumps(answer), file=answers, flush=True)

    try:
        import torch
    except Exception as e:  # absent, or an installation that does not load
        return say({"refused": f"PyTorch is missing: {sys.executable}: {e}"})
    say({"name": f"PyTorch {torch.__version__}"})
    shape = None
    with torch.no_grad():
        for line in sys.stdin:
            p = json.loads(line)
            try:
                if p["op"] == "sample":
                    answer = {"seconds": shape.sample()}
                else:
                    shape = None  # its memory goes first
                    shape = Shape(torch, p)
                    answer = {"name": shape.name}
            except (RuntimeError, TypeError, AttributeError, AssertionError) as e:
                answer = {"refused": f"PyTorch {torch.__version__}: {str(e).splitlines()[0] if str(e) else type(e).__name__}"}
            say(answer)


if __name__ == "__main__":
    main()
