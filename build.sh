#!/usr/bin/env bash
# Builds the native library and the .NET projects, and runs them. build.ps1 holds the same lines for Windows.
#   ./build.sh                build
#   ./build.sh test           build and run all tests
#   ./build.sh tune [ARGS]    autotune flat GEMM for a model on this machine (perf tune; --model, --budget, ...)
#   ./build.sh bench [ARGS]   perf bench
#   ./build.sh perf -- ARGS   any other verb of the perf CLI
#   ./build.sh pack           NuGet packages into artifacts/
set -euo pipefail
cd "$(dirname "$0")"

need() { # need COMMAND "what installs it"
  command -v "$1" >/dev/null 2>&1 || { echo "build.sh: $1 is missing: $2" >&2; exit 3; }
}
need cmake "apt-get install cmake"
need dotnet "curl -fsSL https://dot.net/v1/dotnet-install.sh | bash -s -- --channel 10.0, then put ~/.dotnet on the PATH"
need make "apt-get install make"
if [ -z "${CXX:-}" ]; then command -v c++ >/dev/null 2>&1 || need g++ "apt-get install g++"; fi
dotnet --list-sdks | grep -q '^10\.' || { echo "build.sh: the .NET 10 SDK is missing: curl -fsSL https://dot.net/v1/dotnet-install.sh | bash -s -- --channel 10.0; found: $(dotnet --list-sdks | tr '\n' ' ')" >&2; exit 3; }

native() { # native DIRECTORY CMAKE_ARGS...
  local directory=$1; shift
  cmake -S . -B "$directory" -DCMAKE_BUILD_TYPE=Release "$@" >"$directory.log" 2>&1 || { cat "$directory.log" >&2; exit 1; }
  grep -E '^-- kn_[a-z_]+: ' "$directory.log" || true  # what is left out, and the package that brings it
  cmake --build "$directory" --parallel "$(nproc 2>/dev/null || sysctl -n hw.ncpu)" --config Release >>"$directory.log" 2>&1 \
    || { grep -E 'error|warning' "$directory.log" >&2 || tail -40 "$directory.log" >&2; exit 1; }
}
managed() { dotnet build Kernels.sln -c Release --nologo -v quiet -clp:NoSummary; }
perf() { dotnet perf/bin/Release/net10.0/perf.dll "$@"; }

verb=${1:-build}
[ $# -gt 0 ] && shift
case $verb in
  build) native build; managed ;;
  test) native build; managed; dotnet test tests/Kernels.Tests.csproj -c Release --no-build --nologo "$@" ;;
  tune) native build; managed; [ $# -gt 0 ] || set -- --model llama-3.1-8b --budget 300; perf tune flat_gemm "$@" ;;
  bench) native build; managed; perf bench "$@" ;;
  perf) [ "${1:-}" = -- ] && shift; native build; managed; perf "$@" ;;
  pack) native build; managed; dotnet pack Kernels.sln -c Release --no-build --nologo -o artifacts ;;
  *) sed -n '3,8p' "$0" | cut -c3- >&2; exit 2 ;;
esac
