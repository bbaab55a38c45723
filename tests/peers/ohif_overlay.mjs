// Opens a study in OHIF by one click on the worklist, touches nothing else, and reports what its
// segmentation draws on the images.
import { withPage } from './browser.mjs';

await withPage(async (page, { url, uid, picture, wait_s: wait }, seen) => {
  const timeout = wait * 1000;
  await page.addInitScript(() => localStorage.setItem('shownTours', '["basicViewerTour"]'));
  await page.goto(url, { waitUntil: 'domcontentloaded', timeout });
  await page.click(`tr[data-uid="${uid}"] a.view`);
  await page.waitForURL(/\/viewer\/viewer/, { waitUntil: 'domcontentloaded', timeout });
  await page.waitForFunction(() => {
    const engines = window.cornerstone?.getRenderingEngines?.() ?? [];
    const sets = window.services?.displaySetService?.activeDisplaySets ?? [];
    return sets.some((set) => set.Modality === 'SEG')
      && engines.some((engine) => engine.getViewports().some((v) => v.getImageIds?.().length));
  }, null, { timeout });
  await page.waitForFunction(() =>
    window.services.segmentationService.getSegmentations().length > 0, null, { timeout });
  await page.waitForTimeout(4000);
  const found = await page.evaluate(async () => {
    const service = window.services.segmentationService;
    const segments = service.getSegmentations().flatMap((each) =>
      Object.values(each.segments).filter(Boolean).map((one) => one.label));
    let coloured = 0;
    let lit = 0;
    for (const engine of window.cornerstone.getRenderingEngines()) {
      for (const viewport of engine.getViewports()) {
        engine.renderViewports([viewport.id]);
        await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        const { canvas } = viewport;
        const copy = document.createElement('canvas');
        copy.width = canvas.width;
        copy.height = canvas.height;
        const context = copy.getContext('2d', { willReadFrequently: true });
        context.drawImage(canvas, 0, 0);
        const values = context.getImageData(0, 0, copy.width, copy.height).data;
        for (let i = 0; i < values.length; i += 4) {
          const most = Math.max(values[i], values[i + 1], values[i + 2]);
          const least = Math.min(values[i], values[i + 1], values[i + 2]);
          if (most > 8) lit += 1;
          if (most - least > 24) coloured += 1;
        }
      }
    }
    return { segments, coloured, lit };
  });
  if (picture) await page.screenshot({ path: picture });
  return { ...found, errors: seen.errors, requests: seen.requests };
});
