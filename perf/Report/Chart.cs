using System.Globalization;
using System.Net;
using System.Text;

namespace Kernels.Perf;

/// <summary>A point with the interval that its y lies in.</summary>
internal readonly record struct ChartPoint(double X, double Y, double Low, double High);

/// <summary>A named line or cloud of a chart.</summary>
internal sealed record Series(string Name, IReadOnlyList<ChartPoint> Points, bool Line = true, bool Roof = false);

/// <summary>A place on the x axis where something changes, and the stretch in which that place may lie.</summary>
internal sealed record ChartMark(double At, double From, string Label);

/// <summary>An SVG chart on two logarithmic axes. Colours come from the page's style, so that one drawing serves light and dark.</summary>
internal sealed class Chart(string xTitle, string yTitle)
{
    private const double Width = 640, Height = 360, Left = 64, Right = 16, Top = 14, Bottom = 44;
    public const int Colours = 8;

    private readonly StringBuilder _svg = new();
    private double _x0, _x1, _y0, _y1;

    public string Draw(IReadOnlyList<Series> series, IReadOnlyList<ChartMark> marks)
    {
        ChartPoint[] all = [.. series.SelectMany(s => s.Points).Where(p => p.X > 0 && p.Y > 0)];
        if (all.Length == 0) return "<p class=\"none\">no points</p>";
        (_x0, _x1) = Range(all.Select(p => p.X));
        (_y0, _y1) = Range(all.SelectMany(p => new[] { p.Low, p.High }).Where(v => v > 0));
        string label = Text($"{yTitle} against {xTitle}");
        _svg.Append(CultureInfo.InvariantCulture, $"<svg viewBox=\"0 0 {Width} {Height}\" role=\"img\" aria-label=\"{label}\">");
        Axes();
        foreach (ChartMark mark in marks) Mark(mark);
        int colour = 0;
        foreach (Series s in series) Draw(s, s.Roof ? "roof" : $"c{colour++ % Colours}");
        _svg.Append("</svg>");
        Legend(series);
        return _svg.ToString();
    }

    private static (double, double) Range(IEnumerable<double> values)
    {
        double low = Math.Log10(values.Min()), high = Math.Log10(values.Max());
        double room = Math.Max(0.04 * (high - low), 0.08);
        return (low - room, high + room);
    }

    private double X(double value) => Left + (Math.Log10(value) - _x0) / (_x1 - _x0) * (Width - Left - Right);

    private double Y(double value) => Height - Bottom - (Math.Log10(value) - _y0) / (_y1 - _y0) * (Height - Top - Bottom);

    private void Axes()
    {
        foreach (double t in Ticks(_x0, _x1, 2))
            _svg.Append(CultureInfo.InvariantCulture, $"<line class=\"grid\" x1=\"{X(t):0.#}\" x2=\"{X(t):0.#}\" y1=\"{Top}\" y2=\"{Height - Bottom}\"/><text x=\"{X(t):0.#}\" y=\"{Height - Bottom + 16}\" class=\"mid\">{Tick(t)}</text>");
        foreach (double t in Ticks(_y0, _y1, 10))
            _svg.Append(CultureInfo.InvariantCulture, $"<line class=\"grid\" x1=\"{Left}\" x2=\"{Width - Right}\" y1=\"{Y(t):0.#}\" y2=\"{Y(t):0.#}\"/><text x=\"{Left - 6}\" y=\"{Y(t) + 4:0.#}\" class=\"end\">{Tick(t)}</text>");
        _svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{(Left + Width - Right) / 2}\" y=\"{Height - 6}\" class=\"mid\">{Text(xTitle)}</text>");
        _svg.Append(CultureInfo.InvariantCulture, $"<text transform=\"translate(14 {(Top + Height - Bottom) / 2}) rotate(-90)\" class=\"mid\">{Text(yTitle)}</text>");
    }

    /// <summary>Powers of the base, thinned to ten; of few decades also twice and five times each.</summary>
    private static List<double> Ticks(double low, double high, int number)
    {
        var ticks = new List<double>();
        double step = Math.Log10(number);
        int every = Math.Max(1, (int)Math.Ceiling((high - low) / step / 10));
        for (int i = (int)Math.Ceiling(low / step); i * step <= high; i++)
            if (i % every == 0) ticks.Add(Math.Pow(number, i));
        if (number != 10 || ticks.Count > 3) return ticks;
        for (int i = (int)Math.Floor(low); i <= high; i++)
            foreach (int f in (ReadOnlySpan<int>)[2, 5])
                if (Math.Log10(f) + i is var at && at >= low && at <= high) ticks.Add(f * Math.Pow(10, i));
        return ticks;
    }

    private static string Tick(double value) =>
        value >= 1e6 ? value.ToString("0.#e+0", CultureInfo.InvariantCulture) : value.ToString("0.####", CultureInfo.InvariantCulture);

    private void Mark(ChartMark m)
    {
        double from = X(Math.Max(m.From, Math.Pow(10, _x0))), at = X(m.At);
        if (from < at) _svg.Append(CultureInfo.InvariantCulture, $"<rect class=\"unsure\" x=\"{from:0.#}\" y=\"{Top}\" width=\"{at - from:0.#}\" height=\"{Height - Top - Bottom}\"/>");
        _svg.Append(CultureInfo.InvariantCulture, $"<line class=\"mark\" x1=\"{at:0.#}\" x2=\"{at:0.#}\" y1=\"{Top}\" y2=\"{Height - Bottom}\"><title>{Text(m.Label)}</title></line>");
        _svg.Append(CultureInfo.InvariantCulture, $"<text x=\"{at + 3:0.#}\" y=\"{Top + 10}\" class=\"label\">{Text(m.Label)}</text>");
    }

    private void Draw(Series s, string colour)
    {
        ChartPoint[] points = [.. s.Points.Where(p => p.X > 0 && p.Y > 0 && p.Low > 0).OrderBy(p => p.X)];
        if (points.Length == 0) return;
        if (s.Line && points.Length > 1)
        {
            if (!s.Roof) _svg.Append($"<polygon class=\"band {colour}\" points=\"{Path(points, p => p.High)} {Path([.. points.Reverse()], p => p.Low)}\"/>");
            _svg.Append($"<polyline class=\"line {colour}\" points=\"{Path(points, p => p.Y)}\"/>");
        }
        if (s.Roof) return;
        foreach (ChartPoint p in points)
        {
            string title = Text(string.Create(CultureInfo.InvariantCulture, $"{s.Name}: {Tick(p.X)}, {Format.Number(p.Y)} ({Format.Number(p.Low)} to {Format.Number(p.High)})"));
            if (!s.Line || points.Length == 1)
                _svg.Append(CultureInfo.InvariantCulture, $"<line class=\"line {colour}\" x1=\"{X(p.X):0.#}\" x2=\"{X(p.X):0.#}\" y1=\"{Y(p.Low):0.#}\" y2=\"{Y(p.High):0.#}\"/>");
            _svg.Append(CultureInfo.InvariantCulture, $"<circle class=\"dot {colour}\" cx=\"{X(p.X):0.#}\" cy=\"{Y(p.Y):0.#}\" r=\"3\"><title>{title}</title></circle>");
        }
    }

    private string Path(ChartPoint[] points, Func<ChartPoint, double> y) =>
        string.Join(' ', points.Select(p => string.Create(CultureInfo.InvariantCulture, $"{X(p.X):0.#},{Y(y(p)):0.#}")));

    private void Legend(IReadOnlyList<Series> series)
    {
        _svg.Append("<p class=\"legend\">");
        int colour = 0;
        foreach (Series s in series)
            _svg.Append($"<span><i class=\"{(s.Roof ? "roof" : $"c{colour++ % Colours}")}\"></i>{Text(s.Name)}</span>");
        _svg.Append("</p>");
    }

    public static string Text(string text) => WebUtility.HtmlEncode(text);
}
