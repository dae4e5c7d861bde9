// Draws which units ran from their packed bits. Without it the units that changed are listed by name.
(() => {
  const block = document.getElementById("gates");
  if (!block) return;
  const { alone, maps, whole } = JSON.parse(block.textContent);
  const NAMES = ["off", "closed", "opened", "on"];
  const PITCH = 10, SIDE = 9, COLUMNS = 64;

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const bit = (data, place, line = 0) => (data[line + (place >> 3)] >> (7 - (place & 7))) & 1;
  const state = (clean, adversarial) => 2 * adversarial + clean;

  const squares = () => {
    const paths = ["", "", "", ""];
    return { paths, add: (x, y, which) => { paths[which] += `M${x} ${y}h${SIDE}v${SIDE}h-${SIDE}z`; } };
  };

  const drawing = (paths, width, height, scale, label) => {
    const make = (name, attributes) => {
      const element = document.createElementNS(document.querySelector(".key svg").namespaceURI, name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      return element;
    };
    const svg = make("svg", { class: "gates", viewBox: `0 0 ${width} ${height}`, width: Math.round(width * scale), height: Math.round(height * scale), role: "img", "aria-label": label });
    paths.forEach((d, which) => { if (d) svg.append(make("path", { class: `state-${NAMES[which]}`, d })); });
    return svg;
  };

  // Two lines of squares, before above after, broken every so many units.
  const strip = (clean, adversarial, label) => {
    const { paths, add } = squares();
    alone.forEach((unit, place) => {
      const x = PITCH * (place % COLUMNS), top = (2 * PITCH + 4) * Math.floor(place / COLUMNS);
      const [before, after] = [bit(clean, unit), bit(adversarial, unit)];
      add(x, top, before ? 3 : 0);
      add(x, top + PITCH, state(before, after));
    });
    const lines = Math.ceil(alone.length / COLUMNS);
    return drawing(paths, Math.min(alone.length, COLUMNS) * PITCH - 1, lines * (2 * PITCH + 4) - 5, 1.5, label);
  };

  const map = ([name, start, stop, width], clean, adversarial) => {
    const [first, second] = [squares(), squares()];
    let opened = 0, closed = 0;
    for (let unit = start; unit < stop; unit += 1) {
      const x = PITCH * ((unit - start) % width), y = PITCH * Math.floor((unit - start) / width);
      const [before, after] = [bit(clean, unit), bit(adversarial, unit)];
      first.add(x, y, before ? 3 : 0);
      second.add(x, y, state(before, after));
      opened += after && !before;
      closed += before && !after;
    }
    const wide = width * PITCH - 1, tall = Math.ceil((stop - start) / width) * PITCH - 1;
    const scale = Math.min(1, Math.max(0.2, 12.8 / width));
    const figure = document.createElement("figure");
    figure.append(drawing(first.paths, wide, tall, scale, `${name} before`), drawing(second.paths, wide, tall, scale, `${name} after: ${opened} opened, ${closed} closed`));
    const caption = document.createElement("figcaption");
    caption.textContent = `${name} +${opened} −${closed}`;
    figure.append(caption);
    return figure;
  };

  const fill = (place) => {
    const [clean, adversarial] = [bytes(place.dataset.clean), bytes(place.dataset.adversarial)];
    const words = place.querySelector(".changed");
    if (alone.length) words.before(strip(clean, adversarial, `units in network order, clean above adversarial. ${words.textContent.trim()}`));
    if (maps.length) {
      const all = document.createElement("div");
      all.className = "maps";
      all.append(...maps.map((one) => map(one, clean, adversarial)));
      words.before(all);
    }
  };

  // The first images are drawn at once, others when they come near the screen or are printed.
  const places = [...document.querySelectorAll("[data-gates]")];
  places.slice(0, 6).forEach(fill);
  const waiting = new Set(places.slice(6));
  const once = (place) => { if (waiting.delete(place)) fill(place); };
  const watch = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (isIntersecting) { watch.unobserve(target); once(target); }
    }
  }, { rootMargin: "400px" });
  for (const place of waiting) watch.observe(place);
  addEventListener("beforeprint", () => [...waiting].forEach(once));

  const details = document.querySelector("[data-all-gates]");
  details?.addEventListener("toggle", () => {
    const room = details.querySelector(".scroll");
    if (!details.open || room.childElementCount) return;
    const [clean, adversarial] = [bytes(whole.clean), bytes(whole.adversarial)];
    const { paths, add } = squares();
    const width = Math.ceil(whole.columns / 8);
    for (let line = 0; line < whole.lines; line += 1) {
      for (let column = 0; column < whole.columns; column += 1) {
        add(PITCH * column, PITCH * line, state(bit(clean, column, line * width), bit(adversarial, column, line * width)));
      }
    }
    room.append(drawing(paths, whole.columns * PITCH - 1, whole.lines * PITCH - 1, 1.5, "gates of all images: a line an image, a column a unit"));
  });
})();
