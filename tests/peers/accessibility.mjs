// Opens pages and reports what axe finds on each that keeps people from using it.
import { readFileSync } from 'node:fs';
import { withPage } from './browser.mjs';

await withPage(async (page, { url, addresses, axe }, seen) => {
  const program = readFileSync(axe, 'utf8');
  const found = {};
  for (const address of addresses) {
    await page.goto(url + address, { waitUntil: 'load' });
    await page.waitForTimeout(300);
    // By the debugger's way in: the page's own policy forbids inline scripts.
    await page.evaluate(`${program}; void 0`);
    const { violations } = await page.evaluate(() =>
      window.axe.run(document, { resultTypes: ['violations'] }));
    found[address] = violations
      .filter((one) => one.impact === 'serious' || one.impact === 'critical')
      .map((one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 160)).join(' | ')}`);
  }
  return { found, errors: seen.errors };
});
