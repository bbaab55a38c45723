// Opens a study in OHIF, puts its segmentation on the images, goes to a lesion, and reports where
// in the patient colours are seen; then lets OHIF read the report as measurements.
import { withPage } from './browser.mjs';

await withPage(async (page, { url, lesion, picture, wait_s: wait }, seen) => {
  const timeout = wait * 1000;
  await page.addInitScript(() => localStorage.setItem('shownTours', '["basicViewerTour"]'));
  await page.goto(url, { waitUntil: 'domcontentloaded', timeout });
  await page.waitForFunction(() => {
    const engines = window.cornerstone?.getRenderingEngines?.() ?? [];
    const sets = window.services?.displaySetService?.activeDisplaySets ?? [];
    return sets.some((set) => set.Modality === 'SEG')
      && engines.some((engine) => engine.getViewports().some((v) => v.getImageIds?.().length));
  }, null, { timeout });
  await page.waitForTimeout(2000);
  const sets = await page.evaluate(() => window.services.displaySetService.activeDisplaySets
    .map((set) => ({ modality: set.Modality, unsupported: Boolean(set.unsupported) })));
  // What a double click on the segmentation's thumbnail does.
  await page.evaluate(() => {
    const { displaySetService, viewportGridService, hangingProtocolService } = window.services;
    const set = displaySetService.activeDisplaySets.find((each) => each.Modality === 'SEG');
    const found = hangingProtocolService.getViewportsRequireUpdate(
      viewportGridService.getActiveViewportId(), set.displaySetInstanceUID, true);
    viewportGridService.setDisplaySetsForViewports(found);
  });
  await page.waitForFunction(() =>
    window.services.segmentationService.getSegmentations().length > 0, null, { timeout });
  await page.waitForTimeout(3000);
  const drawn = await page.evaluate(async (target) => {
    const segments = window.services.segmentationService.getSegmentations().flatMap((each) =>
      Object.values(each.segments).filter(Boolean).map((one) => one.label));
    // The viewport that is looked at: the first engine may be the one that draws thumbnails.
    const { cornerstoneViewportService, viewportGridService } = window.services;
    const viewport = cornerstoneViewportService.getCornerstoneViewport(
      viewportGridService.getActiveViewportId());
    const engine = viewport.getRenderingEngine();
    if (target) viewport.jumpToWorld?.(target);
    const { canvas } = viewport;
    const copy = document.createElement('canvas');
    copy.width = canvas.width;
    copy.height = canvas.height;
    const context = copy.getContext('2d', { willReadFrequently: true });
    const scale = canvas.width / canvas.clientWidth;
    let groups = {};
    let lit = 0;
    // Software rendering on a busy machine takes its time: look again until colours are there.
    for (let look = 0; look < 20 && !Object.keys(groups).length; look += 1) {
      await new Promise((done) => setTimeout(done, 1500));
      engine.renderViewports([viewport.id]);
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      context.drawImage(canvas, 0, 0);
      const values = context.getImageData(0, 0, copy.width, copy.height).data;
      groups = {};
      lit = 0;
      for (let i = 0; i < values.length; i += 4) {
        const most = Math.max(values[i], values[i + 1], values[i + 2]);
        const least = Math.min(values[i], values[i + 1], values[i + 2]);
        if (most > 8) lit += 1;
        if (most - least <= 24) continue;
        // Two lesions may share a slice: their colours are told apart by the strongest channels.
        const hue = [values[i] === most, values[i + 1] === most, values[i + 2] === most].join();
        const group = groups[hue] ??= { pixels: 0, x: 0, y: 0 };
        group.pixels += 1;
        group.x += (i / 4) % copy.width;
        group.y += Math.floor(i / 4 / copy.width);
      }
    }
    const coloured = Object.values(groups).map(({ pixels, x, y }) => ({
      pixels,
      center_mm: Array.from(viewport.canvasToWorld([x / pixels / scale, y / pixels / scale])),
    }));
    return { segments, coloured, lit };
  }, lesion);
  if (picture) await page.screenshot({ path: `${picture}-seg.png` });
  const measured = await report(page);
  if (picture) await page.screenshot({ path: `${picture}-sr.png` });
  return { sets, ...drawn, measured, errors: seen.errors };
});

// Show the report as a double click does, and take it over as measurements where OHIF can.
async function report(page) {
  await page.evaluate(() => {
    const { displaySetService, viewportGridService, hangingProtocolService } = window.services;
    const set = displaySetService.activeDisplaySets.find((each) => each.Modality === 'SR');
    const found = hangingProtocolService.getViewportsRequireUpdate(
      viewportGridService.getActiveViewportId(), set.displaySetInstanceUID, true);
    viewportGridService.setDisplaySetsForViewports(found);
  });
  await page.waitForTimeout(4000);
  const yes = page.getByRole('button', { name: /^(yes|ok|load|continue)/i });
  if (await yes.count()) await yes.first().click();
  await page.waitForTimeout(4000);
  return page.evaluate(() => window.services.measurementService.getMeasurements().map((one) => ({
    tool: one.toolName,
    center_mm: [0, 1, 2].map((axis) =>
      one.points.reduce((sum, point) => sum + point[axis], 0) / one.points.length),
  })));
}
