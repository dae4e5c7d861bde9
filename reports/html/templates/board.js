// The leaderboard: sorting, filtering, the targets that are kept, two rows side by side. All of it is in the
// address of the page, so that a link or the Back button leads to the same view.
(() => {
  const table = document.getElementById("leaderboard");
  const form = document.querySelector('[data-filter="leaderboard"]');
  if (!table || !form) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells].filter((head) => head.dataset.key);
  const standings = [...(document.getElementById("standings")?.tBodies[0].rows ?? [])];
  const headOf = (key) => heads.find((head) => head.dataset.key === key);
  const cellOf = (row, key) => [...row.cells].find((cell) => cell.dataset.key === key);
  const first = (key) => key === "rank" || !headOf(key).dataset.unit ? "ascending" : "descending";
  let order = { key: "", direction: "" };
  let pair = [];

  const valueOf = (row, key) => {
    const raw = cellOf(row, key)?.dataset.sort ?? "";
    if (raw === "") return null;
    return headOf(key).dataset.unit ? Number(raw) : raw;
  };

  const sort = (key, direction) => {
    order = { key, direction };
    const sorted = rows.map((row, place) => ({ row, place, value: key ? valueOf(row, key) : null }));
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
    form.elements.sort.value = key;
  };

  const tickOf = (row) => row.querySelector(".tick input");
  const kept = () => new Set(standings.filter((row) => tickOf(row).checked).map((row) => row.dataset.target));

  const filter = () => {
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const target = form.elements.target.value;
    const left = kept();
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const visible = words.every((word) => text.includes(word))
        && (!target || row.dataset.target === target)
        && (!standings.length || left.has(row.dataset.target))
        && (form.elements.controls.checked || !row.classList.contains("control"))
        && (form.elements.unfinished.checked || !row.classList.contains("unfinished"));
      row.hidden = !visible;
      shown += visible;
    }
    table.classList.toggle("brief", !form.elements.columns.checked);
    form.querySelector("output").textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  };

  // A target's rank among those kept: one more than how many of them stand strictly before it.
  const rerank = () => {
    const left = standings.filter((row) => tickOf(row).checked);
    const ranks = left.map((row) => row.dataset.rank).filter((rank) => /^\d+$/.test(rank)).map(Number);
    for (const row of standings) {
      const whole = row.dataset.rank;
      const place = row.querySelector(".rank");
      row.classList.toggle("dropped", !tickOf(row).checked);
      place.textContent = !tickOf(row).checked ? "–" : /^\d+$/.test(whole) ? 1 + ranks.filter((rank) => rank < whole).length : whole;
    }
    const note = document.getElementById("kept");
    if (note) note.textContent = left.length === standings.length ? "" : `${left.length} of ${standings.length} targets kept; ranks are among them, from the tests of the whole board. ${leaders(left)}`;
  };

  const leaders = (left) => {
    const names = new Set(left.map((row) => row.dataset.target));
    const wins = new Map();
    for (const row of rows) {
      if (!names.has(row.dataset.target) || valueOf(row, "rank") !== 1) continue;
      const attack = cellOf(row, "attack").dataset.sort;
      wins.set(attack, (wins.get(attack) ?? 0) + 1);
    }
    const most = Math.max(0, ...wins.values());
    const best = [...wins].filter((entry) => entry[1] === most).map((entry) => entry[0]);
    return most ? `In a first place on ${most} of them: ${best.join(", ")}.` : "";
  };

  const number = (value, unit) => {
    const sign = value > 0 ? "+" : value < 0 ? "\u2212" : "";
    const size = Math.abs(value);
    if (unit === "share") return `${sign}${(100 * size).toFixed(1)} points`;
    if (unit === "db") return `${sign}${size.toFixed(1)} dB`;
    if (unit === "macs") return `${sign}${size.toLocaleString("en", { maximumFractionDigits: 0 })} MAC`;
    return `${sign}${size.toLocaleString("en", { maximumFractionDigits: 3 })}`;
  };

  const entry = (tag, text, kind = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (kind) made.className = kind;
    if (tag === "th") made.scope = kind === "num" || !kind ? "col" : "row";
    return made;
  };

  const textOf = (cell) => [...(cell?.childNodes ?? [])].filter((node) => !node.classList?.contains("anchor")).map((node) => node.textContent.trim()).filter(Boolean).join(" ");

  const compare = () => {
    const place = document.getElementById("pair");
    for (const row of rows) {
      const tick = tickOf(row);
      if (tick) tick.checked = pair.includes(row.id);
    }
    place.hidden = pair.length < 2;
    if (place.hidden) return;
    const [left, right] = pair.map((name) => document.getElementById(name));
    place.querySelector("thead tr").replaceChildren(
      entry("th", ""), ...[left, right].map((row) => entry("th", `${cellOf(row, "attack").dataset.sort} on ${row.dataset.target}`, "num")), entry("th", "second − first", "num"),
    );
    place.querySelector("tbody").replaceChildren(...heads.filter((head) => !["target", "attack"].includes(head.dataset.key)).map((head) => {
      const key = head.dataset.key;
      const values = [left, right].map((row) => valueOf(row, key));
      const line = document.createElement("tr");
      const apart = values.includes(null) || key === "rank" ? "" : number(values[1] - values[0], head.dataset.unit);
      line.append(entry("th", head.textContent, "name"), ...[left, right].map((row) => entry("td", textOf(cellOf(row, key)), "num")), entry("td", apart, "num"));
      return line;
    }));
  };

  // The view in the address: what differs from the page as it was written, and nothing else.
  const remember = () => {
    const query = new URLSearchParams();
    if (form.elements.text.value) query.set("find", form.elements.text.value);
    if (form.elements.target.value) query.set("target", form.elements.target.value);
    if (order.key) query.set("sort", `${order.direction === "descending" ? "-" : ""}${order.key}`);
    for (const name of ["controls", "unfinished"]) if (!form.elements[name].checked) query.append("hide", name);
    if (form.elements.columns.checked) query.set("columns", "all");
    for (const row of standings) if (!tickOf(row).checked) query.append("without", row.dataset.target);
    for (const name of pair) query.append("pair", name);
    const text = query.toString();
    try {
      history.replaceState(null, "", `${location.pathname}${text ? `?${text}` : ""}${location.hash}`);
    } catch { /* a viewer that shows the page from elsewhere keeps no address */ }
  };

  const recall = () => {
    form.reset();
    const query = new URLSearchParams(location.search);
    form.elements.text.value = query.get("find") ?? "";
    if ([...form.elements.target.options].some((option) => option.value === query.get("target"))) form.elements.target.value = query.get("target");
    for (const name of ["controls", "unfinished"]) form.elements[name].checked = !query.getAll("hide").includes(name);
    form.elements.columns.checked = query.get("columns") === "all";
    for (const row of standings) tickOf(row).checked = !query.getAll("without").includes(row.dataset.target);
    pair = query.getAll("pair").filter((name) => rows.some((row) => row.id === name && tickOf(row))).slice(-2);
    const wanted = query.get("sort") ?? "";
    const key = wanted.replace(/^-/, "");
    if (headOf(key)) sort(key, wanted.startsWith("-") ? "descending" : "ascending");
    else sort("", "");
    filter();
    rerank();
    compare();
  };

  const changed = (...steps) => () => { for (const step of steps) step(); remember(); };

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const key = head.dataset.key;
    button.addEventListener("click", changed(() => {
      if (order.key !== key) sort(key, first(key));
      else if (order.direction === first(key)) sort(key, first(key) === "ascending" ? "descending" : "ascending");
      else sort("", "");
    }));
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", changed(filter));
  form.elements.sort.addEventListener("change", changed(() => {
    const key = form.elements.sort.value;
    sort(key, key ? first(key) : "");
  }));
  for (const row of standings) tickOf(row).addEventListener("change", changed(filter, rerank));
  for (const button of document.querySelectorAll("[data-keep]")) {
    button.addEventListener("click", changed(() => {
      for (const row of standings) tickOf(row).checked = button.dataset.keep === "all";
    }, filter, rerank));
  }
  for (const row of rows) {
    tickOf(row)?.addEventListener("change", changed(() => {
      pair = tickOf(row).checked ? [...pair, row.id].slice(-2) : pair.filter((name) => name !== row.id);
      compare();
    }));
  }
  addEventListener("pageshow", (event) => { if (event.persisted) recall(); });
  recall();
})();
