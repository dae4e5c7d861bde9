// Sorting, filtering, copying and the theme. Without it the page is whole, only still.
(() => {
  const page = document.documentElement;

  const dark = () => page.dataset.theme ? page.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  for (const button of document.querySelectorAll("[data-theme-toggle]")) {
    button.addEventListener("click", () => {
      page.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("gatebench-theme", page.dataset.theme); } catch { /* as in early.js */ }
      document.dispatchEvent(new Event("gatebench-theme"));
    });
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    const code = button.parentElement.querySelector("code");
    button.addEventListener("click", async () => {
      let done = false;
      try {
        await navigator.clipboard.writeText(code.textContent);
        done = true;
      } catch {
        getSelection().selectAllChildren(code);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) enliven(table);

  function enliven(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const form = document.querySelector(`[data-filter="${table.id}"]`);
    let order = { key: "", direction: "" };

    const valueOf = (row, key) => {
      const cell = [...row.cells].find((candidate) => candidate.dataset.key === key);
      const raw = cell ? cell.dataset.sort : "";
      if (raw === undefined || raw === "") return null;
      const head = heads.find((candidate) => candidate.dataset.key === key);
      return head.classList.contains("num") ? Number(raw) : raw;
    };

    const sort = (key, direction) => {
      order = { key, direction };
      const sorted = key ? rows.map((row, place) => ({ row, place, value: valueOf(row, key) })) : rows.map((row, place) => ({ row, place, value: null }));
      const sign = direction === "descending" ? -1 : 1;
      sorted.sort((a, b) => {
        if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.place - b.place;
        const difference = typeof a.value === "number" ? a.value - b.value : a.value.localeCompare(b.value, "en", { numeric: true });
        return sign * difference || a.place - b.place;
      });
      body.append(...sorted.map((entry) => entry.row));
      for (const head of heads) {
        if (head.dataset.key === key) head.setAttribute("aria-sort", direction);
        else head.removeAttribute("aria-sort");
      }
      if (form) form.elements.sort.value = key;
    };

    const first = (key) => {
      const head = heads.find((candidate) => candidate.dataset.key === key);
      return key === "rank" || !head.classList.contains("num") ? "ascending" : "descending";
    };

    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const key = head.dataset.key;
        if (order.key !== key) sort(key, first(key));
        else if (order.direction === first(key)) sort(key, first(key) === "ascending" ? "descending" : "ascending");
        else sort("", "");
      });
    }

    if (!form) return;
    form.addEventListener("submit", (event) => event.preventDefault());
    const note = form.querySelector("output");
    const filter = () => {
      const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
      const target = form.elements.target.value;
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const visible = words.every((word) => text.includes(word))
          && (!target || row.dataset.target === target)
          && (form.elements.controls.checked || !row.classList.contains("control"))
          && (form.elements.unfinished.checked || !row.classList.contains("unfinished"));
        row.hidden = !visible;
        shown += visible;
      }
      note.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    };
    form.addEventListener("input", filter);
    form.elements.sort.addEventListener("change", () => sort(form.elements.sort.value, form.elements.sort.value ? first(form.elements.sort.value) : ""));
    form.reset();
    filter();
  }
})();
