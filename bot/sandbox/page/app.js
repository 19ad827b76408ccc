// The chat page: one conversation of one person with the bot. It speaks the person's side of the sandbox only.

import { drawMessages, el, icon, mediaUrl, typingRow, words } from "./draw.js";
import { WORDS } from "./words.js";

const $ = (id) => document.getElementById(id);
const user = Number(new URLSearchParams(location.search).get("user")) || 1001;
const chat = Number(new URLSearchParams(location.search).get("chat")) || user;
const ALBUM_GAP_S = 180; // messages of one side closer than this stand together
const state = { messages: new Map(), commands: [], language: "en", source: null, waiting: new Map(), uploads: [], unread: 0, chosen: -1, shown: [] };
const act = { say, press, show, t: WORDS.en };

async function ask(path, body, method = "POST") {
  const isForm = body instanceof FormData;
  const response = await fetch(`/person/${user}${path}${path.includes("?") ? "&" : "?"}chat=${chat}`, {
    method, body: body === undefined ? undefined : isForm ? body : JSON.stringify(body),
    headers: body === undefined || isForm ? {} : { "Content-Type": "application/json" },
  });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

const trying = (job) => job.catch((error) => { console.error(error); toast(act.t.failed); });

// -- connection

async function connect() {
  state.source?.close();
  try {
    const history = await ask("/history", undefined, "GET");
    $("bot-name").textContent = document.title = history.bot.first_name;
    state.messages = new Map(history.messages.map((m) => [m.message_id, m]));
    setLanguage(history.me.language_code?.startsWith("zh") ? "zh" : "en");
    setCommands(history.commands);
    setBlocked(history.is_blocked);
    drawAll();
    status();
    const source = new EventSource(`/person/${user}/events?chat=${chat}&after=${history.last_event}`);
    source.onmessage = (event) => heard(JSON.parse(event.data));
    source.onerror = () => { source.close(); lost(); };
    state.source = source;
  } catch (error) {
    console.error(error);
    lost();
  }
}

function lost() {
  status(act.t.connecting);
  setTimeout(connect, 1000);
}

function heard(event) {
  if (event.kind === "message") add(event.message);
  else if (event.kind === "edit") change(event.message);
  else if (event.kind === "delete") { state.messages.delete(event.message_id); drawAll(); }
  else if (event.kind === "action") action(event.action);
  else if (event.kind === "answer") answered(event);
  else if (event.kind === "blocked") setBlocked(event.is_blocked);
  else if (event.kind === "commands") ask("/history", undefined, "GET").then((h) => setCommands(h.commands));
}

function status(text, isActive = false) {
  $("status").textContent = text ?? act.t.online;
  $("status").classList.toggle("active", isActive);
}

let actionTimer = 0;
function action(kind) {
  status(act.t[kind] ?? act.t.typing, true);
  $("typing")?.remove();
  stayDown(() => $("messages").append(typingRow()));
  clearTimeout(actionTimer);
  actionTimer = setTimeout(idle, 5000);
}

function idle() {
  clearTimeout(actionTimer);
  $("typing")?.remove();
  status();
}

// -- drawing

const groups = () => {
  const found = [];
  for (const message of state.messages.values()) {
    const last = found.at(-1);
    if (message.media_group_id && last?.[0].media_group_id === message.media_group_id) last.push(message);
    else found.push([message]);
  }
  return found;
};

function drawAll() {
  const rows = [];
  let day = "";
  let last = null;
  for (const group of groups()) {
    const date = new Date(group[0].date * 1000);
    if (date.toDateString() !== day) {
      day = date.toDateString();
      const isToday = day === new Date().toDateString();
      rows.push(el("div", { className: "day" }, isToday ? act.t.today : date.toLocaleDateString(state.language, { day: "numeric", month: "long" })));
    }
    const row = drawMessages(group, act);
    placeAfter(row, last, group[0]);
    last = { row, message: group.at(-1) };
    rows.push(row);
  }
  $("messages").replaceChildren(...rows);
  $("empty").hidden = state.messages.size > 0;
  $("start").hidden = !($("start").dataset.blocked || state.messages.size === 0);
  $("composer").hidden = !$("start").hidden;
  toBottom();
}

/** Stands close to the message before when one side goes on talking; only the last has the tail. */
function placeAfter(row, last, message) {
  const isNear = last && last.message.from.id === message.from.id && message.date - last.message.date < ALBUM_GAP_S;
  if (!isNear || last.row.querySelector(".keyboard")) return;
  row.classList.add("near");
  last.row.querySelector(".bubble")?.classList.remove("tail");
}

function add(message) {
  const wasEmpty = state.messages.size === 0;
  state.messages.set(message.message_id, message);
  if (message.from.is_bot) idle();
  if (wasEmpty) return drawAll();
  const found = groups();
  const group = found.at(-1);
  stayDown(() => {
    const old = group.length > 1 ? $("messages").querySelector(`[data-id="${group[0].message_id}"]`) : null;
    const row = drawMessages(group, act);
    const before = found.at(-2)?.at(-1);
    const beforeRow = before && $("messages").querySelector(`[data-id="${found.at(-2)[0].message_id}"]`);
    if (beforeRow) placeAfter(row, { row: beforeRow, message: before }, group[0]);
    if (old) old.replaceWith(row);
    else { row.classList.add("new"); $("messages").append(row); }
    if ($("typing")) $("messages").append($("typing"));
  }, message);
}

function change(message) {
  const before = state.messages.get(message.message_id);
  state.messages.set(message.message_id, message);
  const group = groups().find((g) => g.some((m) => m.message_id === message.message_id));
  const old = $("messages").querySelector(`[data-id="${group[0].message_id}"]`);
  if (!old) return drawAll();
  stayDown(() => {
    const row = drawMessages(group, act, old, before);
    row.classList.toggle("near", old.classList.contains("near"));
    if (!old.querySelector(".bubble.tail")) row.querySelector(".bubble").classList.remove("tail");
    old.replaceWith(row);
  });
}

// -- scrolling: who reads the newest stays there, who reads above is not moved

const isDown = () => $("chat").scrollHeight - $("chat").scrollTop - $("chat").clientHeight < 90;

function stayDown(work, message) {
  const wasDown = isDown();
  work();
  if (wasDown || (message && !message.from.is_bot)) toBottom();
  else if (message) { state.unread += 1; scrolled(); }
}

function toBottom() {
  $("chat").scrollTo({ top: $("chat").scrollHeight, behavior: "instant" });
}

function scrolled() {
  if (isDown()) state.unread = 0;
  $("to-bottom").hidden = isDown();
  $("unread").hidden = !state.unread;
  $("unread").textContent = state.unread;
}

// -- saying and pressing

function say(text) {
  return trying(ask("/message", { text }));
}

async function press(message, button, node) {
  node.classList.add("waiting");
  const done = () => node.classList.remove("waiting");
  const answer = await trying(ask("/press", { message_id: message.message_id, data: button.callback_data }));
  if (!answer) return done();
  if (state.early?.has(answer.query_id)) return done();
  state.waiting.set(answer.query_id, done);
  setTimeout(done, 15000);
}

function answered(event) {
  // The answer may be here before the reply to the press is.
  (state.early ??= new Set()).add(event.query_id);
  state.waiting.get(event.query_id)?.();
  state.waiting.delete(event.query_id);
  if (event.text && event.is_alert) { $("alert-text").textContent = event.text; $("alert").showModal(); }
  else if (event.text) toast(event.text);
}

let toastTimer = 0;
function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, 4500);
}

// -- commands

function setCommands(commands) {
  state.commands = commands;
  $("menu").hidden = commands.length === 0;
}

function offer(prefix) {
  const found = state.commands.filter((c) => c.command.startsWith(prefix));
  state.chosen = -1;
  $("commands").replaceChildren(...found.map((c) => el("li", { role: "option", onclick: () => choose(c.command) }, el("b", {}, `/${c.command}`), el("span", {}, c.description))));
  setOffered(found.length > 0);
}

function setOffered(isOpen) {
  $("commands").hidden = !isOpen;
  $("menu").ariaExpanded = isOpen;
}

function choose(command) {
  setOffered(false);
  $("text").value = "";
  typed();
  say(`/${command}`);
  $("text").focus();
}

function move(step) {
  const items = [...$("commands").children];
  state.chosen = (state.chosen + step + items.length) % items.length;
  items.forEach((item, i) => { item.classList.toggle("chosen", i === state.chosen); item.ariaSelected = i === state.chosen; });
  items[state.chosen].scrollIntoView({ block: "nearest" });
}

function typed() {
  const field = $("text");
  field.style.height = "40px";
  field.style.height = `${Math.min(field.scrollHeight, 140)}px`;
  $("send").disabled = !field.value.trim();
  const command = /^\/(\w*)$/.exec(field.value);
  if (command) offer(command[1]);
  else setOffered(false);
}

function send() {
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  typed();
  say(text);
}

// -- photos

function pick(files) {
  const found = [...files];
  if (!found.length) return;
  state.uploads.push(...found.map((file) => ({ file, url: URL.createObjectURL(file) })));
  drawUploads();
  if (!$("upload").open) $("upload").showModal();
}

function drawUploads() {
  const count = state.uploads.length;
  $("upload-title").textContent = count === 1 ? act.t.one : act.t.many(count);
  $("previews").replaceChildren(...state.uploads.map((upload) => {
    const image = el("img", { src: upload.url, alt: upload.file.name });
    image.onerror = () => image.remove(); // no picture, or one that this browser cannot show: its name stays
    const remove = el("button", { type: "button", ariaLabel: `${act.t.remove} ${upload.file.name}`, onclick: () => { forget(upload); drawUploads(); if (!state.uploads.length) $("upload").close("cancel"); } }, icon("close"));
    return el("li", {}, upload.file.name, image, remove);
  }));
}

function forget(upload) {
  URL.revokeObjectURL(upload.url);
  state.uploads = state.uploads.filter((other) => other !== upload);
}

async function uploaded() {
  const isSent = $("upload").returnValue === "send";
  const uploads = state.uploads;
  uploads.forEach(forget);
  $("files").value = "";
  if (!isSent || !uploads.length) return;
  const form = new FormData();
  uploads.forEach(({ file }) => form.append("file", file, file.name || "photo.png"));
  await trying(ask(`/photos${$("as-file").checked ? "?as_file=1" : ""}`, form));
}

// -- one picture, large

function show(message) {
  state.shown = [...state.messages.values()].filter((m) => m.photo || m.document?.thumbnail);
  state.shownAt = state.shown.findIndex((m) => m.message_id === message.message_id);
  drawShown();
  $("lightbox").showModal();
}

function drawShown() {
  const message = state.shown[state.shownAt];
  const url = mediaUrl(message.photo ? message.photo.at(-1).file_id : message.document.file_id);
  $("big").src = $("big-save").href = url;
  $("big-save").download = message.document?.file_name ?? `portrait-${message.message_id}.jpg`;
  $("big-caption").textContent = words(message);
  $("big").alt = words(message) || act.t.photo;
  $("big-left").hidden = state.shownAt === 0;
  $("big-right").hidden = state.shownAt === state.shown.length - 1;
}

function turn(step) {
  state.shownAt = Math.min(Math.max(state.shownAt + step, 0), state.shown.length - 1);
  drawShown();
}

// -- looks and language

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").querySelector("use").setAttribute("href", theme === "dark" ? "#i-sun" : "#i-moon");
}

function setLanguage(language) {
  state.language = language;
  const t = (act.t = WORDS[language]);
  document.documentElement.lang = language;
  $("language").textContent = language === "zh" ? "EN" : "中";
  const labels = { language: t.language, theme: t.theme, more: t.more, attach: t.attach, send: t.send, "to-bottom": t.down, "big-close": t.close, "big-save": t.save, "big-left": t.left, "big-right": t.right };
  for (const [id, label] of Object.entries(labels)) { $(id).ariaLabel = label; $(id).title = label; }
  const texts = { "menu-label": t.menu, "someone-else": t.someone, "empty-title": t.emptyTitle, "empty-text": t.emptyText, "drop-text": t.drop, "as-file-label": t.asFile, "as-file-hint": t.asFileHint, "upload-more": t.add, "upload-cancel": t.cancel, "upload-send": t.send };
  for (const [id, text] of Object.entries(texts)) $(id).textContent = text;
  $("text").placeholder = $("text").ariaLabel = t.message;
  $("menu").ariaLabel = t.menu;
  setBlocked(Boolean($("start").dataset.blocked));
}

function setBlocked(isBlocked) {
  $("block").textContent = isBlocked ? act.t.unblock : act.t.block;
  $("start").textContent = isBlocked ? act.t.restart : act.t.start;
  if (isBlocked) $("start").dataset.blocked = "1";
  else delete $("start").dataset.blocked;
  $("start").hidden = !isBlocked && state.messages.size > 0;
  $("composer").hidden = !$("start").hidden;
}

// -- wiring

const dark = matchMedia("(prefers-color-scheme: dark)");
setTheme(localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => { if (!localStorage.getItem("theme")) setTheme(dark.matches ? "dark" : "light"); });
$("theme").onclick = () => {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  localStorage.setItem("theme", document.documentElement.dataset.theme);
};
$("language").onclick = async () => {
  const language = state.language === "zh" ? "en" : "zh";
  await trying(ask("", { language_code: language }, "PUT"));
  setLanguage(language);
  status();
  drawAll();
};
const setMore = (isOpen) => { $("more-menu").hidden = !isOpen; $("more").ariaExpanded = isOpen; };
$("more").onclick = (event) => { event.stopPropagation(); setMore($("more-menu").hidden); };
document.addEventListener("click", () => setMore(false));
$("someone-else").onclick = () => { location.search = `?user=${1000 + Math.floor(Math.random() * 9000)}`; };
$("block").onclick = () => trying(ask("/block", { is_blocked: !$("start").dataset.blocked }));
$("start").onclick = () => ($("start").dataset.blocked ? trying(ask("/block", { is_blocked: false })) : say("/start"));
$("menu").onclick = () => ($("commands").hidden ? offer("") : setOffered(false));
$("chat").addEventListener("scroll", scrolled, { passive: true });
$("to-bottom").onclick = () => toBottom();
$("composer").onsubmit = (event) => { event.preventDefault(); send(); };
$("text").oninput = typed;
$("text").onkeydown = (event) => {
  const isOffered = !$("commands").hidden;
  if (isOffered && (event.key === "ArrowDown" || event.key === "ArrowUp")) { event.preventDefault(); move(event.key === "ArrowDown" ? 1 : -1); }
  else if (isOffered && event.key === "Escape") setOffered(false);
  else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    const chosen = $("commands").children[state.chosen];
    if (isOffered && chosen) chosen.click();
    else { setOffered(false); send(); }
  }
};
$("attach").onclick = () => $("files").click();
$("upload-more").onclick = () => $("files").click();
$("files").onchange = () => pick($("files").files);
$("upload").onclose = uploaded;
document.addEventListener("paste", (event) => { if (event.clipboardData?.files.length) { event.preventDefault(); pick(event.clipboardData.files); } });
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => { if (hasFiles(event)) { event.preventDefault(); $("drop").hidden = false; } });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
document.addEventListener("drop", (event) => { if (hasFiles(event)) { event.preventDefault(); $("drop").hidden = true; pick(event.dataTransfer.files); } });
$("big-close").onclick = () => $("lightbox").close();
$("big-left").onclick = () => turn(-1);
$("big-right").onclick = () => turn(1);
$("lightbox").onclick = (event) => { if (event.target.id === "lightbox" || event.target.id === "big") $("lightbox").close(); };
$("lightbox").onkeydown = (event) => { if (event.key === "ArrowLeft") turn(-1); else if (event.key === "ArrowRight") turn(1); };
// Pictures that arrive late make the chat longer.
$("messages").addEventListener("load", () => { if (isDown()) toBottom(); }, true);
new ResizeObserver(() => { if (state.wasDown !== false) toBottom(); state.wasDown = isDown(); }).observe($("chat"));

connect();
