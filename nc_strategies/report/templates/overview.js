"use strict";
(() => {
  const LOOK_AGAIN_MS = 2000;
  const LOST_MS = 5000;
  const MOST_DRAWN = 30;
  const mostLabel = () => (narrow.matches ? 14 : 30);
  const { dark, narrow } = pageCharts;
  const byId = (id) => document.getElementById(id);
  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  // --- words and figures
  const GLYPHS = { running: "◌", met: "●", missed: "▲", failed: "✚", unfinished: "■", unreadable: "✚" };
  const NONE = "–";
  const fixed = (value, digits) => (value === null || value === undefined ? NONE : value.toFixed(digits));
  const whole = (value) => (value === null || value === undefined ? NONE : value.toLocaleString("en"));
  const bytes = (value) => {
    if (value === null) return NONE;
    if (value >= 1e9) return `${(value / 1e9).toFixed(2)} GB`;
    return value >= 1e6 ? `${(value / 1e6).toFixed(1)} MB` : `${Math.round(value / 1000)} kB`;
  };
  const duration = (seconds) => {
    if (seconds === null) return NONE;
    const rounded = Math.round(seconds);
    if (rounded < 120) return `${rounded} s`;
    if (rounded < 7200) return `${Math.floor(rounded / 60)} min ${rounded % 60} s`;
    return `${Math.floor(rounded / 3600)} h ${Math.floor((rounded % 3600) / 60)} min`;
  };
  const plural = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;
  const sign = (line) => (line.higher_is_better ? "≥" : "≤");

  // --- state
  const state = { runs: [], folder: "", example: "", notes: [], find: "", order: "newest", down: false, chart: "accuracy" };
  const FILTERS = ["status", "model", "strategy", "engine"];
  const filters = Object.fromEntries(FILTERS.map((name) => [name, ""]));
  const left = new Set(); // runs that were unchosen; all others are chosen
  let clockOffset = 0; // the server's clock less this one's, in ms
  let paused = false, lost = false, seenAt = null, etag = null, timer = 0, specs = null;

  const elapsed = (run) => Math.max(0, (Date.now() + clockOffset) / 1000 - run.started);
  const seconds = (run) => (run.status === "running" ? elapsed(run) : run.seconds);
  const share = (run) => {
    const parts = [];
    if (run.max_trials) parts.push((run.trials ?? 0) / run.max_trials);
    if (run.timeout) parts.push(elapsed(run) / run.timeout);
    return parts.length ? Math.min(1, Math.max(...parts)) : null;
  };

  // --- the table
  const drawable = (run) => Boolean(run.speedup_ci95) && ["met", "missed"].includes(run.status);
  // A run without figures has what is wrong in their place.
  const isBare = (run) => Boolean(run.problem) && run.speedup === null && !run.goal.length;
  const small = (text, kind) => element("small", text, kind ? { class: kind } : {});
  const MOST_UNBROKEN = 18;
  // Text that may be broken behind what joins the parts of a name, and within very long parts.
  const breakable = (place, text) => {
    const parts = (text || NONE).split(/(?<=[/_.\-:,])/u).flatMap((part) => {
      const letters = [...part];
      return Array.from({ length: Math.ceil(letters.length / MOST_UNBROKEN) }, (_, i) => letters.slice(i * MOST_UNBROKEN, (i + 1) * MOST_UNBROKEN).join(""));
    });
    parts.forEach((part, i) => place.append(...(i ? [element("wbr")] : []), part));
    return place;
  };
  const COLUMNS = [
    { key: "name", title: "run", kind: "name", value: (r) => r.name, fill: (cell, r) => {
      const link = { href: `../report/${r.id}/report.html`, target: "_blank", rel: "noopener noreferrer" };
      cell.append(breakable(r.report ? element("a", undefined, link) : element("span"), r.name));
      if (r.remark) cell.append(small(r.remark));
      if (r.problem && !isBare(r)) cell.append(small(r.problem, "problem"));
    } },
    { key: "status", title: "status", kind: "status", value: (r) => Object.keys(GLYPHS).indexOf(r.status), fill: (cell, r) => {
      const badge = element("span", undefined, { class: `state ${r.status}` });
      badge.append(element("span", GLYPHS[r.status], { "aria-hidden": "true" }), ` ${r.status}`);
      cell.append(badge);
    } },
    { key: "model", title: "model", kind: "wrap", value: (r) => r.model, fill: (cell, r) => breakable(cell, r.model) },
    { key: "strategy", title: "strategy", kind: "wrap", value: (r) => r.strategy, fill: (cell, r) => breakable(cell, r.strategy) },
    { key: "engine", title: "engine", kind: "wrap", value: (r) => r.engine, fill: (cell, r) => breakable(cell, r.engine) },
    { key: "goal", title: "goal", kind: "aim", value: (r) => (r.goal.length ? r.goal[0].reached : null), fill: (cell, r) => {
      if (!r.goal.length) cell.append(NONE);
      for (const line of r.goal) {
        const box = element("div", undefined, { class: "goal-line" });
        box.append(element("span", `${line.metric} ${fixed(line.reached, 4)}`, r.status === "running" ? { class: "so-far" } : {}),
          small(`asked ${sign(line)} ${fixed(line.asked, 4)}`));
        cell.append(box);
      }
    } },
    { key: "speedup", title: "speed-up, 95 %", kind: "num", value: (r) => r.speedup, fill: (cell, r) => {
      if (r.speedup === null) return cell.append(NONE);
      if (!r.speedup_ci95) return cell.append(element("span", r.speedup.toFixed(2), { class: "so-far" }), small("so far"));
      cell.append(r.speedup.toFixed(2), small(`${r.speedup_ci95[0].toFixed(2)} to ${r.speedup_ci95[1].toFixed(2)}`));
    } },
    { key: "size", title: "size", kind: "num", value: (r) => r.size_bytes, fill: (cell, r) => {
      cell.append(bytes(r.size_bytes));
      if (r.size_bytes !== null && r.fp32_size_bytes) cell.append(small(`${Math.round((100 * r.size_bytes) / r.fp32_size_bytes)} % of fp32`));
    } },
    { key: "trials", title: "trials", kind: "num", value: (r) => r.trials, fill: (cell, r) => {
      cell.append(whole(r.trials));
      if (r.failed) cell.append(small(`${r.failed} failed`));
      if (r.status !== "running") return;
      if (r.max_trials) cell.append(small(`of ${whole(r.max_trials)}`));
      progress(cell, r);
    } },
    { key: "seconds", title: "seconds", kind: "num seconds", value: seconds, fill: (cell, r) => {
      cell.append(r.status === "running" ? "" : fixed(r.seconds, 0));
    } },
  ];
  const ORDERS = [["newest", "newest first"], ...COLUMNS.flatMap(({ key, title }) => [
    [`${key} up`, `${title}, ascending`], [`${key} down`, `${title}, descending`]])];
  const BLANK = { strategy: (r) => !r.strategy, model: (r) => !r.model, engine: (r) => !r.engine, goal: (r) => !r.goal.length,
    speedup: (r) => r.speedup === null, size: (r) => r.size_bytes === null, trials: (r) => r.trials === null, seconds: (r) => r.seconds === null };

  const progress = (place, run) => {
    const done = share(run);
    if (done === null) return;
    const bar = element("progress", undefined, { max: "1", "aria-label": `Progress of ${run.name}` });
    bar.value = done;
    place.append(bar);
  };

  const rows = new Map();
  const row = (run) => {
    const text = JSON.stringify(run);
    const known = rows.get(run.id);
    if (known && known.text === text) return known.line;
    const line = known ? known.line : element("tr");
    const focused = document.activeElement && line.contains(document.activeElement) ? document.activeElement.tagName : "";
    line.replaceChildren();
    line.className = ["unreadable", "unfinished", "failed"].includes(run.status) ? "bare" : "";
    line.dataset.run = run.id;
    const box = element("td", undefined, { class: "choose" });
    const tick = element("input", undefined, { type: "checkbox", "aria-label": `Draw ${run.name}` });
    tick.checked = !left.has(run.id);
    tick.addEventListener("change", () => {
      if (tick.checked) left.delete(run.id); else left.add(run.id);
      draw();
    });
    if (drawable(run)) box.append(tick);
    line.append(box);
    for (const [i, column] of COLUMNS.entries()) {
      if (isBare(run) && (column.key === "goal" || (column.key === "model" && !run.model))) {
        line.append(element("td", run.problem, { class: "told", colspan: String(COLUMNS.length - i) }));
        break;
      }
      const blank = BLANK[column.key] && BLANK[column.key](run) && run.status !== "running" ? " blank" : "";
      const cell = element(column.key === "name" ? "th" : "td", undefined, { class: `${column.kind}${blank}`, "data-label": column.title.split(",")[0] });
      if (column.key === "name") cell.setAttribute("scope", "row");
      column.fill(cell, run);
      line.append(cell);
    }
    if (focused) line.querySelector(focused.toLowerCase())?.focus();
    rows.set(run.id, { text, line });
    return line;
  };

  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const compare = (a, b) => {
    if (state.order === "newest") return Number(b.status === "running") - Number(a.status === "running") || b.updated - a.updated || collator.compare(a.name, b.name);
    const { value } = COLUMNS.find((column) => column.key === state.order);
    const [x, y] = [value(a), value(b)];
    const missing = (v) => v === null || v === undefined || v === "";
    if (missing(x) || missing(y)) return Number(missing(x)) - Number(missing(y)) || collator.compare(a.name, b.name);
    const found = typeof x === "string" ? collator.compare(x, y) : x - y;
    return (state.down ? -found : found) || collator.compare(a.name, b.name);
  };
  const shown = () => {
    const wanted = state.find.toLowerCase().split(/\s+/).filter(Boolean);
    return state.runs
      .filter((run) => FILTERS.every((name) => !filters[name] || run[name] === filters[name]))
      .filter((run) => {
        const text = [run.name, run.model, run.strategy, run.engine, run.data, run.status, run.remark, run.problem, ...run.goal.map((g) => g.metric)].join(" ").toLowerCase();
        return wanted.every((word) => text.includes(word));
      })
      .sort(compare);
  };

  const fillTable = () => {
    const chosen = shown();
    const lines = chosen.map(row);
    if (!lines.length) {
      const line = element("tr");
      line.append(element("td", "No run fits these filters.", { class: "none", colspan: String(COLUMNS.length + 1) }));
      lines.push(line);
    }
    const body = byId("body");
    if (lines.length !== body.children.length || lines.some((line, i) => line !== body.children[i])) body.replaceChildren(...lines);
    byId("count").textContent = chosen.length === state.runs.length ? plural(state.runs.length, "run") : `${chosen.length.toLocaleString("en")} of ${plural(state.runs.length, "run")}`;
    for (const cell of byId("head").children) {
      if (cell.dataset.key === state.order) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
    return chosen;
  };

  const options = (select, values, chosen) => {
    const text = JSON.stringify(values);
    if (select.dataset.values !== text) {
      select.replaceChildren(...values.map(([value, title]) => element("option", title, { value })));
      select.dataset.values = text;
    }
    select.value = chosen;
  };
  const fillFilters = () => {
    for (const name of FILTERS) {
      const values = [...new Set([...state.runs.map((run) => run[name]), filters[name]])].filter(Boolean).sort(collator.compare);
      options(byId(`filter-${name}`), [["", "any"], ...values.map((value) => [value, value])], filters[name]);
    }
    options(byId("order"), ORDERS, state.order === "newest" ? "newest" : `${state.order} ${state.down ? "down" : "up"}`);
  };

  // --- runs under way
  const fillJobs = () => {
    const jobs = state.runs.filter((run) => run.status === "running");
    byId("running").hidden = !jobs.length;
    byId("jobs").replaceChildren(...jobs.map((run) => {
      const box = element("div", undefined, { class: "job", "data-run": run.id });
      box.append(element("h3", run.name));
      box.append(element("p", [run.model, run.strategy, run.engine].filter(Boolean).join(" · ") || "starting", { class: "what" }));
      progress(box, run);
      const counts = `${run.max_trials ? `${whole(run.trials)} of ${plural(run.max_trials, "trial")}` : plural(run.trials ?? 0, "trial")}${run.failed ? `, ${run.failed} failed` : ""}`;
      const time = `${duration(elapsed(run))}${run.timeout ? ` of ${duration(run.timeout)}` : ""}`;
      box.append(element("p", `${counts}, ${time}`, { class: "counts" }));
      if (run.speedup !== null) {
        const goal = run.goal.map((line) => `${line.metric} ${fixed(line.reached, 4)} (asked ${sign(line)} ${fixed(line.asked, 4)})`);
        box.append(element("p", `Best so far: ${run.speedup.toFixed(2)} times fp32, ${goal.join(", ")}`));
      } else if (run.remark) {
        box.append(element("p", run.remark[0].toUpperCase() + run.remark.slice(1)));
      }
      return box;
    }));
  };
  const tick = () => {
    for (const run of state.runs) {
      if (run.status !== "running") continue;
      const cell = rows.get(run.id)?.line.querySelector(".seconds");
      if (cell) cell.textContent = Math.round(elapsed(run)).toLocaleString("en");
    }
    fillJobs();
  };

  // --- charts
  const shortened = (names) => {
    // Without the folders that all share; the end of a long name tells more than its beginning.
    const parts = names.map((name) => name.split("/"));
    let common = 0;
    while (parts.length > 1 && parts.every((p) => p.length > common + 1 && p[common] === parts[0][common])) common += 1;
    const used = new Map();
    return parts.map((p) => {
      const text = [...p.slice(common).join("/")];
      const label = text.length > mostLabel() ? `…${text.slice(1 - mostLabel()).join("")}` : text.join("");
      const count = (used.get(label) ?? 0) + 1;
      used.set(label, count);
      return count > 1 ? `${label} (${count})` : label;
    });
  };
  const point = (run, label) => {
    const [low, high] = run.speedup_ci95, first = run.goal[0] ?? {};
    const worse = first.higher_is_better ? 1 : -1;
    const tolerated = worse * (first.fp32 - first.asked);
    const loss = tolerated > 0 ? (worse * (first.fp32 - first.reached)) / tolerated : null;
    const ends = loss !== null && run.loss_ci95 ? run.loss_ci95.map((end) => end / tolerated) : [null, null];
    return { id: run.id, label, run: run.name, status: run.status, metric: first.metric ?? "", reached: first.reached ?? null, asked: first.asked ?? null,
      speedup: run.speedup, low, high, interval: `${low.toFixed(2)} to ${high.toFixed(2)}`, ratio: 1 / run.speedup, left: 1 / high, right: 1 / low,
      loss, loss_low: ends[0], loss_high: ends[1] };
  };
  const NEEDED = { speedup: "speedup", accuracy: "reached", loss: "loss" };
  const CAPTIONS = {
    speedup: "Times as fast as fp32, with 95 % intervals; the dashed line is fp32.",
    accuracy: "Each mark is a run: the metric of its model against its latency as a share of fp32's, with the 95 % interval; the short line is what was asked.",
    loss: "Each mark is a run: its loss as a share of the tolerated loss against its latency as a share of fp32's, with 95 % intervals; below the dashed line the goal is kept.",
  };
  // The library comes behind the table: bundling it for the first time takes seconds.
  const library = new Promise((done, failed) => {
    const script = element("script", undefined, { src: "vega.js" });
    script.addEventListener("load", done);
    script.addEventListener("error", () => failed(new Error("vega.js could not be loaded")));
    document.head.append(script);
  });
  const drawn = new Map();
  let drawing = Promise.resolve();
  const chart = async (place, name, points, more) => {
    const values = points.filter((p) => p[NEEDED[name]] !== null);
    const text = JSON.stringify([name, values, dark.matches, narrow.matches]);
    byId(`caption-${place}`).textContent = `${CAPTIONS[name]}${more}`;
    byId(`no-${place}`).hidden = values.length > 0;
    const box = byId(`chart-${place}`);
    box.hidden = !values.length;
    if (drawn.get(place) === text || !values.length) return;
    const spec = structuredClone(specs[name]);
    spec.data.values = values;
    if (name === "speedup") {
      spec.height = Math.max(3, values.length) * 26;
      if (narrow.matches) for (const part of spec.layer) if (part.encoding.y?.axis) part.encoding.y.axis.labelLimit = 120;
    }
    if (name === "accuracy") {
      const metrics = [...new Set(values.map((p) => p.metric))];
      for (const part of spec.layer) if (part.encoding.y?.title) part.encoding.y.title = metrics.join(", ").slice(0, 40);
    }
    // Styles that scripts add are not allowed here; the page's own has those of the tooltip.
    const view = await pageCharts.draw(box, spec, { defaultStyle: false, tooltip: { disableDefaultStyle: true } });
    drawn.set(place, text);
    view.addEventListener("click", (_, item) => {
      const line = item?.datum?.id ? rows.get(item.datum.id)?.line : null;
      if (!line) return;
      document.querySelectorAll("#body tr.picked").forEach((other) => other.classList.remove("picked"));
      line.classList.add("picked");
      line.scrollIntoView({ block: "nearest" });
    });
  };
  const draw = () => {
    const able = shown().filter(drawable);
    const chosen = able.filter((run) => !left.has(run.id));
    byId("charts").hidden = !state.runs.some(drawable);
    if (byId("charts").hidden || !specs) return drawing;
    const some = chosen.slice(0, MOST_DRAWN), labels = shortened(some.map((run) => run.name));
    const points = some.map((run, i) => point(run, labels[i]));
    const more = chosen.length > some.length ? ` The first ${MOST_DRAWN} of ${chosen.length.toLocaleString("en")} chosen runs are drawn.` : "";
    drawing = drawing.then(async () => {
      await library;
      await chart("speedup", "speedup", points, more);
      await chart("against", state.chart, points, more);
      document.body.dataset.ready = "true";
    }).catch((error) => {
      for (const place of ["speedup", "against"]) byId(`caption-${place}`).textContent = "The charts could not be drawn. The server's terminal may say why.";
      document.body.dataset.error = "true";
      console.error(error);
    });
    return drawing;
  };

  // --- all together
  const headline = () => {
    const counts = Object.keys(GLYPHS).map((name) => [name, state.runs.filter((run) => run.status === name).length]).filter(([, n]) => n);
    const wordsOf = { running: "under way" };
    return `${plural(state.runs.length, "run")}${counts.length ? `: ${counts.map(([name, n]) => `${n.toLocaleString("en")} ${wordsOf[name] ?? name}`).join(", ")}` : ""}`;
  };
  const live = () => {
    const text = lost ? `The server does not answer. This is the state of ${seenAt ? seenAt.toLocaleTimeString("en-GB") : "no time"}.`
      : paused ? `Paused. This is the state of ${seenAt ? seenAt.toLocaleTimeString("en-GB") : "no time"}.` : "The page updates itself.";
    if (byId("live").textContent !== text) byId("live").textContent = text;
    byId("live").parentElement.classList.toggle("lost", lost);
    byId("live").parentElement.classList.toggle("paused", paused);
  };
  const remember = () => {
    const kept = new URLSearchParams(Object.entries({ find: state.find, order: state.order === "newest" ? "" : `${state.order} ${state.down ? "down" : "up"}`,
      chart: state.chart === "accuracy" ? "" : state.chart, ...filters }).filter(([, value]) => value));
    history.replaceState(null, "", `#${kept}`);
  };
  const recall = () => {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const name of FILTERS) filters[name] = kept.get(name) ?? "";
    state.find = kept.get("find") ?? "";
    state.chart = kept.get("chart") === "loss" ? "loss" : "accuracy";
    setOrder(kept.get("order") ?? "newest");
    byId("find").value = state.find;
  };
  const setOrder = (text) => {
    const [key, direction] = text.split(" ");
    const known = COLUMNS.some((column) => column.key === key);
    Object.assign(state, { order: known ? key : "newest", down: known && direction === "down" });
  };
  const render = () => {
    const some = state.runs.length > 0;
    const title = some ? headline() : "No run yet";
    if (byId("headline").textContent !== title) byId("headline").textContent = title;
    document.title = `${title} - nc_strategies`;
    byId("folder").textContent = `runs under ${state.folder}`;
    byId("empty").hidden = some;
    byId("list").hidden = !some;
    byId("example").textContent = state.example;
    byId("notes").hidden = !state.notes.length;
    byId("notes").replaceChildren(...state.notes.map((text) => element("li", text)));
    document.querySelectorAll(".segments button").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.chart === state.chart)));
    byId("against").textContent = state.chart === "loss" ? "Loss" : "Accuracy";
    fillFilters();
    fillTable();
    tick();
    const drawing = draw();
    if (byId("charts").hidden) document.body.dataset.ready = "true";
    return drawing;
  };

  const look = async () => {
    clearTimeout(timer);
    let wait = LOOK_AGAIN_MS, found = null;
    try {
      const answer = await fetch("runs.json", { headers: etag ? { "If-None-Match": etag } : {}, cache: "no-store" });
      if (!answer.ok && answer.status !== 304) throw new Error(`status ${answer.status}`);
      if (!specs) specs = await (await fetch("charts.json")).json();
      const date = Date.parse(answer.headers.get("date") ?? "");
      if (!Number.isNaN(date) && Math.abs(date - Date.now()) > 2000) clockOffset = date - Date.now();
      lost = false;
      seenAt = new Date();
      if (answer.status !== 304) {
        found = await answer.json();
        etag = answer.headers.get("etag");
      }
    } catch {
      lost = true;
      wait = LOST_MS;
    }
    if (found) {
      Object.assign(state, found);
      const known = new Set(state.runs.map((run) => run.id));
      for (const id of rows.keys()) if (!known.has(id)) rows.delete(id);
      await render();
    }
    live();
    document.body.dataset.looks = String(Number(document.body.dataset.looks ?? 0) + 1);
    clearTimeout(timer);
    if (!paused && !document.hidden) timer = setTimeout(look, wait);
  };

  // --- what a person does
  const changed = () => {
    remember();
    render();
  };
  byId("head").append(element("th", undefined, { class: "choose" }));
  byId("head").firstChild.append(element("span", "drawn", { class: "hidden" }));
  for (const column of COLUMNS) {
    const cell = element("th", undefined, { scope: "col", "data-key": column.key, class: column.kind.includes("num") ? "num" : "" });
    const button = element("button", column.title, { type: "button" });
    button.addEventListener("click", () => {
      // A figure's first order is the largest first.
      const first = column.kind.includes("num") || column.key === "goal";
      if (state.order !== column.key) Object.assign(state, { order: column.key, down: first });
      else if (state.down === first) state.down = !first;
      else Object.assign(state, { order: "newest", down: false });
      changed();
    });
    cell.append(button);
    byId("head").append(cell);
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("find").addEventListener("input", (event) => { state.find = event.target.value; changed(); });
  for (const name of FILTERS) byId(`filter-${name}`).addEventListener("change", (event) => { filters[name] = event.target.value; changed(); });
  byId("order").addEventListener("change", (event) => { setOrder(event.target.value); changed(); });
  const chooseShown = (chosen) => {
    for (const run of shown()) {
      if (chosen) left.delete(run.id); else left.add(run.id);
      const box = rows.get(run.id)?.line.querySelector("input");
      if (box) box.checked = chosen;
    }
    draw();
  };
  byId("choose-all").addEventListener("click", () => chooseShown(true));
  byId("choose-none").addEventListener("click", () => chooseShown(false));
  document.querySelectorAll(".segments button").forEach((button) => button.addEventListener("click", () => { state.chart = button.dataset.chart; changed(); }));
  byId("pause").addEventListener("click", () => {
    paused = !paused;
    byId("pause").setAttribute("aria-pressed", String(paused));
    byId("pause").textContent = paused ? "Go on" : "Pause";
    live();
    if (!paused) look();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) look(); });
  for (const scheme of [dark, narrow]) scheme.addEventListener("change", () => draw());
  setInterval(() => { if (!paused && !lost) tick(); }, 1000);
  recall();
  look();
})();
