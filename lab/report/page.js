"use strict";
// tables sort by a click on a column's name, and show the rows that contain every word of the filter
const numberOf = (text) => (text.trim() === "" ? NaN : Number(text.replace(/^([+-]?[\d.]+(e[+-]?\d+)?) to .*$/i, "$1")));
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.tHead.querySelectorAll("th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.tHead.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => {
        const text = row.cells[column].textContent;
        return { row, text, number: numberOf(text) };
      });
      rows.sort((a, b) => {
        if ((a.text === "") !== (b.text === "")) return a.text === "" ? 1 : -1; // empty cells stay at the end
        const order = Number.isNaN(a.number) || Number.isNaN(b.number) ? a.text.localeCompare(b.text) : a.number - b.number;
        return down ? -order : order;
      });
      body.append(...rows.map((entry) => entry.row));
    });
  });
}
for (const field of document.querySelectorAll("input[data-filters]")) {
  const rows = document.getElementById(field.dataset.filters).tBodies[0].rows;
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
const tip = document.getElementById("tip");
document.addEventListener("pointermove", (event) => {
  const owner = event.target.closest && event.target.closest("[data-tip]");
  tip.style.display = owner ? "block" : "none";
  if (!owner) return;
  tip.textContent = owner.dataset.tip;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
});
