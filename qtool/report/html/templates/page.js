"use strict";
(() => {
  const collator = new Intl.Collator(undefined, { numeric: true });
  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent;

  // sorting: a click or a key on a title; numbers begin with the largest
  for (const table of document.querySelectorAll("table")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const down = before ? before === "ascending" : head.classList.contains("n");
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        const numbers = rows.every((row) => row.cells[column].dataset.key !== undefined);
        const number = (row) => Number(key(row, column).replace("inf", "Infinity"));
        rows.sort((a, b) => {
          if (!numbers) return collator.compare(key(a, column), key(b, column));
          const [x, y] = [number(a), number(b)];
          return x === y ? 0 : x < y ? -1 : 1;
        });
        if (down) rows.reverse();
        table.tBodies[0].append(...rows);
      });
    });
  }

  // searching: rows of a table, or entries that open, which hold all words
  for (const finder of document.querySelectorAll(".finder")) {
    finder.hidden = false;
    const input = finder.querySelector("input");
    const output = finder.querySelector("output");
    const target = document.getElementById(input.getAttribute("aria-controls"));
    const entries = target.tBodies ? [...target.tBodies[0].rows] : [...target.children];
    const texts = new Map(entries.map((entry) => [entry, (entry.querySelector("summary") ?? entry).textContent.toLowerCase()]));
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [entry, text] of texts) {
        const found = words.every((word) => text.includes(word));
        entry.hidden = !found;
        shown += found;
      }
      output.textContent = words.length ? `${shown} of ${texts.size}` : `${texts.size}`;
    });
  }

  // copying the next command, where the browser lets a page do so
  if (navigator.clipboard) {
    for (const code of document.querySelectorAll(".next code")) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(code.textContent);
          button.textContent = "Copied";
        } catch {
          button.textContent = "Select it by hand";
        }
      });
      code.after(button);
    }
  }

  // what is printed is open
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });
})();
