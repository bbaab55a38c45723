// Opens one page in the machine's Chromium and prints what the script finds there.
//
//   import { withPage } from '<tests/peers>/browser.mjs';
//   await withPage(async (page, given, seen) => { await page.goto(given.url); return { … }; });
//
// `given` is the JSON in argv[2]: what the test passed, and under `peers` where the programs are.
// `seen` collects console lines, page errors and failed requests; they are printed to standard
// error, so that they reach the report of a failed test. The value returned goes to standard output.
import { createRequire } from 'node:module';

const { peers, ...given } = JSON.parse(process.argv[2]);
const { chromium } = createRequire(import.meta.url)(peers.playwright);

// Software rendering: WebGL without a graphics card, as OHIF needs it.
const FLAGS = [
  '--no-sandbox', '--no-first-run', '--disable-background-networking', '--disable-component-update',
  '--disable-sync', '--disable-dev-shm-usage', '--use-gl=angle', '--use-angle=swiftshader',
  '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist',
];

export async function withPage(look) {
  const browser = await chromium.launch({
    executablePath: peers.chromium, headless: true, args: FLAGS,
  });
  const seen = { console: [], errors: [], requests: [] };
  try {
    const page = await browser.newPage({ viewport: { width: 1500, height: 900 } });
    page.on('console', (line) => seen.console.push(`[${line.type()}] ${line.text()}`.slice(0, 500)));
    page.on('pageerror', (error) => seen.errors.push(String(error.stack || error).slice(0, 500)));
    page.on('requestfailed', (request) =>
      seen.requests.push(`${request.url()} ${request.failure()?.errorText}`));
    page.on('response', (answer) => {
      if (answer.status() >= 400) seen.requests.push(`${answer.url()} ${answer.status()}`);
    });
    const found = await look(page, given, seen);
    process.stdout.write(JSON.stringify(found ?? null));
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  } finally {
    console.error(JSON.stringify(seen, null, 1));
    await browser.close();
  }
}
