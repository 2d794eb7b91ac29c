// The page refreshes itself without moving under the reader: what has changed is changed in place, so that focus,
// scroll position, opened tables and an open dialog stay. Everything can be read without this file.
"use strict";
(() => {
  const body = document.body;
  const every = Number(body.dataset.refresh) * 1000;
  const main = document.getElementById("main");
  const freshness = document.getElementById("freshness");
  const told = document.getElementById("told");
  const pause = document.getElementById("pause");
  const state = { paused: false, goodAt: Date.now(), problem: "", level: levelOf(document), busy: false, timer: 0 };

  function levelOf(page) {
    const status = page.getElementById("status");
    return status ? status.dataset.level : "";
  }

  // --- changing in place ------------------------------------------------------------------

  const KEPT = new Set(["open"]); // what the reader has opened stays open

  function sameKind(one, other) {
    return one.nodeType === other.nodeType && one.nodeName === other.nodeName && (one.id || "") === (other.id || "");
  }

  function morph(from, to) {
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
      return;
    }
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && !KEPT.has(name)) from.removeAttribute(name);
    }
    for (const { name, value } of [...to.attributes]) {
      if (!KEPT.has(name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    const named = new Map([...from.children].filter((child) => child.id).map((child) => [child.id, child]));
    const wantedIds = new Set([...to.children].map((child) => child.id).filter(Boolean));
    let at = from.firstChild;
    for (const wanted of [...to.childNodes]) {
      let match = at && sameKind(at, wanted) ? at : null;
      const later = !match && wanted.id ? named.get(wanted.id) : null;
      if (later && later.parentNode === from && sameKind(later, wanted)) {
        // What is gone goes first, so that what stays need not move: a moved element loses the focus.
        for (let node = at; node && node !== later; ) {
          const next = node.nextSibling;
          if (!node.id || !wantedIds.has(node.id)) {
            if (node === at) at = next;
            node.remove();
          }
          node = next;
        }
        if (at !== later) from.insertBefore(later, at);
        match = later;
      }
      if (match) {
        if (at === match) at = match.nextSibling;
        morph(match, wanted);
      } else {
        from.insertBefore(document.importNode(wanted, true), at);
      }
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function takeOver(page) {
    const focused = document.activeElement;
    const home = focused && main.contains(focused) ? focused.closest("section") : null;
    morph(main, document.adoptNode(page.getElementById("main")));
    if (home && !document.contains(focused)) headingOf(home).focus({ preventScroll: true });
    else if (home && document.activeElement !== focused) focused.focus({ preventScroll: true });
    document.title = page.title;
    const icon = document.querySelector("link[rel=icon]");
    const newIcon = page.querySelector("link[rel=icon]");
    if (icon && newIcon && icon.getAttribute("href") !== newIcon.getAttribute("href")) {
      icon.setAttribute("href", newIcon.getAttribute("href"));
    }
  }

  function headingOf(section) {
    const there = section.id ? document.getElementById(section.id) : null;
    return (there && there.querySelector("h2, h1")) || document.getElementById("status-title") || main;
  }

  // --- asking again -------------------------------------------------------------------------

  async function refresh() {
    if (state.busy) return;
    state.busy = true;
    try {
      const answer = await fetch(location.pathname + location.search, {
        headers: { Accept: "text/html" }, cache: "no-store", redirect: "manual", signal: AbortSignal.timeout(30000),
      });
      if (answer.type === "opaqueredirect" || answer.status === 401) {
        lose("The session is over: reload the page and log in again.");
      } else if (answer.headers.get("content-type")?.startsWith("text/html")) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const level = levelOf(page);
        takeOver(page);
        if (level !== state.level) tell(`${document.getElementById("status-title").textContent}.`);
        state.level = level;
        if (answer.ok) regain();
        else lose("The service answers, but cannot look at the warehouse now.", { stale: false });
      } else {
        lose(`The service answered with ${answer.status}.`);
      }
    } catch {
      lose("The service does not answer.");
    } finally {
      state.busy = false;
      say();
    }
  }

  function regain() {
    body.classList.remove("stale");
    if (state.problem) tell("The service answers again.");
    state.problem = "";
    state.goodAt = Date.now();
  }

  // What was well a while ago is not called well any more.
  function lose(problem, { stale = true } = {}) {
    if (state.problem !== problem) tell(problem);
    state.problem = problem;
    body.classList.toggle("stale", stale);
    if (!stale) return;
    document.title = "No answer – onerow";
    document.querySelector("link[rel=icon]").setAttribute("href", body.dataset.unknown);
  }

  function tell(text) {
    if (told) told.textContent = text;
  }

  function span(seconds) {
    if (seconds < 90) return `${seconds} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    return `${Math.round(seconds / 3600)} h`;
  }

  function say() {
    if (!freshness) return;
    const age = Math.round((Date.now() - state.goodAt) / 1000);
    const stale = state.problem !== "" || (state.paused && age > 60);
    freshness.classList.toggle("stale", stale);
    const old = `What you see is ${span(age)} old.`;
    freshness.textContent = state.problem ? `${state.problem} ${old}` : state.paused ? `Paused. ${old}` : `Up to date, refreshed ${span(age)} ago.`;
  }

  function plan() {
    clearInterval(state.timer);
    if (!state.paused) state.timer = setInterval(() => { if (!document.hidden) refresh(); }, every);
  }

  if (freshness) {
    freshness.closest(".refresh").hidden = false;
    pause.addEventListener("click", () => {
      state.paused = !state.paused;
      pause.setAttribute("aria-pressed", String(state.paused));
      tell(state.paused ? "Refresh is paused." : "Refresh goes on.");
      plan();
      say();
      if (!state.paused) refresh();
    });
    setInterval(say, 1000);
    say();
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !state.paused) refresh(); });
  plan();

  // --- taking locks away, consolidating again --------------------------------------------------

  let opener = null; // its id: the button itself may be gone when the dialog closes
  let openedIn = null;

  function part(dialog, name) {
    return document.getElementById(`${dialog.id}-${name}`);
  }

  function complain(field, error, text) {
    error.textContent = text;
    error.hidden = !text;
    if (text) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }

  function result(dialog, level, text) {
    const note = document.createElement("p");
    note.className = `note ${level}`;
    note.textContent = text;
    dialog.querySelector(".outcome").replaceChildren(note);
  }

  function open(button) {
    const dialog = document.getElementById(button.dataset.opens);
    opener = button.id;
    openedIn = button.closest("section");
    dialog.asked = { ...button.dataset };
    dialog.querySelector("form").reset();
    dialog.querySelector(".outcome").replaceChildren();
    const does = dialog.querySelector("[data-does]");
    does.hidden = false;
    does.disabled = false;
    dialog.querySelector("[data-closes]").textContent = "Leave it";
    complain(part(dialog, "reason"), part(dialog, "reason-error"), "");
    const { holder, since, held, renewed, renewals, state: lock } = button.dataset;
    const shown = { ...button.dataset, batch: button.dataset.batch || "–" };
    if (dialog.id === "release") {
      shown.since = since ? `${since}, for ${held}` : "–";
      shown.renewed = lock === "free" ? "–" : `${renewed} ago, ${renewals} in all`;
      part(dialog, "words").textContent = lock === "free"
        ? `The lock was taken away already, by ${holder}. This raises the fence in the warehouse again, so that whoever held it cannot commit.`
        : lock === "held"
          ? `${holder} holds it since ${since} and renewed it ${renewed} ago: it is alive.`
          : `${holder} holds it since ${since} and has not renewed it for ${renewed}.`;
      complain(part(dialog, "force"), part(dialog, "force-error"), "");
      part(dialog, "alive").hidden = lock !== "held";
    }
    for (const place of dialog.querySelectorAll("[data-shows]")) place.textContent = shown[place.dataset.shows];
    dialog.showModal();
    part(dialog, "reason").focus();
  }

  async function act(url, data) {
    const answer = await fetch(url, {
      method: "POST", redirect: "manual", signal: AbortSignal.timeout(120000), body: JSON.stringify(data),
      headers: { "Content-Type": "application/json", "X-CSRF-Token": body.dataset.csrf },
    });
    const told = answer.headers.get("content-type")?.includes("json") ? await answer.json() : {};
    return { ok: answer.ok, status: answer.status, told };
  }

  function askedFor(dialog) {
    const reason = part(dialog, "reason");
    const lacks = !reason.value.trim();
    complain(reason, part(dialog, "reason-error"), lacks ? "Write a reason." : "");
    let first = lacks ? reason : null;
    const alive = part(dialog, "alive");
    if (alive && !alive.hidden) {
      const force = part(dialog, "force");
      complain(force, part(dialog, "force-error"), force.checked ? "" : "Confirm this too: the holder is alive.");
      if (!force.checked) first = first || force;
    }
    if (first) first.focus();
    return first ? null : reason.value.trim();
  }

  async function submit(dialog) {
    const reason = askedFor(dialog);
    if (reason === null) return;
    const does = dialog.querySelector("[data-does]");
    const closes = dialog.querySelector("[data-closes]");
    does.disabled = true;
    result(dialog, "", "Working…");
    try {
      const { ok, status, told: said } = await (dialog.id === "release"
        ? act("/v1/locks/force-release", { scope: dialog.asked.scope, reason, force: part(dialog, "force").checked })
        : act("/v1/batches/consolidate-again", { table: dialog.asked.table, batch: dialog.asked.batch, reason }));
      if (ok && dialog.id === "release" && said.fence_error) {
        result(dialog, "warning", said.message);
        does.textContent = "Try the second step again";
        part(dialog, "alive").hidden = true;
        does.disabled = false;
      } else if (ok) {
        result(dialog, "well", said.message);
        does.hidden = true;
        closes.textContent = "Close";
        closes.focus();
      } else {
        result(dialog, "critical", `${said.detail || `The service answered with ${status}.`} ${said.hint || ""}`.trim());
        if (said.kind === "holder_alive") {
          part(dialog, "alive").hidden = false;
          part(dialog, "force").focus();
        }
        does.disabled = false;
      }
    } catch {
      result(dialog, "unknown", "The service did not answer. Whether it was done is not known; the page tells when it answers again.");
      does.disabled = false;
    }
    refresh();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button && button.dataset.opens) open(button);
    else if (button && "closes" in button.dataset) button.closest("dialog").close();
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    const does = dialog.querySelector("[data-does]");
    const words = does.textContent;
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!does.disabled && !does.hidden) submit(dialog);
    });
    dialog.addEventListener("close", () => {
      does.textContent = words;
      const button = document.getElementById(opener);
      (button || headingOf(openedIn)).focus();
    });
  }
})();
