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
      text: { color: of("--ink-2") },
      title: { color: of("--ink") },
      axis: { domainColor: of("--line"), tickColor: of("--line"), gridColor: of("--line-soft"), labelColor: of("--ink-2"), titleColor: of("--ink-2"), titleFontWeight: "normal", titlePadding: 8, labelFontSize: 11, titleFontSize: 12 },
      legend: { labelColor: of("--ink-2"), titleColor: of("--ink-2"), titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 11, symbolBaseFillColor: of("--ink-2"), symbolBaseStrokeColor: of("--ink-2"), layout: { bottom: { anchor: "start", direction: "vertical" } } },
    };
  };

  // The reader points at a mark or clicks in the legend: its attack stands out, the others step back.
  const focus = (spec) => {
    let named = false;
    for (const panel of spec.concat ?? [spec]) {
      for (const part of panel.layer ?? [panel]) {
        const kind = part.mark?.type;
        if (part.encoding?.color?.field !== "attack" || !["line", "point", "rule"].includes(kind)) continue;
        const usual = part.mark.opacity ?? 1;
        part.encoding.opacity = { condition: { param: "focus", value: usual }, value: 0.1 };
        if (kind === "rule" || named) continue;
        part.params = [{ name: "focus", select: { type: "point", fields: ["attack"], on: "click", clear: "dblclick" }, bind: "legend" }];
        named = true;
      }
    }
  };

  // The figure as a file, on the colour of the card that it stands on.
  const offer = (figure, name, view) => {
    figure.querySelector(".chart-files")?.remove();
    const line = document.createElement("p");
    line.className = "chart-files script-only";
    for (const kind of ["svg", "png"]) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.textContent = kind.toUpperCase();
      button.setAttribute("aria-label", `Save this figure as ${kind.toUpperCase()}`);
      button.addEventListener("click", async () => {
        const usual = view.background();
        view.background(getComputedStyle(figure).backgroundColor);
        await view.runAsync();
        const link = document.createElement("a");
        link.download = `${name}.${kind}`;
        link.href = kind === "png"
          ? await view.toImageURL("png", 2)
          : URL.createObjectURL(new Blob([await view.toSVG()], { type: "image/svg+xml" }));
        link.click();
        if (kind === "svg") setTimeout(() => URL.revokeObjectURL(link.href), 10000);
        view.background(usual);
        await view.runAsync();
      });
      line.append(button);
    }
    figure.querySelector("figcaption").before(line);
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
    if (spec.concat) spec.columns = Math.max(1, Math.floor(place.clientWidth / 330));
    else if (place.clientWidth < 520) narrow(spec);
    focus(spec);
    try {
      views.get(place)?.finalize();
      const result = await vegaEmbed(place, spec, {
        mode: "vega-lite", ast: true, actions: false, renderer: "svg", defaultStyle: false,
        tooltip: { disableDefaultStyle: true }, config: colours(), logLevel: 0,
      });
      views.set(place, result);
      figure.classList.add("drawn");
      offer(figure, place.dataset.chart, result.view);
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
