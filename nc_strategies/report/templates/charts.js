"use strict";
// Drawing of Vega-Lite specifications with the colours and fonts of the page, in light and dark mode.
const pageCharts = (() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 640px)");

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const coloured = (value) => {
    if (typeof value === "string") {
      const found = /^var\((--[\w-]+)\)$/.exec(value);
      return found ? colour(found[1]) : value;
    }
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner)]));
    }
    return value;
  };

  const theme = () => {
    const ink = colour("--ink"), soft = colour("--soft"), line = colour("--line");
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent", font, view: { stroke: null },
      axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line,
        labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500, titlePadding: 10, gridOpacity: 0.7 },
      axisX: { tickCount: narrow.matches ? 4 : 10, labelOverlap: "greedy" },
      legend: { orient: "top", labelColor: ink, labelFontSize: 12, symbolSize: 90, columns: narrow.matches ? 1 : 4,
        labelLimit: 260 },
      text: { fontSize: 12 },
    };
  };

  const views = new Map();
  const draw = async (place, spec, { tooltip = {}, ...options } = {}) => {
    if (views.has(place)) views.get(place).finalize();
    const made = await vegaEmbed(place, coloured(spec), {
      renderer: "svg", actions: false, ast: true, config: theme(),
      tooltip: { theme: dark.matches ? "dark" : "light", ...tooltip }, ...options,
    });
    views.set(place, made);
    const svg = place.querySelector("svg");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", spec.description);
    svg.querySelectorAll("[aria-roledescription],[role],[aria-label]").forEach((part) => {
      for (const name of ["aria-roledescription", "role", "aria-label"]) part.removeAttribute(name);
    });
    place.dataset.drawn = "true";
    return made.view;
  };

  return { draw, dark, narrow };
})();
