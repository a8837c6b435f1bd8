// Click on a head: highest first, then lowest first, then as it was.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], original = [...body.rows];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const key = (row, column) => {
    const cell = row.cells[column], value = cell.dataset.value;
    if (value === undefined) return cell.textContent.trim();
    return value !== "" && !isNaN(value) ? Number(value) : value;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const text = original.every(row => typeof key(row, column) !== "number");
    const orders = text ? ["ascending", "descending", ""] : ["descending", "ascending", ""];
    const order = orders[(orders.indexOf(head.getAttribute("aria-sort") || "") + 1) % 3];
    heads.forEach(other => other.removeAttribute("aria-sort"));
    if (order) head.setAttribute("aria-sort", order);
    const sign = order === "descending" ? -1 : 1;
    const rows = order ? [...original].sort((a, b) => {
      const one = key(a, column), other = key(b, column);
      if (one === "" || other === "") return (one === "") - (other === "");
      return sign * compare(one, other);
    }) : original;
    table.classList.toggle("sorted", order !== "");
    body.append(...rows);
  }));
}
