// Puts a study's segmentation on its images as soon as OHIF shows them: what a double click on
// the segmentation's thumbnail does. OHIF (3.12) has no setting for it.
"use strict";

(() => {
  const EVERY_MS = 400;
  const PATIENCE = 400; // looks, before it is left to the reader
  const STEADY = 3; // looks at the same layout: hanging protocols lay out more than once
  const placed = new Set();
  let looks = 0;
  let layout = "";
  let steady = 0;

  const imagesAreShown = () => (window.cornerstone?.getRenderingEngines?.() ?? [])
    .some((engine) => engine.getViewports().some((one) => one.getImageIds?.().length));

  // The segmentations that lie on what a viewport shows; where they do not say so, the first one.
  function pairs(segmentations, viewports, activeId) {
    const found = [];
    for (const viewport of viewports) {
      const match = segmentations.find((one) =>
        viewport.displaySetInstanceUIDs.includes(one.referencedDisplaySetInstanceUID));
      if (match) found.push([viewport.viewportId, match.displaySetInstanceUID]);
    }
    if (!found.length && segmentations.length) found.push([activeId, segmentations[0].displaySetInstanceUID]);
    return found;
  }

  function look() {
    looks += 1;
    const { displaySetService, viewportGridService, hangingProtocolService } = window.services ?? {};
    const sets = displaySetService?.activeDisplaySets ?? [];
    const segmentations = sets.filter((one) => one.Modality === "SEG" && !placed.has(one.StudyInstanceUID));
    if (!segmentations.length || !imagesAreShown()) return;
    const { viewports, activeViewportId } = viewportGridService.getState();
    const shown = [...viewports.values()].filter((one) => one.displaySetInstanceUIDs?.length);
    const now = JSON.stringify([sets.length, shown.map((one) => one.displaySetInstanceUIDs)]);
    steady = now === layout ? steady + 1 : 0;
    layout = now;
    if (steady < STEADY) return;
    for (const one of segmentations) placed.add(one.StudyInstanceUID);
    for (const [viewportId, uid] of pairs(segmentations, shown, activeViewportId)) {
      viewportGridService.setDisplaySetsForViewports(
        hangingProtocolService.getViewportsRequireUpdate(viewportId, uid, true));
    }
  }

  const timer = setInterval(() => {
    if (looks > PATIENCE) clearInterval(timer);
    try {
      look();
    } catch (error) {
      console.warn("the segmentation was not put on the images", error);
    }
  }, EVERY_MS);
})();
