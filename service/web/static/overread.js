// What the pages do beyond links and forms: keys, updates, uploads, buttons. No framework, no
// storage: nothing of a patient stays in the browser.
"use strict";

const page = document.body.dataset.page;
const byId = (id) => document.getElementById(id);

// --- Small words -------------------------------------------------------------------------------

function toast(text, bad = false) {
  const line = document.createElement("p");
  line.textContent = text;
  line.classList.toggle("bad", bad);
  byId("toasts").append(line);
  setTimeout(() => line.remove(), bad ? 9000 : 4000);
}

function ago(since) {
  const minutes = Math.max(0, Math.floor((Date.now() - since) / 60000));
  if (minutes < 1) return "now";
  if (minutes < 120) return `${minutes} min`;
  return minutes < 48 * 60 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} d`;
}

setInterval(() => {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    time.textContent = ago(Date.parse(time.dateTime));
  }
}, 20000);

// --- Refreshing: only when a person asks -------------------------------------------------------

const changed = new Set();

function refresh() {
  changed.clear();
  showUpdates();
  const target = page === "worklist" ? "#rows" : "#study";
  if (!document.querySelector(target)) return location.reload();
  const others = page === "worklist" ? "#pager,#faults" : "#tools";
  const focused = document.activeElement?.closest?.("tr[data-uid]")?.dataset.uid;
  return window.htmx
    .ajax("GET", location.pathname + location.search, {
      target, select: target, selectOOB: others, swap: "outerHTML",
    })
    .then(() => focused && document.querySelector(`tr[data-uid="${CSS.escape(focused)}"]`)?.focus());
}

function showUpdates() {
  const bar = byId("updates");
  bar.hidden = changed.size === 0;
  const count = changed.size === 1 ? "1 study" : `${changed.size} studies`;
  bar.firstElementChild.textContent =
    page === "study" ? "This study has changed" : `${count} changed`;
}

let events = null;
let heard = document.body.dataset.after;

function follow() {
  events = new EventSource(`/api/v1/events?after=${heard}`);
  const note = (message) => {
    heard = message.lastEventId;
    // What is on the page already is no news: it was read after this event was written.
    const shown = document.querySelector("[data-newest]");
    if (Number(message.lastEventId) <= Number(shown?.dataset.newest)) return;
    const uid = JSON.parse(message.data).study_instance_uid;
    if (page === "study" && uid !== document.body.dataset.uid) return;
    changed.add(uid);
    document.querySelector(`#rows tr[data-uid="${CSS.escape(uid)}"]`)?.classList.add("changed");
    showUpdates();
  };
  for (const kind of ["study", "job", "result", "delivery", "review"]) {
    events.addEventListener(kind, note);
  }
}

window.addEventListener("pagehide", () => events?.close());

// Paused, the page stays as it is; what changed meanwhile is told when it listens again.
function listen(wanted) {
  if (wanted === (events !== null)) return;
  if (wanted) follow();
  else {
    events.close();
    events = null;
  }
  const button = document.querySelector("[data-live]");
  button?.setAttribute("aria-pressed", String(wanted));
  if (button) button.textContent = wanted ? "Live" : "Paused";
}

// --- Buttons that call the API -----------------------------------------------------------------

function cookie(name) {
  const found = document.cookie.split("; ").find((one) => one.startsWith(`${name}=`));
  return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
}

function keepCookie(name, value, days = 365) {
  document.cookie = `${name}=${encodeURIComponent(value)}; path=/; max-age=${days * 86400}; samesite=strict`;
}

// Asks before what cannot be taken back; resolves to whether the answer was yes.
function sure(text) {
  const box = byId("ask");
  byId("ask-text").textContent = text;
  box.returnValue = "no";
  box.showModal();
  return new Promise((done) => {
    box.addEventListener("close", () => done(box.returnValue === "yes"), { once: true });
  });
}

// The answer's JSON; a refusal becomes a toast and null.
async function ask(address, method, body, type = "application/json") {
  try {
    const answer = await fetch(address, {
      method, body, headers: body === undefined ? {} : { "Content-Type": type },
    });
    const found = await answer.json().catch(() => ({}));
    if (answer.ok) return found;
    toast(found.detail || answer.statusText, true);
  } catch {
    toast("The server does not answer.", true);
  }
  return null;
}

async function call(button) {
  const { call: address, method, confirm: question, done, none } = button.dataset;
  if (question && !(await sure(question))) return;
  let { body } = button.dataset;
  if ("reader" in button.dataset) body = JSON.stringify({ ...JSON.parse(body), reader: cookie("overread_reader") });
  button.disabled = true;
  const found = await ask(address, method, body);
  button.disabled = false;
  if (!found) return;
  if (found.job_ids?.length === 0) toast(none, true);
  else if (done) toast(done);
  if ("reload" in button.dataset) setTimeout(() => location.reload(), 400);
  else refresh();
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("button, a, tr[data-href]");
  if (!target) return;
  if (target.dataset.call) call(target);
  else if ("refresh" in target.dataset) refresh();
  else if ("upload" in target.dataset) byId("files").click();
  else if ("help" in target.dataset) byId("help").showModal();
  else if ("columns" in target.dataset) byId("columns").showModal();
  else if ("live" in target.dataset) listen(events === null);
  else if ("close" in target.dataset) byId("upload").hidden = true;
  else if ("sort" in target.dataset) sortBy(target);
  else if ("back" in target.dataset && history.length > 1 && document.referrer.startsWith(location.origin)) {
    event.preventDefault();
    history.back();
  } else if (target.matches("tr") && !window.getSelection()?.toString()) open(target, event);
});

function open(row, event) {
  if (event.ctrlKey || event.metaKey) window.open(row.dataset.href, "_blank", "noopener");
  else location.href = row.dataset.href;
}

// --- Columns: their names in a cookie, nothing else --------------------------------------------

byId("columns")?.addEventListener("close", (event) => {
  const box = event.target;
  if (box.returnValue === "usual") keepCookie("overread_columns", "", 0);
  else if (box.returnValue === "keep") {
    const chosen = [...box.querySelectorAll("input:checked")].map((one) => one.name);
    keepCookie("overread_columns", chosen.join("."));
  } else return;
  location.reload();
});

// --- Sorting and filters -----------------------------------------------------------------------

function sortBy(button) {
  const { sort, other, now } = button.dataset;
  const wanted = byId("sort").value === sort ? other : sort;
  for (const one of document.querySelectorAll(".sort")) delete one.dataset.now;
  const down = wanted === "urgency" || wanted.startsWith("-");
  button.dataset.now = down ? "down" : "up";
  byId("sort").value = wanted;
  window.htmx.trigger("#filters", "submit");
}

// What is not asked has no place in the address.
document.addEventListener("htmx:configRequest", (event) => {
  const { parameters } = event.detail;
  for (const name of Object.keys(parameters)) if (parameters[name] === "") delete parameters[name];
  if (parameters.sort === "urgency") delete parameters.sort;
});
document.addEventListener("htmx:sendError", () => toast("The server does not answer.", true));
document.addEventListener("htmx:responseError", () => toast("The server could not do this.", true));

// --- What a fresh piece of page needs -----------------------------------------------------------

// An image is asked for here, where its failure can be seen, and not by the markup.
function showImages(root) {
  for (const image of root.querySelectorAll("image[data-src]")) {
    image.addEventListener("error", () => image.closest(".frame").classList.add("lost"));
    image.setAttribute("href", image.dataset.src);
    image.removeAttribute("data-src");
  }
}

// Times are sent in UTC and read in the reader's own zone.
function showClocks(root) {
  for (const time of root.querySelectorAll("time[data-clock]")) {
    const at = new Date(time.dateTime);
    const start = new Date(time.closest("[data-start]").dataset.start);
    const sameDay = at.toDateString() === start.toDateString();
    const day = at.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
    time.textContent = sameDay ? at.toLocaleTimeString("en-GB") : day;
    time.title = at.toLocaleString("en-GB", { timeZoneName: "short" });
  }
}

function freshen(root) {
  showImages(root);
  showClocks(root);
}

freshen(document);
document.addEventListener("htmx:afterSettle", () => freshen(document));

// htmx keeps the last address, which may hold a patient's name; the history has it already.
function forget() {
  sessionStorage.removeItem("htmx-current-path-for-history");
}

for (const moment of ["htmx:pushedIntoHistory", "htmx:afterSettle"]) {
  document.addEventListener(moment, forget);
}
window.addEventListener("load", forget);

// --- Keys --------------------------------------------------------------------------------------

function move(step) {
  const rows = [...document.querySelectorAll("#rows tr[data-href]")];
  if (!rows.length) return;
  const here = rows.indexOf(document.activeElement?.closest?.("tr[data-href]"));
  const next = here < 0 ? (step > 0 ? 0 : rows.length - 1) : here + step;
  const row = rows[Math.min(Math.max(next, 0), rows.length - 1)];
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

const keys = {
  j: () => move(1),
  k: () => move(-1),
  r: refresh,
  v: () => document.activeElement?.closest?.("tr[data-href]")?.querySelector("a.view")?.click(),
  p: () => document.querySelector("[data-live]") && listen(events === null),
  n: () => document.querySelector("a[data-next]")?.click(),
  u: () => document.querySelector("a[data-back]")?.click(),
  "/": () => byId("search")?.focus(),
  "?": () => byId("help")?.showModal(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  // In a search field that holds something, Escape empties it first, as browsers do.
  const empties = event.target.matches("input[type=search]") && event.target.value;
  if (event.key === "Escape" && typing && !empties) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter" && event.target.matches("tr[data-href]")) open(event.target, event);
  else if (keys[event.key] && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    keys[event.key]();
  }
});

// --- Upload: each file is one request, three at a time -----------------------------------------

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    for (const one of some) found.push(...(await filesOf(one)));
  }
}

function sendOne(file, progress) {
  return new Promise((done) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/api/v1/studies");
    request.setRequestHeader("Content-Type", "application/dicom");
    request.upload.onprogress = (event) => progress(event.loaded);
    request.onload = () => {
      if (request.status < 300) return done(null);
      try {
        done(JSON.parse(request.responseText).detail);
      } catch {
        done(request.statusText || "refused");
      }
    };
    request.onerror = () => done("the server does not answer");
    request.send(file);
  });
}

async function upload(files) {
  const box = byId("upload");
  const [line, bar, list] = [box.querySelector("p"), box.querySelector("progress"), box.querySelector("ul")];
  const total = files.reduce((sum, file) => sum + file.size, 0);
  const sent = new Map();
  let finished = 0;
  let failed = 0;
  list.replaceChildren();
  box.hidden = files.length === 0;
  const show = () => {
    const bytes = [...sent.values()].reduce((sum, size) => sum + size, 0);
    bar.value = total ? Math.min(1, bytes / total) : 1;
    const refused = failed ? `, ${failed} refused` : "";
    line.textContent = `${finished} of ${files.length} files sent${refused}`;
  };
  show();
  const waiting = [...files];
  const lane = async () => {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      const fault = await sendOne(file, (bytes) => { sent.set(file, bytes); show(); });
      sent.set(file, file.size);
      if (fault) {
        failed += 1;
        const item = document.createElement("li");
        item.textContent = `${file.name}: ${fault}`;
        list.append(item);
      } else finished += 1;
      show();
    }
  };
  await Promise.all([lane(), lane(), lane()]);
}

if (page === "worklist") {
  const drop = byId("drop");
  window.addEventListener("dragenter", (event) => {
    if (event.dataTransfer?.types.includes("Files")) drop.hidden = false;
  });
  drop.addEventListener("dragleave", () => { drop.hidden = true; });
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.hidden = true;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    const found = await Promise.all(entries.map(filesOf));
    upload(found.flat());
  });
  byId("files").addEventListener("change", (event) => {
    upload([...event.target.files]);
    event.target.value = "";
  });
}
if (page && document.body.dataset.after !== undefined) follow();
