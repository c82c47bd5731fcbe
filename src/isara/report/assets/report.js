(() => {
  "use strict";

  // Every text of the run goes in as text, never as markup.
  const make = (tag, options, ...children) => {
    const { on, ...attributes } = options ?? {};
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    for (const [event, handler] of Object.entries(on ?? {})) node.addEventListener(event, handler);
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const byId = (id) => document.getElementById(id);
  const grouped = (value) => value.toLocaleString("en-US");
  const shortNumber = (value) => String(Math.round(value * 1e4) / 1e4).replace("-", "\u2212");
  document.documentElement.classList.add("scripted");

  const HIDDEN = /(<U\+[0-9A-F]{4,6}>)/;
  const escaped = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

  // A text as nodes: words that were searched for are marked, spelled-out control characters stand out.
  const textNodes = (text, words = []) => {
    const pattern = words.length ? new RegExp(`(${words.map(escaped).join("|")})`, "iu") : null;
    return text.split(HIDDEN).flatMap((part, i) => {
      if (i % 2) return [make("span", { class: "token" }, part)];
      if (pattern === null || part === "") return [part];
      return part.split(pattern).map((piece, j) => (j % 2 ? make("mark", {}, piece) : piece));
    });
  };
  const textBlock = (text, words) =>
    make("div", { class: "text", dir: "auto" }, ...(text ? textNodes(text, words) : [make("span", { class: "soft" }, "(none)")]));

  // ---- The samples, as embedded by embed.py ----

  const ID = 0, KIND = 1, ROUND = 2, QUESTION = 3, ANSWER = 4, SHOWN = 5, SCORES = 6;
  const RULE = 7, REASON = 8, SCORE = 9, THRESHOLD = 10, NEAREST = 11;
  const KINDS = { kept: "kept", dropped: "dropped", seed: "seed", heldout: "held out" };
  const data = JSON.parse(byId("samples-data").textContent);
  const rows = data.rows;
  const places = new Map(rows.map((row, place) => [row[ID], place]));
  const rounds = [...new Set(rows.map((row) => row[ROUND]))].filter((round) => round > 0).sort((a, b) => a - b);

  // Kept and dropped lie apart in the data; together, by id, they are in the order in which they were drafted.
  const inOrder = [...rows.keys()].sort((a, b) => {
    const [one, other] = [rows[a], rows[b]];
    if (one[ROUND] !== other[ROUND] || one[ROUND] === 0) return one[ROUND] - other[ROUND] || a - b;
    return one[ID] < other[ID] ? -1 : one[ID] > other[ID] ? 1 : 0;
  });

  const state = { words: [], kind: "generated", round: "", rule: "", order: "", falling: true, page: 0, size: 25 };
  let haystacks = null;
  let found = [];

  const haystack = (place) => {
    haystacks ??= rows.map(
      (row) => [row[ID], row[QUESTION], row[ANSWER], row[RULE], row[REASON]].filter(Boolean).join("\n").toLowerCase(),
    );
    return haystacks[place];
  };
  const fits = (row, place) =>
    (state.kind === "" || row[KIND] === state.kind || (state.kind === "generated" && row[ROUND] > 0)) &&
    (state.round === "" || row[ROUND] === Number(state.round)) &&
    (state.rule === "" || row[RULE] === state.rule) &&
    state.words.every((word) => haystack(place).includes(word));

  const search = () => {
    found = inOrder.filter((place) => fits(rows[place], place));
    if (state.order !== "") {
      const column = data.names.indexOf(state.order);
      const value = (place) => rows[place][SCORES]?.[column] ?? null;
      found = found.filter((place) => value(place) !== null);
      found.sort((a, b) => (state.falling ? value(b) - value(a) : value(a) - value(b)) || a - b);
    }
    state.page = 0;
    showPage();
  };

  // ---- Filters, the page of rows, the pager ----

  const option = (value, label) => make("option", { value }, label);
  const select = (id, label, options, change) => {
    const box = make("select", { id, on: { change: () => change(box.value) } }, ...options);
    return make("label", {}, label, box);
  };
  const counted = (label, many) => `${label} (${grouped(many)})`;
  const many = (test) => rows.reduce((sum, row) => sum + (test(row) ? 1 : 0), 0);

  const filters = () => {
    let waiting = 0;
    const type = () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        state.words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
        search();
      }, 120);
    };
    const box = make("input", { type: "search", id: "search", placeholder: "words in question, answer, id or reason", autocomplete: "off", on: { input: type } });
    const kinds = [
      option("generated", counted("kept and dropped", many((row) => row[ROUND] > 0))),
      ...Object.entries(KINDS).map(([kind, label]) => option(kind, counted(label, many((row) => row[KIND] === kind)))),
      option("", counted("everything", rows.length)),
    ];
    const rules = Object.entries(data.rules).map(([rule]) => option(rule, counted(rule, many((row) => row[RULE] === rule))));
    const direction = make("button", { type: "button", id: "direction", hidden: true }, "highest first");
    direction.addEventListener("click", () => {
      state.falling = !state.falling;
      direction.textContent = state.falling ? "highest first" : "lowest first";
      search();
    });
    return make(
      "div",
      { class: "filters", role: "search" },
      make("label", { class: "grow" }, "Search", box),
      select("kind", "Show", kinds, (value) => {
        state.kind = value;
        if (!["generated", "dropped", ""].includes(value)) byId("rule").value = state.rule = "";
        if (!["generated", "kept", "dropped", ""].includes(value)) byId("round").value = state.round = "";
        search();
      }),
      select("round", "Round", [option("", "all rounds"), ...rounds.map((round) => option(round, `round ${round}`))], (value) => {
        state.round = value;
        if (value && ["seed", "heldout"].includes(state.kind)) byId("kind").value = state.kind = "generated";
        search();
      }),
      select("rule", "Dropped by", [option("", "any or no rule"), ...rules], (value) => {
        state.rule = value;
        if (value) byId("kind").value = state.kind = "dropped";
        search();
      }),
      select("order", "Order", [option("", "as generated"), ...data.names.map((name) => option(name, `by ${name}`))], (value) => {
        state.order = value;
        direction.hidden = value === "";
        search();
      }),
      direction,
    );
  };

  const badge = (row) => {
    const text = row[KIND] === "dropped" ? `dropped: ${row[RULE]}` : KINDS[row[KIND]];
    return make("span", { class: `tag ${row[KIND] === "kept" || row[KIND] === "dropped" ? row[KIND] : "plain"}` }, text);
  };
  const twoLines = (text) => {
    const start = text && text.length > 400 ? `${text.slice(0, 400)}…` : text;
    const content = start ? textNodes(start, state.words) : [make("span", { class: "soft" }, "(none)")];
    return make("div", { class: "two", dir: "auto" }, ...content);
  };
  const tableRow = (place) => {
    const row = rows[place];
    const open = make("button", { type: "button" }, row[ID]);
    return make(
      "tr",
      { on: { click: () => { if (String(getSelection()) === "") openSample(place); } } },
      make("td", { class: "who" }, open, make("div", {}, badge(row))),
      make("td", {}, twoLines(row[QUESTION])),
      make("td", {}, twoLines(row[ANSWER])),
    );
  };

  const showPage = () => {
    const last = Math.max(0, Math.ceil(found.length / state.size) - 1);
    state.page = Math.min(Math.max(0, state.page), last);
    const first = state.page * state.size;
    const shown = found.slice(first, first + state.size);
    byId("rows").replaceChildren(...shown.map(tableRow));
    byId("rows-empty").hidden = shown.length > 0;
    byId("rows-table").hidden = shown.length === 0;
    byId("found").textContent = shown.length
      ? `${grouped(first + 1)}–${grouped(first + shown.length)} of ${grouped(found.length)}`
      : "0 samples";
    byId("previous").disabled = state.page === 0;
    byId("next").disabled = state.page >= last;
  };
  const turn = (by) => {
    state.page += by;
    showPage();
  };

  const pager = () => {
    const sizes = [25, 50, 100].map((size) => option(size, `${size} a page`));
    const size = make("select", { id: "size", "aria-label": "Samples a page" }, ...sizes);
    size.addEventListener("change", () => {
      state.page = Math.floor((state.page * state.size) / Number(size.value));
      state.size = Number(size.value);
      showPage();
    });
    return make(
      "div",
      { class: "pager" },
      make("span", { id: "found", role: "status" }),
      make(
        "div",
        {},
        size,
        make("button", { type: "button", id: "previous", on: { click: () => turn(-1) } }, "Previous"),
        make("button", { type: "button", id: "next", on: { click: () => turn(1) } }, "Next"),
      ),
    );
  };

  const buildBrowser = () => {
    const heads = [["Sample", "who"], ["Question", ""], ["Answer", ""]];
    byId("browser").append(
      filters(),
      pager(),
      make(
        "table",
        { class: "rows", id: "rows-table" },
        make("thead", {}, make("tr", {}, ...heads.map(([head, kind]) => make("th", { scope: "col", class: kind || null }, head)))),
        make("tbody", { id: "rows" }),
      ),
      make("p", { class: "empty", id: "rows-empty", hidden: true }, "Nothing fits these filters."),
      dialog,
    );
    search();
  };

  // ---- One sample, and the way up to the seeds ----

  let trail = [];
  let descendants = null;
  const dialog = make("dialog", { id: "sample", "aria-labelledby": "sample-title" });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    trail = [];
    history.replaceState(null, "", "#samples");
  });

  const shownFor = (id) => {
    if (descendants === null) {
      descendants = new Map();
      rows.forEach((row, place) => {
        for (const parent of new Set(row[SHOWN].flat())) {
          if (descendants.has(parent)) descendants.get(parent).push(place);
          else descendants.set(parent, [place]);
        }
      });
    }
    return descendants.get(id) ?? [];
  };

  const link = (id) => {
    const place = places.get(id);
    if (place === undefined) return make("li", { class: "soft" }, make("code", {}, id), " (not in this page)");
    const row = rows[place];
    const label = make("span", { class: "two", dir: "auto" }, ...textNodes(row[QUESTION] ?? "(no question)"));
    return make("li", {}, make("button", { type: "button", on: { click: () => openSample(place) } }, make("code", {}, id), label));
  };
  const links = (title, ids) => (ids.length ? [make("h4", {}, title), make("ul", { class: "links" }, ...ids.map(link))] : []);

  const whyDropped = (row) => {
    if (row[KIND] !== "dropped") return null;
    const numbers = [];
    if (row[SCORE] !== null) numbers.push(`score ${shortNumber(row[SCORE])}`);
    if (row[THRESHOLD] !== null) numbers.push(`threshold ${shortNumber(row[THRESHOLD])}`);
    const rule = make("b", {}, `Dropped by ${row[RULE]}`);
    const facts = numbers.length ? make("span", { class: "soft" }, ` ${numbers.join(", ")}`) : null;
    return make("div", { class: "why" }, make("p", {}, rule, facts), make("p", {}, ...textNodes(row[REASON] ?? "")));
  };
  const measured = (row) => {
    const values = data.names.map((name, i) => [name, row[SCORES]?.[i] ?? null]).filter(([, value]) => value !== null);
    if (!values.length) return [];
    const cells = values.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, shortNumber(value))));
    return [make("h4", {}, "What the rules measured"), make("dl", { class: "measured" }, ...cells)];
  };
  const details = (row) => {
    const [forQuestion, forAnswer, forEither] = row[SHOWN];
    const children = shownFor(row[ID]);
    const title = children.length > 8 ? `Itself shown for ${grouped(children.length)} samples, the first 8` : "Itself shown for";
    return [
      whyDropped(row),
      make("h4", {}, "Question"),
      textBlock(row[QUESTION], state.words),
      make("h4", {}, "Answer"),
      textBlock(row[ANSWER], state.words),
      ...(row[NEAREST] ? links("Nearest neighbour", [row[NEAREST]]) : []),
      ...links("Demonstrations shown to write the question", forQuestion),
      ...links("Demonstrations shown to write the answer", forAnswer),
      ...links("Demonstrations shown", forEither),
      ...measured(row),
      ...links(title, children.slice(0, 8).map((place) => rows[place][ID])),
    ];
  };

  const render = () => {
    const row = rows[trail.at(-1)];
    const where = row[ROUND] > 0 ? make("span", { class: "tag plain" }, `round ${row[ROUND]}`) : null;
    const back = make("button", { type: "button", id: "sample-back", disabled: trail.length < 2, on: { click: () => { trail.pop(); render(); } } }, "Back");
    const close = make("button", { type: "button", id: "sample-close", on: { click: () => dialog.close() } }, "Close");
    dialog.replaceChildren(
      make("div", { class: "dialog-head" }, back, make("h3", { id: "sample-title", tabindex: "-1" }, row[ID]), close),
      make("div", { class: "dialog-body" }, make("div", { class: "tags" }, where, badge(row)), ...details(row).filter((node) => node !== null)),
    );
    dialog.scrollTop = 0;
    history.replaceState(null, "", `#sample=${encodeURIComponent(row[ID])}`);
    if (dialog.open) byId("sample-title").focus();
  };
  const openSample = (place) => {
    trail.push(place);
    render();
    if (!dialog.open) {
      dialog.showModal();
      byId("sample-title").focus();
    }
  };

  // ---- Before and after ----

  const buildItems = () => {
    const list = byId("items");
    if (list === null) return;
    const items = [...list.children];
    const gain = (item) => (item.dataset.gain === "" ? 0 : Number(item.dataset.gain));
    const orders = {
      place: (a, b) => a.dataset.place - b.dataset.place,
      gain: (a, b) => gain(b) - gain(a) || orders.place(a, b),
      loss: (a, b) => gain(a) - gain(b) || orders.place(a, b),
    };
    byId("item-order").addEventListener("change", (event) => list.append(...items.sort(orders[event.target.value])));
    const button = byId("item-open");
    button.addEventListener("click", () => {
      const open = items.some((item) => !item.open);
      items.forEach((item) => { item.open = open; });
      button.textContent = open ? "Close all" : "Open all";
    });
  };

  const followHash = () => {
    const hash = location.hash.slice(1);
    if (hash.startsWith("sample=")) {
      const place = places.get(decodeURIComponent(hash.slice(7)));
      if (place !== undefined && !dialog.open) openSample(place);
    } else if (hash.startsWith("item-")) {
      const item = byId(hash);
      if (item) item.open = true;
    }
  };

  buildBrowser();
  buildItems();
  followHash();
  addEventListener("hashchange", followHash);
  addEventListener("beforeprint", () => document.querySelectorAll("details.item").forEach((item) => { item.open = true; }));
})();
