// Makes elements. Text is always text: nothing that came from a passage is read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "width_pct") element.style.width = `${value}%`;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

/** An HTML element with attributes, listeners (`onclick`) and children. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same of SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** The element of that id, which the page has. */
export function byId(id) {
  return document.getElementById(id);
}

/** A coloured word: `tone` is good, warn, bad or plain. */
export function tag(text, tone) {
  return el("span", { class: `tag is-${tone}` }, text);
}

/** Why something can't be shown, and what to do. */
export function faultBox(failure) {
  return el(
    "div", { class: "fault", role: "alert" },
    el("strong", {}, failure.title ?? "That did not work"), failure.message,
    failure.requestId ? el("div", { class: "mono" }, `request ${failure.requestId}`) : null,
  );
}
