"use strict";
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const points = JSON.parse(document.getElementById("points").textContent);
  const coarse = matchMedia("(pointer: coarse)").matches;
  const names = ["paper", "ink", "quiet", "rule", "raised"];

  // A colour "ink" in a figure is the page's: it changes with light and dark.
  function themed(thing, colours) {
    if (typeof thing === "string") return Object.hasOwn(colours, thing) ? colours[thing] : thing;
    if (Array.isArray(thing)) return thing.map((item) => themed(item, colours));
    if (thing === null || typeof thing !== "object") return thing;
    const out = {};
    for (const [key, value] of Object.entries(thing)) out[key] = /color$/.test(key) || typeof value === "object" ? themed(value, colours) : value;
    return out;
  }

  function axis(given, narrow) {
    const title = given.title ? { title: Object.assign({ font: { size: narrow ? 11 : 13 }, standoff: 8 }, given.title) } : {};
    return Object.assign({ gridcolor: "rule", zerolinecolor: "rule", linecolor: "rule", automargin: true, fixedrange: coarse }, given, title);
  }

  function layout(given, narrow) {
    const out = Object.assign({
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: coarse ? false : "zoom",
      font: { family: "system-ui, sans-serif", size: narrow ? 11 : 13, color: "ink" },
      margin: { l: narrow ? 40 : 60, r: narrow ? 8 : 20, t: 10, b: 45 },
      legend: Object.assign({ orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal", itemsizing: "constant" },
        narrow ? { entrywidthmode: "fraction", entrywidth: 0.48, font: { size: 10 } } : {}),
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "quiet", activecolor: "ink" },
      hoverlabel: { bgcolor: "raised", bordercolor: "rule", font: { color: "ink" } },
    }, given);
    for (const key of Object.keys(out)) if (/^[xy]axis\d*$/.test(key)) out[key] = axis(out[key], narrow);
    return out;
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
    const narrow = innerWidth < 640;
    return Promise.all([...document.querySelectorAll(".chart")].map((place) => {
      const named = figures[place.dataset.figure].data.filter((trace) => trace.name && trace.showlegend !== false).length;
      place.style.height = parseInt(place.dataset.height, 10) + (narrow && named > 1 ? 11 * named : 0) + "px";
      const figure = themed({ data: figures[place.dataset.figure].data, layout: layout(figures[place.dataset.figure].layout, narrow) }, colours);
      return Plotly.react(place, figure.data, figure.layout, {
        responsive: true, displaylogo: false, displayModeBar: narrow || coarse ? false : "hover",
        modeBarButtons: [["zoom2d", "pan2d", "autoScale2d", "toImage"]],
      });
    }));
  }

  function show(number) {
    const point = points[number];
    const place = document.getElementById("chosen");
    if (!point || !place) return;
    place.replaceChildren();
    const head = document.createElement("h3");
    head.textContent = point.title;
    const list = document.createElement("dl");
    list.className = "facts";
    for (const [name, text] of point.facts) {
      const dt = document.createElement("dt");
      const dd = document.createElement("dd");
      dt.textContent = name;
      dd.textContent = text;
      list.append(dt, dd);
    }
    place.append(head, list);
    place.scrollIntoView({ block: "nearest" });
    history.replaceState(null, "", "#point=" + number);
  }

  function fromAddress() {
    const match = /^#point=(.+)$/.exec(location.hash);
    if (match) show(decodeURIComponent(match[1]));
  }

  draw().then(() => {
    for (const place of document.querySelectorAll(".chart")) {
      place.on("plotly_click", (event) => {
        const number = event.points[0].customdata;
        if (number !== undefined) show(String(Array.isArray(number) ? number[0] : number));
      });
    }
    fromAddress();
    document.documentElement.dataset.ready = "yes";
  });
  addEventListener("hashchange", fromAddress);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
