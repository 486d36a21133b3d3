for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, table = head.closest("table"), column = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const rows = [...table.tBodies[0].rows];
    const numbers = head.classList.contains("n") || rows.every((row) => row.cells[column].dataset.value);
    const last = (value) => Number.isNaN(value);
    const order = (a, b) => {
      if (!numbers) return (down ? -1 : 1) * text(a).localeCompare(text(b), "en");
      const [x, y] = [parseFloat(text(a)), parseFloat(text(b))];
      return last(x) || last(y) ? last(x) - last(y) : down ? y - x : x - y;
    };
    table.tBodies[0].append(...rows.sort(order));
  });
}
const resize = () => document.querySelectorAll(".js-plotly-plot").forEach((chart) => Plotly.Plots.resize(chart));
addEventListener("beforeprint", resize);
addEventListener("afterprint", resize);
for (const plot of document.querySelectorAll(".plot")) {
  let place = -1;
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const chart = plot.querySelector(".js-plotly-plot");
    if (!step || !chart || event.target !== plot) return;
    event.preventDefault();
    const flat = (values) => [...(values ?? [])];
    const drawn = chart._fullData.map((trace, number) => [trace, number]).filter(([trace]) => trace.visible === true);
    const points = drawn.flatMap(([trace, curve]) =>
      flat(trace.y).map((y, point) => ({ trace, curve, point, x: flat(trace.x)[point], y })).filter((at) => at.y !== null));
    if (!points.length) return;
    place = place < 0 ? (step > 0 ? 0 : points.length - 1) : (place + step + points.length) % points.length;
    const { trace, curve, point, x, y } = points[place];
    const short = (value) => (typeof value === "number" ? Number(value.toPrecision(4)) : value);
    const axis = (name) => {
      const title = chart.layout[name.replace(/^[xy]/, "$&axis")]?.title?.text;
      return title ? `${title} ` : "";
    };
    const named = trace.showlegend === false && /^trace \d+$/.test(trace.name) ? "" : `${trace.name}: `;
    plot.querySelector(".heard").textContent = `${named}${axis(trace.xaxis)}${short(x)}, ${axis(trace.yaxis)}${short(y)}`;
    Plotly.Fx.hover(chart, [{ curveNumber: curve, pointNumber: point }], [trace.xaxis + trace.yaxis]);
  });
}
