(() => {
  "use strict";
  const plots = [...document.querySelectorAll(".plot")];
  const paint = (plot) => {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const change = {
      "font.color": color("--ink"), "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
    };
    for (const key of Object.keys(plot._fullLayout)) {
      if (/^[xy]axis\d*$/.test(key)) {
        for (const part of ["gridcolor", "zerolinecolor", "linecolor"]) change[`${key}.${part}`] = color("--line");
      }
    }
    return Plotly.relayout(plot, change);
  };
  for (const plot of plots) {
    const figure = JSON.parse(plot.nextElementSibling.textContent);
    if (innerWidth < 560) Object.assign(figure.layout.margin ??= {}, { l: 45, r: 10 });
    Plotly.newPlot(plot, figure.data, figure.layout, { displaylogo: false, displayModeBar: false })
      .then(() => paint(plot))
      .then(() => new ResizeObserver(() => Plotly.Plots.resize(plot)).observe(plot));
  }
  const repaint = () => plots.forEach(paint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
})();
