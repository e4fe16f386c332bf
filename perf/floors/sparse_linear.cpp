// What a sparse linear layer of bf16 cannot be faster than on this core, from what its instructions take:
//   g++ -O2 -std=c++20 -march=native perf/floors/sparse_linear.cpp -o build/floors && build/floors 4096 4096
// Times are the best of many runs. A product of m rows and one operand of a panel (16 outputs by 2 of k) takes m
// vdpbf16ps, and its expansion one vpexpandw and half a move of 64 bits to a mask. Values begin anywhere, so nearly
// every load of 64 bytes crosses a line, beside which one of bits takes most of a cycle.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

static double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class F>
double best(int runs, F f) {
  double least = 1e30;
  for (int i = 0; i < runs; i++) {
    const double start = seconds();
    f();
    least = std::min(least, seconds() - start);
  }
  return least;
}

// Four operands: four expansions, two moves to masks and two shifts of them.
#define EXPAND(d, from) "vpxor %%xmm" d ",%%xmm" d ",%%xmm" d "\n vpexpandw " from ",%%zmm" d "%{%%k1%}\n"
#define EXPANSIONS(a, b, c, d)                                                                            \
  "kmovq (%1),%%k3\n kshiftrq $32,%%k3,%%k4\n kmovq 8(%1),%%k5\n kshiftrq $32,%%k5,%%k6\n" EXPAND("1", a) \
      EXPAND("2", b) EXPAND("3", c) EXPAND("4", d)
#define IN_REGISTERS EXPANSIONS("%%zmm0", "%%zmm0", "%%zmm0", "%%zmm0")
#define ACROSS_LINES "vpbroadcastd 16(%1),%%zmm0\n" EXPANSIONS("33(%1)", "97(%1)", "161(%1)", "225(%1)")
#define LOAD(d, from) "vmovdqu64 " from "(%1),%%zmm" d "\n"
#define LOADS LOAD("1", "33") LOAD("2", "97") LOAD("3", "161") LOAD("4", "225")
#define BITS "mov (%1),%%rax\n mov 8(%1),%%rcx\n"
#define DOT(c) "vdpbf16ps %%zmm0,%%zmm0,%%zmm" c "\n"
#define DOTS4(a, b, c, d) DOT(a) DOT(b) DOT(c) DOT(d)
#define DOTS8 DOTS4("5", "6", "7", "8") DOTS4("9", "10", "11", "12")
#define DOTS16 DOTS8 DOTS4("13", "14", "15", "16") DOTS4("17", "18", "19", "20")

constexpr int kTurns = 100000;
alignas(64) static char memory[320];

#define PER_OPERAND(body)                                                                                            \
  (best(40,                                                                                                          \
        [] {                                                                                                         \
          long n = kTurns;                                                                                           \
          asm volatile("kxnorq %%k1,%%k1,%%k1\n .p2align 6\n 1:\n" body " dec %0\n jnz 1b\n"                         \
                       : "+r"(n)                                                                                     \
                       : "r"(memory)                                                                                 \
                       : "k1", "k3", "k4", "k5", "k6", "rax", "rcx", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", \
                         "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",       \
                         "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "cc", "memory");                               \
        }) *                                                                                                         \
   1e9 / kTurns / 4)

int main(int count, char** args) {
  const double n = count > 1 ? atof(args[1]) : 4096, k = count > 2 ? atof(args[2]) : 4096, operands = n * k / 32;
  const double expand = PER_OPERAND(IN_REGISTERS), dots4 = PER_OPERAND(DOTS16), dots8 = 2 * dots4;
  printf("ns per operand: expansion %.3f, 4 products %.3f, 8 products %.3f; load across lines %.3f, with bits %.3f\n",
         expand, dots4, dots8, PER_OPERAND(LOADS), PER_OPERAND(LOADS BITS));
  printf("[%.0f,%.0f], us with 1 thread: expansion %.0f, products m 4 %.0f, m 8 %.0f\n", n, k, operands * expand * 1e-3,
         operands * dots4 * 1e-3, operands * dots8 * 1e-3);
#define TOGETHER(name, expansions)                                            \
  printf("  together, " name ": m 1 %.0f, 4 %.0f, 8 %.0f\n",                  \
         operands * 1e-3 * PER_OPERAND(expansions DOTS4("5", "6", "7", "8")), \
         operands * 1e-3 * PER_OPERAND(expansions DOTS16), operands * 1e-3 * PER_OPERAND(expansions DOTS16 DOTS16))
  TOGETHER("values in registers", IN_REGISTERS);
  TOGETHER("values across lines", ACROSS_LINES);
  TOGETHER("and bits for counts", ACROSS_LINES BITS);
}
