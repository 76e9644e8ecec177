/* Tables sorted by the column that is chosen; missing values are last in both directions. */

function enhanceTables() {
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sortTable(table, headers, column));
    });
  }
}

function sortTable(table, headers, column) {
  const header = headers[column];
  const numeric = header.dataset.kind === "number";
  // Numbers start with the largest: that is what one looks for in a column of scores or costs.
  const first = numeric ? "descending" : "ascending";
  const second = numeric ? "ascending" : "descending";
  const direction = header.getAttribute("aria-sort") === first ? second : first;
  headers.forEach((each) => each.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows];
  const key = (row) => sortKey(row.cells[column], numeric);
  const keyed = rows.map((row) => [key(row), row]);
  keyed.sort(([one], [other]) => compareKeys(one, other, sign));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

function sortKey(cell, numeric) {
  const differences = cell.closest("table").classList.contains("difference");
  const value = (differences && cell.dataset.difference) || cell.dataset.value;
  if (value === undefined) return null;
  return numeric ? Number(value) : value.toLowerCase();
}

function compareKeys(one, other, sign) {
  if (one === null || other === null) return (one === null) - (other === null);
  return one < other ? -sign : one > other ? sign : 0;
}
