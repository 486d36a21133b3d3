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
