// Opens `url` and returns its title, its visible text and, with `picture`, a screenshot's path.
import { withPage } from './browser.mjs';

await withPage(async (page, { url, picture }, seen) => {
  await page.goto(url, { waitUntil: 'load' });
  if (picture) await page.screenshot({ path: picture });
  return { title: await page.title(), text: await page.innerText('body'), errors: seen.errors };
});
