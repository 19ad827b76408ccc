// A message in the Bot API's own JSON -> elements of the page. Nothing here talks to the server.

const BAR = /^([▰█■●]*)([▱░□○]*)[ \u00a0]*(\d{1,3})(?:[.,]\d+)?\s?%(.*)$/u;

export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  svg.setAttribute("aria-hidden", "true");
  return svg;
}

export const mediaUrl = (fileId) => `/media/${encodeURIComponent(fileId)}`;
export const words = (message) => message.text ?? message.caption ?? "";

// -- text with entities; offsets are UTF-16 code units, as in JavaScript

const WRAP = {
  bold: () => el("b"), italic: () => el("i"), underline: () => el("u"), strikethrough: () => el("s"),
  code: () => el("code"), pre: () => el("code"), blockquote: () => el("blockquote"),
  spoiler: () => el("span", { className: "spoiler", onclick: (e) => e.currentTarget.classList.add("seen") }),
  text_link: (e) => el("a", { href: e.url, target: "_blank", rel: "noopener noreferrer" }),
  url: (e, text) => el("a", { href: text, target: "_blank", rel: "noopener noreferrer" }),
  bot_command: (e, text, act) => el("a", { role: "button", tabIndex: 0, onclick: () => act.say(text), onkeydown: (k) => k.key === "Enter" && act.say(text) }),
};

function formatted(text, entities, from, to, act) {
  const parts = [];
  let place = from;
  const inside = entities.filter((e) => e.offset >= from && e.offset + e.length <= to);
  for (let i = 0; i < inside.length; i++) {
    const entity = inside[i];
    if (entity.offset < place) continue; // already drawn inside an earlier one
    const end = entity.offset + entity.length;
    parts.push(text.slice(place, entity.offset));
    const node = (WRAP[entity.type] ?? (() => el("span")))(entity, text.slice(entity.offset, end), act);
    node.append(...formatted(text, inside.slice(i + 1), entity.offset, end, act));
    parts.push(node);
    place = end;
  }
  parts.push(text.slice(place, to));
  return parts.filter((part) => part !== "");
}

// A line such as "▰▰▰▱▱ 60 %" is drawn as a bar; the number stays readable for everybody.
function bar(found, before) {
  const [, , , percent, rest] = found;
  const fill = el("i");
  fill.style.width = `${before ?? percent}%`;
  if (before != null && before !== percent) requestAnimationFrame(() => requestAnimationFrame(() => { fill.style.width = `${percent}%`; }));
  return el("span", { className: "progress" },
    el("span", { className: "bar", role: "progressbar", ariaValueNow: percent, ariaValueMin: "0", ariaValueMax: "100" }, fill),
    el("span", { className: "percent" }, `${percent} %${rest}`));
}

function percentIn(message) {
  for (const line of words(message ?? {}).split("\n")) {
    const found = BAR.exec(line);
    if (found && (found[1] || found[2])) return found[3];
  }
  return null;
}

function textBlock(message, act, before) {
  const text = words(message);
  if (!text) return null;
  const entities = message.entities ?? message.caption_entities ?? [];
  const block = el("div", { className: "words" });
  let place = 0;
  for (const line of text.split("\n")) {
    const end = place + line.length;
    const found = BAR.exec(line);
    if (found && (found[1] || found[2])) {
      const last = block.lastChild;
      if (last?.nodeType === Node.TEXT_NODE) last.data = last.data.replace(/\n$/, "");
      block.append(bar(found, percentIn(before)));
      place = end + 1;
      continue;
    }
    // Entities may span lines: they are drawn line by line.
    const here = entities
      .map((e) => ({ ...e, offset: Math.max(e.offset, place), end: Math.min(e.offset + e.length, end) }))
      .filter((e) => e.end > e.offset).map((e) => ({ ...e, length: e.end - e.offset }));
    block.append(...formatted(text, here, place, end, act));
    if (end < text.length) block.append("\n");
    place = end + 1;
  }
  return block;
}

// -- pictures

const biggest = (photo) => photo[photo.length - 1];

function picture(message, act) {
  const size = biggest(message.photo);
  const image = el("img", { src: mediaUrl(size.file_id), alt: words(message) || act.t.photo, width: size.width, height: size.height, draggable: false });
  const node = el("a", { className: "media", href: mediaUrl(size.file_id), onclick: (event) => {
    event.preventDefault();
    if (node.classList.contains("hidden-picture")) node.classList.remove("hidden-picture");
    else act.show(message);
  } }, image);
  node.dataset.file = size.file_id;
  if (message.has_media_spoiler) node.classList.add("hidden-picture");
  return node;
}

function singlePicture(message, act, old) {
  const size = biggest(message.photo);
  if (old?.dataset.file === size.file_id) return old; // the same picture stays: nothing flickers
  const node = picture(message, act);
  const ratio = Math.min(Math.max(size.width / size.height, 0.56), 2.6);
  node.style.aspectRatio = ratio;
  node.style.minWidth = `min(${Math.round(Math.min(430, 480 * ratio))}px, 78vw)`; // the words below wrap to it
  if (old) {
    // The new picture appears over the old one once it is there.
    const next = node.querySelector("img");
    const below = old.querySelector("img").cloneNode();
    next.className = "next";
    next.style.visibility = "hidden";
    next.onload = () => { next.style.visibility = ""; setTimeout(() => { below.remove(); next.className = ""; }, 250); };
    node.prepend(below);
  }
  return node;
}

const ROWS = { 2: [2], 3: [3], 4: [2, 2], 5: [2, 3], 6: [3, 3], 7: [3, 4], 8: [4, 4], 9: [3, 3, 3], 10: [3, 3, 4] };

function mosaic(messages, act) {
  const node = el("div", { className: "mosaic" });
  let place = 0;
  for (const count of ROWS[messages.length] ?? [messages.length]) {
    const row = messages.slice(place, (place += count));
    const ratios = row.map((m) => Math.min(Math.max(biggest(m.photo).width / biggest(m.photo).height, 0.6), 1.9));
    const line = el("div");
    line.style.aspectRatio = Math.max(ratios.reduce((a, b) => a + b), 1.15);
    row.forEach((message, i) => {
      const item = picture(message, act);
      item.style.flex = `${ratios[i]} 1 0`;
      line.append(item);
    });
    node.append(line);
  }
  return node;
}

function fileSize(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function file(message, act) {
  const doc = message.document;
  const thumb = el("span", { className: "thumb" }, doc.thumbnail ? el("img", { src: mediaUrl(doc.thumbnail.file_id), alt: "" }) : icon("file"));
  const opens = doc.thumbnail && /^image\/(jpeg|png|webp|gif|avif)$/.test(doc.mime_type ?? "");
  return el("a", { className: "file", href: mediaUrl(doc.file_id), download: doc.file_name ?? "file",
    onclick: (event) => { if (opens) { event.preventDefault(); act.show(message); } } },
    thumb, el("span", {}, el("b", {}, doc.file_name ?? act.t.file), el("small", {}, fileSize(doc.file_size ?? 0))));
}

// -- a whole message (or an album, which is one bubble of several messages)

function keyboard(message, act) {
  const rows = message.reply_markup?.inline_keyboard;
  if (!rows?.length) return null;
  return el("div", { className: "keyboard" }, ...rows.map((row) => el("div", {}, ...row.map((button) =>
    button.url
      ? el("a", { href: button.url, target: "_blank", rel: "noopener noreferrer" }, `${button.text} ↗`)
      : el("button", { type: "button", onclick: (event) => act.press(message, button, event.currentTarget) }, button.text)))));
}

function time(message, isMine) {
  const at = new Date(message.date * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  return el("span", { className: "time" }, at, isMine ? icon("check") : null);
}

/** The element of one message or album. `old` is what was drawn before an edit, `before` the message as it was. */
export function drawMessages(messages, act, old, before) {
  const first = messages[0];
  const isMine = !first.from.is_bot;
  const speaking = messages.find((m) => words(m)) ?? first;
  const bubble = el("div", { className: "bubble tail" });
  if (first.reply_to_message) bubble.append(el("span", { className: "reply" }, words(first.reply_to_message) || act.t.photo));
  const photos = messages.filter((m) => m.photo);
  if (photos.length > 1) bubble.append(mosaic(photos, act));
  else if (photos.length) bubble.append(singlePicture(photos[0], act, old?.querySelector(":scope .media")));
  for (const message of messages.filter((m) => m.document)) bubble.append(file(message, act));
  const text = textBlock(speaking, act, before);
  if (text) bubble.append(text);
  else if (photos.length) bubble.classList.add("bare");
  bubble.append(time(messages.at(-1), isMine));
  const reactions = first.sandbox_reactions?.length ? el("div", { className: "reactions" }, ...first.sandbox_reactions.map((r) => el("span", {}, r))) : null;
  const row = el("div", { className: `row ${isMine ? "mine" : "theirs"}` }, el("div", { className: "box" }, bubble, keyboard(messages.at(-1), act), reactions));
  row.dataset.id = first.message_id;
  return row;
}

export function typingRow() {
  return el("div", { className: "row theirs", id: "typing", ariaHidden: "true" },
    el("div", { className: "box" }, el("div", { className: "bubble tail" }, el("span", { className: "typing" }, el("i"), el("i"), el("i")))));
}
