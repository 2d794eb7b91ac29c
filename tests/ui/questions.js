// What the tests ask a page about itself. Each function returns a list of what is wrong, as words.
(() => {
  const visible = (element) => {
    const style = getComputedStyle(element);
    return element.checkVisibility({ checkVisibilityCSS: true }) && element.getClientRects().length > 0 && style.opacity !== "0";
  };
  const hiddenForEyes = (element) => element.closest(".visually-hidden, .skip:not(:focus)");
  const named = (element) => [element.localName, element.id && `#${element.id}`, ...[...element.classList].map((name) => `.${name}`)].join("");

  // --- contrast ---------------------------------------------------------------------------

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  function rgba(text) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  }
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  function behind(element) {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), rgba(getComputedStyle(document.documentElement).colorScheme.startsWith("dark") ? "#121212" : "#fff"));
  }
  function luminance([r, g, b]) {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  }
  function ratio(one, other) {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  }

  function contrast() {
    const wrong = [];
    let seen = 0;
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.nodeValue.trim() || !visible(element) || hiddenForEyes(element) || element.closest("script, style, title, desc")) continue;
      const style = getComputedStyle(element);
      const ground = behind(element);
      const found = ratio(over(rgba(element.closest("svg") ? style.fill : style.color), ground), ground);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      seen += 1;
      if (found < (large ? 3 : 4.5)) wrong.push(`${named(element)} “${walker.currentNode.nodeValue.trim().slice(0, 30)}”: ${found.toFixed(2)}`);
    }
    for (const shape of document.querySelectorAll(".chart rect, .range line, .range circle, .sign, button, input, textarea")) {
      if (!visible(shape)) continue;
      const style = getComputedStyle(shape);
      const ground = behind(shape.parentElement);
      const isText = !shape.closest("svg");
      const colour = isText ? style.borderTopColor : shape.localName === "line" || shape.localName === "svg" ? style.stroke : style.fill;
      seen += 1;
      const found = ratio(over(rgba(colour), ground), ground);
      if (found < 3) wrong.push(`${named(shape)}: ${found.toFixed(2)} (${colour})`);
    }
    return { wrong, seen };
  }

  // --- width ------------------------------------------------------------------------------

  function overflow() {
    const width = document.documentElement.clientWidth;
    const wrong = document.documentElement.scrollWidth > width ? [`the page is ${document.documentElement.scrollWidth} wide`] : [];
    for (const element of document.querySelectorAll("body *")) {
      if (!visible(element) || hiddenForEyes(element) || element.closest(".scroll, thead")) continue;
      const box = element.getBoundingClientRect();
      if (box.right > width + 1 || box.left < -1) wrong.push(`${named(element)}: ${box.left.toFixed(0)} to ${box.right.toFixed(0)}`);
    }
    return wrong;
  }

  // --- what a screen reader is told -------------------------------------------------------------

  function text(element) {
    const by = element.getAttribute("aria-labelledby");
    if (by) return by.split(/\s+/).map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim();
    const label = element.getAttribute("aria-label") ?? (element.labels?.length ? [...element.labels].map((found) => found.textContent).join(" ") : null);
    return (label ?? element.querySelector(":scope > title")?.textContent ?? element.textContent).trim();
  }

  function rules() {
    const wrong = [];
    const must = (fine, words) => { if (!fine) wrong.push(words); };
    must(document.documentElement.lang === "en", "the language is not told");
    must(document.title.includes("onerow"), "the title does not name the program");
    must(document.querySelectorAll("main").length === 1, "there is not one main");
    must(document.querySelectorAll("body > header").length === 1, "there is not one header");
    must(document.querySelectorAll("body > footer").length === 1, "there is not one footer");
    must(document.querySelectorAll("h1").length === 1, "there is not one h1");
    let before = 0;
    for (const heading of document.querySelectorAll("main :is(h1, h2, h3, h4)")) {
      const level = Number(heading.localName[1]);
      must(level <= before + 1, `${named(heading)} leaves a level out`);
      must(heading.textContent.trim(), `${named(heading)} is empty`);
      before = level;
    }
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) must(false, `the id ${id} stands twice`);
    for (const name of ["aria-labelledby", "aria-describedby", "aria-controls", "for"]) {
      for (const element of document.querySelectorAll(`[${name}]`)) {
        for (const id of element.getAttribute(name).split(/\s+/)) must(document.getElementById(id), `${named(element)} names ${id}, which is not there`);
      }
    }
    for (const element of document.querySelectorAll("a, button, input, textarea, select, summary, nav, section, dialog, [role=region], svg[role=img]")) {
      must(text(element), `${named(element)} has no name`);
    }
    const names = [...document.querySelectorAll("main button, main a")].filter(visible);
    const buttons = names.filter((element) => element.localName === "button").map((element) => element.textContent.replace(/\s+/g, " ").trim());
    must(new Set(buttons).size === buttons.length, "two buttons have the same name");
    for (const svg of document.querySelectorAll("svg")) must(svg.getAttribute("role") === "img" || svg.closest("[aria-hidden=true]"), `${named(svg)} is neither a picture nor hidden`);
    for (const table of document.querySelectorAll("table")) {
      must(table.caption?.textContent.trim(), "a table has no caption");
      for (const cell of table.querySelectorAll("th")) must(["col", "row"].includes(cell.scope), `a heading of “${table.caption?.textContent}” has no scope`);
      for (const row of table.tBodies[0].rows) must(row.cells.length === table.tHead.rows[0].cells.length, `a row of “${table.caption?.textContent}” has ${row.cells.length} cells`);
      if (table.classList.contains("cards")) {
        const roles = ["table", "tbody=rowgroup", "thead=rowgroup", "tr=row", "td=cell"];
        must(table.getAttribute("role") === "table", "a table that becomes cards loses its role");
        for (const [name, role] of roles.slice(1).map((pair) => pair.split("="))) {
          for (const element of table.querySelectorAll(name)) must(element.getAttribute("role") === role, `${name} without the role ${role}`);
        }
      }
    }
    for (const element of document.querySelectorAll("[tabindex]")) must(Number(element.getAttribute("tabindex")) <= 0, `${named(element)} changes the order of the tab key`);
    for (const element of document.querySelectorAll("a, button, input, textarea, summary")) {
      if (!visible(element) || hiddenForEyes(element)) continue;
      const box = element.getBoundingClientRect();
      const inText = element.localName === "a" && getComputedStyle(element).display === "inline";
      must(inText || (box.height >= 24 && box.width >= 24), `${named(element)} is ${box.width.toFixed(0)} by ${box.height.toFixed(0)}: too small for a finger`);
    }
    must(document.querySelector("[role=status]") || document.querySelector("[role=alert]") || !document.querySelector("script[src]"), "nothing is told when the page changes");
    return wrong;
  }

  window.inspected = { contrast, overflow, rules };
})();
