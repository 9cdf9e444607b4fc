// The page's own behaviour: links, language, look, sharing, keys, and the two pads that people draw and drag on.
// Loaded in <head> before gradio; assets and texts come from this server only.
"use strict";

Object.assign(window.trugbild, (() => {
  const words = window.trugbild.words, TOLD = "trugbild.told";  // what the next page says of the picture it opens
  const runs = new URLSearchParams(location.search).get("run") === "1";
  const $ = (selector, root = document) => root.querySelector(selector);
  const visible = (node) => node && node.offsetParent !== null;

  // ---- links: the address bar follows the inputs ------------------------------------------------------------------
  const states = {};  // tab -> {name: text}, defaults left out
  let ready = false;  // gradio's Tab.select and change events fire while the page is filled from the link: not yet ours
  let tab = null, timer = 0;

  const spell = (value) => typeof value === "boolean" ? (value ? "1" : "0")
    : String(value ?? "");

  function write() {
    if (!ready) return;
    clearTimeout(timer);
    timer = setTimeout(() => {
      const old = new URLSearchParams(location.search), now = new URLSearchParams();
      now.set("tab", tab);
      for (const [name, text] of Object.entries(states[tab] ?? {})) now.set(name, text);
      for (const [name, text] of old) if (["lang", "lecture"].includes(name) || name.startsWith("__")) now.set(name, text);
      history.replaceState(null, "", "?" + now.toString().replaceAll("%2C", ",").replaceAll("%3A", ":"));
    }, 120);
  }

  function changed(stem, defaults, values) {  // defaults: {name: [default, {model: its own}]}
    const section = states[stem]?.section, model = values[Object.keys(defaults).indexOf("model")];
    states[stem] = section ? {section} : {};
    Object.entries(defaults).forEach(([name, [standard, ofModel]], i) => {
      if (spell(values[i]) !== spell(ofModel[model] ?? standard)) states[stem][name] = spell(values[i]);
    });
    write();
  }

  function section(stem, name, standard, tick) {  // opened by a person: its tick goes on, so it draws itself
    states[stem] ??= {};
    if (!ready || (states[stem].section ?? standard) === name) return tick;  // gradio's own select events, not a person's
    if (name === standard) delete states[stem].section; else states[stem].section = name;
    write();
    return tick + 1;
  }

  function run() {  // after everything has been drawn: the lane keeps the order
    if (runs) press("button.run");
  }

  function settled(id) {  // an event has ended or was stopped: nothing is being loaded for it any more
    for (const text of (id ? document.getElementById(id) : document)?.querySelectorAll(".waiting") ?? [])
      if (id || visible(text)) text.remove();
  }

  function redraw(stem, names, ticks, wanted = states[stem]?.section ?? names[0]) {
    return ticks.map((tick, i) => names[i] === wanted ? tick + 1 : tick);
  }

  function select(stem) {
    document.documentElement.dataset.tab = stem;
    tab = stem;
    write();
  }

  function opened(query) {  // the link has been read and the inputs are filled
    const values = new URLSearchParams(query), stem = values.get("tab");
    for (const [name, text] of values) if (name !== "tab") (states[stem] ??= {})[name] = text;
    select(stem);
    ready = true;
    const said = new URLSearchParams(location.search);
    if ([...values.keys()].some((name) => name !== "tab" && !said.has(name))) write();  // what this machine begins with
    try {
      const told = sessionStorage.getItem(TOLD);
      sessionStorage.removeItem(TOLD);
      if (told) notice(told);
    } catch { /* no storage: nothing was kept */ }
    document.documentElement.dataset.ready = "1";
  }

  // ---- header ------------------------------------------------------------------------------------------------------
  function dark(on) {
    document.body.classList.toggle("dark", on);
    document.body.style.background = "var(--body-background-fill)";  // gradio has set the colour of before
    const url = new URL(location.href);
    url.searchParams.set("__theme", on ? "dark" : "light");
    history.replaceState(null, "", url);
  }

  function language(lang) {
    document.cookie = `trugbild_lang=${lang}; path=/; max-age=31536000; samesite=lax`;
    const url = new URL(location.href);
    url.searchParams.set("lang", lang);
    location.assign(url);
  }

  function lecture(on) {
    document.documentElement.classList.toggle("lecture", on);
    document.documentElement.classList.remove("controls-open");
    const url = new URL(location.href);
    if (on) url.searchParams.set("lecture", "1"); else url.searchParams.delete("lecture");
    history.replaceState(null, "", url);
    window.dispatchEvent(new Event("resize"));
  }

  function follow(query) {
    const url = new URL(query, location.href), old = new URLSearchParams(location.search);
    for (const name of ["lang", "lecture", "__theme"]) if (old.has(name)) url.searchParams.set(name, old.get(name));
    location.assign(url);
  }

  function header(element, server) {
    // torch takes seconds to load and much memory: it waits for a sign of life, and is there when something is clicked.
    const gestures = ["pointermove", "pointerdown", "keydown", "touchstart", "wheel"];
    const wake = () => { for (const name of gestures) removeEventListener(name, wake); server.warm(null); };
    for (const name of gestures) addEventListener(name, wake, {passive: true});

    const dialog = $("dialog", element), file = $("input[type=file]", element);
    const actions = {
      de: () => language("de"), en: () => language("en"),
      dark: () => dark(!document.body.classList.contains("dark")),
      lecture: () => lecture(!document.documentElement.classList.contains("lecture")),
      controls: () => document.documentElement.classList.toggle("controls-open"),
      open: () => file.click(),
      close: () => dialog.close(),
      share: async () => {
        $("[data-link]", element).value = location.href;
        $("[data-qr]", element).replaceChildren();
        $("[data-action=copy]", element).textContent = words.copy;
        dialog.showModal();
        const answer = await server.qr({link: location.href, lang: window.trugbild.lang});
        $("[data-qr]", element).innerHTML = answer.svg ?? "";
        if (answer.problem) $("[data-qr]", element).textContent = answer.problem;
      },
      copy: async () => {
        const field = $("[data-link]", element);
        field.select();
        try { await navigator.clipboard.writeText(field.value); } catch { document.execCommand("copy"); }  // http on a LAN
        $("[data-action=copy]", element).textContent = words.copied;
      },
    };
    element.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
      actions[event.target.closest("[data-action]")?.dataset.action]?.();
    });
    for (const node of element.querySelectorAll("[data-lang]"))
      node.setAttribute("aria-current", String(node.dataset.lang === window.trugbild.lang));

    async function open(picture) {
      if (!picture) return;
      if (picture.size > 32e6) return notice(words.too_large);
      const data = await new Promise((done) => {
        const reader = new FileReader();
        reader.onload = () => done(reader.result);
        reader.readAsDataURL(picture);
      });
      const answer = await server.open_picture({data, lang: window.trugbild.lang});
      if (answer.problem) return notice(answer.problem);
      if (answer.told) try { sessionStorage.setItem(TOLD, answer.told); } catch { /* no storage: it is left unsaid */ }
      follow(answer.query + "&run=1");
    }
    file.addEventListener("change", () => { open(file.files[0]); file.value = ""; });
    const drop = $("[data-action=open]", element);
    const carries = (event) => event.dataTransfer?.types.includes("Files");
    for (const name of ["dragenter", "dragover"])
      drop.addEventListener(name, (event) => { if (carries(event)) { event.preventDefault(); drop.classList.add("over"); } });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault(); drop.classList.remove("over");
      open(event.dataTransfer.files[0]);
    });
  }

  function notice(text) {
    const bar = $("#notice"), old = $(".notice", bar);
    old?.remove();
    const box = document.createElement("div");
    box.className = "notice";
    box.setAttribute("role", "alert");
    box.textContent = text;
    const close = document.createElement("button");
    close.textContent = "×"; close.setAttribute("aria-label", words.close);
    close.onclick = () => box.remove();
    box.append(close);
    ($(".prose", bar) ?? bar).append(box);
  }

  document.addEventListener("click", (event) => {  // "try this": same window, same language and look
    const link = event.target.closest?.('a[href^="?tab="]');
    if (!link) return;
    event.preventDefault();
    follow(link.getAttribute("href"));
  }, true);

  function press(selector) { [...document.querySelectorAll(selector)].find(visible)?.click(); }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); press("button.run"); }
    else if (event.key === "Escape" && !$("dialog[open]")) press("button.stop");
    else if (event.key === " " && !event.target.closest("input, textarea, select, button, a, [role], [contenteditable]") && [...document.querySelectorAll("button.another")].some(visible)) {
      event.preventDefault(); press("button.another");
    }
  });

  // ---- canvases -----------------------------------------------------------------------------------------------------
  function canvas(element, paint) {  // keeps the bitmap at device resolution; answers `repaint`
    const node = $("canvas", element), context = node.getContext("2d");
    const repaint = () => {
      const side = node.clientWidth, scale = Math.min(window.devicePixelRatio || 1, 3);
      if (!side) return;
      const pixels = Math.round(side * scale);
      if (node.width !== pixels || node.height !== pixels) node.width = node.height = pixels;
      context.setTransform(node.width / 1000, 0, 0, node.width / 1000, 0, 0);  // the square is 1000 units wide
      paint(context, side);
    };
    new ResizeObserver(repaint).observe(node);
    new MutationObserver(repaint).observe(document.body, {attributes: true, attributeFilter: ["class"]});
    const at = (event) => {  // pointer -> units, clamped to the square
      const box = node.getBoundingClientRect();
      const unit = (v, low, size) => Math.min(1000, Math.max(0, (v - low) / size * 1000));
      return [unit(event.clientX, box.left, box.width), unit(event.clientY, box.top, box.height)];
    };
    return {node, repaint, at};
  }

  const style = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
  const CLASSES = ["#e6194b", "#f58231", "#d4a800", "#3cb44b", "#008080", "#3a86ff", "#4b3fc9", "#b5179e", "#8d5a2b", "#7f8c8d"];

  // The latent plane: dots of the test set, the grid of decodings, one point to drag, an ellipse of one sigma.
  function plane(element, props, trigger, watch) {
    const background = new Image();
    let dots = [], sent = 0, waiting = 0, held = false;

    const value = () => props.value ?? {};
    const radius = () => value().radius || 3;
    const toUnit = (x, y) => [500 + x / radius() * 500, 500 - y / radius() * 500];

    const {node, repaint, at} = canvas(element, (c, side) => {
      const px = 1000 / side;  // one CSS pixel
      c.clearRect(0, 0, 1000, 1000);
      c.fillStyle = style("--plane"); c.fillRect(0, 0, 1000, 1000);
      if (value().grid && background.complete && background.naturalWidth) {
        c.imageSmoothingEnabled = true;
        const tile = 1000 / (value().tiles || 1);  // outer nodes lie on the edge: half of their tile is outside
        c.drawImage(background, -tile / 2 * (value().tiles / (value().tiles - 1)), -tile / 2 * (value().tiles / (value().tiles - 1)),
          1000 * value().tiles / (value().tiles - 1), 1000 * value().tiles / (value().tiles - 1));
      } else {
        c.strokeStyle = style("--plane-line"); c.lineWidth = px;
        c.beginPath();
        for (let v = Math.ceil(-radius()); v <= radius(); v++) {
          const [u, w] = toUnit(v, v);
          c.moveTo(u, 0); c.lineTo(u, 1000); c.moveTo(0, w); c.lineTo(1000, w);
        }
        c.stroke();
        const size = Math.max(1.3, side / 300) * px;
        c.globalAlpha = 0.62;
        for (const [x, y, label] of dots) {
          const [u, w] = toUnit(x, y);
          c.fillStyle = CLASSES[label];
          c.beginPath(); c.arc(u, w, size, 0, 7); c.fill();
        }
        c.globalAlpha = 1;
      }
      c.strokeStyle = style("--ink"); c.lineWidth = 1.5 * px; c.setLineDash([7 * px, 6 * px]);  // two sigma of the prior
      c.beginPath(); c.arc(500, 500, 2 / radius() * 500, 0, 7); c.stroke(); c.setLineDash([]);
      const [u, w] = toUnit(value().x ?? 0, value().y ?? 0);
      if (value().sigma) {
        c.beginPath();
        c.ellipse(u, w, Math.max(3 * px, value().sigma[0] / radius() * 500), Math.max(3 * px, value().sigma[1] / radius() * 500), 0, 0, 7);
        c.fillStyle = style("--accent-soft"); c.fill();
        c.strokeStyle = style("--accent"); c.lineWidth = 2 * px; c.stroke();
      }
      for (const [colour, width] of [["#fff", 5], [style("--accent"), 3]]) {
        c.strokeStyle = colour; c.lineWidth = width * px;
        c.beginPath(); c.arc(u, w, 11 * px, 0, 7); c.stroke();
        c.beginPath(); c.arc(u, w, 2 * px, 0, 7); c.stroke();
      }
    });

    function legend() {
      const box = $(".legend", element);
      box.replaceChildren(...(value().grid ? [] : value().classes ?? []).map((name, i) => {
        const item = document.createElement("span");
        item.textContent = name;
        item.style.setProperty("--dot", CLASSES[i]);
        return item;
      }));
    }

    function load() {
      const bytes = Uint8Array.from(atob(value().dots ?? ""), (c) => c.charCodeAt(0));
      const codes = new DataView(bytes.buffer);  // x, y: int16 in radius / 32767; label: uint8
      dots = [];
      for (let i = 0; i + 5 <= bytes.length; i += 5)
        dots.push([codes.getInt16(i, true) / 32767 * radius(), codes.getInt16(i + 2, true) / 32767 * radius(), bytes[i + 4]]);
      if (value().background && background.src !== value().background) background.src = value().background;
      node.setAttribute("aria-label", value().label ?? "");
      legend(); repaint();
    }
    background.onload = repaint;

    function send() {  // at most 25 a second; the last position always goes
      const wait = sent + 40 - performance.now();
      clearTimeout(waiting);
      if (wait > 0) { waiting = setTimeout(send, wait); return; }
      sent = performance.now();
      trigger("input");
    }
    function move(x, y) {
      const limit = (v) => Math.round(Math.min(radius(), Math.max(-radius(), v)) * 1000) / 1000;
      props.value = {...value(), x: limit(x), y: limit(y), sigma: null};
      repaint(); send();
    }
    if (element.querySelector(".pad").dataset.fixed !== "1") {
      const drag = (event) => { const [u, w] = at(event); move((u - 500) / 500 * radius(), (500 - w) / 500 * radius()); };
      node.addEventListener("pointerdown", (event) => { held = true; node.setPointerCapture(event.pointerId); node.focus({preventScroll: true}); drag(event); });
      node.addEventListener("pointermove", (event) => { if (held) drag(event); });
      for (const name of ["pointerup", "pointercancel"]) node.addEventListener(name, () => { held = false; trigger("release"); });
      node.addEventListener("keyup", () => trigger("release"));
      node.addEventListener("keydown", (event) => {
        const step = radius() / (event.shiftKey ? 10 : 50);
        const by = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step]}[event.key];
        if (by) { event.preventDefault(); move((value().x ?? 0) + by[0], (value().y ?? 0) + by[1]); }
      });
    }
    watch("value", load);
    load();
  }

  // Strokes as text, the same as in apps/drawing.py: per stroke its number of points, then steps, as zigzag varints.
  function encode(strokes) {
    const bytes = [];
    const put = (n) => { while (n >= 128) { bytes.push(n % 128 + 128); n = Math.floor(n / 128); } bytes.push(n); };
    let [x, y] = [0, 0];
    for (const points of strokes) {
      const kept = points.filter((p, i) => { // a pen sends a point every few pixels; a tenth of the pen's width is enough
        if (i && i < points.length - 1 && Math.hypot(p[0] - x, p[1] - y) < 16) return false;
        [x, y] = p;
        return true;
      });
      points.splice(0, points.length, ...kept);
    }
    [x, y] = [0, 0];
    for (const points of strokes) {
      put(points.length);
      for (const [u, v] of points) {
        for (const step of [u - x, v - y]) put(step >= 0 ? 2 * step : -2 * step - 1);
        [x, y] = [u, v];
      }
    }
    return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  function decode(text) {
    const bytes = [...atob(text.replaceAll("-", "+").replaceAll("_", "/"))].map((c) => c.charCodeAt(0));
    const take = () => { let n = 0, f = 1, b; do { b = bytes.shift(); n += (b % 128) * f; f *= 128; } while (b >= 128); return n; };
    const step = () => { const n = take(); return n % 2 ? -(n + 1) / 2 : n / 2; };
    const strokes = [];
    let [x, y] = [0, 0];
    while (bytes.length) strokes.push(Array.from({length: take()}, () => [x += step(), y += step()]));
    return strokes;
  }

  function ink(c, strokes, colour, width) {  // as one path, so that a veil is nowhere twice as thick
    c.strokeStyle = colour; c.lineWidth = width; c.lineCap = c.lineJoin = "round";
    c.beginPath();
    for (const points of strokes) {
      c.moveTo(...points[0]);
      for (const point of points) c.lineTo(...point);
      c.lineTo(points.at(-1)[0] + 0.1, points.at(-1)[1]);
    }
    c.stroke();
  }

  function pen(pad, strokes, done) {  // strokes() is the list that a new one goes to; answers whether one is being drawn
    let stroke = null;
    const point = (event) => pad.at(event).map(Math.round);
    pad.node.addEventListener("pointerdown", (event) => {
      pad.node.setPointerCapture(event.pointerId);
      stroke = [point(event)]; strokes().push(stroke); pad.repaint();
    });
    pad.node.addEventListener("pointermove", (event) => {
      if (!stroke) return;
      for (const e of event.getCoalescedEvents?.() ?? [event]) stroke.push(point(e));
      pad.repaint();
    });
    for (const name of ["pointerup", "pointercancel"]) pad.node.addEventListener(name, () => {
      if (!stroke) return;
      stroke = null;
      done();
    });
    return () => stroke !== null;
  }

  // Lines, white on black, or a veil over the places of a picture that are marked. Value: "" or "s:" and the strokes; what
  // a rubber has done in between is "e:" and its strokes, after a comma.
  function sketch(element, props, trigger, watch) {
    const {veil, width, rubber} = $(".sketch", element).dataset, picture = new Image(), rub = $("[data-rub]", element);
    let strokes = [];
    const layers = () => strokes.reduce((all, stroke) => {  // of strokes by the same tool, one after the other
      if (all.length && all.at(-1)[0].rubs === stroke.rubs) all.at(-1).push(stroke); else all.push([stroke]);
      return all;
    }, []);
    const pad = canvas(element, (c) => {
      c.fillStyle = "#000"; c.fillRect(0, 0, 1000, 1000);
      if (picture.complete && picture.naturalWidth) c.drawImage(picture, 0, 0, 1000, 1000);
      for (const layer of layers())
        ink(c, layer, layer[0].rubs ? "#000" : veil === "1" ? "#ff2d78a8" : "#fff", Number(layer[0].rubs ? rubber : width));
      $(".hint", element).hidden = strokes.length > 0;
    });
    const code = () => layers().map((layer) => (layer[0].rubs ? "e:" : "s:") + encode(layer)).join(",");
    const set = () => { props.value = code(); pad.repaint(); trigger("input"); };
    const begun = {push: (stroke) => strokes.push(Object.assign(stroke, {rubs: rub?.ariaPressed === "true"}))};
    const busy = pen(pad, () => begun, set);
    element.addEventListener("click", (event) => {
      if (event.target.closest("[data-rub]")) { rub.ariaPressed = String(rub.ariaPressed !== "true"); return; }
      if (event.target.closest("[data-undo]")) strokes.pop();
      else if (event.target.closest("[data-clear]")) strokes = [];
      else return;
      set();
    });
    function load() {
      if (busy() || (props.value || "") === code()) return;
      strokes = (props.value || "").split(",").filter(Boolean).flatMap((layer) =>
        decode(layer.slice(2)).map((stroke) => Object.assign(stroke, {rubs: layer.startsWith("e:")})));
      pad.repaint();
    }
    function paper() {
      if (props.background) picture.src = props.background; else picture.removeAttribute("src");
      pad.repaint();
    }
    picture.onload = pad.repaint;
    watch("value", load); watch("background", paper);
    load(); paper();
  }

  // A pad to draw on, with the digits that we drew as examples below. Value: a comma-separated list of inputs.
  function examples(element, props, trigger, watch) {
    const many = $(".examples", element).dataset.many === "1";
    const thumb = (code) => code && element.querySelector(`[data-code="${CSS.escape(code)}"]`);
    let kind = "digit";
    let strokes = [], busy = () => false;
    const chosen = () => (props.value || "").split(",").filter(Boolean);
    const drawn = () => chosen().some((code) => code.startsWith("s:"));

    const pad = $("canvas", element) && canvas(element, (c) => {
      c.fillStyle = "#000"; c.fillRect(0, 0, 1000, 1000);
      const example = $("img", thumb(chosen()[0]) || document.createElement("i"));
      if (example && !strokes.length) {
        c.imageSmoothingEnabled = false;
        c.drawImage(example, 0, 0, 1000, 1000);
      }
      ink(c, strokes, "#fff", 80);
      $(".hint", element).hidden = strokes.length > 0 || Boolean(example);
    });

    function mark() {
      const codes = chosen();
      kind = thumb(codes[0])?.dataset.kind ?? {"f:": "garment", "t:": "digit"}[codes[0]?.slice(0, 2)] ?? kind;  // digits or garments, whichever the model knows
      $(".thumbs", element).dataset.kind = kind;
      for (const node of element.querySelectorAll("button[data-kind]")) node.hidden = node.dataset.kind !== kind;
      for (const node of element.querySelectorAll("[data-code]"))
        node.setAttribute("aria-pressed", String(codes.includes(node.dataset.code)));
      if (pad) { if (!drawn() && !busy()) strokes = []; pad.repaint(); }
    }
    function set(codes) { props.value = codes.join(","); mark(); trigger("input"); }

    element.addEventListener("click", (event) => {
      const code = event.target.closest("[data-code]")?.dataset.code;
      if (event.target.closest("[data-clear]")) { strokes = []; return set([]); }
      if (!code) return;
      strokes = [];
      if (!many) set([code]);
      else set(chosen().includes(code) ? chosen().filter((c) => c !== code) : [...chosen(), code].slice(-6));
    });
    if (pad) busy = pen(pad, () => { if (!drawn()) strokes = []; return strokes; }, () => set(["s:" + encode(strokes)]));
    function load() {
      const code = chosen().find((c) => c.startsWith("s:"));
      if (pad && code && !strokes.length) strokes = decode(code.slice(2));
      mark();
    }
    watch("value", load);
    load();
  }

  // People as pictures in a row. Value: their words joined by commas; props.thumbs: word -> picture, as the server drew it.
  const anybody = () => String(Math.floor(Math.random() * 4294967296));

  function people(element, props, trigger, watch) {
    const box = $(".people", element), least = Number(box.dataset.least), most = Number(box.dataset.most);
    const chosen = () => (props.value || "").split(",").filter(Boolean);
    function show() {
      const words_ = chosen(), thumbs = props.thumbs ?? {};
      box.replaceChildren(...words_.map((word, i) => {
        const tile = document.createElement("div");
        const [other, drop] = [["other", "⟳", words.another_person], ["drop", "×", words.take_away]].map(([act, sign, title]) => {
          const button = document.createElement("button");
          Object.assign(button, {type: "button", textContent: sign, title});
          button.setAttribute("aria-label", title);
          button.dataset.act = act; button.dataset.at = i;
          return button;
        });
        if (thumbs[word]) { const img = document.createElement("img"); img.src = thumbs[word]; img.alt = word.slice(0, 12); tile.append(img); }
        tile.append(other);
        if (words_.length > least) tile.append(drop);
        return tile;
      }));
      if (words_.length >= most) return;
      const add = document.createElement("button");
      Object.assign(add, {type: "button", textContent: "+", title: words.add_person});
      add.setAttribute("aria-label", words.add_person);
      add.dataset.act = "add";
      box.append(add);
    }
    box.addEventListener("click", (event) => {
      const button = event.target.closest("[data-act]"), at = Number(button?.dataset.at), list = chosen();
      if (!button) return;
      if (button.dataset.act === "add") list.push(anybody());
      else list.splice(at, 1, ...(button.dataset.act === "other" ? [anybody()] : []));
      props.value = list.join(",");
      show(); trigger("input");
    });
    watch(["value", "thumbs"], show);
    show();
  }

  function quiz(element, props, watch) {  // a guess for every picture, then the truth and what the discriminator thought
    const box = $(".quiz", element);
    let guesses = [];
    function show() {
      const items = props.value ?? [], done = items.length && guesses.filter((g) => g !== undefined).length === items.length;
      const right = (says) => items.filter((item, i) => says(item, i) === item.real).length;
      box.replaceChildren(...items.map((item, i) => {
        const figure = document.createElement("figure"), img = document.createElement("img");
        Object.assign(img, {src: item.src, alt: `${i + 1}`});
        const row = document.createElement("div"), text = document.createElement("figcaption");
        row.className = "uses";
        for (const [real, label] of [[true, words.quiz_real], [false, words.quiz_fake]]) {
          const button = document.createElement("button");
          Object.assign(button, {type: "button", textContent: label, onclick: () => { guesses[i] = real; show(); }});
          button.setAttribute("aria-pressed", String(guesses[i] === real));
          row.append(button);
        }
        if (done) {
          const truth = document.createElement("b"), share = Math.round(100 / (1 + Math.exp(-item.score)));
          truth.textContent = (guesses[i] === item.real ? "✓ " : "✗ ") + (item.real ? words.quiz_real : words.quiz_fake);
          text.append(truth, document.createElement("br"), words.quiz_judge.replace("{share}", share));
        }
        figure.append(img, row, text);
        return figure;
      }));
      if (!done) return;
      const tally = document.createElement("div");
      tally.className = "tally"; tally.setAttribute("role", "status");
      tally.textContent = words.quiz_tally.replace("{hall}", right((_, i) => guesses[i])).replace("{net}", right((item) => item.score > 0))
        .replaceAll("{all}", items.length);
      box.prepend(tally);
    }
    watch("value", () => { guesses = []; show(); });
    show();
  }

  function picker(element, props, trigger) {  // one a tab: any picture with a button `data-use` can be used elsewhere
    let n = 0;
    document.addEventListener("click", (event) => {
      const button = event.target.closest?.("[data-use]");
      if (!button || !element.closest(".tabitem")?.contains(button)) return;
      props.value = `${button.dataset.use}:${n += 1}:${button.dataset.word}`;
      trigger("input");
      button.classList.add("done");
      setTimeout(() => button.classList.remove("done"), 900);
    });
  }

  function picked(pick, names, values) {  // "use:n:word" -> the values, the one called `use` with the word in it
    const [use, , ...word] = pick.split(":");
    return names.map((name, i) => {
      if (name !== use) return values[i];
      if (typeof values[i] !== "string") return Number(word.join(":"));
      const list = values[i].split(",").filter((w) => w && w !== word.join(":"));
      return [...list, word.join(":")].slice(-Math.max(1, values[i].split(",").length)).join(",");
    });
  }

  function asked(pick, names, values) {  // "use:n:{...}" -> the values, those that the button names instead of the old
    const [use, , ...word] = pick.split(":"), said = JSON.parse(word.join(":"));
    if (use === "word") said.prompt = `${values[names.indexOf("prompt")].trim()} ${said.prompt}`.trim();
    return names.map((name, i) => said[name] ?? values[i]);
  }

  // Pictures of this visit, newest first; they stay in this browser tab, which forgets them when it is closed.
  function visit(element) {
    const box = $(".visit", element), most = 24, shelf = "trugbild-visit";
    let kept = [];
    try { kept = JSON.parse(sessionStorage.getItem(shelf)) ?? []; } catch { /* nothing kept */ }
    function show() {
      box.replaceChildren(...kept.map(({keep, src, name}) => {
        const figure = document.createElement("figure"), button = document.createElement("button"), img = document.createElement("img");
        const save = document.createElement("a");
        Object.assign(button, {type: "button", title: keep.prompt});
        Object.assign(button.dataset, {use: "set", word: JSON.stringify(keep)});
        Object.assign(img, {src, alt: keep.prompt});
        Object.assign(save, {className: "save", href: src, download: name, title: words.save});
        button.append(img);
        figure.append(button, ...(name ? [save] : []));
        return figure;
      }));
    }
    function collect() {
      const before = kept.length ? JSON.stringify(kept[0].keep) : "";
      for (const node of document.querySelectorAll("#drawn [data-keep]")) {
        const figure = node.closest("figure"), save = $("a.save", figure), keep = JSON.parse(node.dataset.keep);
        if (!save) continue;
        const whole = save.href.startsWith("data:");  // a larger file is there for minutes: later it is drawn again
        const [src, name] = whole ? [save.href, save.download] : [$("img", figure).src, ""];
        kept = [{keep, src, name}, ...kept.filter((k) => JSON.stringify(k.keep) !== JSON.stringify(keep))].slice(0, most);
      }
      if (kept.length && JSON.stringify(kept[0].keep) === before) return;
      show();
      try { sessionStorage.setItem(shelf, JSON.stringify(kept)); } catch { /* full: they stay until the page goes */ }
    }
    new MutationObserver(collect).observe($("#drawn"), {childList: true, subtree: true});
    show();
    collect();
  }

  // Steps of a picture to scrub through: all of them are in the page, one is shown. Value: its number.
  function film(element, props, trigger, watch) {
    const range = $("input", element), label = $("output", element), sheet = $(".sheet", element);
    const [pairs, more] = element.querySelectorAll(".shots"), mark = document.createElement("i");
    const steps = () => props.film?.steps ?? [];
    function show() {
      if (!steps().length) return;
      const {columns, rows, labels} = props.film, far = steps().map((step) => Math.abs(step - props.value));
      const i = far.indexOf(Math.min(...far));  // a link may name a step that another number of steps lacks
      range.value = i;
      label.textContent = labels[i];
      for (const box of [pairs, more]) [...box.children].forEach((shot, j) => { shot.hidden = j !== i; });
      mark.style.cssText = `left:${i % columns / columns * 100}%;top:${Math.floor(i / columns) / rows * 100}%;width:${100 / columns}%;height:${100 / rows}%`;
    }
    function go(i) {
      if (!(i in steps()) || steps()[i] === props.value) return;
      props.value = steps()[i];
      show(); trigger("input");
    }
    function build() {
      element.firstElementChild.hidden = !steps().length;
      if (!steps().length) return;
      range.max = steps().length - 1;
      fill(pairs, props.film.pairs);
      sheet.innerHTML = props.film.sheet;
      $(".frame", sheet).append(mark);
      fill(more, props.below ?? []);
    }
    function fill(box, shots) {
      box.innerHTML = shots.map((shot) => `<div>${shot}</div>`).join("");
      show();
    }
    range.addEventListener("input", () => go(Number(range.value)));
    sheet.addEventListener("pointerdown", (event) => {
      const frame = event.target.closest(".frame"), box = frame?.getBoundingClientRect();
      if (!frame) return;
      const cell = (v, low, size, n) => Math.min(n - 1, Math.floor((v - low) / size * n));
      const {columns, rows} = props.film;
      go(cell(event.clientX, box.left, box.width, columns) + columns * cell(event.clientY, box.top, box.height, rows));
    });
    watch("film", build);
    watch("below", () => fill(more, props.below ?? []));
    watch("value", show);
    build();
  }

  return {changed, section, settled, redraw, run, select, opened, header, notice, plane, examples, sketch, people, picker, picked, asked, visit, film, quiz, anybody};
})());
