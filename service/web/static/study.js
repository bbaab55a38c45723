// What the study page does beyond buttons: labels, and the review of one finding.
"use strict";

// --- Labels ------------------------------------------------------------------------------------

async function relabel(change) {
  const line = byId("labels");
  const there = [...line.querySelectorAll("[data-unlabel]")].map((one) => one.dataset.unlabel);
  const found = await ask(line.dataset.call, "PUT", JSON.stringify({ labels: change(there) }));
  if (found) refresh();
}

document.addEventListener("keydown", (event) => {
  if (event.target.id !== "new-label" || event.key !== "Enter" || !event.target.value.trim()) return;
  event.preventDefault();
  relabel((there) => [...there, event.target.value]);
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-unlabel]");
  if (button) relabel((there) => there.filter((one) => one !== button.dataset.unlabel));
});

// --- Review ------------------------------------------------------------------------------------

// Puts the key image in place: frames to go through, and a cross where the reader clicks.
function startReview(form) {
  const plate = form.querySelector(".plate svg");
  const verdicts = form.querySelector("form.verdicts");
  let place = null;

  verdicts.elements.reviewer.value = cookie("overread_reader");
  const edits = () => {
    const editing = verdicts.elements.verdict.value === "edited";
    form.querySelector(".edits").disabled = !editing;
  };
  verdicts.addEventListener("change", edits);
  edits();

  if (plate) {
    const frames = JSON.parse(plate.dataset.frames);
    const slider = form.querySelector(".frames input");
    const where = form.querySelector(".frames output");
    const cross = plate.querySelector(".cross");
    const found = frames.findIndex((one) =>
      one.sop_instance_uid === plate.dataset.sop && one.frame_number === Number(plate.dataset.frame));
    const show = (index) => {
      const frame = frames[index];
      plate.querySelector("image").setAttribute("href", frame.address);
      plate.querySelector(".found").toggleAttribute("hidden", index !== found);
      const here = place && place.sop_instance_uid === frame.sop_instance_uid
        && place.frame_number === frame.frame_number;
      cross.toggleAttribute("hidden", !here);
      if (here) cross.setAttribute("transform", `translate(${place.column} ${place.row})`);
      slider.value = index + 1;
      where.textContent = `${index + 1} / ${frames.length}`;
    };
    const shown = () => Number(slider.value) - 1;
    if (plate.dataset.edited) place = JSON.parse(plate.dataset.edited);
    const start = place
      ? frames.findIndex((one) => one.sop_instance_uid === place.sop_instance_uid)
      : found;
    show(Math.max(start, 0));
    slider.addEventListener("input", () => show(shown()));
    plate.addEventListener("wheel", (event) => {
      event.preventDefault();
      show(Math.min(Math.max(shown() + Math.sign(event.deltaY), 0), frames.length - 1));
    }, { passive: false });
    plate.addEventListener("click", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY)
        .matrixTransform(plate.getScreenCTM().inverse());
      const { sop_instance_uid, frame_number } = frames[shown()];
      const round = (value) => Math.max(0, Math.round(value * 10) / 10);
      place = { sop_instance_uid, frame_number, column: round(at.x), row: round(at.y) };
      verdicts.elements.verdict.value = "edited";
      edits();
      show(shown());
    });
    form.querySelector("[data-forget-place]").addEventListener("click", () => {
      place = null;
      show(Math.max(found, 0));
    });
  }

  verdicts.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { verdict, comment, reviewer, label, long_axis_mm: long, short_axis_mm: short } = verdicts.elements;
    const body = { verdict: verdict.value, comment: comment.value, reviewer: reviewer.value };
    if (body.verdict === "edited") {
      body.changes = {};
      if (label.selectedIndex > 0) body.changes.label = JSON.parse(label.value);
      if (long.value) body.changes.long_axis_mm = Number(long.value);
      if (short.value) body.changes.short_axis_mm = Number(short.value);
      if (place) body.changes.place = place;
    }
    keepCookie("overread_reader", reviewer.value);
    const answer = await fetch(form.dataset.call, {
      method: "PUT", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
    }).catch(() => null);
    if (answer?.ok) {
      if (byId("review")?.open) {
        byId("review").close();
        toast("Review kept");
        refresh();
      } else location.reload();
      return;
    }
    const problem = (await answer?.json().catch(() => null)) ?? {};
    const fault = form.querySelector(".fault");
    fault.textContent = problem.detail || "The server does not answer.";
    fault.hidden = false;
  });
  form.querySelector("[data-close-review]").addEventListener("click", () => {
    if (byId("review")?.open) byId("review").close();
    else location.href = location.pathname.split("/findings/")[0];
  });
}

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-review]");
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  await window.htmx.ajax("GET", link.getAttribute("href"), {
    target: "#review-body", select: "#review-form", swap: "innerHTML",
  });
  byId("review").showModal();
  startReview(byId("review-body").querySelector(".review-form"));
});

if (byId("review-form")) startReview(byId("review-form"));

// --- Sharing -----------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-share], [data-close-share], [data-copy]");
  if (!button) return;
  const box = byId("share");
  const made = box.querySelector(".made");
  if ("share" in button.dataset) {
    box.dataset.call = button.dataset.share;
    made.hidden = true;
    box.showModal();
  } else if ("closeShare" in button.dataset) box.close();
  else {
    made.querySelector("input").select();
    navigator.clipboard?.writeText(made.querySelector("input").value).then(() => toast("Copied"), () => {});
  }
});

byId("share")?.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const box = byId("share");
  const seconds = Number(event.target.elements.expires_in_s.value);
  const found = await ask(box.dataset.call, "POST", JSON.stringify({ expires_in_s: seconds }));
  if (!found) return;
  box.querySelector(".made").hidden = false;
  box.querySelector(".made input").value = found.url;
  box.querySelector(".made input").select();
});
