global using NUnit.Framework;
global using Kernels.Tuning;
