// The administrator's desk: destinations asked for an answer, rules tried on a study or a file.
"use strict";

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-check]");
  if (!button) return;
  const line = button.closest(".panel").querySelector(".answer");
  button.disabled = true;
  line.hidden = false;
  line.className = "answer";
  line.textContent = "asking …";
  const found = await ask(button.dataset.check, "POST");
  button.disabled = false;
  line.textContent = found ? `${found.detail}, ${found.seconds.toFixed(2)} s` : "not asked";
  line.classList.add(found?.answers ? "good" : "bad");
});

// --- Rules tried dry ---------------------------------------------------------------------------

const HEADER_BYTES = 512 * 1024; // pixels come behind it

function line(parent, name, text, kind = "") {
  const one = document.createElement(name);
  one.textContent = text;
  if (kind) one.className = kind;
  parent.append(one);
  return one;
}

function comparisons(parent, list) {
  for (const one of list) {
    const wanted = Array.isArray(one.value) ? one.value.join(", ") : one.value;
    const found = one.found.length ? one.found.join("\\") : "nothing";
    const what = `${one.keyword} ${one.operator.replace("_", " ")} ${wanted}`.trim();
    line(parent, "span", `${one.holds ? "✓" : "✗"} ${what}: found ${found}`, `second ${one.holds ? "good" : "bad"}`);
  }
}

function showTrial(found) {
  const box = byId("trial-answer");
  box.replaceChildren();
  line(box, "p", `Rule: ${found.rule}. Priority: ${found.priority}.`, "decided");
  const table = document.createElement("table");
  const body = table.createTBody();
  const add = (kind, name, verdict, good, detail, list = []) => {
    const row = body.insertRow();
    line(row, "td", kind, "muted");
    line(row, "td", name);
    line(row, "td", verdict, good ? "good" : "");
    const why = row.insertCell();
    if (detail) line(why, "span", detail);
    comparisons(why, list);
  };
  for (const one of found.rules) {
    add("rule", one.name, one.decides ? "decides" : one.matches ? "would hold, but comes later" : "does not hold", one.decides, "", one.comparisons);
  }
  for (const one of found.models) {
    add("model", `${one.model} ${one.version}`, one.runs ? (one.shadow ? "runs in shadow" : "runs") : "does not run", one.runs, one.message || one.reason);
  }
  for (const one of found.destinations) {
    add("destination", one.name, one.gets_results ? "gets results" : "gets nothing", one.gets_results, one.reason, one.comparisons);
  }
  box.append(table);
}

const trial = document.querySelector("form.trial");

async function tryStudy(uid) {
  const found = await ask("/api/v1/routing/try", "POST", JSON.stringify({ study_instance_uid: uid }));
  if (found) showTrial(found);
}

async function tryFile(file) {
  const sender = trial.elements.calling_ae_title.value.trim();
  const address = `/api/v1/routing/try-file${sender ? `?calling_ae_title=${encodeURIComponent(sender)}` : ""}`;
  const found = await ask(address, "POST", file.slice(0, HEADER_BYTES), "application/dicom");
  if (found) showTrial(found);
}

if (trial) {
  const panel = byId("trial");
  trial.addEventListener("submit", (event) => {
    event.preventDefault();
    tryStudy(trial.elements.study_instance_uid.value.trim());
  });
  panel.querySelector("[data-pick]").addEventListener("click", () => byId("trial-file").click());
  byId("trial-file").addEventListener("change", (event) => {
    if (event.target.files[0]) tryFile(event.target.files[0]);
    event.target.value = "";
  });
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer?.files[0]) tryFile(event.dataTransfer.files[0]);
  });
}
