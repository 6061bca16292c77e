"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { dark, narrow } = pageCharts;
  const byId = (id) => document.getElementById(id);

  const draw = async () => {
    for (const [id, spec] of Object.entries(data.charts)) {
      const view = await pageCharts.draw(byId(id), spec);
      view.addEventListener("click", (_, item) => {
        if (item && item.datum && item.datum.trial !== undefined) pick(String(item.datum.trial), true);
      });
    }
  };

  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  const table = (head, lines) => {
    const made = element("table"), top = element("tr"), body = element("tbody");
    head.forEach((name) => top.append(element("th", name, { scope: "col" })));
    for (const { cells, differs } of lines) {
      const row = element("tr", undefined, differs ? { class: "differs" } : {});
      cells.forEach((cell, i) => row.append(i ? element("td", cell, { class: "text" }) : element("th", cell, { scope: "row" })));
      body.append(row);
    }
    const header = element("thead");
    header.append(top);
    made.append(header, body);
    return made;
  };

  const pick = (number, scroll) => {
    const row = document.querySelector(`tr[data-trial="${CSS.escape(number)}"]`);
    if (!row) return;
    document.querySelectorAll("button.pick").forEach((button) => {
      button.setAttribute("aria-pressed", String(button.dataset.trial === number));
    });
    document.querySelectorAll("tr[data-trial]").forEach((line) => line.classList.toggle("picked", line === row));
    const config = data.configs[number], base = data.configs[String(data.chosen)];
    const cells = [...row.cells].map((cell) => cell.textContent.trim());
    byId("picked-title").textContent = `Trial ${number} ${row.dataset.state}${row.classList.contains("chosen") ? ", " + row.querySelector(".tag").textContent : ""}`;
    const body = byId("picked-body");
    body.replaceChildren();
    if (cells[8]) body.append(element("p", cells[8]));
    if (!config) {
      body.append(element("p", "Its configuration is in trials.jsonl: this page holds those of some trials only."));
    } else {
      const other = base && String(data.chosen) !== number;
      const lines = config.ops.map((scheme, i) => {
        const [name, type] = data.operators[i];
        return { cells: [type ? `${name} (${type})` : name, data.schemes[scheme]], differs: other && base.ops[i] !== scheme };
      });
      for (const [name, value] of config.options) lines.push({ cells: [`option ${name}`, value], differs: other && base.options.some(([n, v]) => n === name && v !== value) });
      const count = lines.filter((line) => line.differs).length;
      if (other) body.append(element("p", `${count} of ${lines.length} choices differ from trial ${data.chosen}'s, marked in bold.`));
      const box = element("div", undefined, { class: "scroll tall", tabindex: "0", role: "region", "aria-label": `Configuration of trial ${number}` });
      box.append(table(["operator", "scheme"], lines));
      body.append(box);
    }
    location.replace(`#trial-${number}`);
    if (scroll) byId("picked").scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-trial]");
    if (row) pick(row.dataset.trial, narrow.matches);
  });

  const pause = byId("pause"), every = Number(document.body.dataset.refresh || 0);
  if (pause && every) {
    let timer = setTimeout(() => location.reload(), every * 1000);
    pause.addEventListener("click", () => {
      const paused = pause.getAttribute("aria-pressed") !== "true";
      pause.setAttribute("aria-pressed", String(paused));
      clearTimeout(timer);
      if (!paused) timer = setTimeout(() => location.reload(), every * 1000);
    });
  }

  const picked = /^#trial-(\d+)$/.exec(location.hash);
  if (byId("trials")) pick(picked ? picked[1] : String(data.chosen), false);
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  draw().then(() => { document.body.dataset.ready = "true"; }, (error) => {
    document.body.dataset.error = "true";
    console.error(error);
  });
})();
