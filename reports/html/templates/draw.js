// Draws the charts from the data blocks. A chart that cannot be drawn leaves its still picture in place.
(() => {
  const page = document.documentElement;
  const views = new Map();

  const colours = () => {
    const style = getComputedStyle(page);
    const of = (name) => style.getPropertyValue(name).trim();
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent",
      font,
      view: { stroke: of("--line") },
      axis: { domainColor: of("--line"), tickColor: of("--line"), gridColor: of("--line-soft"), labelColor: of("--ink-2"), titleColor: of("--ink-2"), titleFontWeight: "normal", titlePadding: 8, labelFontSize: 11, titleFontSize: 12 },
      legend: { labelColor: of("--ink-2"), titleColor: of("--ink-2"), titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 11, symbolBaseFillColor: of("--ink-2"), symbolBaseStrokeColor: of("--ink-2"), layout: { bottom: { anchor: "start", direction: "vertical" } } },
    };
  };

  // On a phone the legend takes two columns, and the room that it needs is added to the height.
  const narrow = (spec) => {
    spec.height = Math.round(spec.height * 1.15);
    for (const layer of spec.layer ?? [spec]) {
      for (const channel of Object.values(layer.encoding ?? {})) {
        if (channel.legend) channel.legend = { ...channel.legend, columns: 2, labelLimit: 110 };
      }
    }
  };

  const draw = async (place) => {
    const block = document.getElementById(place.dataset.chart);
    const figure = place.closest("figure");
    const spec = JSON.parse(block.textContent);
    spec.config = {};
    if (place.clientWidth < 520) narrow(spec);
    try {
      views.get(place)?.finalize();
      const result = await vegaEmbed(place, spec, {
        mode: "vega-lite", ast: true, actions: false, renderer: "svg", defaultStyle: false,
        tooltip: { disableDefaultStyle: true }, config: colours(), logLevel: 0,
      });
      views.set(place, result);
      figure.classList.add("drawn");
    } catch (error) {
      figure.classList.remove("drawn");
      figure.classList.add("undrawn");
    }
  };

  const drawAll = () => { for (const place of document.querySelectorAll("[data-chart]")) draw(place); };

  if (typeof vegaEmbed !== "function") {
    page.classList.add("no-charts");
    return;
  }
  drawAll();
  document.addEventListener("gatebench-theme", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
