# Builds the native library and the .NET projects, and runs them. build.sh holds the same lines for Linux.
#   ./build.ps1                build
#   ./build.ps1 test           build and run all tests
#   ./build.ps1 tune [ARGS]    autotune flat GEMM for a model on this machine (perf tune; --model, --budget, ...)
#   ./build.ps1 bench [ARGS]   perf bench
#   ./build.ps1 perf -- ARGS   any other verb of the perf CLI
#   ./build.ps1 pack           NuGet packages into artifacts/
$ErrorActionPreference = 'Stop'
Set-Location $PSScriptRoot
$verb = if ($args.Count -gt 0) { $args[0] } else { 'build' }
$rest = @($args | Select-Object -Skip 1 | ForEach-Object { $_ -join ',' })  # --m 1,4,16 comes as a list

function Missing($sentence) { [Console]::Error.WriteLine("build.ps1: $sentence"); exit 3 }
function Need($command, $remedy) {
  if (-not (Get-Command $command -ErrorAction SilentlyContinue)) { Missing "$command is missing: $remedy" }
}
if ($env:OS -ne 'Windows_NT') { Missing 'this script is for Windows: ./build.sh' }
Need cmake 'winget install Kitware.CMake'
Need dotnet 'winget install Microsoft.DotNet.SDK.10'
if (-not (dotnet --list-sdks | Select-String '^10\.')) { Missing 'the .NET 10 SDK is missing: winget install Microsoft.DotNet.SDK.10' }
# CMake's toolset ClangCL is two components of Visual Studio or its Build Tools.
$clang = 'Microsoft.VisualStudio.Component.VC.Llvm.Clang', 'Microsoft.VisualStudio.Component.VC.Llvm.ClangToolset'
$vswhere = "${env:ProgramFiles(x86)}\Microsoft Visual Studio\Installer\vswhere.exe"
if (-not (Test-Path $vswhere) -or -not (& $vswhere -products '*' -requires $clang -property installationPath)) {
  Missing "clang-cl is missing: winget install Microsoft.VisualStudio.2022.BuildTools --override `"--passive --add Microsoft.VisualStudio.Workload.VCTools --add $($clang -join ' --add ') --includeRecommended`""
}

function Run { & $args[0] @($args | Select-Object -Skip 1 | ForEach-Object { $_ }); if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE } }
function Native {
  # The kernels want clang-cl: MSVC's own compiler has no AMX and fewer AVX-512 builtins.
  Run cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -T ClangCL
  Run cmake --build build --config Release --parallel
}
function Managed { Run dotnet build Kernels.sln -c Release --nologo -v quiet }
function Perf { & dotnet perf/bin/Release/net10.0/perf.dll @args; if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE } }

switch ($verb) {
  'build' { Native; Managed }
  'test' { Native; Managed; & dotnet test tests/Kernels.Tests.csproj -c Release --no-build --nologo @rest; exit $LASTEXITCODE }
  'tune' { Native; Managed; if ($rest.Count -eq 0) { $rest = '--model', 'llama-3.1-8b', '--budget', '300' }; Perf tune flat_gemm @rest }
  'bench' { Native; Managed; Perf bench @rest }
  'perf' { if ($rest.Count -gt 0 -and $rest[0] -eq '--') { $rest = @($rest | Select-Object -Skip 1) }; Native; Managed; Perf @rest }
  'pack' { Native; Managed; Run dotnet pack Kernels.sln -c Release --no-build --nologo -o artifacts }
  default { Get-Content $PSCommandPath -TotalCount 7 | Select-Object -Skip 1 | ForEach-Object { $_.Substring(2) }; exit 2 }
}
