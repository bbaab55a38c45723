// Opens a study in the built-in viewer, turns to a frame, and counts what is lit and coloured.
import { withPage } from './browser.mjs';

await withPage(async (page, { url, frame, preset, picture }, seen) => {
  await page.goto(url, { waitUntil: 'load' });
  const turned = (number) => page.waitForFunction(
    (n) => document.getElementById('picture').dataset.shown === String(n), number);
  if (preset) await page.selectOption('#window', { index: preset });
  await page.fill('#slider', String(frame));
  await turned(frame);
  await page.waitForTimeout(500);
  const count = () => page.evaluate(() => {
    const canvas = document.getElementById('picture');
    const values = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let coloured = 0;
    let lit = 0;
    for (let i = 0; i < values.length; i += 4) {
      const three = [values[i], values[i + 1], values[i + 2]];
      if (Math.max(...three) > 8) lit += 1;
      if (Math.max(...three) - Math.min(...three) > 24) coloured += 1;
    }
    return { coloured, lit };
  });
  const overlaid = await count();
  if (picture) await page.screenshot({ path: picture });
  await page.uncheck('#overlay');
  await page.waitForTimeout(500);
  const bare = await count();
  const place = await page.innerText('#place');
  await page.focus('#stage');
  await page.keyboard.press('ArrowDown');
  await turned(frame + 1);
  return {
    overlaid, bare, place, series: await page.locator('.series').count(),
    errors: seen.errors, console: seen.console, requests: seen.requests,
  };
});
